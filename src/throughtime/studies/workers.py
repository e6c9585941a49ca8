"""Cases spread over worker processes: results as they come, and an orderly end at Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

import torch

Case = TypeVar("Case", contravariant=True)
Result = TypeVar("Result", covariant=True)
Progress = Callable[[float, str], None]  # (fraction of the work done, what was done last)
Stop = Callable[[], bool]  # whether a worker is to end

_stop: Any = None  # of a worker process: an event, set when it is to end
_parent = 0  # of a worker process: the process that started it


class Stopped(Exception):
    """A worker was asked to end between two steps."""


class Work(Protocol[Case, Result]):
    """A function at the top level of a module: a worker imports it by name."""

    def __call__(self, case: Case, stop: Stop) -> Result:
        """Do one case. Raises: Stopped when `stop()` is true."""
        ...


def never() -> bool:
    """The `stop` of work that nothing ends."""
    return False


def check_stop(stop: Stop) -> None:
    """Raise Stopped if `stop()` is true."""
    if stop():
        raise Stopped


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_cases(
    work: Work[Case, Result], cases: Sequence[Case], jobs: int, *, process_each: bool = False
) -> Iterator[tuple[int, Result]]:
    """The number of each case and its result, in the order they finish, `jobs` at a time with one thread each.

    jobs = 1 works in this process, in order. `process_each` gives every case a new process, whatever `jobs`. Leaving the
    loop, also by Ctrl-C, stops the cases that are running and waits for them.
    """
    if jobs == 1 and not process_each:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for number, case in enumerate(cases):
                yield number, work(case, never)
        finally:
            torch.set_num_threads(threads)
        return
    # A new interpreter for each worker: a fork of a process with torch's threads in it may hang.
    context = get_context("spawn")
    stop = context.Event()

    def new_pool(size: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(size, context, initializer=_initialize, initargs=(stop,))

    # A pool of one for `process_each`: with max_tasks_per_child a pool starts processes that nothing is left for.
    shared = None if process_each else new_pool(max(1, min(jobs, len(cases))))
    waiting = deque(enumerate(cases))
    running: dict[Future[Result], tuple[int, ProcessPoolExecutor]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                number, case = waiting.popleft()
                pool = shared or new_pool(1)
                running[pool.submit(_run_one, work, case)] = number, pool
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                number, pool = running.pop(future)
                if pool is not shared:
                    pool.shutdown(wait=False)
                yield number, future.result()
    finally:
        stop.set()
        for pool in {*([shared] if shared else []), *(pool for _, pool in running.values())}:
            pool.shutdown()


def _initialize(stop: Any) -> None:
    """Set up a new worker."""
    global _stop, _parent
    _stop, _parent = stop, os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes: the first one decides
    torch.set_num_threads(1)


def _run_one(work: Work[Any, Any], case: Any) -> Any:
    """In a worker, which also ends when the process that started it was killed."""
    return work(case, lambda: _stop.is_set() or os.getppid() != _parent)
