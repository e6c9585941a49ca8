"""One step of one stream, and one step of many sessions, beside torch.nn and onnxruntime with the state carried by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import onnx_peer
from benchmarks.calls import INFERENCE, Carried, Case, arithmetic
from benchmarks.plan import Plan
from benchmarks.progress import with_progress
from throughtime.bench.machine import read_bandwidth
from throughtime.bench.recurrences import CELLS, LIMIT, Shape
from throughtime.bench.table import format_timing
from throughtime.bench.timing import Side, as_json, interleave
from throughtime.bench.verify import check, worst_error
from throughtime.sessions import SessionPool
from throughtime.sessions.stream import Stream, stream

CHECKED = 5  # steps that are compared with float64
FRAME = 0.01  # seconds of a frame, of which each session sends one


class Onnx:
    """onnxruntime on the CPU with I/O binding: input, states and output stay where they are."""

    def __init__(self, cell: str, layers: Any, batch: int) -> None:
        self.session = onnx_peer.layer_session(cell, layers)
        names = [value.name for value in self.session.get_inputs()]
        shapes = [(1, batch, layers.input_size if name == "x0" else layers.hidden_size) for name in names]
        self.values = {name: np.zeros(shape, np.float32) for name, shape in zip(names, shapes, strict=True)}
        self.y = np.zeros((1, batch, layers.hidden_size), np.float32)
        self.last = self.session.get_outputs()[0].name
        self.binding = self.session.io_binding()
        for name, value in self.values.items():
            self._bind(self.binding.bind_input, name, value)
            if name != "x0":
                self._bind(self.binding.bind_output, f"{name}_next", value)
        self._bind(self.binding.bind_output, self.last, self.y)

    @staticmethod
    def _bind(bind: Any, name: str, value: Any) -> None:
        bind(name, "cpu", 0, np.float32, value.shape, value.ctypes.data)

    def step(self) -> None:
        self.session.run_with_iobinding(self.binding)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Of inputs [T, B, D], from a zero state."""
        found = []
        for x in inputs:
            self.values["x0"][0] = x.numpy()
            self.step()
            found.append(torch.from_numpy(self.y[0].copy()))
        return torch.stack(found)


class ByHand:
    """Gather the sessions' states, run them together, scatter the states: what a server writes around torch.nn."""

    def __init__(self, layers: Any, sessions: int, x: Tensor) -> None:
        self.layers, self.x, self.slots = layers, x[None], torch.randperm(sessions)
        parts = 2 if isinstance(layers, torch.nn.LSTM) else 1
        self.slab = [torch.zeros(layers.num_layers, sessions, layers.hidden_size) for _ in range(parts)]

    def step(self) -> Tensor:
        states = [values.index_select(1, self.slots) for values in self.slab]
        y, after = self.layers(self.x, tuple(states) if len(states) > 1 else states[0])
        for values, new in zip(self.slab, after if len(states) > 1 else (after,), strict=True):
            values.index_copy_(1, self.slots, new)
        return y


class OnnxByHand:
    """The same around onnxruntime."""

    def __init__(self, cell: str, layers: Any, sessions: int, x: Tensor) -> None:
        self.onnx = Onnx(cell, layers, sessions)
        self.onnx.values["x0"][0] = x.numpy()
        self.slots = np.random.default_rng(0).permutation(sessions)
        self.slab = {name: np.zeros_like(value) for name, value in self.onnx.values.items() if name != "x0"}

    def step(self) -> None:
        for name, values in self.slab.items():
            np.take(values, self.slots, axis=1, out=self.onnx.values[name])
        self.onnx.step()
        for name, values in self.slab.items():
            values[:, self.slots] = self.onnx.values[name]


def measure(plan: Plan, peak: float) -> list[dict[str, Any]]:
    """One stream of each size, and many sessions of each size."""
    bandwidth = cache(lambda size: read_bandwidth(size, min(0.1, plan.seconds)))
    cases = [(cell, layers, hidden, 1) for cell in ("LSTM", "GRU") for layers, hidden in plan.streams]
    cases += [("GRU", *pool) for pool in plan.pools]
    with torch.inference_mode():
        return [
            _compare(plan, peak, bandwidth, *case) for case in with_progress("sessions", cases, lambda _: 1.0)
        ]


