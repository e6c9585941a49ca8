"""A comparison of BPTT strategies in words: one table, and what it says of randomised truncation."""

from __future__ import annotations

import math
from dataclasses import asdict
from statistics import mean
from typing import Any

from throughtime.bench.table import spread
from throughtime.studies.strategies import Problem
from throughtime.studies.strategies_gradient import SEEN, GradientError
from throughtime.studies.strategies_learn import Training
from throughtime.studies.strategies_run import Comparison

HEAD = [
    "",
    "BPTT",
    "loss",
    "loss, equal time",
    "an update takes",
    "memory",
    "bias",
    "along",
    "variance",
    "clipped",
]
LEGEND = """\
loss: on held-out data after the same number of updates, the mean over the trainings (lowest-highest).
equal time: the same after as many seconds as the quickest strategy's training takes.
memory: peak of resident memory on top of model and data, in a process of its own.
bias: distance of the mean gradient from the full one, as a share of its norm, +- what noise alone would make it.
along: the share of the full gradient that comes through along its own direction.
variance: of the gradient over draws of the cuts, relative to the square of its norm.
clipped: share of the updates in which the gradient was."""


def table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows, one for each problem and strategy; a cell is empty where its work was not done."""
    rows = []
    for problem in found.problems:
        for place, spec in enumerate(problem.strategies):
            key, trainings = (problem.name, spec), of(found, problem.name, spec)
            error, timing = found.gradients.get(key), found.seconds.get(key)
            rows.append(
                [
                    "" if place else problem.title,
                    spec,
                    _range([one.final for one in trainings]),
                    _range([one.at(updates_in_equal_time(found, problem, spec)) for one in trainings]),
                    "" if timing is None else spread(timing._asdict()),
                    _memory(found, key),
                    "" if error is None else _bias(error),
                    "" if error is None else _along(error),
                    "" if error is None else f"{error.variance:.3g}",
                    f"{mean(one.clipped for one in trainings):.0%}" if trainings else "",
                ]
            )
    return HEAD, rows


def updates_in_equal_time(found: Comparison, problem: Problem, strategy: str) -> float:
    """Updates for which the time is enough that the quickest strategy takes for all of them; NaN if not timed."""
    known = [found.seconds.get((problem.name, spec)) for spec in problem.strategies]
    own = found.seconds.get((problem.name, strategy))
    if own is None or None in known:
        return math.nan
    return problem.steps * min(timing.median for timing in known if timing is not None) / own.median


def sentences(found: Comparison) -> list[str]:
    """What was found, every number from this comparison."""
    said = []
    for problem in found.problems:
        said += _on_gradients(found, problem) + _on_losses(found, problem)
    return said


def of(found: Comparison, problem: str, strategy: str) -> list[Training]:
    """The trainings of one strategy on one problem, by seed."""
    return [one for one in found.trainings if (one.problem, one.strategy) == (problem, strategy)]


def to_dict(found: Comparison) -> dict[str, Any]:
    """All of it as JSON values; what is no number is None."""
    rows = [
        {
            "problem": problem.name,
            "strategy": spec,
            "update": timing._asdict() if (timing := found.seconds.get((problem.name, spec))) else None,
            "memory_mib": found.memory.get((problem.name, spec)),
            "gradient": asdict(error) if (error := found.gradients.get((problem.name, spec))) else None,
            "trainings": [asdict(one) for one in of(found, problem.name, spec)],
        }
        for problem in found.problems
        for spec in problem.strategies
    ]
    values: dict[str, Any] = _finite(
        {
            "settings": asdict(found.settings),
            "machine": found.machine,
            "jobs": found.jobs,
            "complete": found.complete,
            "problems": [_described(problem) for problem in found.problems],
            "variance_over_batches": found.batches,
            "results": rows,
            "sentences": sentences(found),
        }
    )
    return values


def _described(problem: Problem) -> dict[str, Any]:
    """The problem without the path of its text, which is this machine's."""
    values = {**asdict(problem), "measure": problem.measure, "levels": problem.levels}
    return {**values, "data": {name: value for name, value in values["data"].items() if name != "data"}}


def _on_gradients(found: Comparison, problem: Problem) -> list[str]:
    errors = [found.gradients.get((problem.name, spec)) for spec in problem.strategies]
    seen = [error for error in errors if error is not None and error.strategy != "full"]
    said = []
    for error in seen:
        if error.draws == 1:
            said.append(f"{error.strategy} misses the full gradient by {error.bias:.1%} of its norm")
        else:
            verdict = "a bias is seen" if error.biased else "no bias is seen"
            said.append(
                f"{error.strategy}: {verdict} over {error.draws} draws ({error.bias:.1%}, noise alone {error.error:.1%}; "
                f"{error.away:.1f} standard errors, {SEEN:g} would count), but one draw misses it by "
                f"{math.sqrt(error.variance):.0%} (root mean square)"
            )
    if problem.name in found.batches:
        spread = math.sqrt(found.batches[problem.name])
        said.append(f"for comparison, the full gradient differs from batch to batch by {spread:.0%}")
    return [f"{problem.title}, gradients: {'; '.join(said)}."] if said else []


def _on_losses(found: Comparison, problem: Problem) -> list[str]:
    regular = [spec for spec in problem.strategies if spec.startswith("truncated")]
    others = [spec for spec in problem.strategies if spec.startswith(("full", "randomized", "polynomial"))]
    said = []
    for cut in regular:
        for spec in others:
            pairs = list(zip(of(found, problem.name, cut), of(found, problem.name, spec), strict=False))
            if pairs:
                lower = sum(b.final < a.final for a, b in pairs)
                said.append(
                    f"{spec} ends {_difference(mean(b.final - a.final for a, b in pairs))} than {cut} on average, and "
                    f"lower in {lower} of {len(pairs)} trainings"
                )
    return [f"{problem.title}, losses after {problem.steps:,} updates: {'; '.join(said)}."] if said else []


def _difference(value: float) -> str:
    return f"{abs(value):.4f} {'lower' if value < 0 else 'higher'}"


def _range(values: list[float]) -> str:
    if not values or all(math.isnan(value) for value in values):
        return "diverged" if values else ""
    text = f"{mean(values):.4f}"
    return text if len(values) == 1 else f"{text} ({min(values):.4f}-{max(values):.4f})"


def _memory(found: Comparison, key: tuple[str, str]) -> str:
    if key not in found.memory:
        return ""
    peak = found.memory[key]
    return "not known" if peak is None else f"{peak:.1f} MiB"


def _bias(error: GradientError) -> str:
    return f"{error.bias:.3f}" + (f" +- {error.error:.3f}" if error.draws > 1 else "")


def _along(error: GradientError) -> str:
    return f"{error.along:.3f}" + (f" +- {error.along_error:.3f}" if error.draws > 1 else "")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
