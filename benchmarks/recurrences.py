"""Training and inference on full batches, beside torch.nn and, where it is installed, JAX."""

from __future__ import annotations

from typing import Any

from benchmarks.plan import Plan
from throughtime.bench.recurrences import CELLS, compare
from throughtime.bench.table import HEAD, geometric_mean, row


def measure(plan: Plan, peak: float, *, train: bool) -> list[dict[str, Any]]:
    """One result for each cell and shape."""
    return [
        compare(cell, shape, train=train, seconds=plan.seconds, least=plan.least, peak=peak)
        for cell in CELLS
        for shape in plan.shapes
    ]


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    return HEAD, [row(result) for result in results]


def summary(results: list[dict[str, Any]]) -> str:
    """The figures that the page's targets are about."""
    ratios = [result["ratio"] for result in results]
    worst = min(results, key=lambda result: float(result["ratio"]))
    large = [r["share_of_peak"] for r in results if r["shape"][3] >= 512]
    text = (
        f"Geometric mean of torch.nn / ours {geometric_mean(ratios):.2f}; lowest {worst['ratio']:.2f} "
        f"({worst['cell']} {','.join(map(str, worst['shape']))})"
    )
    return text + (f"; at H >= 512 at least {min(large):.0%} of the GEMM peak." if large else ".")
