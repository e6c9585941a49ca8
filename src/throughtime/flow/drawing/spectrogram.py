"""The frames of a recording over time, and under them what a model wrote where: in a terminal, and as a figure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from throughtime.flow import drawing

_BLOCKS = " ░▒▓█"
_PLAIN = " .:x#"
_ROWS = 12  # of a spectrogram in a terminal, at most


class Spectrogram(NamedTuple):
    """Frames with symbols at some of them."""

    frames: Tensor  # [t, F], the lowest frequency first
    seconds: float  # from a frame to the next
    marks: tuple[tuple[int, str], ...] = ()  # (frame, symbol), in order
    certainty: Tensor | None = None  # [t], 0 to 1: how likely it is that a symbol is there

    def text(self, *, width: int = 100, encoding: str | None = None) -> str:
        """As characters: time from left to right, low frequencies below; under it the symbols, on more lines where they crowd.

        Where there are more frames than columns, neighbours are averaged.
        `encoding` (default: stdout's) decides between blocks and plain characters.
        """
        try:
            _BLOCKS.encode(encoding or sys.stdout.encoding or "ascii")
            marks = _BLOCKS
        except UnicodeEncodeError:
            marks = _PLAIN
        columns, rows = min(width, len(self.frames)), min(_ROWS, self.frames.shape[1])
        small = adaptive_avg_pool2d(self.frames.double().T[None], (rows, columns))[0]
        lines = [_cells(row, marks) for row in _levels(small).flip(0)]
        if self.certainty is not None:
            lines.append("-" * columns)
            lines.append(_cells(adaptive_avg_pool1d(self.certainty.double()[None], columns)[0], marks))
        written: list[str] = []
        for frame, symbol in self.marks:
            at = frame * columns // max(1, len(self.frames))
            line = next((n for n, each in enumerate(written) if len(each) <= at), len(written))
            if line == len(written):
                written.append("")
            shown = symbol if symbol != " " else "_"
            written[line] += " " * (at - len(written[line])) + shown
        end = f"{len(self.frames) * self.seconds:.2f} s"
        return "\n".join([*(line.rstrip() for line in (*lines, *written)), f"0 s{end.rjust(columns - 3)}"])

    def plot(self, path: str | Path | None = None, *, title: str = "") -> Any:
        """A matplotlib figure, written to `path` (PNG, SVG or PDF by its suffix) if there is one.

        Raises: InputError without matplotlib, RunError for a path that cannot be written.
        """
        with drawing.style():
            length = len(self.frames) * self.seconds
            fig = drawing.figure(min(18.0, max(5.0, 1.6 * length + 1)), 3.6)
            upper, lower = fig.subplots(2, 1, sharex=True, height_ratios=[3, 1])
            upper.imshow(
                self.frames.T.numpy(force=True), origin="lower", aspect="auto", cmap=drawing.HEAT,
                extent=(0, length, 0, self.frames.shape[1]), interpolation="nearest",
            )  # fmt: skip
            upper.grid(False)
            upper.set(ylabel="band", title=drawing.drawable(title))
            if self.certainty is not None:
                times = torch.arange(len(self.certainty)) * self.seconds
                lower.plot(times.numpy(), self.certainty.numpy(force=True), color=drawing.COLORS[0])
            names = {"family": drawing.symbol_fonts(), "fontsize": 9}
            for frame, symbol in self.marks:
                at = frame * self.seconds
                lower.axvline(at, color=drawing.COLORS[1], linewidth=0.6)
                lower.text(at, 1.05, drawing.drawable(symbol if symbol != " " else "_"), ha="center", **names)
            lower.set(ylim=(0, 1.35), xlabel="seconds", ylabel="P(symbol)")
        if path is not None:
            drawing.save(fig, path)
        return fig


def _levels(values: Tensor) -> Tensor:
    """Values between 0 and 1, from the tenth of them that is least to the largest."""
    low, high = torch.quantile(values, 0.1), values.max()
    return ((values - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)


def _cells(row: Tensor, marks: str) -> str:
    return "".join(marks[min(len(marks) - 1, int(value * len(marks)))] for value in row.tolist())
