"""A call of the native recurrence: what it is, its tensors, and both as the C struct."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.kernels.native.layout import LAYOUTS, Sizes, pad
from throughtime.kernels.native.library import Library, NativeCall
from throughtime.kernels.native.memory import pool
from throughtime.kernels.native.rows import Rows
from throughtime.kernels.native.zone import Zone

ACTIVATIONS = {"tanh": 0, "relu": 1, "sigmoid": 2, "identity": 3}


class Plan(NamedTuple):
    """What a call is, besides its tensors."""

    library: Library
    kind: str  # one of LAYOUTS
    nonlinearity: str  # of the RNN
    rows: Rows
    reverse: bool
    training: bool
    memories: bool = False  # of every step are wanted
    zone: Zone | None = None
    bf16: int = 0  # float32 calls: how the factors of products are rounded, a tt_bf16 of csrc/bf16.h


class Given(NamedTuple):
    """The tensors of a call."""

    x: Tensor  # [N, D]
    h0: Tensor  # [B, H], or [B, P] with a projection
    c0: Tensor | None
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    weight_peephole: Tensor | None
    h_mask: Tensor | None
    weight_hr: Tensor | None = None
    gain_ih: Tensor | None = None  # these four for layer norm
    gain_hh: Tensor | None = None
    gain_c: Tensor | None = None
    bias_c: Tensor | None = None


GAINS = Given._fields[-4:]


class Kept(NamedTuple):
    """What backward needs besides the given tensors."""

    gates: Tensor  # [N, ldg] activated
    buffer: Tensor  # outputs, padded; with a full batch the initial state lies before (reverse: behind) them
    c: Tensor | None  # [N, H] memory of every step


def check(given: Given, kind: str, batch: int) -> None:
    """The kernel reads memory as it is told to: every tensor must be on the CPU, of x's dtype, and of its shape.

    Raises: RuntimeError naming the one that is not, or what of layer norm is missing.
    """
    dtype = given.x.dtype
    for name, value in zip(Given._fields, given, strict=True):
        if value is not None and (value.dtype != dtype or not value.is_cpu):
            raise RuntimeError(
                f"{name} must be {dtype} on the CPU, as the input is, got {value.dtype} on {value.device}: "
                "convert it with .to()"
            )
    gains = (
        (given.gain_ih, given.gain_hh) if given.c0 is None else (given.gain_ih, given.gain_hh, given.gain_c)
    )
    if len({gain is None for gain in gains}) > 1:
        raise RuntimeError(
            "layer norm must have gain_ih, gain_hh and in an LSTM gain_c, got "
            f"{' and '.join(n for n in GAINS[:3] if getattr(given, n) is not None)} only: give all of them or none"
        )

    (rows, columns), features = given.weight_hh.shape, given.x.shape[-1]
    hidden = rows // LAYOUTS[kind].gates
    rows = LAYOUTS[kind].gates * hidden
    if columns != hidden and given.weight_hr is None:
        raise RuntimeError(f"weight_hh must have {hidden} columns, one for each unit, got {columns}")
    # In the order of Given, behind x.
    expected: tuple[tuple[int, ...], ...] = (
        (batch, columns), (batch, hidden), (rows, features), (rows, columns), (rows,), (rows,), (3 * hidden,),
        (batch, columns), (columns, hidden), (rows,), (rows,), (hidden,), (hidden,),
    )  # fmt: skip
    for name, value, shape in zip(Given._fields[1:], given[1:], expected, strict=True):
        if value is not None and value.shape != shape:
            raise RuntimeError(f"{name} must be of shape {list(shape)}, got {list(value.shape)}")


def sizes_of(plan: Plan, given: Given) -> Sizes:
    """The sizes of a call."""
    rows, columns = given.weight_hh.shape
    hidden, wide = rows // LAYOUTS[plan.kind].gates, given.x.dtype == torch.float64
    return Sizes(hidden, columns, plan.library.pad(hidden, wide), plan.library.pad(columns, wide))


def native_call(plan: Plan, given: Given, sizes: Sizes, ldg: int) -> tuple[NativeCall, list[Any]]:
    """What forward and backward have in common, and the tensors that must live as long."""
    rows = plan.rows
    call = NativeCall(
        cell=LAYOUTS[plan.kind].cell,
        activation=ACTIVATIONS[plan.nonlinearity],
        reset_before=plan.kind == "gru reset before",
        steps=rows.steps,
        batch=rows.batch,
        units=sizes.hidden,
        columns=sizes.columns,
        hidden=sizes.size,
        width=sizes.width,
        reverse=plan.reverse,
        training=plan.training or plan.memories,
        threads=torch.get_num_threads(),
        ldg=ldg,
        bf16=plan.bf16,
        offsets=rows.offsets.data_ptr(),
    )
    alive = [
        point(call, "weight_hh", given.weight_hh),
        point(call, "weight_hr", given.weight_hr),
        point(call, "peephole", given.weight_peephole),
        point(call, "h_mask", given.h_mask),
        point(call, "h0", given.h0),
        point(call, "c0", given.c0),
    ]
    if given.gain_hh is not None:
        alive += [point(call, name, getattr(given, name)) for name in GAINS]
    if plan.zone is not None:
        call.zoneout = 1
        for name, rate, mask, padded in zip(
            "hc", plan.zone.rates, plan.zone.keep, (sizes.width, sizes.size), strict=False
        ):
            setattr(call, f"share_{name}", rate)
            alive.append(
                point(call, f"keep_{name}", None if mask is None else mask.view(torch.uint8), padded)
            )
    return call, alive


def point(call: NativeCall, name: str, value: Tensor | None, padded: int | None = None) -> Tensor | None:
    """Sets a field to where the contiguous tensor lies, with its rows padded to that size."""
    if value is None:
        return None
    value = value.resolve_neg()  # a bit of the tensor, which its memory knows nothing of
    value = value.contiguous() if padded is None else pad(value, padded)
    setattr(call, name, value.data_ptr())
    return value


def packed_weights(plan: Plan, call: NativeCall, x: Tensor, back: bool) -> Tensor:
    """Memory for the packed weights that the pieces of a call share."""
    packed = pool.empty(plan.library.packed(call, x.dtype, back), dtype=x.dtype)
    call.packed = packed.data_ptr()
    return packed
