"""What all pictures share: matplotlib, if it is there, and lines that differ in grey and to the colour-blind."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from throughtime.errors import InputError
from throughtime.files import write_whole
from throughtime.flow.result import HalfLife

# Okabe & Ito's colours, seen apart by the colour-blind and of unequal lightness; none vanishes on black or on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HEAT = "cividis"  # even in lightness from dark to light, the same to the colour-blind

_INK = "#0a0b0c"  # of text and axes; in a page it becomes the page's own colour
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#9aa0a6",
    "grid.alpha": 0.3,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    # Ticks and symbols must show every character of a text as it is.
    "text.usetex": False,
    "text.parse_math": False,
}


def style() -> Any:
    """A context in which everything drawn has the same looks.

    Raises: InputError where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError(
            'pictures need matplotlib, which is not installed: pip install "throughtime[plot]"'
        ) from None
    return matplotlib.rc_context(_STYLE)


def figure(width: float, height: float) -> Any:
    """An empty figure, in inches; no window is opened and nothing is kept after it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(drawn: Any, path: str | Path) -> None:
    """Write a figure, whole or not at all; the suffix says how: PNG, SVG or PDF.

    Raises: InputError for another suffix, RunError for a path that cannot be written.
    """
    suffix = _picture_suffix(path)
    held = io.BytesIO()
    with style():
        drawn.savefig(held, format=suffix, dpi=150, facecolor="white")
    write_whole(path, held.getvalue())


def inline(drawn: Any, number: int) -> str:
    """A figure as SVG to stand in a page: see-through, its ink the page's; `number` keeps the names of several apart."""
    import matplotlib

    held = io.StringIO()
    with style(), matplotlib.rc_context({"svg.hashsalt": f"throughtime {number}"}):
        drawn.savefig(held, format="svg", transparent=True, metadata={"Date": None})
    text = held.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    # Equal images, such as two colour bars, have one name: only what is referred to keeps it.
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", text)
    return text.replace(_INK, "currentColor")


def check(path: str | Path, *, picture: bool = False) -> None:
    """Refuse a path that a picture, a page or numbers could not be written to, before the work that makes them.

    Raises: InputError for a folder that is missing, a path that is one, or a `picture` of a kind that cannot be drawn.
    """
    if picture:
        _picture_suffix(path)
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        wrong = "it is a folder" if target.is_dir() else f"there is no folder {target.parent}"
        raise InputError(f"cannot write {path}: {wrong}; name a file in a folder that exists")


def _picture_suffix(path: str | Path) -> str:
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in ("png", "svg", "pdf"):
        raise InputError(f"a picture must end in .png, .svg or .pdf, got {path}")
    return suffix


def look(index: int, count: int) -> dict[str, Any]:
    """Colour, line and marker of the index-th of several lines with `count` points each."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
        # Markers stand at other places on each line, so that lines on top of each other are seen.
        "markevery": ((index * 3) % max(1, count // 8), max(1, count // 8)),
    }


def powers(axis: Any) -> None:
    """Label a log axis as 1e-08, 0.01, 1; the usual labels need the mathematics that symbols of a text must not meet."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def positive(values: Tensor) -> list[float]:
    """For a log axis: what has no logarithm, or no room for a margin beyond it, is not drawn."""
    return [value if 1e-290 < value < 1e290 else float("nan") for value in values.tolist()]


def half_life_text(half_life: HalfLife) -> str:
    """A half-life in words: "halves every 3.2 steps"."""
    steps = half_life.steps
    if steps != steps or half_life.lags < 2:
        return "no half-life can be fitted"
    if steps in (float("inf"), float("-inf")):
        return "keeps its size"
    return f"{'halves' if steps > 0 else 'doubles'} every {abs(steps):.3g} steps"


def shown(symbol: str) -> str:
    """A symbol as one sees it: space, newline and their like get a sign."""
    signs = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(c, c if c.isprintable() else "�") for c in symbol)
