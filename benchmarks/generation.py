"""Generation, one symbol after the other: embedding, layers, head, softmax, sampling.

Ours with float32, bf16 and int8 weights, torch.nn, its cells, onnxruntime, all in float32 arithmetic on the same weights. Ours
with quantized weights is verified against a float64 model with the quantized values.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import onnx_peer
from benchmarks.generators import SYMBOLS, CellStack, Generates, Loop, Native, Ours, Weights, ours, quantized
from benchmarks.plan import Plan
from throughtime.bench.recurrences import LIMIT
from throughtime.bench.timing import as_json, interleave
from throughtime.bench.verify import check, worst_error

STEPS = 7  # over which the probabilities are compared
GREEDY = 40  # most probable symbols, which must be the same
SAMPLE = 0.03  # seconds that one call should take: a slow side generates fewer symbols in it
FEWEST = 8
FRACTION = 0.5  # of the plan's seconds: there are forty rows with six sides each
QUANTIZED = ("bf16", "int8")


def measure(plan: Plan) -> list[dict[str, Any]]:
    """Every cell, depth, width and batch."""
    return [
        _compare(plan, cell, layers, hidden, batch)
        for batch in plan.batches
        for cell in ("LSTM", "GRU")
        for layers, hidden in plan.generated
    ]


def _compare(plan: Plan, cell: str, layers: int, hidden: int, batch: int) -> dict[str, Any]:
    weights = Weights(cell, layers, hidden).eval()
    side, backend = ours(weights, batch)
    sides: dict[str, Generates] = {
        "ours": side,
        "torch.nn": Loop(weights, batch),
        "cells": Loop(CellStack(weights), batch),
    }
    reason = onnx_peer.missing()
    if reason is None:
        sides["onnxruntime"] = onnx_peer.Onnx(weights, batch)
    ids = torch.randint(SYMBOLS, (STEPS, batch))
    exact = Loop(copy.deepcopy(weights).double(), batch)
    wanted = exact.probabilities(ids)
    what = f"{cell} {layers}x{hidden}, batch {batch}"
    errors = {
        name: check(f"{name}: {what}", worst_error([side.probabilities(ids)], [wanted]), LIMIT)
        for name, side in sides.items()
    }
    if isinstance(side, Native):
        for form in QUANTIZED:
            sides[f"ours, {form}"] = own = Native(weights, batch, form)
            values = Loop(quantized(weights, form).double(), batch).probabilities(ids)
            error = worst_error([own.probabilities(ids)], [values])
            errors[f"ours, {form}"] = check(f"{form}: {what}", error, LIMIT)
    if batch == 1 and isinstance(side, Native | Ours):
        errors["ours, greedy"] = check(what, float((side.greedy(1, GREEDY) != _greedy(exact)).sum()), 0)
    tokens = {name: _tokens(side.generate, plan.tokens) for name, side in sides.items()}
    calls = {name: (lambda side=side, n=tokens[name]: side.generate(n)) for name, side in sides.items()}
    timings = interleave(calls, seconds=FRACTION * plan.seconds, least=plan.least)
    symbol = {name: timing.median / tokens[name] for name, timing in timings.items()}
    return {
        "cell": cell,
        "layers": layers,
        "hidden": hidden,
        "batch": batch,
        "tokens": tokens,
        "backend": backend,
        "errors": errors,
        "skipped": {} if reason is None else {"onnxruntime": reason},
        "timings": as_json(timings),
        "ratios": {name: seconds / symbol["ours"] for name, seconds in symbol.items() if name != "ours"},
    }


def _tokens(generate: Callable[[int], None], most: int) -> int:
    """Symbols that a call should generate: `most`, so that the cost of a call hardly counts, or fewer if that takes long."""
    few, seconds = min(most, FEWEST), []
    generate(few)  # allocates its workspaces
    for _ in range(3):
        start = time.perf_counter()
        generate(few)
        seconds.append(time.perf_counter() - start)
    return max(few, min(most, int(SAMPLE * few / min(seconds))))


def _greedy(loop: Loop) -> torch.Tensor:
    """The most probable symbols after symbol 1, without symbol 0."""
    ids, state, found = torch.ones(1, 1, dtype=torch.int64), None, []
    with torch.inference_mode():
        for _ in range(GREEDY):
            logits, state = loop.model(ids, state)
            ids = logits[..., 1:].argmax(-1) + 1
            found.append(int(ids))
    return torch.tensor(found)


PEERS = ("torch.nn", "cells", "onnxruntime")


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows, in microseconds for one symbol of every row of the batch."""
    columns = ("ours", *(f"ours, {form}" for form in QUANTIZED), *PEERS)
    head = [
        "cell",
        "layers",
        "H",
        "batch",
        "ours, us a symbol",
        *columns[1:],
        *(f"{peer} / ours" for peer in PEERS),
    ]
    return [*head, "runs on"], [
        [
            result["cell"],
            *(str(result[name]) for name in ("layers", "hidden", "batch")),
            *(_micro(result, name) for name in columns),
            *(f"{result['ratios'][peer]:.1f}" if peer in result["ratios"] else "" for peer in PEERS),
            result["backend"],
        ]
        for result in results
    ]


def _micro(result: dict[str, Any], name: str) -> str:
    if name not in result["timings"]:
        return str(result["skipped"].get(name, ""))
    timing = result["timings"][name]
    return f"{'~' * timing['disturbed']}{timing['median'] / result['tokens'][name] * 1e6:.3g}"
