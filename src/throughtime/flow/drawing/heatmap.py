"""Influence as a heat map: in a terminal, as a figure, as a page."""

from __future__ import annotations

import html
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from throughtime.files import write_whole
from throughtime.flow import drawing
from throughtime.flow.drawing import columns
from throughtime.flow.drawing.report import about_table, page
from throughtime.flow.result import NOTHING

if TYPE_CHECKING:
    from throughtime.flow.measurement.influence import Influence

BLOCKS = "·░▒▓█"
PLAIN = ".:+x#"
_FLOOR = 1e-4  # of the largest entry: what is smaller has no mark

_MEANING = (
    "Each row is an output, each column an input: the lighter, the more the output changes when the input does. An output does "
    "not depend on later inputs, unless the network reads in both directions."
)


def text(found: Influence, *, width: int = 80, encoding: str | None = None) -> str:
    """The matrix as characters, one row for each output: a blank is no influence at all, a full block the largest.

    Five marks for the entry relative to the largest, evenly spaced on a log scale from the smallest entries (5 % of them aside)
    to 1, over five powers of ten at most: the last line states their limits. Longer inputs than fit show their last steps.
    Columns of wide characters (Chinese, Japanese, Korean) are two columns of the terminal wide.
    `encoding` (default: stdout's) decides between blocks and plain characters.
    """
    marks = BLOCKS if encodes(encoding or sys.stdout.encoding or "ascii") else PLAIN
    matrix, symbols = found.matrix, [shown(symbol, marks) for symbol in found.symbols]
    rows = [_name(name, marks) for name in found.outputs] or symbols
    label = max(map(columns, rows), default=0) or len(str(len(matrix) - 1))
    # Symbols stand above their columns where all of them fit into one or two.
    cell = max(map(columns, symbols), default=1)
    head, cell = (bool(symbols), max(1, cell)) if cell <= 2 else (False, 1)
    room = max(8, (width - label - 3) // cell)
    start = max(0, matrix.shape[1] - room)
    relative, first = _relative(matrix), 0 if found.outputs else start
    limits = _limits(relative[first:, start:])
    lines = []
    if start:
        lines.append(f"the last {matrix.shape[1] - start} of {matrix.shape[1]} steps")
    if head:
        lines.append(
            " " * (label + 2) + "".join(s + " " * (cell - columns(s)) for s in symbols[start:]).rstrip()
        )
    for t in range(first, len(matrix)):
        name = rows[t] if rows else str(t)
        cells = "".join(_mark(value, marks, limits) * cell for value in relative[t, start:].tolist())
        lines.append(f"{' ' * (label - columns(name))}{name}  {cells}".rstrip())
    if found.outputs and symbols and not head:
        lines.append(" " * (label + 2) + _ends(symbols[start:], matrix.shape[1] - start))
    scale = ", ".join(f"{mark} {words}" for mark, words in zip(marks, _words(limits), strict=True))
    lines.append(f"rows: outputs; columns: inputs; relative to the largest: {scale}, blank: none")
    return "\n".join(lines)


def plot(found: Influence, path: str | Path | None = None) -> Any:
    """The matrix as a matplotlib figure with a log scale of colors, the symbols on both axes.

    Raises: InputError without matplotlib, RunError for a path that cannot be written.
    """
    with drawing.style():
        from matplotlib.colors import LogNorm

        matrix = found.matrix
        height, width = (min(14.0, max(4.5, 0.16 * count + 1.5)) for count in matrix.shape)
        fig = drawing.figure(width + 1.2, height)
        axes = fig.subplots()
        top = float(matrix.max()) if float(matrix.max()) > 0 else 1.0
        image = axes.imshow(
            matrix.masked_fill(matrix <= 0, torch.nan).numpy(force=True),
            norm=LogNorm(top * _FLOOR, top, clip=True),
            cmap=drawing.HEAT,
            interpolation="nearest",
        )
        axes.grid(False)
        symbols = [drawing.drawable(s) for s in found.symbols]
        if symbols and len(symbols) <= 80:
            tall = max(map(len, symbols)) > 1
            axes.set_xticks(
                range(len(symbols)),
                symbols,
                family=drawing.symbol_fonts(),
                fontsize=8,
                rotation=90 if tall else 0,
            )
            axes.tick_params(length=0)
        rows = [" ".join(map(drawing.drawable, name.split())) for name in found.outputs] or symbols
        if rows and len(rows) <= 80:
            axes.set_yticks(range(len(rows)), rows, family=drawing.symbol_fonts(), fontsize=8)
            axes.tick_params(length=0)
        if found.outputs:
            axes.set_aspect("auto")
        axes.set(
            title="Influence of each input on each output",
            xlabel=f"input x_k ({found.wrt})",
            ylabel="output" if found.outputs else "output o_t, after the input",
        )
        bar = fig.colorbar(image, ax=axes, label="|d o_t / d x_k|", shrink=0.7)
        drawing.powers(bar.ax.yaxis)
    if path is not None:
        drawing.save(fig, path)
    return fig


def write_page(found: Influence, path: str | Path, about: Mapping[str, str] = NOTHING) -> None:
    """The figure in one HTML file that needs no network; written whole or not at all."""
    how = "exact" if found.directions is None else f"estimated from {found.directions} random directions"
    read = "".join(drawing.visible(s) for s in found.symbols)
    body = f"<h1>Influence of inputs on outputs</h1>{about_table(about)}<p>{html.escape(_MEANING)}</p>"
    body += f"<p class=note>{len(found.matrix)} outputs, {found.matrix.shape[1]} inputs, {how}.</p>"
    if read:
        body += f"<pre>{html.escape(read)}</pre>"
    body += f"<figure><div class=wide>{drawing.inline(plot(found), 0)}</div></figure>"
    write_whole(path, page("Influence of inputs on outputs", body).encode())


def _ends(symbols: list[str], width: int) -> str:
    """The first, a middle and the last symbol below their columns, as far as they fit."""
    line = " " * width
    for place in (0, width - 1, width // 2):
        name = symbols[place]
        start = min(max(0, place - columns(name) // 2), max(0, width - columns(name)))
        around = line[max(0, start - 1) : start + columns(name) + 1]
        if not around.strip():
            line = line[:start] + name + line[start + columns(name) :]
    return line.rstrip()


def _relative(matrix: Tensor) -> Tensor:
    top = float(matrix.max())
    return matrix / top if top > 0 else matrix


def _limits(relative: Tensor) -> list[float]:
    """The limits between the marks, ascending, rounded to the two digits of the legend."""
    positive = relative[relative > 0].double()
    lowest = float(positive.quantile(0.05)) if len(positive) else 1.0
    lowest = min(max(lowest, 1e-5), 0.5)
    return [float(f"{lowest ** (1 - number / 5):.2g}") for number in range(1, 5)]


def _mark(value: float, marks: str, limits: list[float]) -> str:
    return " " if value == 0 else marks[sum(value >= limit for limit in limits)]


def _words(limits: list[float]) -> list[str]:
    between = [f"{low:g} to {high:g}" for low, high in pairwise([*limits, 1.0])]
    return [f"below {limits[0]:g}", *between]


def shown(symbol: str, marks: str) -> str:
    """A symbol as it can be printed beside these marks."""
    if marks == PLAIN:
        return "".join(c if " " < c <= "~" else "_" if c == " " else "?" for c in symbol)
    return drawing.visible(symbol)


def _name(name: str, marks: str) -> str:
    """The name of a row; spaces stay."""
    return " ".join("".join(shown(c, marks) if c != "_" else c for c in word) for word in name.split())


def encodes(encoding: str) -> bool:
    """Whether an encoding has the blocks."""
    try:
        (BLOCKS + "␣↵").encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
