"""Several implementations of the same computation ("sides"), timed in turn in one process.

In turn, so that other processes and changes of the clock rate affect all sides alike. A sample in which the calling thread ran
for less than 95 % of the time that passed is rejected: it waited for a core, or for another thread that did. Where that leaves
a side with too few samples all of them are used, and the result says so. On a machine that is busy on purpose (`loaded`) waiting
is what is measured, and all samples count.

A side that takes seconds for one call gets fewer samples than the others.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

RAN = 0.95  # fraction of a sample in which the calling thread must have been running, at least
SAMPLE = 1e-3  # seconds; a shorter call is repeated until a sample is that long
SLOW = 0.5  # seconds; one call that long is enough to warm up
LONG = 5.0  # seconds; a call that long is a sample, also the first: warming up is a small part of it
PATIENCE = 10.0  # seconds for the samples of one side, if they are FEW at least
FEW = 2

Side = Callable[[], object]


class Timing(NamedTuple):
    """Seconds for one call."""

    median: float
    low: float  # the quartiles
    high: float
    best: float
    kept: int  # samples used
    rejected: int  # samples in which the process waited for a core
    disturbed: bool  # too few were kept, so the rejected ones are in the figures too


class _Samples:
    """The samples of one side."""

    def __init__(self, side: Side, sample: float, loaded: bool) -> None:
        self.side = side
        self.ran = 0.0 if loaded else RAN
        self.kept: list[float] = []
        self.rejected: list[float] = []
        self.spent = 0.0  # seconds, all samples together
        self.repeats = 1
        first = self.take()  # allocates its workspaces
        if first >= LONG:
            return
        if first < SLOW:
            first = self.take()
        self.kept, self.rejected, self.spent = [], [], 0.0
        self.repeats = max(1, math.ceil(sample / max(first, 1e-7)))

    def take(self) -> float:
        """Measure once more; returns the seconds of one call."""
        start, ran = time.perf_counter(), time.thread_time()
        for _ in range(self.repeats):
            self.side()
        ran, wall = time.thread_time() - ran, time.perf_counter() - start
        (self.kept if ran >= self.ran * wall else self.rejected).append(wall / self.repeats)
        self.spent += wall
        return wall / self.repeats

    def is_done(self, patience: float) -> bool:
        """Whether it had its time, and the others continue without it."""
        return self.spent >= patience and len(self.kept) + len(self.rejected) >= FEW

    def timing(self, least: int) -> Timing:
        """The figures."""
        disturbed = len(self.kept) < least
        used = self.kept + self.rejected if disturbed else self.kept
        low, median, high = statistics.quantiles(used, n=4, method="inclusive") if len(used) > 1 else used * 3
        return Timing(median, low, high, min(used), len(self.kept), len(self.rejected), disturbed)


def interleave(
    sides: Mapping[str, Side],
    *,
    seconds: float = 1.0,
    least: int = 5,
    most: int = 200,
    patience: float = PATIENCE,
    sample: float = SAMPLE,
    loaded: bool = False,
) -> dict[str, Timing]:
    """Time every side, one sample of each in turn.

    Args:
        sides: what to call, by name.
        seconds: how long to measure, all sides together.
        least: samples of each side that are needed.
        most: samples of each side after which it ends sooner.
        patience: seconds for the samples of one side, after which two of them are enough; the others continue without it.
        sample: seconds; a shorter call is repeated until a sample is that long. Under load it must be much longer than the
            scheduler's time slices, or the median sample is one that did not wait.
        loaded: samples that waited for a core count too: other processes are part of what is measured.

    Cost: samples that waited for a core may make `seconds`, `least` and `most` three times as large. A side whose call
    takes t seconds costs at most max(2 t, patience + t), and one call to warm up if t is short.
    """
    if least < 1 or most < least:
        raise ValueError(f"expected 1 <= least <= most, got least={least}, most={most}")
    samples = {name: _Samples(side, sample, loaded) for name, side in sides.items()}
    start, rounds = time.perf_counter(), 0
    while active := [each for each in samples.values() if not each.is_done(patience)]:
        for each in active:
            each.take()
        rounds += 1
        spent, fewest = time.perf_counter() - start, min(len(each.kept) for each in active)
        enough = fewest >= least and (spent >= seconds or fewest >= most)
        tried = rounds >= 3 * least and (spent >= 3 * seconds or rounds >= 3 * most)
        if enough or tried:
            break
    return {
        name: each.timing(min(least, FEW) if each.is_done(patience) else least)
        for name, each in samples.items()
    }


def as_json(timings: Mapping[str, Timing]) -> dict[str, dict[str, Any]]:
    """As JSON values."""
    return {name: timing._asdict() for name, timing in timings.items()}
