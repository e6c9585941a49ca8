"""A comparison of BPTT strategies as a table, sentences and a picture. `remedies_report` has the same functions."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from throughtime.bench.table import format_timing
from throughtime.errors import InputError
from throughtime.flow import drawing
from throughtime.studies.strategies import Problem
from throughtime.studies.strategies_measure import BIAS_ERRORS, StrategyTraining
from throughtime.studies.strategies_run import Key, StrategyComparison

HEAD = ["", "BPTT", "loss", "loss, equal time", "update", "memory", "bias", "along", "variance", "clipped"]
LEGEND = """\
loss: on held-out data after the same number of updates, the mean over the trainings (lowest-highest).
equal time: the same after as many seconds as the training of the fastest strategy takes.
update: median time of one update (quartiles), on one thread.
memory: peak of an update, on top of the model, its optimizer and the data.
bias: distance of the mean gradient from the full one, as a fraction of its norm, +- what sampling error alone would give.
along: the component of the mean gradient along the full one, as a fraction of its norm.
variance: of the gradient over draws of the cuts, relative to the squared norm of the full one.
clipped: fraction of the updates in which the gradient was."""


def table(comparison: StrategyComparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows, one for each problem and strategy; a cell is empty where its work was not done."""
    rows = []
    for problem in comparison.problems:
        for place, spec in enumerate(problem.strategies):
            key, trainings = (problem.name, spec), comparison.of(problem.name, spec)
            error, timing = comparison.gradients.get(key), comparison.seconds.get(key)
            updates = updates_in_equal_time(comparison, problem, spec)
            rows.append(
                [
                    "" if place else problem.title,
                    spec,
                    _mean_and_range([each.final for each in trainings]),
                    _mean_and_range([each.loss_at(updates) for each in trainings]),
                    "" if timing is None else format_timing(timing._asdict()),
                    _memory_text(comparison, key),
                    "" if error is None else _with_error(error.bias, error.error, error.draws),
                    "" if error is None else _with_error(error.along, error.along_error, error.draws),
                    "" if error is None else f"{error.variance:.3g}",
                    f"{mean(each.clipped for each in trainings):.0%}" if trainings else "",
                ]
            )
    return HEAD, rows


def updates_in_equal_time(comparison: StrategyComparison, problem: Problem, strategy: str) -> float:
    """Updates in the time that the fastest strategy takes for all of them; NaN if not timed."""
    timings = [comparison.seconds.get((problem.name, spec)) for spec in problem.strategies]
    own = comparison.seconds.get((problem.name, strategy))
    if own is None or None in timings:
        return math.nan
    return problem.steps * min(timing.median for timing in timings if timing is not None) / own.median


def sentences(comparison: StrategyComparison) -> list[str]:
    """What was found, every number from this comparison."""
    said = []
    for problem in comparison.problems:
        gradients, losses = _about_gradients(comparison, problem), _about_losses(comparison, problem)
        if gradients:
            said.append(f"{problem.title}, gradients: {'; '.join(gradients)}.")
        if losses:
            said.append(f"{problem.title}, losses after {problem.steps:,} updates: {'; '.join(losses)}.")
    return said


def to_dict(comparison: StrategyComparison) -> dict[str, Any]:
    """All of it as plain values, for `throughtime.files.json_text`."""
    results = []
    for problem in comparison.problems:
        for spec in problem.strategies:
            key = (problem.name, spec)
            timing, error = comparison.seconds.get(key), comparison.gradients.get(key)
            results.append(
                {
                    "problem": problem.name,
                    "strategy": spec,
                    "update": None if timing is None else timing._asdict(),
                    "memory_mib": comparison.memory.get(key),
                    "gradient": None if error is None else asdict(error),
                    "trainings": [asdict(each) for each in comparison.of(*key)],
                }
            )
    return {
        "settings": asdict(comparison.settings),
        "machine": comparison.machine,
        "jobs": comparison.jobs,
        "complete": comparison.complete,
        "problems": [_problem_dict(problem) for problem in comparison.problems],
        "variance_over_batches": comparison.batch_variance,
        "results": results,
        "sentences": sentences(comparison),
    }


def _problem_dict(problem: Problem) -> dict[str, Any]:
    """The problem without the path of its text, which names this machine's folders."""
    values = asdict(problem)
    values["task"].pop("data", None)
    return values


