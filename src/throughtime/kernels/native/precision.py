"""bfloat16 at the border of the native kernel: what is rounded, what the products are made of, and what comes back.

A call is in low precision when its inputs are bfloat16, or under torch.autocast. Then

    the inputs and the matrices of weights are rounded to the low dtype, once;
    biases, gains, peepholes, masks and the state keep the bits they have: from step to step the state is float32, and so are all
    sums and gradients;
    outputs are given in the low dtype, states in the dtype of the weights, gradients in that of their tensors.

Where the processor multiplies bfloat16, the products inside a step round their left factor too, h or a gradient, and those
over all steps are torch's bfloat16 ones. Elsewhere all arithmetic is that of float32: rounded numbers, exact products.
"""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from throughtime.kernels.native.given import Given
from throughtime.kernels.native.library import load

NAMES = ("off", "emulated", "tiles", "avx512", "amx")  # by the numbers of tt_bf16 in csrc/bf16.h
_WORDS = (
    "in float32 arithmetic",
    "as AVX-512-BF16 would, in plain code",
    "as AMX would, in plain code",
    "with AVX-512-BF16",
    "with AMX",
)
_MATRICES = ("x", "weight_ih", "weight_hh", "weight_hr")  # what is multiplied


class _Round(torch.autograd.Function):
    """The nearest numbers of a low dtype, as float32. The gradient passes as if nothing had been rounded."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: torch.dtype) -> Tensor:
        return value.to(low).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def low_dtype(x: Tensor) -> torch.dtype | None:
    """The low dtype of a call with these inputs, or None. Autocast leaves float64 alone."""
    if x.dtype == torch.bfloat16:
        return torch.bfloat16
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        return torch.get_autocast_dtype("cpu")
    return None


def lower(given: Given, low: torch.dtype) -> Given:
    """All tensors as float32, the inputs and matrices rounded to `low`. Differentiable; float64 stays, to be refused."""
    values: list[Any] = []
    for name, value in zip(given._fields, given, strict=True):
        if value is None or value.dtype == torch.float64:
            values.append(value)
        elif name in _MATRICES and value.dtype != low:
            values.append(_Round.apply(value, low))  # type: ignore[no-untyped-call]
        else:
            values.append(value.float())
    return Given(*values)


def without_autocast() -> AbstractContextManager[Any]:
    """A block in which products of float32 are products of float32."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


@functools.cache
def arithmetic() -> int | str:
    """The number of the arithmetic for calls in bfloat16: the processor's best, or the one that THROUGHTIME_BF16 names.

    A string is the reason why that one cannot run here.
    """
    library, wanted = load(), os.environ.get("THROUGHTIME_BF16", "")
    if isinstance(library, str):
        return library
    number: int = library.handle.tt_bf16_choose(wanted.encode())
    if number == -1:
        return (
            f"THROUGHTIME_BF16={wanted} cannot run on this processor with the {library.isa} code: leave it away, or take "
            "one of off, emulated and tiles"
        )
    if number < 0:
        return f"THROUGHTIME_BF16 must be one of {', '.join(NAMES)}, got {wanted!r}"
    return number


def in_words() -> str:
    """How bfloat16 is computed here, or why not."""
    number = arithmetic()
    return f"no bfloat16: {number}" if isinstance(number, str) else f"bfloat16 and autocast {_WORDS[number]}"


def number_for(low: torch.dtype) -> int:
    """What `bf16` of a call in this low dtype is: the arithmetic of its products."""
    number = arithmetic() if low == torch.bfloat16 else 0
    assert isinstance(number, int)  # dispatch has asked
    return number
