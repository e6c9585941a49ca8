"""The gradient by lag as a bar chart of text, and in a sentence."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from throughtime.flow import LagCurve, Reach

_EIGHTHS = " ▏▎▍▌▋▊▉"
_FULL = "█"


def reach_chart(reach: Reach, *, width: int = 48, encoding: str | None = None) -> str:
    """Horizontal bars, one for each of about a dozen lags: their length is the logarithm of the gradient.

    Values are relative to lag 1. The axis spans at most eight powers of ten; a smaller value has no bar. `encoding` (default:
    stdout's) decides between block characters and "#".
    """
    relative = (reach.norms / reach.norms[0]).tolist()
    rows = [(lag, relative[lag - 1]) for lag in _shown(len(relative))]
    title = "size of the gradient k steps back, relative to one step back"
    return _bars(title, rows, width, encoding)


def lag_chart(curve: LagCurve, *, width: int = 48, encoding: str | None = None) -> str:
    """As `reach_chart`, for a curve of `throughtime.flow.measure`, relative to lag 0."""
    first = float(curve.mean[0])
    relative = (curve.mean / first).tolist() if first > 0 else curve.mean.tolist()
    rows = [(lag, relative[lag]) for lag in (0, *_shown(len(relative) - 1))]
    return _bars("size of the gradient k steps back, relative to lag 0", rows, width, encoding)


def _bars(title: str, rows: list[tuple[int, float]], width: int, encoding: str | None) -> str:
    """The title with the axis, and one bar for each (lag, value)."""
    finite = [value for _, value in rows if 0 < value < math.inf]
    top = math.ceil(math.log10(max(finite, default=1.0)))
    bottom = max(min(-2, math.floor(math.log10(min(finite, default=1.0)))), top - 8)
    blocks = _can_encode(encoding or sys.stdout.encoding or "ascii")
    lines = [f"{title} (log scale, {_power(bottom)} to {_power(top)})"]
    for lag, value in rows:
        if value > 0 and math.isfinite(value):
            length = max(0.0, (math.log10(value) - bottom) / (top - bottom)) * width
        else:
            length = float(width) if value > 0 else 0.0
        lines.append(f"{lag:>5}  {_bar(length, blocks):<{width}}  {value:.2g}".rstrip())
    return "\n".join(lines)


def reach_sentence(reach: Reach, unit: str = "step") -> str:
    """How far back the gradient reaches; `unit` is what a step is (character, word)."""
    last, final = int(reach.lags[-1]), float(reach.norms[-1] / reach.norms[0])
    if math.isnan(final):
        return "The gradient is not a number: the model diverged and cannot be trained further."
    if reach.reach is not None:
        half = "" if reach.half_life is None else f"half of its size {reach.half_life} {unit}s back, and to "
        return (
            f"The gradient falls to {half}{reach.fraction:.0%} of its size {reach.reach} {unit}s back: "
            f"the model learns from about the last {reach.reach} {unit}s."
        )
    if final > 1:
        return (
            f"The gradient grows with the lag: {last} {unit}s back it is {final:.2g} times as large; clip it."
        )
    return (
        f"Even {last} {unit}s back, {final:.1%} of the gradient is left: the model learns from further back."
    )


def _shown(count: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, ...: even on a log scale, and always the last."""
    lags = {1, count} if count > 0 else set()
    power = 1
    while power <= count:
        lags.update(lag for lag in (power, power * 3 // 2) if lag <= count)
        power *= 2
    return sorted(lags)


def _bar(length: float, blocks: bool) -> str:
    if not blocks:
        return "#" * round(length)
    whole, part = divmod(round(length * 8), 8)
    return _FULL * whole + (_EIGHTHS[part] if part else "")


def _power(exponent: int) -> str:
    return "1" if exponent == 0 else f"1e{exponent}"


def _can_encode(encoding: str) -> bool:
    try:
        (_EIGHTHS + _FULL).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
