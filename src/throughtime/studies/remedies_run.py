"""All remedies at all lengths, over several processes; what is done is kept when it is stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch

from throughtime.studies.remedies import REMEDIES, Remedy, Settings, Stopped, Trial, trial

Progress = Callable[[float, Trial | None], None]  # share of the work done, and what was done last
_COST = {"rnn": 1.0, "gru": 2.2, "lstm": 2.2}  # of a step, beside the others
_stop: Any = None  # of a worker process: set when it is to end
_parent = 0  # of a worker process


@dataclass(frozen=True)
class Comparison:
    """The trials that were done, in the order of lengths, remedies and seeds."""

    settings: Settings
    remedies: tuple[Remedy, ...]
    trials: tuple[Trial, ...]
    complete: bool


def compare(
    settings: Settings | None = None,
    remedies: Sequence[Remedy] = REMEDIES,
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Train every remedy at every length with every seed.

    Args:
        settings: lengths, steps, seeds and sizes.
        jobs: processes side by side, one thread each; None: one for each core. 1 works in this process. The results do not
            depend on it.
        progress: told after each trial, and at the start with None.

    Ctrl-C ends it early: what is done is returned, with `complete` False.
    Cost: with the defaults about ten minutes on two cores.
    """
    settings = settings or Settings()
    cases = [
        (remedy, length, seed)
        for seed in range(settings.seeds)
        for length in settings.lengths
        for remedy in remedies
    ]
    total = sum(_weight(*case) for case in cases)
    done, spent = [], 0.0
    tell = progress or (lambda share, last: None)
    tell(0.0, None)
    complete = True
    try:
        for number, found in _results(cases, settings, jobs or cores()):
            done.append(found)
            spent += _weight(*cases[number])
            tell(spent / total, found)
    except KeyboardInterrupt:
        complete = False
    order = {remedy.name: place for place, remedy in enumerate(remedies)}
    done.sort(key=lambda one: (one.length, order[one.remedy], one.seed))
    return Comparison(settings, tuple(remedies), tuple(done), complete)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _weight(remedy: Remedy, length: int, seed: int) -> float:
    return _COST[remedy.model["cell"]] * length


def _results(
    cases: list[tuple[Remedy, int, int]], settings: Settings, jobs: int
) -> Iterator[tuple[int, Trial]]:
    """The number of a case and its result, as they are done."""
    if jobs == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so small a network is no faster with more
        try:
            for number, case in enumerate(cases):
                yield number, trial(*case, settings)
        finally:
            torch.set_num_threads(threads)
        return
    # A new interpreter for each: a fork of one that has torch's threads in it may hang.
    context = get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(min(jobs, len(cases)), context, initializer=_begin, initargs=(stop,)) as pool:
        waiting = {pool.submit(_one, case, settings): number for number, case in enumerate(cases)}
        try:
            while waiting:
                ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield waiting.pop(future), future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _begin(stop: Any) -> None:
    """In a new worker."""
    global _stop, _parent
    _stop, _parent = stop, os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: the first process decides
    torch.set_num_threads(1)


def _one(case: tuple[Remedy, int, int], settings: Settings) -> Trial:
    """In a worker; it ends too when the first process was killed."""
    return trial(*case, settings, stop=lambda: _stop.is_set() or os.getppid() != _parent)


__all__ = ["Comparison", "Progress", "Stopped", "compare", "cores"]
