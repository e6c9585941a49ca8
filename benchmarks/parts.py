"""The parts of a training call: the loop over time, the matrix products over all steps, and everything else.

Means over all calls, so that the fractions add up to 1.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.plan import Plan
from benchmarks.progress import with_progress
from throughtime.bench.recurrences import CELLS, Shape, data, runs_on, training
from throughtime.kernels.native.recurrence import call

PARTS = ("loop, forward", "loop, backward", "matrix products")  # in the order of `call.seconds`
WARM = 2


def measure(plan: Plan, peak: float) -> list[dict[str, Any]]:
    """Every cell at every shape of training."""
    cases = [(cell, shape) for cell in CELLS for shape in plan.shapes]
    return [
        _measure(plan, peak, *case)
        for case in with_progress("parts", cases, lambda case: 1e9 + case[1].flops(CELLS[case[0]][2], True))
    ]


def _measure(plan: Plan, peak: float, cell: str, shape: Shape) -> dict[str, Any]:
    layer_type, _, gates = CELLS[cell]
    torch.manual_seed(0)
    layer = layer_type(shape.features, shape.hidden)
    x, dy = data(shape)
    side = training(layer, x, dy)
    for _ in range(WARM):
        side()
    spent = call.count_seconds(True)
    try:
        calls, start = 0, time.perf_counter()
        while calls < plan.least or time.perf_counter() - start < plan.seconds:
            side()
            calls += 1
        total = (time.perf_counter() - start) / calls
    finally:
        call.count_seconds(False)
    seconds = {name: value / calls for name, value in zip(PARTS, spent, strict=True)}
    seconds["other"] = total - sum(seconds.values())
    steps = 2.0 * shape.steps * shape.batch * gates * shape.hidden
    work = {
        "loop, forward": steps * shape.hidden,
        "loop, backward": steps * shape.hidden,
        "matrix products": steps * (3 * shape.features + shape.hidden),
    }
    return {
        "cell": cell,
        "shape": list(shape),
        "backend": runs_on(layer, x),
        "calls": calls,
        "seconds": total,
        "fraction": {name: value / total for name, value in seconds.items()},
        "of_peak": {name: work[name] / max(seconds[name], 1e-9) / peak for name in work},
    }


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    head = ["cell", "T,B,D,H", "ours", *PARTS, "other", *(f"{name}: of GEMM peak" for name in PARTS)]
    return head, [
        [
            result["cell"],
            ",".join(map(str, result["shape"])),
            f"{result['seconds'] * 1e3:.3g} ms",
            *(f"{result['fraction'][name]:.0%}" for name in (*PARTS, "other")),
            *(f"{result['of_peak'][name]:.0%}" for name in PARTS),
        ]
        for result in results
    ]
