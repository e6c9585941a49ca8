"""Training in bfloat16: our layers in bf16, compared with ours in fp32 and torch.nn's in bf16.

Without instructions for it torch.nn's bf16 takes minutes for a sequence. A side that would take longer than `LONG` seconds
is timed over STEPS steps and multiplied; the table says which.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from benchmarks.plan import Plan
from benchmarks.progress import with_progress
from throughtime.bench.recurrences import CELLS, Shape, data, runs_on, training
from throughtime.bench.table import format_timing
from throughtime.bench.timing import LONG, as_json, interleave
from throughtime.bench.verify import check, outputs_and_gradients, worst_error

STEPS = 2
# bfloat16 has 8 bits: a rounding error is up to 0.4 % of a number, and states are rounded at every step. A gradient that is
# missing, doubled or of another sign is wrong by 50 % and more.
LIMIT = 0.05
SIDES = ("bf16", "fp32", "torch bf16")


def measure(plan: Plan) -> list[dict[str, Any]]:
    """Every cell at every shape."""
    cases = [(cell, shape) for cell in CELLS for shape in plan.bf16]
    return [
        _compare(plan, *case) for case in with_progress("bf16", cases, lambda case: case[1].flops(1, True))
    ]


def _compare(plan: Plan, cell: str, shape: Shape) -> dict[str, Any]:
    ours_type, theirs_type, _ = CELLS[cell]
    sizes = (shape.features, shape.hidden)
    torch.manual_seed(0)
    layers: dict[str, nn.Module] = {
        "bf16": ours_type(*sizes, dtype=torch.bfloat16),
        "fp32": ours_type(*sizes),
        "torch bf16": theirs_type(*sizes, dtype=torch.bfloat16),
    }
    exact = ours_type(*sizes, dtype=torch.float64, backend="reference")
    weights = layers["bf16"].state_dict()  # in bf16 already: only the arithmetic differs
    for layer in (*layers.values(), exact):
        layer.load_state_dict(weights)
    x, dy = (value.bfloat16() for value in data(shape))
    inputs = {"bf16": (x, dy), "fp32": (x.float(), dy.float()), "torch bf16": (x, dy)}
    steps = {name: shape.steps if _affordable(layers[name], *inputs[name]) else STEPS for name in SIDES}
    errors = {}
    for name in SIDES:
        x_part, dy_part = (value[: steps[name]] for value in inputs[name])
        wanted = outputs_and_gradients(exact, x_part.double(), dy_part.double())
        errors[name] = worst_error(outputs_and_gradients(layers[name], x_part, dy_part), wanted)
    for name in ("bf16", "fp32"):
        check(f"{cell} {shape} in {name}", errors[name], LIMIT)
    sides = {
        name: training(layers[name], *(value[: steps[name]] for value in inputs[name])) for name in SIDES
    }
    timings = interleave(sides, seconds=plan.seconds, least=plan.least)
    factor = {name: shape.steps / steps[name] for name in SIDES}
    median = {name: timings[name].median * factor[name] for name in SIDES}
    for name, timing in timings.items():
        scaled = {part: getattr(timing, part) * factor[name] for part in ("median", "low", "high", "best")}
        timings[name] = timing._replace(**scaled)
    return {
        "cell": cell,
        "shape": list(shape),
        "backend": runs_on(layers["bf16"], x),
        "steps": steps,
        "errors": errors,
        "timings": as_json(timings),
        "over_fp32": median["fp32"] / median["bf16"],
        "ratio": median["torch bf16"] / median["bf16"],
    }


def _affordable(layer: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> bool:
    """Whether all steps take less than LONG, judged by the first few."""
    side = training(layer, x[:STEPS], dy[:STEPS])
    side()  # allocates its workspaces
    start = time.perf_counter()
    side()
    return (time.perf_counter() - start) / STEPS * len(x) < LONG


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    head = [
        "cell",
        "T,B,D,H",
        "ours bf16",
        "ours fp32",
        "torch.nn bf16",
        "fp32 / bf16",
        "torch.nn / ours, bf16",
    ]
    head += ["error", "error of torch.nn", "runs on"]
    return head, [
        [
            result["cell"],
            ",".join(map(str, result["shape"])),
            *(_shown(result, name) for name in SIDES),
            f"{result['over_fp32']:.2f}",
            f"{result['ratio']:.2f}",
            *(f"{result['errors'][name]:.0e}" for name in ("bf16", "torch bf16")),
            result["backend"],
        ]
        for result in results
    ]


def _shown(result: dict[str, Any], name: str) -> str:
    steps = result["steps"][name]
    of = "" if steps == result["shape"][0] else f", from {steps} steps"
    return format_timing(result["timings"][name]) + of


def summary(results: list[dict[str, Any]]) -> str:
    """The lowest ratio of each cell."""
    parts = []
    for cell in dict.fromkeys(result["cell"] for result in results):
        own = [result for result in results if result["cell"] == cell]
        fp32, theirs = (min(result[name] for result in own) for name in ("over_fp32", "ratio"))
        parts.append(
            f"{cell} at least {fp32:.2f} times as fast as fp32 and {theirs:.2f} times as torch.nn's bf16"
        )
    return "; ".join(parts) + "."
