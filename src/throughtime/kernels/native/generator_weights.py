"""Weights as the generator keeps them: float32, or rounded so that reading them takes less time. Arithmetic stays float32."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

WEIGHTS = ("float32", "bf16", "int8")  # in the order of tt_generation_weights in csrc/generate.h


class Stored(NamedTuple):
    """A weight [R, K] in one of the forms of `WEIGHTS`."""

    values: Tensor  # [R, K] float32, bfloat16 or int8
    scale: Tensor | None  # [R] float32, of int8 only

    def widened(self) -> Tensor:
        """The float32 weight [R, K] that the arithmetic sees."""
        values = self.values.float()
        return values if self.scale is None else self.scale[:, None] * values


def store(weight: Tensor, weights: str) -> Stored:
    """Round a float32 weight [R, K].

        bf16:  the nearest number with 8 significant bits, ties to even: within 2^-9 of each weight
        int8:  q = round(w / s), s = max_k |w_k| / 127 of each row: within s / 2 of each weight

    int8 is symmetric, -127 to 127, and zero stays zero. A row that holds NaN or infinity gives NaN.
    Cost: a copy of the weight.
    Source: int8 with a scale for each output row: Krishnamoorthi 2018, arXiv 1806.08342.
    """
    if weights == "bf16":
        return Stored(weight.to(torch.bfloat16), None)
    if weights == "int8":
        scale = weight.abs().amax(1) / 127
        # A row of zeros divides zero by zero. A scale that is too small for a normal number is not exact: hence the clamp.
        whole = (weight / scale[:, None]).round().nan_to_num(0.0).clamp(-127, 127)
        return Stored(whole.to(torch.int8), scale)
    return Stored(weight, None)
