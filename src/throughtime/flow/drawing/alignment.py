"""What each written symbol was aligned with: attention weights, or probabilities by frame, as a heat map."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from throughtime.flow import drawing
from throughtime.flow.drawing import columns
from throughtime.flow.drawing.heatmap import BLOCKS, PLAIN, encodes, shown

_LIMITS = (0.05, 0.2, 0.4, 0.7)  # between the marks


class Alignment(NamedTuple):
    """Weights between 0 and 1: a row for each symbol that was written, a column for each that was read."""

    weights: Tensor  # [R, C]
    written: tuple[str, ...]  # R of them
    read: tuple[str, ...]  # C of them
    source: str = "input"  # what the columns are
    output: str = "output"

    def text(self, *, width: int = 100, encoding: str | None = None) -> str:
        """As characters: a row for each written symbol; what was read stands above its column, downwards where it is long.

        Where there are more columns than fit, neighbours are joined: the mark is that of the largest weight.
        `encoding` (default: stdout's) decides between blocks and plain characters.
        """
        marks = BLOCKS if encodes(encoding or sys.stdout.encoding or "ascii") else PLAIN
        written = [shown(each, marks) for each in self.written]
        label = max(map(columns, written), default=0)
        room = max(8, width - label - 2)
        count = self.weights.shape[1]
        joined = -(-2 * count // room) if 2 * count > room else 1
        lines = self._head(label, marks) if joined == 1 else []
        for name, row in zip(written, self.weights, strict=True):
            parts = [float(part.max()) for part in row.split(joined)]
            cells = "".join(_mark(value, marks) * (2 if joined == 1 else 1) for value in parts)
            lines.append(f"{' ' * (label - columns(name))}{name}  {cells}".rstrip())
        bounds = [f"{low:g}" for low in _LIMITS]
        scale = ", ".join(f"{mark} from {low}" for mark, low in zip(marks[1:], bounds, strict=True))
        many = f", {joined} steps in each" if joined > 1 else ""
        lines.append(
            f"rows: {self.output}; columns: {self.source}{many}; weight: {marks[0]} below {bounds[0]}, {scale}"
        )
        return "\n".join(lines)

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure, written to `path` (PNG, SVG or PDF by its suffix) if there is one.

        Raises: InputError without matplotlib, RunError for a path that cannot be written.
        """
        with drawing.style():
            height, width = self.weights.shape
            fig = drawing.figure(
                min(14.0, max(4.5, 0.25 * width + 2.5)), min(14.0, max(3.0, 0.25 * height + 2.0))
            )
            axes = fig.subplots()
            image = axes.imshow(
                self.weights.numpy(force=True), vmin=0, vmax=1, cmap=drawing.HEAT, interpolation="nearest",
                aspect="auto",
            )  # fmt: skip
            axes.grid(False)
            names = {"family": drawing.symbol_fonts(), "fontsize": 8}
            if width <= 100:
                axes.set_xticks(
                    range(width), [drawing.drawable(each) for each in self.read], rotation=90, **names
                )
            if height <= 100:
                axes.set_yticks(range(height), [drawing.drawable(each) for each in self.written], **names)
            axes.tick_params(length=0)
            axes.set(xlabel=self.source, ylabel=self.output)
            fig.colorbar(image, ax=axes, label="weight", shrink=0.7)
        if path is not None:
            drawing.save(fig, path)
        return fig

    def _head(self, label: int, marks: str) -> list[str]:
        """The symbols that were read, each written downwards above its column, which is two characters wide."""
        names = [shown(each, marks) for each in self.read]
        height = max(map(len, names), default=0)
        lines = []
        for line in range(height):
            cells = [name.rjust(height)[line] for name in names]
            lines.append(
                (" " * (label + 2) + "".join(cell + " " * (2 - columns(cell)) for cell in cells)).rstrip()
            )
        return lines


def _mark(value: float, marks: str) -> str:
    return marks[sum(value >= limit for limit in _LIMITS)]
