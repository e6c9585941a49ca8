"""Generation, one symbol after the other: embedding, layers, head, softmax, sampling.

Ours with float32, bf16 and int8 weights, torch.nn, its cells, onnxruntime, all in float32 arithmetic on the same weights. Ours
with quantized weights is verified against a float64 model with the quantized values.

All sides are timed in turn in one process; one row is timed a second time with every side in a process of its own (`apart`).
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from benchmarks import onnx_peer
from benchmarks.apart import STEPS, OwnProcess, compare_apart, tokens_of_a_sample
from benchmarks.generators import SYMBOLS, Generates, Loop, Native, Ours, Weights, make, ours, quantized
from benchmarks.plan import Plan
from benchmarks.progress import with_progress
from throughtime.bench.recurrences import LIMIT
from throughtime.bench.timing import as_json, interleave
from throughtime.bench.verify import check, worst_error

GREEDY = 40  # most probable symbols, which must be the same
FRACTION = 0.5  # of the plan's seconds: there are forty rows with six sides each
QUANTIZED = ("bf16", "int8")
PEERS = ("torch.nn", "cells", "onnxruntime")
APART = ("torch.nn", "onnxruntime")  # peers that are timed in processes of their own too


def measure(plan: Plan) -> list[dict[str, Any]]:
    """Every cell, depth, width and batch."""
    cases = [
        (cell, layers, hidden, batch)
        for batch in plan.batches
        for cell in ("LSTM", "GRU")
        for layers, hidden in plan.generated
    ]
    results = [_compare(plan, *case) for case in with_progress("generation", cases)]
    names = [name for name in ("ours", *APART) if name not in results[0]["skipped"]]
    sides = {name: OwnProcess(name, torch.get_num_threads()) for name in names}
    try:
        single = [case for case in cases if case[-1] == 1]
        for case in with_progress("generation, processes of their own", single):
            results[cases.index(case)]["apart"] = compare_apart(plan, sides, *case)
    finally:
        for side in sides.values():
            side.end()
    return results


def _compare(plan: Plan, cell: str, layers: int, hidden: int, batch: int) -> dict[str, Any]:
    weights = Weights(cell, layers, hidden).eval()
    side, backend = ours(weights, batch)
    reason = onnx_peer.missing()
    sides: dict[str, Generates] = {"ours": side} | {
        name: make(name, weights, batch) for name in PEERS if name != "onnxruntime" or reason is None
    }
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
            sides[f"ours, {form}"] = own = make(f"ours, {form}", weights, batch)
            values = Loop(quantized(weights, form).double(), batch).probabilities(ids)
            error = worst_error([own.probabilities(ids)], [values])
            errors[f"ours, {form}"] = check(f"{form}: {what}", error, LIMIT)
    if batch == 1 and isinstance(side, Native | Ours):
        errors["ours, greedy"] = check(what, float((side.greedy(1, GREEDY) != _greedy(exact)).sum()), 0)
    tokens = {name: tokens_of_a_sample(side.generate, plan.tokens) for name, side in sides.items()}
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


def _greedy(loop: Loop) -> torch.Tensor:
    """The most probable symbols after symbol 1, without symbol 0."""
    ids, state, found = torch.ones(1, 1, dtype=torch.int64), None, []
    with torch.inference_mode():
        for _ in range(GREEDY):
            logits, state = loop.model(ids, state)
            ids = logits[..., 1:].argmax(-1) + 1
            found.append(int(ids))
    return torch.tensor(found)


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
        "ours, own process",
        *(f"{peer} / ours, own processes" for peer in APART),
    ]
    return [*head, "runs on"], [
        [
            result["cell"],
            *(str(result[name]) for name in ("layers", "hidden", "batch")),
            *(_micro(result, name) for name in columns),
            *(_ratio(result, peer) for peer in PEERS),
            _micro(result["apart"], "ours") if "apart" in result else "",
            *(_ratio(result.get("apart"), peer) for peer in APART),
            result["backend"],
        ]
        for result in results
    ]


def _ratio(result: dict[str, Any] | None, peer: str) -> str:
    return f"{result['ratios'][peer]:.1f}" if result and peer in result["ratios"] else ""


def _micro(result: dict[str, Any], name: str) -> str:
    if name not in result["timings"]:
        return str(result["skipped"].get(name, ""))
    timing = result["timings"][name]
    return f"{'~' * timing['disturbed']}{timing['median'] / result['tokens'][name] * 1e6:.3g}"
