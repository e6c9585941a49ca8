"""A layer compared with torch.nn's, in training and inference, on a full batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from throughtime.bench.timing import Side, as_json, interleave
from throughtime.bench.verify import check, outputs_and_gradients, worst_error
from throughtime.errors import InputError
from throughtime.kernels import dispatch
from throughtime.layers import GRU, LSTM, RNN

CELLS: dict[str, tuple[Any, Any, int]] = {  # ours, torch.nn's, gates
    "RNN": (RNN, nn.RNN, 1),
    "GRU": (GRU, nn.GRU, 3),
    "LSTM": (LSTM, nn.LSTM, 4),
}
# Rounding errors of sums of about 10^5 products, relative to the largest value of each tensor.
LIMIT = 1e-4


class Shape(NamedTuple):
    """Sizes of a call: T, B, D, H."""

    steps: int
    batch: int
    features: int
    hidden: int

    def __str__(self) -> str:
        return ",".join(str(number) for number in self)

    def flops(self, gates: int, training: bool) -> float:
        """Floating-point operations of the matrix products; a backward pass has twice those of a forward pass."""
        forward = 2 * self.steps * self.batch * gates * self.hidden * (self.features + self.hidden)
        return forward * (3.0 if training else 1.0)


SHAPES = tuple(
    Shape(*numbers)
    for numbers in (
        (35, 32, 128, 128),
        (35, 32, 256, 256),
        (64, 64, 512, 512),
        (100, 1, 64, 64),
        (784, 128, 1, 128),
        (35, 20, 650, 650),
        (128, 32, 1024, 1024),
        (256, 16, 64, 64),
    )
)


def parse_shape(text: str) -> Shape:
    """The shape of "T,B,D,H".

    Raises: InputError for anything but four whole numbers above 0.
    """
    numbers = text.split(",")
    if len(numbers) != 4 or not all(n.strip().isdecimal() and int(n) > 0 for n in numbers):
        raise InputError(f"a shape must be T,B,D,H, four whole numbers above 0, got {text!r}")
    return Shape(*(int(n) for n in numbers))


def data(shape: Shape, outputs: int | None = None) -> tuple[Tensor, Tensor]:
    """Input x [T, B, D] and the gradient dy [T, B, H], the same at every call."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape.steps, shape.batch, shape.features, generator=generator)
    return x, torch.randn(shape.steps, shape.batch, outputs or shape.hidden, generator=generator)


def training(layer: nn.Module, x: Tensor, dy: Tensor, **keywords: Any) -> Side:
    """Forward, and backward to the input and all parameters."""
    x = x.detach().clone().requires_grad_()
    wanted = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x, **keywords)[0], wanted, dy)


def inference(layer: nn.Module, x: Tensor, **keywords: Any) -> Side:
    """Forward without gradients."""

    def call() -> None:
        with torch.inference_mode():
            layer(x, **keywords)

    return call


def runs_on(layer: Any, x: Tensor, lengths: Tensor | None = None) -> str:
    """Name of the backend that runs this call."""
    return dispatch.choose(layer.call(x, lengths), layer.backend).name


def compare(
    cell: str,
    shape: Shape,
    *,
    train: bool = True,
    seconds: float = 1.0,
    least: int = 5,
    peak: float | None = None,
) -> dict[str, Any]:
    """Compare our layer and torch.nn's with torch.nn's in float64, then time both in turn.

    Args:
        cell: one of CELLS.
        shape: T, B, D, H.
        train: forward and backward with the input's gradient; False is inference.
        seconds: for both layers together.
        least: samples of each layer.
        peak: operations per second that count as 100 %.

    Raises: ArithmeticError if either layer is wrong.
    """
    ours_type, theirs_type, gates = CELLS[cell]
    torch.manual_seed(0)
    theirs = theirs_type(shape.features, shape.hidden)
    ours = ours_type(shape.features, shape.hidden)
    ours.load_state_dict(theirs.state_dict())
    exact = theirs_type(shape.features, shape.hidden, dtype=torch.float64)
    exact.load_state_dict(theirs.state_dict())
    x, dy = data(shape)
    wanted = outputs_and_gradients(exact, x.double(), dy.double())
    layers = {"ours": ours, "torch": theirs}
    errors = {
        name: check(
            f"{cell} {shape} of {name}", worst_error(outputs_and_gradients(layer, x, dy), wanted), LIMIT
        )
        for name, layer in layers.items()
    }
    if train:
        sides = {name: training(layer, x, dy) for name, layer in layers.items()}
    else:
        sides = {name: inference(layer.eval(), x) for name, layer in layers.items()}
    timings = interleave(sides, seconds=seconds, least=least)
    rate = shape.flops(gates, train) / timings["ours"].median
    return {
        "cell": cell,
        "shape": list(shape),
        "mode": "training" if train else "inference",
        "backend": runs_on(ours, x),
        "errors": errors,
        "timings": as_json(timings),
        "ratio": timings["torch"].median / timings["ours"].median,
        "gflops": rate / 1e9,
        "fraction_of_peak": None if peak is None else rate / peak,
    }
