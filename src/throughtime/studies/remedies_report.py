"""A comparison of remedies as a table, sentences and a picture. `strategies_report` has the same functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from throughtime.errors import InputError
from throughtime.flow import drawing
from throughtime.studies.remedies import BASELINE, GradientDecay, RemedyComparison, RemedyTrial

LEGEND = """\
Steps until learned, or the error at the end. In brackets the gradient's half-life in steps, before -> after training:
negative where the gradient doubles, 'constant' from ten times T on. Medians over the seeds."""

# Okabe & Ito's colors, distinct in every kind of color vision; without color the shapes distinguish the lengths.
_COLORS = {"RNN tanh": "#000000", "RNN ReLU": "#D55E00", "GRU": "#009E73", "LSTM": "#56B4E9"}
_OTHER_COLOR, _GRAY = "#CC79A7", "#666666"
_SHAPES = "os^Dv<>P"
_FLOOR = 1e-9  # smaller gradients are drawn here


def table(comparison: RemedyComparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows, one for each remedy and a column for each length."""
    rows = []
    for remedy in comparison.remedies:
        groups = [(comparison.of(remedy.name, length), length) for length in comparison.lengths]
        cells = [f"{outcome(trials)} [{half_lives(trials, n)}]" if trials else "" for trials, n in groups]
        rows.append([remedy.name, *cells])
    return ["", *(f"T = {length}" for length in comparison.lengths)], rows


def outcome(trials: Sequence[RemedyTrial]) -> str:
    """The steps until learned, or the error at the end."""
    learned = [trial.learned for trial in trials if trial.learned is not None]
    if learned:
        some = "" if len(learned) == len(trials) else f" ({len(learned)} of {len(trials)})"
        return f"{median(learned):.0f}{some}"
    losses = [trial.loss for trial in trials if not math.isnan(trial.loss)]
    return f"no, {median(losses):.3f}" if losses else "no, diverged"


def half_lives(trials: Sequence[RemedyTrial], length: int) -> str:
    """Before and after training."""
    start = [trial.start for trial in trials]
    end = [trial.end for trial in trials if trial.end is not None]
    return f"{half_life_text(start, length)} -> {half_life_text(end, length) if end else 'none'}"


def half_life_text(gradients: Sequence[GradientDecay], length: int) -> str:
    """The median half-life; beyond ten times the length it cannot be distinguished from a constant norm."""
    # The rates 1 / half-life can be ordered, half-lives cannot: infinity is next to minus infinity.
    rate = median(math.inf if math.isnan(each.half_life) else 1 / each.half_life for each in gradients)
    if rate == math.inf:
        return "zero"
    return "constant" if abs(rate) * 10 * length < 1 else f"{1 / rate:.3g}"


def sentences(comparison: RemedyComparison) -> list[str]:
    """Which remedies learned at which length, and how far the half-life explains it: every number from these trials."""
    said = []
    for length in comparison.lengths:
        names: dict[bool, list[str]] = {True: [], False: []}
        for remedy in comparison.remedies:
            if trials := comparison.of(remedy.name, length):
                learned = sum(trial.learned is not None for trial in trials)
                some = "" if learned in (0, len(trials)) else f" ({learned} of {len(trials)})"
                names[learned > 0].append(remedy.name + some)
        line = f"T = {length}: learned by {'; '.join(names[True]) or 'none'}."
        said.append(line + (f" Not by {'; '.join(names[False])}." if names[False] else ""))
    plain = [trial for trial in comparison.trials if trial.remedy.startswith("RNN")]
    for name, group in (("All", comparison.trials), ("Plain RNNs", plain)):
        before, pairs = concordance(group, lambda trial: trial.start.fraction_left)
        if pairs:
            after, _ = concordance(group, _left_at_end)
            said.append(
                f"{name}: of two runs at one length of which one learned, the one that learned had the larger fraction of its "
                f"gradient left 3/4 T steps back in {before:.0%} of {pairs} pairs before training and in {after:.0%} after "
                "(chance: 50%)."
            )
    for learned, name in ((True, "that learned"), (False, "that did not")):
        group = [trial for trial in comparison.trials if (trial.learned is not None) == learned]
        if group:
            said.append(
                f"Runs {name}: {_percent(median(t.start.fraction_left for t in group))} of the gradient left 3/4 T steps back "
                f"before training, {_percent(median(_left_at_end(t) for t in group))} after (medians)."
            )
    return said


def concordance(trials: Sequence[RemedyTrial], value: Callable[[RemedyTrial], float]) -> tuple[float, int]:
    """Of the pairs of trials at one length of which one learned: the fraction in which its `value` is the larger one.

    Returns that fraction (ties count half, 0.5 is chance, NaN without pairs) and the number of pairs.
    """
    pairs = [
        (value(a), value(b))
        for a in trials
        for b in trials
        if a.length == b.length and a.learned is not None and b.learned is None
    ]
    wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs)
    return (wins / len(pairs) if pairs else math.nan), len(pairs)


