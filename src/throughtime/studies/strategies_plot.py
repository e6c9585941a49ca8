"""A comparison of BPTT strategies as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from throughtime.errors import InputError
from throughtime.flow import drawing
from throughtime.studies.strategies import Problem
from throughtime.studies.strategies_learn import Training
from throughtime.studies.strategies_run import Comparison
from throughtime.studies.strategies_table import of


class _Style(NamedTuple):
    """Okabe & Ito's colours, told apart in every kind of colour vision; in grey the lines and shapes tell them apart."""

    colour: str
    line: str
    shape: str


_STYLES = {
    "full": _Style("#000000", "-", "o"),
    "truncated": _Style("#D55E00", "--", "s"),
    "randomized": _Style("#0072B2", "-.", "^"),
    "polynomial": _Style("#009E73", ":", "D"),
}
_ACROSS = ("axes fraction", "data")
_OTHERS = (_Style("#CC79A7", "-", "v"), _Style("#E69F00", "--", "P"), _Style("#56B4E9", "-.", "X"))


def plot(found: Comparison, path: str | Path | None = None) -> Any:
    """A matplotlib figure, written to `path` (PNG, SVG, PDF by its suffix) if one is given.

    A row for each problem: the loss on held-out data by updates and by seconds (the mean over the trainings, each training
    thin), the peak memory, and the gradient's bias and spread. What was not measured is left out.
    Raises: RunError where the file cannot be written; InputError where matplotlib is missing, or nothing was measured.
    """
    if not (found.seconds or found.gradients or found.trainings):
        raise InputError("a picture needs a measurement, got none: let one end before stopping")
    with drawing.style():
        figure = drawing.figure(15, 3.6 * len(found.problems))
        grid = figure.subplots(len(found.problems), 4, squeeze=False, width_ratios=(1.2, 1.2, 0.7, 1))
        for row, problem in zip(grid, found.problems, strict=True):
            _losses(row[0], found, problem, by_time=False)
            _losses(row[1], found, problem, by_time=True)
            _memory(row[2], found, problem)
            _gradients(row[3], found, problem)
    if path is not None:
        drawing.save(figure, path)
    return figure


def _losses(axes: Any, found: Comparison, problem: Problem, *, by_time: bool) -> None:
    skip = int(by_time)  # the look before the first update has no place on a logarithmic axis
    for spec, style in _styles(problem).items():
        timing = found.seconds.get((problem.name, spec))
        trainings = of(found, problem.name, spec)
        if not trainings or (by_time and timing is None):
            continue
        scale = timing.median if by_time and timing is not None else 1.0
        look = {"color": style.colour, "linestyle": style.line}
        for one in trainings:
            axes.plot(
                [scale * step for step in one.steps[skip:]],
                one.losses[skip:],
                linewidth=0.5,
                alpha=0.5,
                **look,
            )
        whole = [one for one in trainings if len(one.steps) == max(len(one.steps) for one in trainings)]
        means = [mean(losses) for losses in zip(*(one.losses for one in whole), strict=True)]
        axes.plot(
            [scale * step for step in whole[0].steps[skip:]],
            means[skip:],
            marker=style.shape,
            markersize=3.5,
            linewidth=1.4,
            **look,
        )
    if not by_time:
        keys = [
            axes.plot([], [], color=style.colour, linestyle=style.line, marker=style.shape, label=spec)[0]
            for spec, style in _styles(problem).items()
        ]
        axes.legend(handles=keys, fontsize=8, loc="best", handlelength=4)
    for name, level in problem.levels.items():
        axes.axhline(level, color="#999999", linewidth=0.8)
        if not by_time:
            axes.annotate(name, (0.02, level), xycoords=_ACROSS, va="bottom", fontsize=7, color="#555555")
    _leave_out_the_start(axes, [one for one in found.trainings if one.problem == problem.name])
    axes.set_title(f"{problem.title}: loss by {'time' if by_time else 'updates'}")
    axes.set_xlabel("seconds, one thread" if by_time else "updates")
    axes.set_ylabel(problem.measure)
    if by_time:
        axes.set_xscale("log")
        drawing.powers(axes.xaxis)


def _leave_out_the_start(axes: Any, trainings: list[Training]) -> None:
    """The first updates bring so much that nothing could be told apart below them: the picture begins a fifth later.

    Nor does it make room for the largest twentieth of what follows, a loss that jumped.
    """
    later = sorted(
        loss for one in trainings for loss in one.losses[len(one.losses) // 5 :] if not math.isnan(loss)
    )
    if later:
        high = later[19 * len(later) // 20 - 1] if len(later) >= 20 else later[-1]
        axes.set_ylim(top=high + 0.1 * (high - later[0]))


def _memory(axes: Any, found: Comparison, problem: Problem) -> None:
    styles = _styles(problem)
    for place, (spec, style) in enumerate(styles.items()):
        peak = found.memory.get((problem.name, spec))
        if peak is not None:
            axes.barh(place, peak, color=style.colour)
            axes.text(peak, place, f" {peak:.1f}", va="center", fontsize=8)
    axes.set_yticks(range(len(styles)), list(styles))
    axes.set_ylim(len(styles) - 0.5, -0.5)
    axes.margins(x=0.25)
    axes.set_title("Peak memory of an update")
    axes.set_xlabel("MiB on top of model and data")


def _gradients(axes: Any, found: Comparison, problem: Problem) -> None:
    styles, drawn = _styles(problem), []
    for place, (spec, style) in enumerate(styles.items()):
        error = found.gradients.get((problem.name, spec))
        if error is None:
            continue
        spread = math.sqrt(error.variance)
        drawn += [value for value in (error.bias, spread) if value > 0]
        if error.bias > 0:
            face = style.colour if error.biased else "none"
            axes.plot(error.bias, place, "o", color=style.colour, markerfacecolor=face, markersize=8)
        if spread > 0:
            axes.plot(spread, place, "x", color=style.colour, markersize=8, markeredgewidth=2)
        if error.bias == spread == 0:
            axes.text(0.03, place, "exact", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    batches = math.sqrt(found.batches.get(problem.name, math.inf))
    if math.isfinite(batches):
        drawn.append(batches)
        axes.axvline(batches, color="#999999", linewidth=0.8)
    marks = (
        ("o", "#666666", "bias"),
        ("o", "none", "no bias seen: noise of the mean"),
        ("x", "none", "spread of one draw"),
        ("-", "none", "spread of the full one over batches"),
    )
    handles = [
        axes.plot([], [], mark, color="#666666", markerfacecolor=face, label=label)[0]
        for mark, face, label in marks
    ]
    axes.legend(handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=2)
    axes.set_yticks(range(len(styles)), list(styles))
    axes.set_ylim(len(styles) - 0.5, -0.5)
    axes.set_xscale("log")
    drawing.powers(axes.xaxis)
    if drawn:  # whole decades, so that their ticks have labels that do not touch
        axes.set_xlim(
            10 ** math.floor(math.log10(min(drawn))), 10 ** math.ceil(math.log10(max(drawn) * 1.05))
        )
    axes.set_title("Distance from the full gradient\n(share of its norm)")


def _styles(problem: Problem) -> dict[str, _Style]:
    """One for each strategy; those of no family of their own, or of one that is taken, get the others in turn."""
    found: dict[str, _Style] = {}
    others = 0
    for spec in problem.strategies:
        style = _STYLES.get(spec.partition(":")[0])
        if style is None or style in found.values():
            style, others = _OTHERS[others % len(_OTHERS)], others + 1
        found[spec] = style
    return found
