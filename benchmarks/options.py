"""What an option costs: training with it beside the same layer without."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.plan import Plan
from throughtime.bench.recurrences import CELLS, LIMIT, Shape, data, runs_on, training
from throughtime.bench.table import spread
from throughtime.bench.timing import as_json, interleave
from throughtime.bench.verify import check, everything, worst_error

OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {  # the cells that have it, and its arguments
    "layer norm": (("RNN", "GRU", "LSTM"), {"layer_norm": True}),
    "recurrent dropout": (("RNN", "GRU", "LSTM"), {"recurrent_dropout": 0.25}),
    "zoneout": (("RNN", "GRU", "LSTM"), {"zoneout": 0.1}),
    "peepholes": (("LSTM",), {"peepholes": True}),
    "reset before": (("GRU",), {"reset_after": False}),
}


def measure(plan: Plan) -> list[dict[str, Any]]:
    """Every option of every cell at every shape."""
    return [
        _compare(plan, option, cell, arguments, shape)
        for shape in plan.options
        for option, (cells, arguments) in OPTIONS.items()
        for cell in cells
    ]


def _compare(plan: Plan, option: str, cell: str, arguments: dict[str, Any], shape: Shape) -> dict[str, Any]:
    layer = CELLS[cell][0]
    sizes = (shape.features, shape.hidden)
    torch.manual_seed(0)
    plain, ours = layer(*sizes), layer(*sizes, **arguments)
    # Random masks are numbers of a dtype, so those two are held against the reference in float32, with the same seed.
    dtype = torch.float32 if option in ("recurrent dropout", "zoneout") else torch.float64
    exact = layer(*sizes, **arguments, dtype=dtype, backend="reference")
    exact.load_state_dict(ours.state_dict())
    x, dy = data(shape)
    wanted = everything(exact, x.to(dtype), dy.to(dtype))
    error = check(f"{cell} {shape} with {option}", worst_error(everything(ours, x, dy), wanted), LIMIT)
    sides = {"plain": training(plain, x, dy), "option": training(ours, x, dy)}
    timings = interleave(sides, seconds=plan.seconds, least=plan.least)
    return {
        "cell": cell,
        "option": option,
        "shape": list(shape),
        "backend": runs_on(ours, x),
        "errors": {"ours": error},
        "timings": as_json(timings),
        "ratio": timings["option"].median / timings["plain"].median,
    }


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    head = ["cell", "T,B,D,H", "option", "plain", "with it", "with it / plain", "error", "runs on"]
    return head, [
        [
            result["cell"],
            ",".join(map(str, result["shape"])),
            result["option"],
            spread(result["timings"]["plain"]),
            spread(result["timings"]["option"]),
            f"{result['ratio']:.2f}",
            f"{result['errors']['ours']:.0e}",
            result["backend"],
        ]
        for result in results
    ]
