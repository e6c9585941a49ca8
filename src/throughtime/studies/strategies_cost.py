"""What an update costs with each strategy: seconds, all measured in turn, and memory, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from throughtime.bench.timing import Timing, interleave
from throughtime.studies.strategies import Problem
from throughtime.studies.strategies_learn import Learner, Stopped

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def seconds(problem: Problem, budget: float) -> dict[str, Timing]:
    """Seconds of one update (forward, back, clip, move the weights), one update of each strategy in turn.

    On the threads that torch is set to. Cost: `budget` seconds, three times as many where others work on the machine.
    """
    return interleave(
        {spec: Learner(problem, spec, seed=0).update for spec in problem.strategies},
        seconds=budget,
        most=1000,
    )


def peak_memory(case: tuple[Problem, str, int], stop: Callable[[], bool] = lambda: False) -> float | None:
    """MiB that so many updates of a strategy take at their peak, on top of the model, its optimiser and the data.

    The system's own count of this process's resident pages (VmHWM), reset after two updates on sequences of two steps. What
    the allocator kept from before is not counted. None where there is no such
    count (it is Linux's). To be called in a process that did nothing else.
    """
    problem, strategy, updates = case
    learner = Learner(problem, strategy, seed=0)
    windows = learner.windows
    first = next(windows)
    short = first._replace(
        inputs=first.inputs[-2:], targets=first.targets[-2:], count=2 * problem.batch, fresh=True
    )
    learner.windows = iter([short, short])
    learner.update()
    learner.update()
    learner.windows, learner.state = windows, None
    try:
        _RESET.write_text("5")  # the peak is from now on
    except OSError:
        return None
    before = _kib("VmRSS")
    for _ in range(updates):
        if stop():
            raise Stopped
        learner.update()
    return (_kib("VmHWM") - before) / 1024


def _kib(field: str) -> int:
    """Of this process, as the system says it."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])
