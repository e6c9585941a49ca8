"""Symbols drawn one after the other: embedding, layers, head, softmax, draw. Ours, torch.nn, its cells, onnxruntime."""

from __future__ import annotations

import copy
from typing import Any

import torch

from benchmarks import onnx_peer
from benchmarks.generators import SYMBOLS, CellStack, Generates, Loop, Native, Ours, Weights, ours
from benchmarks.plan import Plan
from throughtime.bench.recurrences import LIMIT
from throughtime.bench.timing import as_json, interleave
from throughtime.bench.verify import check, worst_error

STEPS = 7  # over which the probabilities are compared
GREEDY = 40  # symbols drawn without chance, that must be the same


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
    if batch == 1 and isinstance(side, Native | Ours):
        errors["ours, greedy"] = check(what, float((side.greedy(1, GREEDY) != _greedy(exact)).sum()), 0)
    calls = {name: (lambda side=side: side.generate(plan.tokens)) for name, side in sides.items()}
    timings = interleave(calls, seconds=plan.seconds, least=plan.least)
    own = timings["ours"].median
    return {
        "cell": cell,
        "layers": layers,
        "hidden": hidden,
        "batch": batch,
        "tokens": plan.tokens,
        "backend": backend,
        "errors": errors,
        "skipped": {} if reason is None else {"onnxruntime": reason},
        "timings": as_json(timings),
        "ratios": {name: timing.median / own for name, timing in timings.items() if name != "ours"},
    }


def _greedy(loop: Loop) -> torch.Tensor:
    """The symbols that follow symbol 1, never symbol 0."""
    ids, state, found = torch.ones(1, 1, dtype=torch.int64), None, []
    with torch.inference_mode():
        for _ in range(GREEDY):
            logits, state = loop.model(ids, state)
            ids = logits[..., 1:].argmax(-1) + 1
            found.append(int(ids))
    return torch.tensor(found)


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows, in microseconds for a symbol of each row."""
    peers = ["torch.nn", "cells", "onnxruntime"]
    head = [
        "cell",
        "layers",
        "H",
        "batch",
        "ours, us a symbol",
        *peers,
        *(f"{peer} / ours" for peer in peers),
    ]
    head.append("runs on")
    return head, [
        [
            result["cell"],
            *(str(result[name]) for name in ("layers", "hidden", "batch")),
            *(_micro(result, name) for name in ("ours", *peers)),
            *(f"{result['ratios'][peer]:.1f}" if peer in result["ratios"] else "" for peer in peers),
            result["backend"],
        ]
        for result in results
    ]


def _micro(result: dict[str, Any], name: str) -> str:
    if name not in result["timings"]:
        return str(result["skipped"].get(name, ""))
    timing = result["timings"][name]
    return f"{'~' * timing['disturbed']}{timing['median'] / result['tokens'] * 1e6:.3g}"
