"""Training and inference on full batches, compared with torch.nn."""

from __future__ import annotations

from typing import Any

from benchmarks.plan import Plan
from benchmarks.progress import with_progress
from throughtime.bench.recurrences import CELLS, Shape, compare
from throughtime.bench.table import HEAD, geometric_mean, row

PACE = 5e10  # operations per second, an estimate for the time left


def measure(plan: Plan, peak: float, *, train: bool) -> list[dict[str, Any]]:
    """One result for each cell and shape."""

    def weight(case: tuple[str, Shape]) -> float:
        return plan.seconds + 10 * case[1].flops(CELLS[case[0]][2], train) / PACE

    cases = [(cell, shape) for cell in CELLS for shape in plan.shapes]
    return [
        compare(cell, shape, train=train, seconds=plan.seconds, least=plan.least, peak=peak)
        for cell, shape in with_progress("training" if train else "inference", cases, weight)
    ]


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    return HEAD, [row(result) for result in results]


def summary(results: list[dict[str, Any]]) -> str:
    """Geometric mean and lowest ratio, and the fraction of the GEMM peak."""
    ratios = [result["ratio"] for result in results]
    worst = min(results, key=lambda result: float(result["ratio"]))
    large = [r["fraction_of_peak"] for r in results if r["shape"][3] >= 512]
    text = (
        f"Geometric mean of torch.nn / ours {geometric_mean(ratios):.2f}; lowest {worst['ratio']:.2f} "
        f"({worst['cell']} {','.join(map(str, worst['shape']))})"
    )
    return text + (
        f"; at H >= 512 at least {min(large):.0%} of the GEMM peak. {_ceiling(results)}" if large else "."
    )


def _ceiling(results: list[dict[str, Any]]) -> str:
    """The ratios of a layer that did only its matrix products, all of them at the GEMM peak."""
    said = []
    for cell in dict.fromkeys(result["cell"] for result in results):
        most = [
            r["ratio"] / r["fraction_of_peak"] for r in results if r["cell"] == cell and r["shape"][3] >= 512
        ]
        if most:
            said.append(f"{cell} {min(most):.1f}-{max(most):.1f}")
    return f"At that peak itself torch.nn / ours would be {', '.join(said)} there, and no more."
