"""The cost of one call: a few steps on few rows with the state carried from call to call, and short training calls.

Beside torch.nn with the same weights and, in training, beside JAX's compiled scan where jax is installed; with nothing else
running, and with other processes that keep the cores busy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import jax_peer
from benchmarks.load import busy
from benchmarks.plan import Plan
from benchmarks.progress import with_progress
from throughtime.bench.machine import read_bandwidth
from throughtime.bench.recurrences import CELLS, LIMIT, Shape, data, runs_on, training
from throughtime.bench.table import format_timing, geometric_mean
from throughtime.bench.timing import SAMPLE, Side, as_json, interleave
from throughtime.bench.verify import check, outputs_and_gradients, worst_error

CARRIED = 5  # calls that are compared with float64, each with the state of the one before
FRACTION = 0.4  # of the plan's seconds for a row of inference: there are many
PATIENCE = 1.5  # seconds for the samples of one side: there are many rows, and torch.nn may take half a second for a call
LOADED_SAMPLE = 0.05  # seconds of a sample beside busy processes: several time slices of the scheduler
INFERENCE, TRAINING = "inference", "training"


class Case(NamedTuple):
    """One row of the table."""

    mode: str
    cell: str
    layers: int
    shape: Shape


def measure(plan: Plan, peak: float) -> list[dict[str, Any]]:
    """Every case, first with as few busy processes beside as the plan has."""
    cases = [
        Case(INFERENCE, cell, layers, shape)
        for cell in ("LSTM", "GRU")
        for layers in (1, 2)
        for shape in plan.calls
    ]
    cases += [Case(TRAINING, cell, 1, shape) for cell in ("LSTM", "GRU") for shape in plan.short]
    bandwidth = cache(lambda size: read_bandwidth(size, min(0.1, plan.seconds)))
    least = {case: arithmetic(case, peak, bandwidth) for case in cases}  # before anything is busy
    return [result for number in plan.calls_busy for result in _beside(plan, number, cases, least)]


def _beside(
    plan: Plan, number: int, cases: list[Case], least: dict[Case, dict[str, float]]
) -> list[dict[str, Any]]:
    """Every case beside that many busy processes."""

    def weight(case: Case) -> float:
        return 2.0 if case.mode == TRAINING else 1.0

    with busy(number):
        return [
            _compare(plan, case, number, least[case])
            for case in with_progress(f"calls, {number} busy", cases, weight)
        ]


def arithmetic(case: Case, peak: float, bandwidth: Callable[[int], float]) -> dict[str, float]:
    """Seconds that the operations of the matrix products take at the GEMM peak, and reading the weights at `bandwidth(bytes)`.

    A call reads the weights of the input once and those of the state at every step, from the cache that holds all of them;
    training twice that, for the way back. The larger of the two times is "seconds".
    """
    shape, gates, train = case.shape, CELLS[case.cell][2], case.mode == TRAINING
    sizes = [(shape.features if layer == 0 else shape.hidden, shape.hidden) for layer in range(case.layers)]
    operations = sum(shape._replace(features=d).flops(gates, train) for d, _ in sizes) / peak
    weights = 4 * gates * sum(h * (d + h) for d, h in sizes)
    read = 4 * gates * sum(h * (d + shape.steps * h) for d, h in sizes) * (2 if train else 1)
    reading = read / bandwidth(weights)
    return {"operations": operations, "reading": reading, "seconds": max(operations, reading)}


def _compare(plan: Plan, case: Case, number: int, least: dict[str, float]) -> dict[str, Any]:
    ours_type, theirs_type, _ = CELLS[case.cell]
    sizes = (case.shape.features, case.shape.hidden, case.layers)
    torch.manual_seed(0)
    theirs, ours = theirs_type(*sizes), ours_type(*sizes)
    exact = theirs_type(*sizes, dtype=torch.float64)
    for layer in (ours, exact):
        layer.load_state_dict(theirs.state_dict())
    layers = {"ours": ours, "torch": theirs}
    prepare = _inference if case.mode == INFERENCE else _training
    with torch.inference_mode(case.mode == INFERENCE):
        sides, errors = prepare(case, layers, exact)
        timings = interleave(
            sides,
            seconds=plan.seconds * (FRACTION if case.mode == INFERENCE else 1.0),
            least=plan.least,
            patience=PATIENCE,
            sample=LOADED_SAMPLE if number else SAMPLE,
            loaded=number > 0,
        )
        backend = runs_on(ours, data(case.shape)[0])
    median = {name: timing.median for name, timing in timings.items()}
    return {
        "mode": case.mode,
        "cell": case.cell,
        "layers": case.layers,
        "shape": list(case.shape),
        "busy": number,
        "backend": backend,
        "errors": errors,
        "timings": as_json(timings),
        "ratios": {name: seconds / median["ours"] for name, seconds in median.items() if name != "ours"},
        "arithmetic": least,
        "beyond": median["ours"] - least["seconds"],
    }


class Carried:
    """A layer that is called with the state which its last call returned."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        self.layer, self.x, self.state = layer, x, None

    def __call__(self) -> None:
        _, self.state = self.layer(self.x, self.state)