def _compare(
    plan: Plan,
    peak: float,
    bandwidth: Callable[[int], float],
    cell: str,
    layers: int,
    hidden: int,
    sessions: int,
) -> dict[str, Any]:
    ours_type, theirs_type, _ = CELLS[cell]
    torch.manual_seed(0)
    theirs = theirs_type(hidden, hidden, layers).eval()
    ours, exact = (
        ours_type(hidden, hidden, layers).eval(),
        theirs_type(hidden, hidden, layers, dtype=torch.float64),
    )
    for layer in (ours, exact):
        layer.load_state_dict(theirs.state_dict())
    inputs = torch.randn(CHECKED, sessions, hidden)
    wanted = [exact(inputs.double())[0]]
    x = inputs[0]
    sides: dict[str, Side]
    found: dict[str, Tensor]
    if sessions == 1:
        one: Stream = stream(ours, native=True)
        found = {"ours": torch.cat([one.feed(step) for step in inputs])[:, None], "torch": theirs(inputs)[0]}
        sides = {
            "ours": lambda: one.feed(x),
            "layer": Carried(ours, x[None]),
            "torch": Carried(theirs, x[None]),
        }
        if not onnx_peer.missing():
            peer = Onnx(cell, theirs, 1)
            found["onnx"] = peer.outputs(inputs)
            sides["onnx"] = peer.step
    else:
        pool = SessionPool(ours, native=True, max_batch=sessions)
        names = [pool.open() for _ in range(sessions)]
        chunks = list(inputs.unbind(1))
        answers = pool.feed_many([(name, 1, chunk) for name, chunk in zip(names, chunks, strict=True)])
        found = {"ours": torch.stack([each for each in answers if isinstance(each, Tensor)], 1)}
        steps = [row[None] for row in x]
        count = [1]

        def feed() -> None:
            count[0] += 1
            pool.feed_many([(name, count[0], step) for name, step in zip(names, steps, strict=True)])

        by_hand = ByHand(theirs, sessions, x)
        found["torch"] = theirs(inputs)[0]
        sides = {"ours": feed, "layer": Carried(ours, x[None]), "torch": by_hand.step}
        if not onnx_peer.missing():
            sides["onnx"] = OnnxByHand(cell, theirs, sessions, x).step
    errors = {
        name: check(
            f"{cell} {layers} x {hidden}, {sessions} sessions, of {name}", worst_error([y], wanted), LIMIT
        )
        for name, y in found.items()
    }
    timings = interleave(sides, seconds=plan.seconds, least=plan.least)
    case = Case(INFERENCE, cell, layers, Shape(1, sessions, hidden, hidden))
    least = arithmetic(case, peak, bandwidth)["seconds"]
    median = {name: timing.median for name, timing in timings.items()}
    return {
        "cell": cell,
        "layers": layers,
        "hidden": hidden,
        "sessions": sessions,
        "errors": errors,
        "timings": as_json(timings),
        "ratios": {name: seconds / median["ours"] for name, seconds in median.items() if name != "ours"},
        "arithmetic": least,
        "beyond": median["ours"] - least,
    }


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    sides = ("our layer", "torch.nn", "onnxruntime")
    head = [
        "cell",
        "layers x H",
        "sessions",
        "ours",
        *sides,
        *(f"{name} / ours" for name in sides),
        "beyond arithmetic, us",
    ]
    rows = []
    for result in results:
        timings, ratios = result["timings"], result["ratios"]
        shown = [
            format_timing(timings[name]) if name in timings else ""
            for name in ("ours", "layer", "torch", "onnx")
        ]
        shown += [f"{ratios[name]:.2f}" if name in ratios else "" for name in ("layer", "torch", "onnx")]
        rows.append(
            [result["cell"], f"{result['layers']} x {result['hidden']}", str(result["sessions"]), *shown,
             f"{result['beyond'] * 1e6:.3g}"]
        )  # fmt: skip
    return head, rows


def summary(results: list[dict[str, Any]]) -> str:
    """The least ratios of one stream, what it costs beyond its arithmetic, and how many sessions a frame has time for."""
    streams = [each for each in results if each["sessions"] == 1]
    said = []
    if streams:
        beyond = [each["beyond"] * 1e6 for each in streams]
        lowest = min(each["ratios"]["torch"] for each in streams)
        said.append(
            f"One step of one stream: {min(beyond):.1f} to {max(beyond):.1f} us beyond its arithmetic, lowest torch.nn / ours "
            f"{lowest:.2f}."
        )
        if peers := [each["ratios"]["onnx"] for each in streams if "onnx" in each["ratios"]]:
            said.append(f"Lowest onnxruntime / ours {min(peers):.2f}.")
    for each in results:
        if each["sessions"] > 1:
            seconds = each["timings"]["ours"]["median"]
            name = f"{each['layers']} x {each['hidden']} {each['cell']}"
            said.append(
                f"{each['sessions']} sessions of a {name}: {each['ratios']['layer']:.2f} of the layer's throughput; a frame of "
                f"10 ms has time for {FRAME / seconds * each['sessions']:.0f}."
            )
    return " ".join(said)