def _about_gradients(comparison: StrategyComparison, problem: Problem) -> list[str]:
    said = []
    for spec in problem.strategies:
        error = comparison.gradients.get((problem.name, spec))
        if error is None or spec == "full":
            continue
        if error.draws == 1:
            said.append(f"{spec} differs from the full gradient by {error.bias:.1%} of its norm")
        else:
            verdict = "a bias is seen" if error.biased else "no bias is seen"
            said.append(
                f"{spec}: {verdict} over {error.draws} draws ({error.bias:.1%}, sampling error alone {error.error:.1%}; "
                f"{error.bias_z:.1f} standard errors, {BIAS_ERRORS:g} would count), but one draw differs by "
                f"{math.sqrt(error.variance):.0%} (root mean square)"
            )
    if problem.name in comparison.batch_variance:
        deviation = math.sqrt(comparison.batch_variance[problem.name])
        said.append(f"for comparison, the full gradient differs from batch to batch by {deviation:.0%}")
    return said


def _about_losses(comparison: StrategyComparison, problem: Problem) -> list[str]:
    said = []
    for cut in (spec for spec in problem.strategies if spec.startswith("truncated")):
        for spec in problem.strategies:
            if not spec.startswith(("full", "randomized", "polynomial")):
                continue
            trainings = zip(comparison.of(problem.name, cut), comparison.of(problem.name, spec), strict=False)
            differences = [other.final - truncated.final for truncated, other in trainings]
            if differences:
                lower = sum(difference < 0 for difference in differences)
                direction = "lower" if mean(differences) < 0 else "higher"
                said.append(
                    f"{spec} ends {abs(mean(differences)):.4f} {direction} than {cut} on average, and lower in {lower} of "
                    f"{len(differences)} trainings"
                )
    return said


def _mean_and_range(values: list[float]) -> str:
    if not values or all(math.isnan(value) for value in values):
        return "diverged" if values else ""
    text = f"{mean(values):.4f}"
    return text if len(values) == 1 else f"{text} ({min(values):.4f}-{max(values):.4f})"


def _memory_text(comparison: StrategyComparison, key: Key) -> str:
    if key not in comparison.memory:
        return ""
    peak = comparison.memory[key]
    return "not known" if peak is None else f"{peak:.1f} MiB"


def _with_error(value: float, error: float, draws: int) -> str:
    return f"{value:.3f}" + (f" +- {error:.3f}" if draws > 1 else "")


class _Style(NamedTuple):
    """Okabe & Ito's colors, distinct in every kind of color vision; without color the lines and shapes are."""

    color: str
    line: str
    shape: str


_STYLES = {
    "full": _Style("#000000", "-", "o"),
    "truncated": _Style("#D55E00", "--", "s"),
    "randomized": _Style("#0072B2", "-.", "^"),
    "polynomial": _Style("#009E73", ":", "D"),
}
_OTHER_STYLES = (_Style("#CC79A7", "-", "v"), _Style("#E69F00", "--", "P"), _Style("#56B4E9", "-.", "X"))
_GRAY = "#999999"


def plot(comparison: StrategyComparison, path: str | Path | None = None) -> Any:
    """A matplotlib figure, written to `path` (PNG, SVG, PDF by its suffix) if one is given.

    A row for each problem: the loss on held-out data by updates and by seconds (the mean over the trainings, each training
    thin), the peak memory, and the gradient's bias and spread. What was not measured is left out.
    Raises: RunError where the file cannot be written; InputError where matplotlib is missing, or nothing was measured.
    """
    if not (comparison.seconds or comparison.gradients or comparison.trainings):
        raise InputError("a picture needs a measurement, got none: let one end before stopping")
    with drawing.style():
        figure = drawing.figure(15, 3.6 * len(comparison.problems))
        grid = figure.subplots(len(comparison.problems), 4, squeeze=False, width_ratios=(1.2, 1.2, 0.7, 1))
        for row, problem in zip(grid, comparison.problems, strict=True):
            styles = _styles(problem)
            _draw_losses(row[0], comparison, problem, styles, by_time=False)
            _draw_losses(row[1], comparison, problem, styles, by_time=True)
            _draw_memory(row[2], comparison, problem, styles)
            _draw_gradients(row[3], comparison, problem, styles)
    if path is not None:
        drawing.save(figure, path)
    return figure


