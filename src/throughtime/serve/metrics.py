"""Counts and histograms of a server, written in the text format of Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CHUNKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
Labels = Mapping[str, str]


class Histogram:
    """How many values lie at or below each bound, and their sum. Threads may share one."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self.bounds = tuple(bounds)
        self._lock = threading.Lock()
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0

    def add(self, *values: float) -> None:
        """Count some values."""
        with self._lock:
            for value in values:
                self._counts[bisect_left(self.bounds, value)] += 1
                self._sum += value

    def lines(self, name: str, labels: Labels) -> list[str]:
        """Samples in the text format."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        found, below = [], 0
        for bound, count in zip([*map(_number, self.bounds), "+Inf"], counts, strict=True):
            below += count
            found.append(sample(f"{name}_bucket", below, {**labels, "le": bound}))
        return [*found, sample(f"{name}_sum", total, labels), sample(f"{name}_count", below, labels)]


class Counts:
    """Counters by name and labels. Threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()

    def add(self, name: str, number: int = 1, **labels: str) -> None:
        """Count."""
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += number

    def items(self) -> list[tuple[str, dict[str, str], int]]:
        """(name, labels, count), in order."""
        with self._lock:
            return [(name, dict(labels), count) for (name, labels), count in sorted(self._counts.items())]


def sample(name: str, value: float, labels: Labels) -> str:
    """One line of the text format."""
    inside = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels.items())
    return f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}"


def family(name: str, kind: str, help: str, lines: Iterable[str]) -> str:
    """A metric with its samples."""
    return "\n".join([f"# HELP {name} {help}", f"# TYPE {name} {kind}", *lines]) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
