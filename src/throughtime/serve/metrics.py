"""Counts and histograms of a server, written in the text format of Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from throughtime.errors import SessionError

if TYPE_CHECKING:
    from throughtime.serve.hub import Hub

SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
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

    def lines(self, name: str) -> list[str]:
        """Samples of one metric in the text format."""
        with self._lock:
            found = sorted(self._counts.items())
        return [sample(each, count, dict(labels)) for (each, labels), count in found if each == name]


def exposition(hub: Hub) -> str:
    """All counts of a server. Cost: a look at the names of all sessions in the store."""
    pools, served = hub.pools, [hub.models[name] for name in hub.pools]
    stats = {name: pool.stats() for name, pool in pools.items()}
    try:
        spilled = sum(1 for id in hub.store.sessions() if not any(id in pool for pool in pools.values()))
    except SessionError:  # the store is away; all else can be told
        spilled = None
    text = []
    for name, kind, key, help in _OF_POOLS:
        rows = [sample(name, found[key], {"model": model}) for model, found in stats.items()]
        text.append(_family(name, kind, help, rows))
    for name, value, help in (
        ("throughtime_sessions_spilled", spilled, "Sessions in the store alone."),
        ("throughtime_websockets", hub.connections, "WebSockets that are open."),
        ("throughtime_jobs", hub.jobs, "Predictions and completions under way or waiting."),
    ):
        text.append(_family(name, "gauge", help, [] if value is None else [sample(name, value, {})]))
    for name, part, help in _HISTOGRAMS:
        rows = [line for each in served for line in getattr(each, part).lines(name, {"model": each.name})]
        text.append(_family(name, "histogram", help, rows))
    text += [_family(name, "counter", help, hub.counts.lines(name)) for name, help in _COUNTERS]
    return "".join(text)


_OF_POOLS = (
    ("throughtime_sessions_live", "gauge", "live", "Sessions in memory."),
    ("throughtime_chunks_waiting", "gauge", "waiting", "Chunks that wait."),
    ("throughtime_chunks_total", "counter", "chunks", "Chunks that were read."),
    ("throughtime_steps_total", "counter", "steps", "Steps that were read."),
    ("throughtime_moved_total", "counter", "moved", "Sessions that were moved to the store."),
    ("throughtime_taken_up_total", "counter", "taken_up", "Sessions that were taken up from the store."),
)
_HISTOGRAMS = (
    ("throughtime_batch_chunks", "batches", "Chunks in a call of the model."),
    ("throughtime_wait_seconds", "waits", "Time from a chunk's arrival to its first call of the model."),
    ("throughtime_compute_seconds", "computing", "Time of a call of the model."),
)
_COUNTERS = (
    ("throughtime_requests_total", "Answers over HTTP, by status."),
    ("throughtime_refused_total", "Requests that were refused, by cause."),
    ("throughtime_tokens_total", "Symbols of completions."),
    ("throughtime_traces_dropped_total", "Traces that were not sent, since a client was slow."),
)


def sample(name: str, value: float, labels: Labels) -> str:
    """One line of the text format."""
    inside = ",".join(f'{key}="{_escaped(each)}"' for key, each in labels.items())
    return f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}"


def _family(name: str, kind: str, help: str, lines: Iterable[str]) -> str:
    """A metric with its samples."""
    return "\n".join([f"# HELP {name} {help}", f"# TYPE {name} {kind}", *lines]) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