def _draw_losses(
    axes: Any, comparison: StrategyComparison, problem: Problem, styles: dict[str, _Style], *, by_time: bool
) -> None:
    first = int(by_time)  # the evaluation before the first update has no place on a logarithmic axis
    for spec, style in styles.items():
        timing = comparison.seconds.get((problem.name, spec))
        trainings = comparison.of(problem.name, spec)
        if not trainings or (by_time and timing is None):
            continue
        scale = timing.median if by_time and timing is not None else 1.0
        line = {"color": style.color, "linestyle": style.line}
        for each in trainings:
            x = [scale * step for step in each.steps[first:]]
            axes.plot(x, each.losses[first:], linewidth=0.5, alpha=0.5, **line)
        longest = max((each.steps for each in trainings), key=len)
        whole = [each.losses for each in trainings if len(each.steps) == len(longest)]
        x = [scale * step for step in longest[first:]]
        means = [mean(losses) for losses in zip(*whole, strict=True)][first:]
        axes.plot(x, means, marker=style.shape, markersize=3.5, linewidth=1.4, **line)
    for name, level in problem.levels.items():
        axes.axhline(level, color=_GRAY, linewidth=0.8)
        if not by_time:
            place = {"xycoords": ("axes fraction", "data"), "va": "bottom"}
            axes.annotate(name, (0.02, level), fontsize=7, color="#555555", **place)
    _limit_losses(axes, [each for each in comparison.trainings if each.problem == problem.name])
    axes.set_title(f"{problem.title}: loss by {'time' if by_time else 'updates'}")
    axes.set_xlabel("seconds, one thread" if by_time else "updates")
    axes.set_ylabel(problem.loss_name)
    if by_time:
        axes.set_xscale("log")
        drawing.powers(axes.xaxis)
    else:
        handles = [
            axes.plot([], [], color=style.color, linestyle=style.line, marker=style.shape, label=spec)[0]
            for spec, style in styles.items()
        ]
        axes.legend(handles=handles, fontsize=8, loc="best", handlelength=4)


def _limit_losses(axes: Any, trainings: list[StrategyTraining]) -> None:
    """Leave out the first fifth of the losses, whose fall would hide all differences, and the largest twentieth of the rest."""
    later = sorted(
        loss for each in trainings for loss in each.losses[len(each.losses) // 5 :] if not math.isnan(loss)
    )
    if later:
        high = later[19 * len(later) // 20 - 1] if len(later) >= 20 else later[-1]
        axes.set_ylim(top=high + 0.1 * (high - later[0]))


def _draw_memory(
    axes: Any, comparison: StrategyComparison, problem: Problem, styles: dict[str, _Style]
) -> None:
    for place, (spec, style) in enumerate(styles.items()):
        peak = comparison.memory.get((problem.name, spec))
        if peak is not None:
            axes.barh(place, peak, color=style.color)
            axes.text(peak, place, f" {peak:.1f}", va="center", fontsize=8)
    _name_rows(axes, styles)
    axes.margins(x=0.25)
    axes.set_title("Peak memory of an update")
    axes.set_xlabel("MiB on top of model and data")


def _draw_gradients(
    axes: Any, comparison: StrategyComparison, problem: Problem, styles: dict[str, _Style]
) -> None:
    values: list[float] = []
    for place, (spec, style) in enumerate(styles.items()):
        error = comparison.gradients.get((problem.name, spec))
        if error is None:
            continue
        deviation = math.sqrt(error.variance)
        values += [value for value in (error.bias, deviation) if value > 0]
        if error.bias > 0:
            face = style.color if error.biased else "none"
            axes.plot(error.bias, place, "o", color=style.color, markerfacecolor=face, markersize=8)
        if deviation > 0:
            axes.plot(deviation, place, "x", color=style.color, markersize=8, markeredgewidth=2)
        if error.bias == deviation == 0:
            axes.text(0.03, place, "exact", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    batches = math.sqrt(comparison.batch_variance.get(problem.name, math.inf))
    if math.isfinite(batches):
        values.append(batches)
        axes.axvline(batches, color=_GRAY, linewidth=0.8)
    marks = (
        ("o", "#666666", "bias"),
        ("o", "none", "no bias seen: sampling error"),
        ("x", "none", "standard deviation of one draw"),
        ("-", "none", "... of the full gradient over batches"),
    )
    handles = [
        axes.plot([], [], mark, color="#666666", markerfacecolor=face, label=label)[0]
        for mark, face, label in marks
    ]
    axes.legend(handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=2)
    _name_rows(axes, styles)
    axes.set_xscale("log")
    drawing.powers(axes.xaxis)
    if values:  # whole powers of ten, so that their labels do not touch
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values) * 1.05))
        axes.set_xlim(10**low, 10**high)
    axes.set_title("Distance from the full gradient\n(fraction of its norm)")


def _name_rows(axes: Any, styles: dict[str, _Style]) -> None:
    axes.set_yticks(range(len(styles)), list(styles))
    axes.set_ylim(len(styles) - 0.5, -0.5)


def _styles(problem: Problem) -> dict[str, _Style]:
    """One for each strategy: that of its name, or another one where that is taken or there is none."""
    styles: dict[str, _Style] = {}
    others = 0
    for spec in problem.strategies:
        style = _STYLES.get(spec.partition(":")[0])
        if style is None or style in styles.values():
            style, others = _OTHER_STYLES[others % len(_OTHER_STYLES)], others + 1
        styles[spec] = style
    return styles