def carried_outputs(layer: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs and states of one call for each input, the state carried; kept, so that a later call may not change them."""
    state: Any = None
    found: list[Tensor] = []
    for x in inputs:
        y, state = layer(x, state)
        found += [y, *(state if isinstance(state, tuple) else (state,))]
    return found


def _inference(
    case: Case, layers: dict[str, nn.Module], exact: nn.Module
) -> tuple[dict[str, Side], dict[str, float]]:
    shape = case.shape
    generator = torch.Generator().manual_seed(0)
    inputs = list(torch.randn(CARRIED, shape.steps, shape.batch, shape.features, generator=generator))
    wanted = carried_outputs(exact.eval(), [x.double() for x in inputs])
    errors = {
        name: check(
            f"{case.cell} {shape} of {name}",
            worst_error(carried_outputs(layer.eval(), inputs), wanted),
            LIMIT,
        )
        for name, layer in layers.items()
    }
    return {name: Carried(layer, inputs[0]) for name, layer in layers.items()}, errors


def _training(
    case: Case, layers: dict[str, nn.Module], exact: nn.Module
) -> tuple[dict[str, Side], dict[str, float]]:
    x, dy = data(case.shape)
    wanted = outputs_and_gradients(exact, x.double(), dy.double())
    errors = {
        name: check(
            f"{case.cell} {case.shape} of {name}",
            worst_error(outputs_and_gradients(layer, x, dy), wanted),
            LIMIT,
        )
        for name, layer in layers.items()
    }
    sides = {name: training(layer, x, dy) for name, layer in layers.items()}
    if jax_peer.installed():
        sides["jax"], errors["jax"] = jax_peer.side(case.cell, layers["ours"], x, dy)
    return sides, errors


def _by_case(results: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[int, dict[str, Any]]]:
    """For each case the results by the number of busy processes."""
    cases: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for result in results:
        case = (result["mode"], result["cell"], result["layers"], tuple(result["shape"]))
        cases.setdefault(case, {})[result["busy"]] = result
    return cases


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: one row for each case, the columns of every load side by side."""
    loads = sorted({result["busy"] for result in results})
    jax = any("jax" in result["ratios"] for result in results)
    head = ["mode", "cell", "layers", "T,B,D,H", "arithmetic, us"]
    for load in loads:
        with_load = f", {load} busy" if load else ""
        names = [
            "ours",
            "torch.nn",
            "torch.nn / ours",
            *(["JAX / ours"] if jax else []),
            "ours beyond arithmetic, us",
        ]
        head += [name + with_load for name in names]
    rows = []
    for (mode, cell, layers, shape), by_load in _by_case(results).items():
        least = next(iter(by_load.values()))["arithmetic"]["seconds"]
        row = [mode, cell, str(layers), ",".join(map(str, shape)), _micro(least)]
        for load in loads:
            result = by_load[load]
            row += [format_timing(result["timings"][name]) for name in ("ours", "torch")]
            row += [f"{result['ratios']['torch']:.2f}"]
            row += [f"{result['ratios']['jax']:.2f}" if "jax" in result["ratios"] else ""] * jax
            row += [_micro(result["beyond"])]
        rows.append(row)
    return head, rows


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.3g}" if abs(seconds) < 1e-3 else f"{seconds * 1e6:.0f}"


def summary(results: list[dict[str, Any]]) -> str:
    """The ratios of each mode and load, and what a call of one step on one row costs beyond its arithmetic."""
    said = []
    for load in sorted({result["busy"] for result in results}):
        for mode in (INFERENCE, TRAINING):
            own = [result for result in results if (result["busy"], result["mode"]) == (load, mode)]
            lowest = min(own, key=lambda result: float(result["ratios"]["torch"]))
            said.append(
                f"{mode.capitalize()}, {load} busy: geometric mean of torch.nn / ours "
                f"{geometric_mean([result['ratios']['torch'] for result in own]):.2f}, lowest "
                f"{lowest['ratios']['torch']:.2f} ({lowest['layers']}-layer {lowest['cell']} "
                f"{','.join(map(str, lowest['shape']))})."
            )
    least = min(result["busy"] for result in results)
    short = [
        r["beyond"]
        for r in results
        if r["busy"] == least and r["mode"] == INFERENCE and r["shape"][:2] == [1, 1]
    ]
    if short:
        said.append(
            f"A call of one step on one row costs {_micro(min(short))} to {_micro(max(short))} us beyond its arithmetic."
        )
    return " ".join(said)
