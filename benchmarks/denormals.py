"""A loss on the last step only: the gradient vanishes and becomes denormal, which many processors compute slowly.

Each side is timed with a gradient at every step and with one at the last step alone. Both are the same arithmetic, so what
the second costs more is due to denormal numbers.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.plan import Plan
from benchmarks.progress import with_progress
from throughtime.bench.recurrences import CELLS, LIMIT, Shape, data, runs_on, training
from throughtime.bench.table import format_timing
from throughtime.bench.timing import as_json, interleave
from throughtime.bench.verify import check, outputs_and_gradients, worst_error


def measure(plan: Plan) -> list[dict[str, Any]]:
    """LSTM and GRU at every shape."""
    cases = [(cell, shape) for cell in ("LSTM", "GRU") for shape in plan.denormals]
    return [
        _compare(plan, *case)
        for case in with_progress("denormals", cases, lambda case: case[1].flops(1, True))
    ]


def _compare(plan: Plan, cell: str, shape: Shape) -> dict[str, Any]:
    ours_type, theirs_type, _ = CELLS[cell]
    sizes = (shape.features, shape.hidden)
    torch.manual_seed(0)
    theirs, ours = theirs_type(*sizes), ours_type(*sizes)
    exact = ours_type(*sizes, dtype=torch.float64, backend="reference")
    for layer in (ours, exact):
        layer.load_state_dict(theirs.state_dict())
    x, every = data(shape)
    last = torch.zeros_like(every)
    last[-1] = every[-1]
    wanted = outputs_and_gradients(exact, x.double(), last.double())
    layers = {"ours": ours, "torch": theirs}
    errors = {
        name: check(
            f"{cell} {shape} of {name}", worst_error(outputs_and_gradients(layer, x, last), wanted), LIMIT
        )
        for name, layer in layers.items()
    }
    sides = {
        f"{name}, {where}": training(layer, x, dy)
        for name, layer in layers.items()
        for where, dy in (("every step", every), ("last step", last))
    }
    timings = interleave(sides, seconds=plan.seconds, least=plan.least)
    median = {name: timing.median for name, timing in timings.items()}
    return {
        "cell": cell,
        "shape": list(shape),
        "backend": runs_on(ours, x),
        "denormal": _denormal(theirs, x, last),
        "errors": errors,
        "timings": as_json(timings),
        "slowdown": {name: median[f"{name}, last step"] / median[f"{name}, every step"] for name in layers},
        "ratio": median["torch, last step"] / median["ours, last step"],
    }


def _denormal(layer: Any, x: torch.Tensor, dy: torch.Tensor) -> float:
    """Fraction of the input's gradient that is denormal, computed by torch.nn, which does not flush denormals to zero."""
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0], x, dy)
    tiny = torch.finfo(gradient.dtype).tiny
    return float(((gradient != 0) & (gradient.abs() < tiny)).double().mean())


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    sides = ["ours, every step", "ours, last step", "torch, every step", "torch, last step"]
    head = ["cell", "T,B,D,H", "denormal", *sides, "ours: last / every", "torch: last / every"]
    head += ["torch / ours, last step", "runs on"]
    return head, [
        [
            result["cell"],
            ",".join(map(str, result["shape"])),
            f"{result['denormal']:.0%}",
            *(format_timing(result["timings"][side]) for side in sides),
            *(f"{result['slowdown'][name]:.2f}" for name in ("ours", "torch")),
            f"{result['ratio']:.2f}",
            result["backend"],
        ]
        for result in results
    ]


def summary(results: list[dict[str, Any]]) -> str:
    """The largest slowdown of each side."""
    ours, theirs = (max(result["slowdown"][name] for result in results) for name in ("ours", "torch"))
    return f"A loss on the last step alone costs ours at most {ours:.2f} times as much, torch.nn {theirs:.2f} times."
