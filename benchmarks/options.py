"""The cost of an option: training with it, compared with the same layer without."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.plan import Plan
from benchmarks.progress import with_progress
from throughtime.bench.recurrences import CELLS, LIMIT, Shape, data, runs_on, training
from throughtime.bench.table import format_timing
from throughtime.bench.timing import as_json, interleave
from throughtime.bench.verify import check, outputs_and_gradients, worst_error

OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {  # the cells that have it, and its arguments
    "layer norm": (("RNN", "GRU", "LSTM"), {"layer_norm": True}),
    "recurrent dropout": (("RNN", "GRU", "LSTM"), {"recurrent_dropout": 0.25}),
    "zoneout": (("RNN", "GRU", "LSTM"), {"zoneout": 0.1}),
    "peepholes": (("LSTM",), {"peepholes": True}),
    "reset before": (("GRU",), {"reset_after": False}),
}
LAYER_NORM_STEPS = 8  # of the verification with layer norm


def measure(plan: Plan) -> list[dict[str, Any]]:
    """Every option of every cell at every shape."""
    cases = [
        (cell, shape, option)
        for shape in plan.options
        for option, (cells, _) in OPTIONS.items()
        for cell in cells
    ]
    return [
        _compare(plan, *case)
        for case in with_progress("options", cases, lambda case: case[1].steps * case[1].hidden)
    ]


def _compare(plan: Plan, cell: str, shape: Shape, option: str) -> dict[str, Any]:
    layer = CELLS[cell][0]
    arguments = OPTIONS[option][1]
    sizes = (shape.features, shape.hidden)
    torch.manual_seed(0)
    plain, ours = layer(*sizes), layer(*sizes, **arguments)
    # Random masks depend on the dtype, so these two are compared with the reference in float32, with the same seed.
    dtype = torch.float32 if option in ("recurrent dropout", "zoneout") else torch.float64
    exact = layer(*sizes, **arguments, dtype=dtype, backend="reference")
    exact.load_state_dict(ours.state_dict())
    x, dy = data(shape)
    backend = runs_on(ours, x)
    # Over some hundred steps a recurrence with layer norm is chaotic: in float32 the reference itself ends far from float64.
    steps = LAYER_NORM_STEPS if arguments.get("layer_norm") else shape.steps
    wanted = outputs_and_gradients(exact, x[:steps].to(dtype), dy[:steps].to(dtype))
    got = outputs_and_gradients(ours, x[:steps], dy[:steps])
    error = check(f"{cell} {shape} with {option}", worst_error(got, wanted), LIMIT)
    sides = {"plain": training(plain, x, dy), "option": training(ours, x, dy)}
    timings = interleave(sides, seconds=plan.seconds, least=plan.least)
    return {
        "cell": cell,
        "option": option,
        "shape": list(shape),
        "backend": backend,
        "plain_backend": runs_on(plain, x),
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
            format_timing(result["timings"]["plain"]),
            format_timing(result["timings"]["option"]),
            f"{result['ratio']:.2f}",
            f"{result['errors']['ours']:.0e}",
            result["backend"],
        ]
        for result in results
    ]


def summary(results: list[dict[str, Any]]) -> str:
    """The largest ratio, and how many are above 1.5."""
    largest = max(results, key=lambda result: float(result["ratio"]))
    over = sum(result["ratio"] > 1.5 for result in results)
    return (
        f"At most {largest['ratio']:.2f} times the plain {largest['cell']} ({largest['option']}, "
        f"{','.join(map(str, largest['shape']))}, on {largest['backend']}); {over} of {len(results)} rows above 1.5."
    )
