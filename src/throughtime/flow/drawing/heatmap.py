"""Influence to look at: in a terminal, as a picture, as a page."""

from __future__ import annotations

import html
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from throughtime.files import write_whole
from throughtime.flow import drawing
from throughtime.flow.page import page

if TYPE_CHECKING:
    from throughtime.flow.influence import Influence

_BLOCKS = "·░▒▓█"
_PLAIN = ".:+x#"
_FLOOR = 1e-4  # of the largest entry: what is smaller has no mark

_MEANING = (
    "Each row is an output, each column an input: the lighter, the more the output changes when the input does. What comes after "
    "the output in time has no share in it, unless the network reads in both directions."
)


def text(found: Influence, *, width: int = 80, encoding: str | None = None) -> str:
    """The matrix as characters, one row for each output: a blank is no influence at all, a full block the largest.

    Five marks of the entry against the largest, even on a log scale that reaches from the smallest entries (a twentieth of
    them aside) to 1, over five powers of ten at most: the last line says what each stands for.
    Longer inputs than fit show their last steps. `encoding` (default: stdout's) decides between blocks and plain characters.
    """
    marks = _BLOCKS if _encodes(encoding or sys.stdout.encoding or "ascii") else _PLAIN
    matrix, symbols = found.matrix, [_one(symbol, marks) for symbol in found.symbols]
    label = max((len(s) for s in symbols), default=0) or len(str(len(matrix) - 1))
    room = max(8, width - label - 3)
    start = max(0, matrix.shape[1] - room)
    share = _share(matrix)
    limits = _limits(share[start:, start:])
    lines = []
    if start:
        lines.append(f"the last {matrix.shape[1] - start} of {matrix.shape[1]} steps")
    if symbols and max(map(len, symbols)) == 1:
        lines.append(" " * (label + 2) + "".join(symbols[start:]))
    for t in range(start, len(matrix)):
        name = symbols[t] if symbols else str(t)
        cells = "".join(_mark(value, marks, limits) for value in share[t, start:].tolist())
        lines.append(f"{name:>{label}}  {cells}".rstrip())
    scale = ", ".join(f"{mark} {words}" for mark, words in zip(marks, _words(limits), strict=True))
    lines.append(f"rows: outputs; columns: inputs; share of the largest: {scale}, blank: none")
    return "\n".join(lines)


def plot(found: Influence, path: str | Path | None = None) -> Any:
    """The matrix as a matplotlib figure with a log scale of colours, the symbols on both axes.

    Raises: InputError without matplotlib, RunError for a path that cannot be written.
    """
    with drawing.style():
        from matplotlib.colors import LogNorm

        matrix = found.matrix
        size = min(14.0, max(4.5, 0.16 * len(matrix) + 1.5))
        drawn = drawing.figure(size + 1.2, size)
        axes = drawn.subplots()
        top = float(matrix.max()) if float(matrix.max()) > 0 else 1.0
        image = axes.imshow(
            matrix.masked_fill(matrix <= 0, torch.nan).numpy(force=True),
            norm=LogNorm(top * _FLOOR, top, clip=True),
            cmap=drawing.HEAT,
            interpolation="nearest",
        )
        axes.grid(False)
        symbols = [drawing.shown(s) for s in found.symbols]
        if symbols and len(symbols) <= 80:
            tall = max(map(len, symbols)) > 1
            axes.set_xticks(
                range(len(symbols)), symbols, family="monospace", fontsize=8, rotation=90 if tall else 0
            )
            axes.set_yticks(range(len(symbols)), symbols, family="monospace", fontsize=8)
            axes.tick_params(length=0)
        axes.set(
            title="Influence of each input on each output",
            xlabel=f"input x_k ({found.wrt})",
            ylabel="output o_t, after reading",
        )
        bar = drawn.colorbar(image, ax=axes, label="|d o_t / d x_k|", shrink=0.7)
        drawing.powers(bar.ax.yaxis)
    if path is not None:
        drawing.save(drawn, path)
    return drawn


def write_page(found: Influence, path: str | Path) -> None:
    """The picture in one HTML file that needs no network; written whole or not at all."""
    how = "exact" if found.directions is None else f"estimated from {found.directions} random directions"
    read = "".join(drawing.shown(s) for s in found.symbols)
    body = f"<h1>Influence</h1><p>{html.escape(_MEANING)}</p>"
    body += f"<p class=note>{len(found.matrix)} outputs, {found.matrix.shape[1]} inputs, {how}.</p>"
    if read:
        body += f"<pre>{html.escape(read)}</pre>"
    body += f"<figure><div class=wide>{drawing.inline(plot(found), 0)}</div></figure>"
    write_whole(path, page("Influence", body).encode())


def _share(matrix: Tensor) -> Tensor:
    top = float(matrix.max())
    return matrix / top if top > 0 else matrix


def _limits(share: Tensor) -> list[float]:
    """Where one mark ends and the next begins, ascending: each with two digits, as the legend says it."""
    positive = share[share > 0].double()
    lowest = float(positive.quantile(0.05)) if len(positive) else 1.0
    lowest = min(max(lowest, 1e-5), 0.5)
    return [float(f"{lowest ** (1 - number / 5):.2g}") for number in range(1, 5)]


def _mark(value: float, marks: str, limits: list[float]) -> str:
    return " " if value == 0 else marks[sum(value >= limit for limit in limits)]


def _words(limits: list[float]) -> list[str]:
    between = [f"{low:g} to {high:g}" for low, high in pairwise([*limits, 1.0])]
    return [f"below {limits[0]:g}", *between]


def _one(symbol: str, marks: str) -> str:
    if marks == _PLAIN:
        return "".join(c if " " < c <= "~" else "_" if c == " " else "?" for c in symbol)
    return drawing.shown(symbol)


def _encodes(encoding: str) -> bool:
    try:
        (_BLOCKS + "␣↵").encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
