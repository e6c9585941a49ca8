"""What all figures share: matplotlib, if it is installed, fonts, and lines that differ in grey and to the color-blind."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from throughtime.errors import InputError
from throughtime.files import write_whole

# Okabe & Ito's colors, distinct to the color-blind and of unequal lightness; none vanishes on black or on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HEAT = "cividis"  # even in lightness from dark to light, the same to the color-blind
# Fonts with Chinese, Japanese and Korean characters, in order of preference.
CJK_FONTS = (
    *(f"Noto Sans {kind}CJK {region}" for region in ("SC", "JP", "TC", "KR") for kind in ("Mono ", "")),
    *("Source Han Sans SC", "Source Han Sans", "Source Han Mono", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("IPAexGothic", "IPAGothic", "Arial Unicode MS", "Hiragino Sans", "PingFang SC", "Microsoft YaHei"),
    *("Yu Gothic", "MS Gothic", "SimHei", "Malgun Gothic", "Unifont"),
)

_INK = "#0a0b0c"  # of text and axes; in a page it becomes the page's own color
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
    # Ticks and symbols show every character of a text as it is.
    "text.usetex": False,
    "text.parse_math": False,
}


def style() -> Any:
    """A context that gives all figures the same style.

    Raises: InputError where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError(
            'pictures need matplotlib, which is not installed: pip install "throughtime[plot]"'
        ) from None
    return matplotlib.rc_context({**_STYLE, "font.family": ["DejaVu Sans", *_cjk_font()]})


def figure(width: float, height: float) -> Any:
    """An empty figure, sizes in inches; no window is opened, and matplotlib keeps no reference to it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(fig: Any, path: str | Path) -> None:
    """Write a figure, whole or not at all, as PNG, SVG or PDF by the suffix.

    Raises: InputError for another suffix, RunError for a path that cannot be written.
    """
    write_whole(path, _rendered(fig, _picture_suffix(path), dpi=150, facecolor="white"))


def inline(fig: Any, number: int) -> str:
    """A figure as SVG inside a page: transparent, its ink the page's; `number` keeps the ids of several apart."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": f"throughtime {number}"}):
        text = _rendered(fig, "svg", transparent=True, metadata={"Date": None}).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    # Equal images, such as two color bars, have one name: only ids that are referred to are kept.
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", text)
    return text.replace(_INK, "currentColor")


def _rendered(fig: Any, suffix: str, **options: Any) -> bytes:
    held = io.BytesIO()
    with style(), warnings.catch_warnings():
        # Labels have been checked by `drawable`; names of modules may still hold characters that no font has.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        fig.savefig(held, format=suffix, **options)
    return held.getvalue()


def check(path: str | Path, *, picture: bool = False) -> None:
    """Refuse a path that cannot be written to, before the work for it.

    Raises: InputError for a folder that is missing, a path that is one, or the suffix of a `picture` that cannot be drawn.
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


def line_style(index: int, count: int) -> dict[str, Any]:
    """Color, line and marker of the index-th of several lines with `count` points each."""
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": LINES[index % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
        # Markers at other places on each line, so that lines on top of each other are visible.
        "markevery": ((index * 3) % max(1, count // 8), max(1, count // 8)),
    }


def powers(axis: Any) -> None:
    """Label a log axis as 1e-08, 0.01, 1; the usual labels need math text, which is off."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def positive(values: Tensor) -> list[float]:
    """For a log axis: NaN in place of numbers that have no logarithm, or no room for a margin."""
    return [value if 1e-290 < value < 1e290 else float("nan") for value in values.tolist()]


def visible(symbol: str) -> str:
    """A symbol as text: space, newline and tab as signs, other control characters as escapes such as \\x1b."""
    signs = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(c, c if c.isprintable() else _escape(c)) for c in symbol)


def drawable(symbol: str) -> str:
    """As `visible`, with characters that no installed font of the figures has written as U+4E2D."""
    known = _known_characters()
    return "".join(c if ord(c) in known else f"U+{ord(c):04X}" for c in visible(symbol))


def symbol_fonts() -> list[str]:
    """Families for the symbols of a text, in the order in which a character is looked up."""
    return ["DejaVu Sans Mono", *_cjk_font()]


def columns(text: str) -> int:
    """Columns that a text takes in a terminal: 2 for wide characters, 0 for combining ones."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"U+{number:04X}"


@lru_cache
def _cjk_font() -> tuple[str, ...]:
    """The first installed font of `CJK_FONTS`; none where there is none."""
    from matplotlib.font_manager import fontManager

    installed = {entry.name for entry in fontManager.ttflist}
    return next(((name,) for name in CJK_FONTS if name in installed), ())


@lru_cache
def _known_characters() -> frozenset[int]:
    """The characters of the symbols' fonts. Cost: reads their tables once, some milliseconds."""
    from matplotlib.font_manager import FontProperties, fontManager
    from matplotlib.ft2font import FT2Font

    known: set[int] = set()
    for name in symbol_fonts():
        known.update(FT2Font(fontManager.findfont(FontProperties(family=[name]))).get_charmap())
    return frozenset(known)
