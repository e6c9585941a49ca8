"""Results as text: the same columns for a terminal and for a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

HEAD = ["cell", "T,B,D,H", "", "ours", "torch.nn", "torch.nn / ours", "of GEMM peak", "error", "runs on"]


def row(result: dict[str, Any]) -> list[str]:
    """The row of one comparison, in the order of HEAD."""
    timings = result["timings"]
    fraction = result["fraction_of_peak"]
    return [
        result["cell"],
        ",".join(str(number) for number in result["shape"]),
        result["mode"],
        format_timing(timings["ours"]),
        format_timing(timings["torch"]),
        f"{result['ratio']:.2f}",
        "" if fraction is None else f"{fraction:.0%}",
        f"{result['errors']['ours']:.0e}",
        result["backend"],
    ]


def format_timing(timing: dict[str, Any]) -> str:
    """Median (quartiles) in one unit; "~" before it if samples that waited for a core had to be used."""
    unit, scale = next(
        (unit, scale)
        for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6))
        if timing["median"] * scale >= 1 or unit == "us"
    )
    median, low, high = (_three_digits(timing[name] * scale) for name in ("median", "low", "high"))
    return f"{'~' * timing['disturbed']}{median} {unit} ({low}-{high})"


def _three_digits(number: float) -> str:
    """Three significant digits, or all digits before the point."""
    return f"{number:.0f}" if number >= 1000 else f"{number:.3g}"


def plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: columns padded to their widest cell."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *rows)
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def geometric_mean(values: Sequence[float]) -> float:
    """Of ratios."""
    return math.exp(sum(math.log(value) for value in values) / len(values))
