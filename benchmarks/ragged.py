"""Rows of different lengths: ours with `lengths=`, compared with the padded batch and torch.nn's packed sequences.

Lengths are uniform in [T/2, T], one thread, forward and backward. The ideal is the padded time times the fraction of
steps that are not padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.plan import Plan
from benchmarks.progress import with_progress
from throughtime.bench.recurrences import CELLS, LIMIT, Shape, data, runs_on, training
from throughtime.bench.table import format_timing
from throughtime.bench.timing import as_json, interleave
from throughtime.bench.verify import check, outputs_and_gradients, worst_error

ONE, BOTH = "one direction", "both directions"


class Packed(nn.Module):
    """torch.nn's layer with the `lengths` of ours: packing and padding belong to its time."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, hx: Any = None, *, lengths: Tensor) -> tuple[Tensor, Any]:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, hx = self.layer(packed, hx)
        return pad_packed_sequence(y, total_length=x.shape[0])[0], hx


def measure(plan: Plan) -> list[dict[str, Any]]:
    """LSTM and GRU, one and both directions, every shape."""

    def weight(case: tuple[str, Shape, str]) -> float:  # the packed side grows with the square of T
        _, shape, directions = case
        return plan.seconds + (shape.steps / 100) ** 2 * shape.hidden / 256 * (2 if directions == BOTH else 1)

    cases = [
        (cell, shape, directions)
        for cell in ("LSTM", "GRU")
        for directions in (ONE, BOTH)
        for shape in plan.ragged
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            _compare(plan, cell, shape, directions == BOTH)
            for cell, shape, directions in with_progress("ragged", cases, weight)
        ]
    finally:
        torch.set_num_threads(threads)


def _compare(plan: Plan, cell: str, shape: Shape, bidirectional: bool) -> dict[str, Any]:
    steps = shape.steps
    torch.manual_seed(0)
    lengths = torch.randint(steps // 2, steps + 1, (shape.batch,))
    lengths[0] = steps
    padding = torch.arange(steps)[:, None] >= lengths
    ours_type, theirs_type, _ = CELLS[cell]
    sizes = (shape.features, shape.hidden)
    theirs = theirs_type(*sizes, bidirectional=bidirectional)
    ours = ours_type(*sizes, bidirectional=bidirectional)
    exact = ours_type(*sizes, bidirectional=bidirectional, dtype=torch.float64, backend="reference")
    for layer in (ours, exact):
        layer.load_state_dict(theirs.state_dict())
    x, dy = data(shape, shape.hidden * (1 + bidirectional))
    with_nan = x.masked_fill(padding[..., None], float("nan"))  # padding must not be read
    wanted = outputs_and_gradients(exact, x.double(), dy.double(), lengths=lengths)
    got = outputs_and_gradients(ours, with_nan, dy, lengths=lengths)
    errors = {"ours": check(f"ragged {cell} {shape}", worst_error(got, wanted), LIMIT)}
    packed = Packed(theirs)
    if shape == plan.ragged[0]:  # the longer ones take 15 seconds
        got = outputs_and_gradients(theirs, x, dy, packed, lengths=lengths)
        errors["torch packed"] = check(f"packed {cell} {shape}", worst_error(got, wanted), LIMIT)
    sides = {
        "ours": training(ours, x, dy, lengths=lengths),
        "ours padded": training(ours, x, dy),
        "torch padded": training(theirs, x, dy),
        "torch packed": training(packed, x, dy, lengths=lengths),
    }
    timings = interleave(sides, seconds=plan.seconds, least=plan.least)
    real = float(lengths.double().mean() / steps)
    median = {name: timing.median for name, timing in timings.items()}
    return {
        "cell": cell,
        "shape": list(shape),
        "bidirectional": bidirectional,
        "backend": runs_on(ours, x, lengths),
        "real": real,
        "errors": errors,
        "timings": as_json(timings),
        "over_real_steps": median["ours"] / (median["ours padded"] * real),
        "over_real_steps_of_torch": median["ours"] / (median["torch padded"] * real),
        "ratio": median["torch packed"] / median["ours"],
    }


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    head = [
        "cell",
        "directions",
        "T,B,D,H",
        "real steps",
        "ours",
        "ours padded",
        "torch padded",
        "torch packed",
    ]
    head += ["ours / (ours padded x real)", "ours / (torch padded x real)", "torch packed / ours", "runs on"]
    return head, [
        [
            result["cell"],
            str(1 + result["bidirectional"]),
            ",".join(map(str, result["shape"])),
            f"{result['real']:.0%}",
            *(format_timing(result["timings"][name]) for name in head[4:8]),
            f"{result['over_real_steps']:.2f}",
            f"{result['over_real_steps_of_torch']:.2f}",
            f"{result['ratio']:.1f}",
            result["backend"],
        ]
        for result in results
    ]


def summary(results: list[dict[str, Any]]) -> str:
    """The largest ratio to the ideal, and the lowest to packed sequences at the longest T."""
    longest = max(result["shape"][0] for result in results)
    packed = min(result["ratio"] for result in results if result["shape"][0] == longest)
    largest = max(results, key=lambda result: float(result["over_real_steps"]))
    return (
        f"At most {largest['over_real_steps']:.2f} times our padded time scaled by the fraction of real steps "
        f"({largest['cell']} {','.join(map(str, largest['shape']))}); at T = {longest} torch.nn's packed sequences take at "
        f"least {packed:.1f} times as long."
    )
