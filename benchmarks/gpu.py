"""On a CUDA device: our layers, which hand the call to cuDNN, beside torch.nn's, and layers with options beside its plain ones.

Each call is followed by a synchronization, so a time is that from the call to its last result. TF32 is off on all sides: with it
cuDNN's products have 10 bits, and nothing could be verified closely.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.options import LAYER_NORM_STEPS, OPTIONS
from benchmarks.plan import Plan, Unavailable
from benchmarks.progress import with_progress
from throughtime.bench.recurrences import CELLS, LIMIT, Shape, data, inference, runs_on, training
from throughtime.bench.table import format_timing
from throughtime.bench.timing import Side, as_json, interleave
from throughtime.bench.verify import check, outputs_and_gradients, worst_error

PLAIN = "plain"
RANDOM = (
    "recurrent dropout",
    "zoneout",
)  # verified in evaluation mode: devices draw different masks from one seed


def measure(plan: Plan, device: str = "cuda") -> list[dict[str, Any]]:
    """Every cell and shape, plain in training and inference, and with every option in training.

    Raises: Unavailable without a CUDA device. `device="cpu"` runs the same code without one.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("torch sees no CUDA device")
    cases: list[tuple[str, Shape, str, str]] = []
    for cell in CELLS:
        for shape in plan.gpu:
            cases += [(cell, shape, PLAIN, mode) for mode in ("training", "inference")]
            cases += [
                (cell, shape, name, "training") for name, (cells, _) in OPTIONS.items() if cell in cells
            ]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return [_compare(plan, device, *case) for case in with_progress("gpu", cases)]


def _compare(plan: Plan, device: str, cell: str, shape: Shape, option: str, mode: str) -> dict[str, Any]:
    ours_type, theirs_type, _ = CELLS[cell]
    arguments = {} if option == PLAIN else OPTIONS[option][1]
    sizes = (shape.features, shape.hidden)
    torch.manual_seed(0)
    theirs = theirs_type(*sizes)
    ours = ours_type(*sizes, **arguments)
    plain = ours_type(*sizes)
    plain.load_state_dict(theirs.state_dict())
    if option == PLAIN:
        ours = plain
    x, dy = data(shape)
    # On the CPU in float64, before the layers move.
    checked = {"ours": _checked(f"{cell} {shape} {option}", ours, arguments, option, x, dy, device)}
    checked["torch"] = _checked(f"{cell} {shape} of torch.nn", theirs, {}, PLAIN, x, dy, device)
    x, dy = x.to(device), dy.to(device)
    layers = {"ours": ours, "torch": theirs}
    if mode == "training":
        sides = {name: training(layer, x, dy) for name, layer in layers.items()}
    else:
        sides = {name: inference(layer.eval(), x) for name, layer in layers.items()}
    # A thread that waits in a synchronization may sleep: that is not waiting for a core.
    timings = interleave(
        {name: _to_the_end(side, device) for name, side in sides.items()},
        seconds=plan.seconds,
        least=plan.least,
        loaded=True,
    )
    return {
        "cell": cell,
        "shape": list(shape),
        "option": option,
        "mode": mode,
        "backend": runs_on(ours, x),
        "errors": checked,
        "timings": as_json(timings),
        "ratio": timings["torch"].median / timings["ours"].median,
    }


def _checked(
    name: str, layer: nn.Module, arguments: dict[str, Any], option: str, x: Tensor, dy: Tensor, device: str
) -> float:
    """Move the layer to the device; its error there, relative to the reference on the CPU in float64."""
    kind = type(layer).__name__
    exact = CELLS[kind][0](x.shape[-1], dy.shape[-1], **arguments, dtype=torch.float64, backend="reference")
    exact.load_state_dict(layer.state_dict())
    layer.to(device)
    steps = (
        LAYER_NORM_STEPS if option == "layer norm" else len(x)
    )  # chaotic over more; see `benchmarks.options`
    x, dy = x[:steps], dy[:steps]
    for each in (layer, exact):
        each.train(option not in RANDOM)
    wanted = outputs_and_gradients(exact, x.double(), dy.double())
    got = outputs_and_gradients(layer, x.to(device), dy.to(device))
    layer.train()
    return check(name, worst_error([value.cpu() for value in got], wanted), LIMIT)


def _to_the_end(side: Side, device: str) -> Side:
    """The call, and the wait for the kernels that it started."""

    def call() -> None:
        side()
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def table(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    head = [
        "cell",
        "T,B,D,H",
        "option",
        "mode",
        "ours",
        "torch.nn, plain",
        "torch.nn / ours",
        "error",
        "runs on",
    ]
    return head, [
        [
            result["cell"],
            ",".join(map(str, result["shape"])),
            result["option"],
            result["mode"],
            *(format_timing(result["timings"][name]) for name in ("ours", "torch")),
            f"{result['ratio']:.2f}",
            f"{result['errors']['ours']:.0e}",
            result["backend"],
        ]
        for result in results
    ]


def summary(results: list[dict[str, Any]]) -> str:
    """The range of the ratios of plain layers, and the lowest with options."""
    plain = [result["ratio"] for result in results if result["option"] == PLAIN]
    lowest = min(
        (result for result in results if result["option"] != PLAIN), key=lambda result: float(result["ratio"])
    )
    return (
        f"Plain layers: torch.nn / ours {min(plain):.2f} to {max(plain):.2f}. With an option at least "
        f"{lowest['ratio']:.3f} of the speed of torch.nn's plain {lowest['cell']} ({lowest['option']}, "
        f"{','.join(map(str, lowest['shape']))})."
    )
