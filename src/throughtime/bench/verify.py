"""Outputs and all gradients of one call, and the relative error between two such lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def outputs_and_gradients(
    layer: nn.Module, x: Tensor, dy: Tensor, run: nn.Module | None = None, **keywords: Any
) -> list[Tensor]:
    """Outputs, final states, and the gradients of the input, the initial states and every parameter.

    The gradients are those of `(y * dy).sum() + (final states * fixed random numbers).sum()`. The initial states are random
    too, and every call starts from the same seed, so that random masks are the same. `run` is called in place of the layer.
    """
    generator = torch.Generator().manual_seed(1)
    rows = layer.num_layers * (2 if layer.bidirectional else 1)  # type: ignore[operator]
    size = (rows, x.shape[1], layer.hidden_size)

    def draw() -> (
        Tensor
    ):  # in float64 on the CPU, so that every dtype and device gets the same numbers up to rounding
        return torch.randn(size, generator=generator, dtype=torch.float64).to(x)  # type: ignore[arg-type]

    x = x.detach().clone().requires_grad_()
    pair = type(layer).__name__ == "LSTM"
    states = [draw().requires_grad_() for _ in range(1 + pair)]
    torch.manual_seed(0)
    y, finals = (run or layer)(x, tuple(states) if pair else states[0], **keywords)
    finals = list(finals) if pair else [finals]
    parameters = list(layer.parameters())
    gradients = torch.autograd.grad(
        [y, *finals], [x, *states, *parameters], [dy.to(y.dtype), *(draw() for _ in finals)]
    )
    return [value.detach() for value in (y, *finals, *gradients)]


def worst_error(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference in any tensor, relative to that tensor's largest value; NaN if one holds NaN."""
    worst = torch.zeros((), dtype=torch.float64)
    for ours, theirs in zip((v.detach() for v in got), (v.detach() for v in wanted), strict=True):
        if ours.shape != theirs.shape:
            raise ValueError(f"expected shape {list(theirs.shape)}, got {list(ours.shape)}")
        if theirs.numel():
            scale = theirs.double().abs().max().clamp_min(1e-30)
            worst = torch.maximum(worst, (ours.double() - theirs.double()).abs().max() / scale)
    return float(worst)


def check(name: str, error: float, limit: float) -> float:
    """The error, if it is within the limit.

    Raises: ArithmeticError otherwise, also for NaN: a wrong result is not timed.
    """
    if not error <= limit:
        raise ArithmeticError(
            f"{name} is wrong, so it is not measured: relative error {error:.2g}, limit {limit:.0e}"
        )
    return error
