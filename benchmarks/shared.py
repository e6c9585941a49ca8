"""Cores that are shared: a training step and generation with one and two threads, with other processes beside that never wait.

A program whose threads wait for each other at every step can become slower with a second thread when that thread has to wait for
a core. Shown is the time with two threads over that with one under the same load.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks import generators
from benchmarks.generators import SYMBOLS, Weights
from benchmarks.load import busy
from benchmarks.plan import Plan
from benchmarks.progress import with_progress
from throughtime.bench.recurrences import CELLS, LIMIT, Shape, data, runs_on, training
from throughtime.bench.table import format_timing
from throughtime.bench.timing import Side, as_json, interleave
from throughtime.bench.verify import check, outputs_and_gradients, worst_error

THREADS = (1, 2)
SAMPLE = (
    0.05  # seconds: several time slices of the scheduler, so that every sample has its part of the waiting
)
PATIENCE = 3.0  # seconds for the samples of one side: a step of torch.nn may take seconds under load
TOKENS = 100  # at most, in one call of generation
STEPS = 7  # over which the probabilities of generation are compared
TRAINING, GENERATION = "training", "generation"


def measure(plan: Plan) -> list[dict[str, Any]]:
    """Every case with every number of busy processes beside."""
    cases = [(TRAINING, cell, shape) for cell, shape in plan.shared]
    cases += [
        (GENERATION, "LSTM", Shape(1, batch, hidden, hidden)) for hidden, batch in plan.shared_generated
    ]
    threads = torch.get_num_threads()
    results = []
    try:
        for what, cell, shape in with_progress("shared", cases, lambda case: 1.0 + 4 * (case[0] == TRAINING)):
            prepare = _training if what == TRAINING else _generation
            sides, kept = prepare(plan, cell, shape)
            for number in plan.shared_busy:
                with busy(number):
                    found = _time(plan, sides)
                results.append(
                    {"what": what, "cell": cell, "shape": list(shape), "busy": number, **kept, **found}
                )
    finally:
        torch.set_num_threads(threads)
    return results


def _with_threads(threads: int, side: Side) -> Side:
    def call() -> object:
        torch.set_num_threads(threads)
        return side()

    return call


def _time(plan: Plan, sides: Mapping[str, Side]) -> dict[str, Any]:
    """Every side with one thread and with two, all in turn."""
    one, two = THREADS
    calls = {f"{name} {n}": _with_threads(n, side) for name, side in sides.items() for n in THREADS}
    timings = interleave(
        calls,
        seconds=plan.seconds * len(sides),
        least=plan.least,
        patience=min(PATIENCE, 10 * plan.seconds),
        sample=min(SAMPLE, plan.seconds),
        loaded=True,  # also without load, so that all rows are measured in the same way
    )
    found: dict[str, Any] = {
        "timings": as_json(timings),
        "two_over_one": {
            name: timings[f"{name} {two}"].median / timings[f"{name} {one}"].median for name in sides
        },
    }
    if "torch" in sides:
        found["ratio"] = timings[f"torch {two}"].median / timings[f"ours {two}"].median
    return found


def _training(plan: Plan, cell: str, shape: Shape) -> tuple[dict[str, Side], dict[str, Any]]:
    ours_type, theirs_type, _ = CELLS[cell]
    sizes = (shape.features, shape.hidden)
    torch.manual_seed(0)
    theirs, ours = theirs_type(*sizes), ours_type(*sizes)
    exact = theirs_type(*sizes, dtype=torch.float64)
    for layer in (ours, exact):
        layer.load_state_dict(theirs.state_dict())
    x, dy = data(shape)
    wanted = outputs_and_gradients(exact, x.double(), dy.double())
    layers = {"ours": ours, "torch": theirs}
    errors = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        for name, layer in layers.items():
            error = worst_error(outputs_and_gradients(layer, x, dy), wanted)
            errors[f"{name} {threads}"] = check(f"{cell} {shape} of {name}, {threads} threads", error, LIMIT)
    sides = {name: training(layer, x, dy) for name, layer in layers.items()}
    return sides, {"backend": runs_on(ours, x), "errors": errors}


def _generation(plan: Plan, cell: str, shape: Shape) -> tuple[dict[str, Side], dict[str, Any]]:
    weights = Weights(cell, 1, shape.hidden).eval()
    ours, backend = generators.ours(weights, shape.batch)
    ids = torch.randint(SYMBOLS, (STEPS, shape.batch))
    wanted = generators.Loop(copy.deepcopy(weights).double(), shape.batch).probabilities(ids)
    errors = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        error = worst_error([ours.probabilities(ids)], [wanted])
        errors[f"ours {threads}"] = check(f"generation {cell} {shape}, {threads} threads", error, LIMIT)
    tokens = min(TOKENS, plan.tokens)
    return {"ours": lambda: ours.generate(tokens)}, {"backend": backend, "errors": errors, "tokens": tokens}


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows; the times of generation are for one symbol of every row of the batch."""
    one, two = THREADS
    head = ["what", "cell", "T,B,D,H", "busy processes"]
    head += [f"ours, {one} thread", f"ours, {two} threads", f"ours: {two} / {one}"]
    head += [f"torch.nn, {one} thread", f"torch.nn, {two} threads", f"torch.nn: {two} / {one}"]
    head += [f"torch.nn / ours, {two} threads", "runs on"]
    rows = []
    for result in results:
        row = [result["what"], result["cell"], ",".join(map(str, result["shape"])), str(result["busy"])]
        for name in ("ours", "torch"):
            if name not in result["two_over_one"]:
                row += [""] * 3
                continue
            row += [_shown(result, f"{name} {threads}") for threads in THREADS]
            row += [f"{result['two_over_one'][name]:.2f}"]
        row += [f"{result['ratio']:.2f}" if "ratio" in result else "", result["backend"]]
        rows.append(row)
    return head, rows


def _shown(result: dict[str, Any], name: str) -> str:
    timing, calls = result["timings"][name], result.get("tokens", 1)
    return format_timing({**timing, **{part: timing[part] / calls for part in ("median", "low", "high")}})


def summary(results: list[dict[str, Any]]) -> str:
    """For each load the largest time with two threads over that with one."""
    said = []
    for number in sorted({result["busy"] for result in results}):
        own = [result for result in results if result["busy"] == number]
        largest = {
            name: max(r["two_over_one"][name] for r in own if name in r["two_over_one"])
            for name in ("ours", "torch")
        }
        said.append(
            f"{number} busy: with two threads at most {largest['ours']:.2f} times as long as with one, torch.nn's training "
            f"{largest['torch']:.2f} times."
        )
    return " ".join(said)
