"""All strategies on all problems: what they cost, their gradients, their trainings; what is done is kept when it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from throughtime.bench.machine import describe
from throughtime.bench.timing import Timing
from throughtime.studies.strategies import Problem, Settings
from throughtime.studies.strategies_cost import peak_memory, seconds
from throughtime.studies.strategies_gradient import GradientError, gradient_error, is_random, over_batches
from throughtime.studies.strategies_learn import Training, learn
from throughtime.studies.workers import cores, spread

Progress = Callable[[float, str], None]  # share of the work done, and what was done last
_BATCHES = 40  # that the full gradient's own variance is measured over


@dataclass
class Comparison:
    """What was done, by problem and strategy; all of it if `complete`."""

    settings: Settings
    problems: tuple[Problem, ...]
    machine: dict[str, Any]
    jobs: int
    seconds: dict[tuple[str, str], Timing] = field(default_factory=dict)  # of one update, one thread
    memory: dict[tuple[str, str], float | None] = field(default_factory=dict)  # MiB; None: not known here
    gradients: dict[tuple[str, str], GradientError] = field(default_factory=dict)
    batches: dict[str, float] = field(default_factory=dict)  # variance of the full gradient over batches
    trainings: list[Training] = field(default_factory=list)
    complete: bool = False


@dataclass(frozen=True)
class Case:
    """One piece of work for a worker."""

    problem: Problem
    strategy: str  # "" for the variance over batches
    seed: int | None  # of a training; None: a measurement of the gradient
    settings: Settings

    def weight(self, timings: dict[tuple[str, str], Timing]) -> float:
        """Seconds, about."""
        name, settings = self.problem.name, self.settings
        full = timings.get((name, "full"), min(timings[name, s] for s in self.problem.strategies)).median
        early = settings.early * self.problem.steps * full
        if not self.strategy:
            return early + _BATCHES * full
        one = timings[name, self.strategy].median
        if self.seed is None:
            return early + (settings.draws if is_random(self.strategy) else 1) * one
        return self.problem.steps * one


def compare(
    settings: Settings | None = None, *, jobs: int | None = None, progress: Progress | None = None
) -> Comparison:
    """Measure cost, then the gradient's bias and variance, then train every strategy on every problem with every seed.

    Args:
        settings: see there.
        jobs: processes side by side, one thread each; None: one for each core. Only the figures of cost depend on what else
            the machine does; the losses and gradients do not depend on `jobs`.
        progress: told after each piece of work.

    Ctrl-C ends it early: what is done is returned, with `complete` False.
    Raises: InputError for a text that cannot be used.
    Cost: with the defaults about eight minutes on two cores.
    """
    settings = settings or Settings()
    problems, jobs = settings.problems(), jobs or cores()
    for problem in problems:
        problem.task()  # a text that cannot be read is known before anything is measured
    found = Comparison(settings, problems, describe(), jobs)
    tell = progress or (lambda share, what: None)
    start = time.monotonic()
    try:
        _cost(found, tell)
        _work(found, time.monotonic() - start, tell)
        found.complete = True
    except KeyboardInterrupt:
        found.complete = False  # what was found so far is the answer
    order = {(p.name, s): place for place, (p, s) in enumerate(_pairs(problems))}
    found.trainings.sort(key=lambda one: (order[one.problem, one.strategy], one.seed))
    return found


def _cost(found: Comparison, tell: Progress) -> None:
    """Before anything else runs: seconds here, in turn, then memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for problem in found.problems:
            tell(0.0, f"timing the updates on {problem.title}")
            for spec, timing in seconds(problem, found.settings.timing).items():
                found.seconds[problem.name, spec] = timing
    finally:
        torch.set_num_threads(threads)
    pairs = list(_pairs(found.problems))
    cases = [(*pair, found.settings.memory) for pair in pairs]
    for number, peak in spread(peak_memory, cases, found.jobs, fresh=True):
        problem, spec = pairs[number]
        found.memory[problem.name, spec] = peak
        tell(0.0, f"memory of {spec} on {problem.title}")


def _work(found: Comparison, spent: float, tell: Progress) -> None:
    cases = _cases(found)
    # The share is one of the time: what the measurements before this took counts as done.
    total = spent + sum(case.weight(found.seconds) for case in cases) / found.jobs
    done = spent
    for number, result in spread(_do, cases, found.jobs):
        case = cases[number]
        _keep(found, case, result)
        done += case.weight(found.seconds) / found.jobs
        tell(done / total, _said(case, result))


def _cases(found: Comparison) -> list[Case]:
    """Gradients first, then the trainings seed by seed, the long ones first so that no core waits for one at the end."""
    cases = []
    for seed in (None, *range(found.settings.seeds)):
        some = [Case(problem, spec, seed, found.settings) for problem, spec in _pairs(found.problems)]
        if seed is None:
            some += [Case(problem, "", None, found.settings) for problem in found.problems]
        cases += sorted(some, key=lambda case: -case.weight(found.seconds))
    return cases


def _do(case: Case, stop: Callable[[], bool]) -> Training | GradientError | float:
    """In a worker."""
    settings = case.settings
    if not case.strategy:
        return over_batches(case.problem, _BATCHES, settings.early, stop)
    if case.seed is None:
        return gradient_error(case.problem, case.strategy, settings.draws, settings.early, stop)
    return learn(case.problem, case.strategy, case.seed, settings.looks, stop)


def _keep(found: Comparison, case: Case, result: Training | GradientError | float) -> None:
    if isinstance(result, Training):
        found.trainings.append(result)
    elif isinstance(result, GradientError):
        found.gradients[case.problem.name, case.strategy] = result
    else:
        found.batches[case.problem.name] = result


def _said(case: Case, result: Training | GradientError | float) -> str:
    if isinstance(result, Training):
        return f"{case.problem.title}, {case.strategy}: {result.final:.4f} {case.problem.measure}"
    if isinstance(result, GradientError):
        return f"{case.problem.title}, {case.strategy}: gradient measured"
    return f"{case.problem.title}: gradient measured over batches"


def _pairs(problems: tuple[Problem, ...]) -> Iterator[tuple[Problem, str]]:
    return ((problem, spec) for problem in problems for spec in problem.strategies)
