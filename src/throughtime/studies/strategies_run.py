"""All strategies on all problems: cost, gradients, trainings; finished work is kept when it is stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from throughtime.bench.machine import describe
from throughtime.bench.timing import Timing
from throughtime.studies.strategies import Problem, StrategySettings
from throughtime.studies.strategies_measure import (
    GradientError,
    StrategyTraining,
    gradient_error,
    is_random,
    learn,
    peak_memory,
    update_seconds,
    variance_over_batches,
)
from throughtime.studies.workers import Progress, Stop, available_cores, run_cases

_BATCHES = 40  # over which the variance of the full gradient is estimated
Key = tuple[str, str]  # names of a problem and a strategy
Result = StrategyTraining | GradientError | float


@dataclass
class StrategyComparison:
    """The finished results, by problem and strategy; all of them if `complete`."""

    settings: StrategySettings
    problems: tuple[Problem, ...]
    machine: dict[str, Any]
    jobs: int
    seconds: dict[Key, Timing] = field(default_factory=dict)  # of one update, one thread
    memory: dict[Key, float | None] = field(default_factory=dict)  # MiB; None: the system does not count it
    gradients: dict[Key, GradientError] = field(default_factory=dict)
    batch_variance: dict[str, float] = field(default_factory=dict)  # of the full gradient, by problem
    trainings: list[StrategyTraining] = field(default_factory=list)
    complete: bool = False

    @property
    def finished(self) -> str:
        """How much was done, for a reader; "" if nothing."""
        if not self.seconds:
            return ""
        return f"{len(self.gradients)} gradients and {len(self.trainings)} trainings"

    def of(self, problem: str, strategy: str) -> list[StrategyTraining]:
        """The trainings of one strategy on one problem, by seed."""
        return [each for each in self.trainings if (each.problem, each.strategy) == (problem, strategy)]


@dataclass(frozen=True)
class StrategyCase:
    """Work for one worker: a training, or a measurement of gradients."""

    problem: Problem
    strategy: str  # "" for the variance over batches
    seed: int | None  # of a training; None: a measurement of gradients
    settings: StrategySettings

    def estimated_seconds(self, timings: dict[Key, Timing]) -> float:
        """From the seconds of one update."""
        name, settings = self.problem.name, self.settings
        full = timings.get((name, "full"), min(timings[name, s] for s in self.problem.strategies)).median
        warmup = settings.warmup * self.problem.steps * full
        if not self.strategy:
            return warmup + _BATCHES * full
        own = timings[name, self.strategy].median
        if self.seed is None:
            return warmup + (settings.draws if is_random(self.strategy) else 1) * own
        return self.problem.steps * own


def compare_strategies(
    settings: StrategySettings | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = lambda fraction, text: None,
) -> StrategyComparison:
    """Measure cost, then the gradient's bias and variance, then train every strategy on every problem with every seed.

    Args:
        jobs: processes at a time, one thread each; default: one for each core. Losses and gradients do not depend on it, nor
            on what else the machine does; seconds and memory do.
        progress: called after each case.

    Ctrl-C ends it early: what is finished is returned, with `complete` False.
    Raises: InputError for a text that cannot be used.
    Cost: with the defaults about eight minutes on two cores.
    """
    settings = settings or StrategySettings()
    problems, jobs = settings.problems(), jobs or available_cores()
    for problem in problems:
        problem.task.prepare()  # a text that cannot be read is reported before anything is measured
    comparison = StrategyComparison(settings, problems, describe(), jobs)
    start = time.monotonic()
    try:
        _measure_cost(comparison, progress)
        _run_cases(comparison, time.monotonic() - start, progress)
        comparison.complete = True
    except KeyboardInterrupt:
        pass  # what is finished so far is the result
    order = {(p.name, spec): place for place, (p, spec) in enumerate(_pairs(problems))}
    comparison.trainings.sort(key=lambda each: (order[each.problem, each.strategy], each.seed))
    return comparison


def _measure_cost(comparison: StrategyComparison, progress: Progress) -> None:
    """Before anything else runs: seconds in this process, one strategy after the other, then memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for problem in comparison.problems:
            progress(0.0, f"timing the updates on {problem.title}")
            timings = update_seconds(problem, comparison.settings.timing_seconds)
            comparison.seconds.update({(problem.name, spec): timing for spec, timing in timings.items()})
    finally:
        torch.set_num_threads(threads)
    pairs = list(_pairs(comparison.problems))
    cases = [(*pair, comparison.settings.memory_updates) for pair in pairs]
    for number, peak in run_cases(peak_memory, cases, comparison.jobs, process_each=True):
        problem, spec = pairs[number]
        comparison.memory[problem.name, spec] = peak
        progress(0.0, f"memory of {spec} on {problem.title}")


def _run_cases(comparison: StrategyComparison, spent: float, progress: Progress) -> None:
    cases = _cases(comparison)
    seconds = [case.estimated_seconds(comparison.seconds) / comparison.jobs for case in cases]
    # The fraction is one of the time: the measurements before this count as done.
    total, done = spent + sum(seconds), spent
    for number, result in run_cases(run_case, cases, comparison.jobs):
        done += seconds[number]
        progress(done / total, _keep(comparison, cases[number], result))


def _cases(comparison: StrategyComparison) -> list[StrategyCase]:
    """Gradients first, then the trainings seed by seed, the long ones first so that no core waits for one at the end."""
    settings, cases = comparison.settings, []
    for seed in (None, *range(settings.seeds)):
        some = [StrategyCase(problem, spec, seed, settings) for problem, spec in _pairs(comparison.problems)]
        if seed is None:
            some += [StrategyCase(problem, "", None, settings) for problem in comparison.problems]
        cases += sorted(some, key=lambda case: -case.estimated_seconds(comparison.seconds))
    return cases


def run_case(case: StrategyCase, stop: Stop) -> Result:
    """The work of one worker."""
    settings = case.settings
    if not case.strategy:
        return variance_over_batches(case.problem, _BATCHES, settings.warmup, stop)
    if case.seed is None:
        return gradient_error(case.problem, case.strategy, settings.draws, settings.warmup, stop)
    return learn(case.problem, case.strategy, case.seed, settings.evaluations, stop)


def _keep(comparison: StrategyComparison, case: StrategyCase, result: Result) -> str:
    """Record a result; returns it in words."""
    problem = case.problem
    if isinstance(result, StrategyTraining):
        comparison.trainings.append(result)
        return f"{problem.title}, {case.strategy}: {problem.loss_name} {result.final:.4f}"
    if isinstance(result, GradientError):
        comparison.gradients[problem.name, case.strategy] = result
        return f"{problem.title}, {case.strategy}: gradient measured"
    comparison.batch_variance[problem.name] = result
    return f"{problem.title}: gradient measured over batches"


def _pairs(problems: tuple[Problem, ...]) -> Iterator[tuple[Problem, str]]:
    return ((problem, spec) for problem in problems for spec in problem.strategies)
