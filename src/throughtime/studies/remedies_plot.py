"""A comparison of remedies as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median
from typing import Any

from throughtime.errors import InputError
from throughtime.flow import drawing
from throughtime.studies.remedies import Trial
from throughtime.studies.remedies_run import Comparison
from throughtime.studies.remedies_table import of
from throughtime.tasks import MemoryConfig, MemoryTask

# Okabe & Ito's colours, told apart in every kind of colour vision; in grey the shapes tell the lengths apart.
_COLOURS = {"RNN tanh": "#000000", "RNN ReLU": "#D55E00", "GRU": "#009E73", "LSTM": "#56B4E9"}
_SHAPES = "os^Dv<>P"
_FLOOR = 1e-9  # less gradient than this is drawn here


def plot(comparison: Comparison, path: str | Path | None = None) -> Any:
    """A matplotlib figure, written to `path` (PNG, SVG, PDF by its suffix) if one is given.

    Left: after how many steps each remedy learned at each length, dark for soon. Right: the share of the gradient left 3/4 T
    steps back, before and after training, a filled mark for each run that learned and a hollow one for each that did not.
    Raises: RunError where the file cannot be written; InputError where matplotlib is missing, or the comparison has no trial.
    """
    if not comparison.trials:
        raise InputError("a picture needs at least one trial, got none: let one end before stopping")
    with drawing.style():
        figure = drawing.figure(12, 4.6)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _outcomes(left, comparison)
        _gradients(right, comparison)
    if path is not None:
        drawing.save(figure, path)
    return figure


def _outcomes(axes: Any, comparison: Comparison) -> None:
    lengths = sorted({trial.length for trial in comparison.trials})
    steps = comparison.settings.steps
    cells, texts = [], []
    baseline = MemoryTask(MemoryConfig()).baseline
    for remedy in comparison.remedies:
        groups = [of(comparison, remedy.name, length) for length in lengths]
        cells.append([_median_steps(group) for group in groups])
        texts.append([_text(group) for group in groups])
    axes.grid(False)
    axes.set_facecolor("#e8e8e8")  # shows where nothing was learned
    axes.imshow(cells, cmap="cividis", vmin=0, vmax=steps, aspect="auto")
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            dark = cells[row][column] < 0.5 * steps
            axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(lengths)), [f"T = {length}" for length in lengths])
    axes.set_yticks(range(len(comparison.remedies)), [remedy.name for remedy in comparison.remedies])
    axes.set_title(
        f"Adding problem: steps until the error is below {comparison.settings.target:g}\n"
        f"(knowing nothing: {baseline:.4f}; at most {steps:,} steps)"
    )


def _median_steps(trials: list[Trial]) -> float:
    """Of those that learned; NaN, which is not drawn, if none did."""
    after = [trial.learned for trial in trials if trial.learned is not None]
    return float(median(after)) if after else math.nan


def _text(trials: list[Trial]) -> str:
    if not trials:
        return "not run"
    after = [trial.learned for trial in trials if trial.learned is not None]
    if not after:
        losses = [trial.loss for trial in trials if not math.isnan(trial.loss)]
        return f"no\n(error {median(losses):.3f})" if losses else "no\n(diverged)"
    some = "" if len(after) == len(trials) else f"\n({len(after)} of {len(trials)})"
    return f"{median(after):.0f}{some}"


def _gradients(axes: Any, comparison: Comparison) -> None:
    lengths = sorted({trial.length for trial in comparison.trials})
    shapes = {length: _SHAPES[place % len(_SHAPES)] for place, length in enumerate(lengths)}
    for trial in comparison.trials:
        _, colour = _family(trial.remedy)
        end = 0.0 if trial.end is None else trial.end.left
        axes.plot(
            max(trial.start.left, _FLOOR),
            max(end, _FLOOR),
            shapes[trial.length],
            color=colour,
            markerfacecolor=colour if trial.learned is not None else "none",
            markersize=6,
        )
    axes.set(xscale="log", yscale="log")
    drawing.powers(axes.xaxis)
    drawing.powers(axes.yaxis)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="#999999", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlim(low, high)
    axes.set_xlabel(f"before training ({_FLOOR:g} stands for all that is less)")
    axes.set_ylabel("after training")
    axes.set_title("Share of the gradient left 3/4 T steps back\n(filled: learned; dashed: unchanged)")
    names = dict.fromkeys(_family(remedy.name) for remedy in comparison.remedies)
    handles = [axes.plot([], [], "s", color=colour, label=name)[0] for name, colour in names]
    handles += [
        axes.plot([], [], shape, color="#666666", markerfacecolor="none", label=f"T = {length}")[0]
        for length, shape in shapes.items()
    ]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _family(remedy: str) -> tuple[str, str]:
    """The kind of network, and its colour."""
    for name, colour in _COLOURS.items():
        if remedy.startswith(name):
            return name, colour
    return remedy, "#CC79A7"
