"""bfloat16 calls of the native kernel: what is rounded, in which arithmetic products are computed, and the dtypes of results.

A call is in low precision when its inputs are bfloat16, or under torch.autocast. Then

    the inputs and the matrices of weights are rounded to the low dtype, once;
    biases, gains, peepholes, masks and the state are not rounded: within a call the state, all sums and gradients are float32;
    outputs are returned in the low dtype, states in the dtype of the weights, gradients in that of their tensors.

Where the processor has AVX-512-BF16, or THROUGHTIME_BF16 asks for AMX, the products also round their other factor, h or a
gradient. Elsewhere all arithmetic is float32, on the rounded numbers.
"""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from throughtime.kernels.native.library import load
from throughtime.kernels.stack import Stack

NAMES = ("off", "emulated", "tiles", "avx512", "amx")  # by the numbers of tt_bf16 in csrc/bf16.h
_WORDS = (
    "in float32 arithmetic",
    "as AVX-512-BF16 would, in plain code",
    "as AMX would, in plain code",
    "with AVX-512-BF16",
    "with AMX",
)
_MATRICES = ("weight_ih", "weight_hh", "weight_hr")  # factors of products, as the inputs are


class _Round(torch.autograd.Function):
    """Round to a low dtype and back to float32, with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: torch.dtype) -> Tensor:
        return value.to(low).float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def rounded(value: Tensor, low: torch.dtype) -> Tensor:
    """A factor of products as float32, rounded to `low`. Differentiable; float64 stays, to be refused."""
    if value.dtype in (low, torch.float64):
        return value if value.dtype == torch.float64 else value.float()
    return _Round.apply(value, low)  # type: ignore[no-any-return,no-untyped-call]


def lower(stack: Stack, low: torch.dtype) -> Stack:
    """All weights as float32, the matrices rounded to `low`. Differentiable; float64 stays, to be refused."""
    return stack._replace(
        weights=tuple(
            {
                name: rounded(value, low)
                if name in _MATRICES
                else value
                if value.dtype == torch.float64
                else value.float()
                for name, value in named.items()
            }
            for named in stack.weights
        )
    )


def without_autocast() -> AbstractContextManager[Any]:
    """A block in which autocast is off."""
    return torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext()


@functools.cache
def arithmetic() -> int | str:
    """The number of the arithmetic for calls in bfloat16: the fastest tested one, or the one that THROUGHTIME_BF16 names.

    AMX is never chosen unless it is named: its code was tested on no processor that has it.
    A string is the reason why the named one cannot run here.
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
    """How bfloat16 is computed here, or why not; and AMX where it was not asked for and could run."""
    number, library = arithmetic(), load()
    if isinstance(number, str) or isinstance(library, str):
        return f"no bfloat16: {number}"
    words = f"bfloat16 and autocast {_WORDS[number]}"
    amx = NAMES.index("amx")
    if number != amx and library.handle.tt_bf16_can_run(amx):
        words += " (AMX is there but untested: THROUGHTIME_BF16=amx to try it)"
    return words


def number_for(low: torch.dtype) -> int:
    """`Plan.bf16` of a call in this low dtype: the arithmetic of its products."""
    number = arithmetic() if low == torch.bfloat16 else 0
    assert isinstance(number, int)  # dispatch has asked
    return number