def to_dict(comparison: RemedyComparison) -> dict[str, Any]:
    """All of it as plain values, for `throughtime.files.json_text`."""
    return {
        "settings": asdict(comparison.settings),
        "complete": comparison.complete,
        "remedies": [asdict(remedy) for remedy in comparison.remedies],
        "trials": [asdict(trial) for trial in comparison.trials],
        "sentences": sentences(comparison),
    }


def plot(comparison: RemedyComparison, path: str | Path | None = None) -> Any:
    """A matplotlib figure, written to `path` (PNG, SVG, PDF by its suffix) if one is given.

    Left: the steps until each remedy learned at each length, dark for few. Right: the fraction of the gradient left 3/4 T
    steps back, before and after training; a filled mark is a run that learned, a hollow one a run that did not.
    Raises: RunError where the file cannot be written; InputError where matplotlib is missing, or there is no trial.
    """
    if not comparison.trials:
        raise InputError("a picture needs at least one trial, got none: let one end before stopping")
    with drawing.style():
        figure = drawing.figure(12, 4.6)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _draw_outcomes(left, comparison)
        _draw_gradients(right, comparison)
    if path is not None:
        drawing.save(figure, path)
    return figure


def _draw_outcomes(axes: Any, comparison: RemedyComparison) -> None:
    lengths, steps = comparison.lengths, comparison.settings.steps
    groups = [[comparison.of(remedy.name, length) for length in lengths] for remedy in comparison.remedies]
    cells = [[_median_steps(trials) for trials in row] for row in groups]
    axes.grid(False)
    axes.set_facecolor("#e8e8e8")  # shows where nothing was learned
    axes.imshow(cells, cmap="cividis", vmin=0, vmax=steps, aspect="auto")
    for row, (values, line) in enumerate(zip(cells, groups, strict=True)):
        for column, trials in enumerate(line):
            color = "white" if values[column] < 0.5 * steps else "black"
            text = outcome(trials).replace(", ", "\n").replace(" (", "\n(") if trials else "not run"
            axes.text(column, row, text, ha="center", va="center", color=color)
    axes.set_xticks(range(len(lengths)), [f"T = {length}" for length in lengths])
    axes.set_yticks(range(len(comparison.remedies)), [remedy.name for remedy in comparison.remedies])
    axes.set_title(
        f"Adding problem: steps until the error is below {comparison.settings.target:g}, or the error\n"
        f"(always predicting 1: {BASELINE:.4f}; at most {steps:,} steps)"
    )


def _draw_gradients(axes: Any, comparison: RemedyComparison) -> None:
    shapes = {length: _SHAPES[place % len(_SHAPES)] for place, length in enumerate(comparison.lengths)}
    for trial in comparison.trials:
        _, color = _family(trial.remedy)
        axes.plot(
            max(trial.start.fraction_left, _FLOOR),
            max(_left_at_end(trial), _FLOOR),
            shapes[trial.length],
            color=color,
            markerfacecolor=color if trial.learned is not None else "none",
            markersize=6,
        )
    axes.set(xscale="log", yscale="log")
    drawing.powers(axes.xaxis)
    drawing.powers(axes.yaxis)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="#999999", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlim(low, high)
    axes.set_xlabel(f"before training (smaller values are drawn at {_FLOOR:g})")
    axes.set_ylabel("after training")
    axes.set_title("Fraction of the gradient left 3/4 T steps back\n(filled: learned; dashed: unchanged)")
    names = dict.fromkeys(_family(remedy.name) for remedy in comparison.remedies)
    handles = [axes.plot([], [], "s", color=color, label=name)[0] for name, color in names]
    handles += [
        axes.plot([], [], shape, color=_GRAY, markerfacecolor="none", label=f"T = {length}")[0]
        for length, shape in shapes.items()
    ]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _median_steps(trials: Sequence[RemedyTrial]) -> float:
    """Of the trials that learned; NaN, which is not drawn, if none did."""
    learned = [trial.learned for trial in trials if trial.learned is not None]
    return float(median(learned)) if learned else math.nan


def _left_at_end(trial: RemedyTrial) -> float:
    return 0.0 if trial.end is None else trial.end.fraction_left


def _percent(fraction: float) -> str:
    return f"{fraction:.0%}" if fraction >= 0.1 else f"{100 * fraction:.2g}%"


def _family(remedy: str) -> tuple[str, str]:
    """The kind of network, and its color."""
    for name, color in _COLORS.items():
        if remedy.startswith(name):
            return name, color
    return remedy, _OTHER_COLOR
