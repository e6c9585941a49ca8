"""What cutting the gradient costs: one training step with each strategy, over that with the full gradient on the same layer.

Randomized truncation may cut after every step, so that it cannot run the sequence in long pieces as the others do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.plan import Plan
from benchmarks.progress import with_progress
from throughtime import bptt
from throughtime.bench.recurrences import CELLS, LIMIT, Shape, data, runs_on
from throughtime.bench.table import format_timing
from throughtime.bench.timing import Side, as_json, interleave
from throughtime.bench.verify import check, worst_error

LENGTH = 35
PATIENCE = 4.0  # seconds for the samples of one side
STRATEGIES: dict[str, bptt.Strategy] = {
    "full": bptt.Full(),
    f"truncated:{LENGTH}": bptt.Truncated(LENGTH),
    f"randomized:{LENGTH}": bptt.Randomized(LENGTH),
    f"polynomial:{LENGTH}": bptt.Randomized(LENGTH, "polynomial"),
}


def measure(plan: Plan) -> list[dict[str, Any]]:
    """LSTM and GRU at every shape."""
    cases = [(cell, shape) for cell in ("LSTM", "GRU") for shape in plan.randomized]
    return [
        _compare(plan, *case)
        for case in with_progress("randomized", cases, lambda case: plan.seconds + case[1].hidden / 100)
    ]


def step(
    strategy: bptt.Strategy, layer: nn.Module, x: Tensor, dy: Tensor, generator: torch.Generator
) -> list[Tensor]:
    """One backward pass; the final state and the gradients of the input and the weights."""
    wanted = [x, *layer.parameters()]
    for value in wanted:
        value.grad = None
    result = strategy.backward(
        layer, lambda y, target: (y * target).sum(), x, dy, reduction="sum", generator=generator
    )
    finals = result.state if isinstance(result.state, tuple) else (result.state,)
    return [*finals, *(value.grad for value in wanted if value.grad is not None)]


def _compare(plan: Plan, cell: str, shape: Shape) -> dict[str, Any]:
    layer_type = CELLS[cell][0]
    torch.manual_seed(0)
    layer = layer_type(shape.features, shape.hidden)
    exact = layer_type(shape.features, shape.hidden, dtype=torch.float64, backend="reference")
    exact.load_state_dict(layer.state_dict())
    x, dy = data(shape)
    wide, target = x.double().requires_grad_(), dy.double()
    x.requires_grad_()
    errors = {}
    for name, strategy in STRATEGIES.items():  # the same seed gives both the same cuts
        wanted = step(strategy, exact, wide, target, torch.Generator().manual_seed(0))
        got = step(strategy, layer, x, dy, torch.Generator().manual_seed(0))
        errors[name] = check(f"{name} of {cell} {shape}", worst_error(got, wanted), LIMIT)

    def side(strategy: bptt.Strategy) -> Side:
        generator = torch.Generator().manual_seed(1)  # goes on: every step is cut at other places
        return lambda: step(strategy, layer, x, dy, generator)

    sides = {name: side(strategy) for name, strategy in STRATEGIES.items()}
    timings = interleave(sides, seconds=2 * plan.seconds, least=plan.least, patience=PATIENCE)
    full = timings["full"].median
    return {
        "cell": cell,
        "shape": list(shape),
        "backend": runs_on(layer, x),
        "errors": errors,
        "timings": as_json(timings),
        "over_full": {name: timing.median / full for name, timing in timings.items() if name != "full"},
    }


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    cut = [name for name in STRATEGIES if name != "full"]
    head = ["cell", "T,B,D,H", *STRATEGIES, *(f"{name} / full" for name in cut), "runs on"]
    return head, [
        [
            result["cell"],
            ",".join(map(str, result["shape"])),
            *(format_timing(result["timings"][name]) for name in STRATEGIES),
            *(f"{result['over_full'][name]:.2f}" for name in cut),
            result["backend"],
        ]
        for result in results
    ]


def summary(results: list[dict[str, Any]]) -> str:
    """The largest ratio of the randomized strategy, over all rows and from H = 256 on."""
    name = f"randomized:{LENGTH}"
    over = [(result["shape"][3], result["over_full"][name]) for result in results]
    large = [ratio for hidden, ratio in over if hidden >= 256]
    text = f"A step with {name} takes at most {max(ratio for _, ratio in over):.2f} times as long as with the full gradient"
    return text + (f", and from H = 256 on at most {max(large):.2f} times." if large else ".")
