"""Work spread over processes: results as they come, and an orderly end at Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

import torch

Case = TypeVar("Case", contravariant=True)
Result = TypeVar("Result", covariant=True)
_stop: Any = None  # of a worker process: set when it is to end
_parent = 0  # of a worker process: who started it


class Work(Protocol[Case, Result]):
    """A function at the top of a module: a worker imports it by name."""

    def __call__(self, case: Case, stop: Callable[[], bool]) -> Result:
        """Do one case; raise something when `stop()` is true."""
        ...


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    work: Work[Case, Result], cases: Sequence[Case], jobs: int, *, fresh: bool = False
) -> Iterator[tuple[int, Result]]:
    """The number of each case and its result, as they are done, `jobs` at a time with one thread each.

    jobs = 1 works in this process, in order. `fresh` gives every case a process of its own that did nothing before, whatever
    `jobs`. Leaving the loop, by Ctrl-C too, stops what is under way and waits for it.
    """
    if jobs == 1 and not fresh:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for number, case in enumerate(cases):
                yield number, work(case, lambda: False)
        finally:
            torch.set_num_threads(threads)
        return
    # A new interpreter for each: a fork of one that has torch's threads in it may hang.
    context = get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        max(1, min(jobs, len(cases))),
        context,
        initializer=_begin,
        initargs=(stop,),
        max_tasks_per_child=1 if fresh else None,
    )
    with pool:
        waiting = {pool.submit(_one, work, case): number for number, case in enumerate(cases)}
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


def _one(work: Work[Any, Any], case: Any) -> Any:
    """In a worker; it ends too when the first process was killed."""
    return work(case, lambda: _stop.is_set() or os.getppid() != _parent)
