"""The native recurrence as operators of torch.library, for torch.compile and torch.export.

A graph that is traced sees two opaque operators with known shapes instead of T unrolled steps: it compiles in the time of
one layer, for any T. Full batches only. Eager calls do not come here: `function.py` costs less.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from throughtime.kernels.native import compute
from throughtime.kernels.native.compute import Given, Kept, Plan
from throughtime.kernels.native.layout import LAYOUTS
from throughtime.kernels.native.library import Library, load
from throughtime.kernels.native.rows import full_rows


def _plan(kind: str, nonlinearity: str, batch: int, rows: int, reverse: bool, training: bool) -> Plan:
    library = load()
    assert isinstance(library, Library)  # dispatch has asked
    return Plan(
        library, kind, nonlinearity, full_rows(rows // batch if batch else 0, batch), reverse, training
    )


@torch.library.custom_op("throughtime::recurrence", mutates_args=())
def recurrence(
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_peephole: Tensor | None,
    h_mask: Tensor | None,
    kind: str,
    nonlinearity: str,
    reverse: bool,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """From x [N, D] to y [N, H], h_T, c_T, and what backward keeps: gates, buffer, memory. Empty where there is none."""
    given = Given(x, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, weight_peephole, h_mask)
    y, h, c, kept = compute.forward(
        _plan(kind, nonlinearity, h0.shape[0], x.shape[0], reverse, training), given
    )
    if training:  # the columns that only keep rows apart: results should not hold what memory held before
        kept.gates[:, LAYOUTS[kind].blocks * kept.buffer.shape[1] :] = 0
    # The results of an operator may not share memory, and y is a part of the buffer.
    y = y.clone() if training else y
    gates, buffer, memory = kept if training else (None, None, None)
    return y, h, *(x.new_empty(0) if value is None else value for value in (c, gates, buffer, memory))  # type: ignore[return-value]


@recurrence.register_fake
def _(
    x: Tensor,
    h0: Tensor,
    c0: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_peephole: Tensor | None,
    h_mask: Tensor | None,
    kind: str,
    nonlinearity: str,
    reverse: bool,
    training: bool,
) -> tuple[Tensor, ...]:
    library = load()
    assert isinstance(library, Library)
    rows, batch, hidden = x.shape[0], h0.shape[0], weight_hh.shape[1]
    size = library.pad(hidden, x.dtype == torch.float64)
    ldg = LAYOUTS[kind].blocks * size + 16
    none = x.new_empty(0)
    y, h = x.new_empty(rows, hidden), x.new_empty(batch, hidden)
    c = none if c0 is None else x.new_empty(batch, hidden)
    if not training:
        return y, h, c, none.clone(), none.clone(), none.clone()
    memory = none.clone() if c0 is None else x.new_empty(rows, size)
    return y, h, c, x.new_empty(rows, ldg), x.new_empty(rows + batch, size), memory


@torch.library.custom_op("throughtime::recurrence_backward", mutates_args=())
def recurrence_backward(
    given: list[Tensor],
    present: list[bool],
    gates: Tensor,
    buffer: Tensor,
    memory: Tensor,
    dy: Tensor,
    dh: Tensor,
    dc: Tensor,
    kind: str,
    nonlinearity: str,
    reverse: bool,
) -> list[Tensor]:
    """The gradients of the tensors of `Given` that are present, mask excepted, in their order."""
    tensors = iter(given)
    full = Given(*(next(tensors) if there else None for there in present))  # type: ignore[arg-type]
    plan = _plan(kind, nonlinearity, full.h0.shape[0], full.x.shape[0], reverse, True)
    lstm = full.c0 is not None
    kept = Kept(gates, buffer, memory if lstm else None)
    found = compute.backward(plan, full, kept, (dy, dh, dc if lstm else None), tuple(present))
    return [gradient.contiguous().clone() for gradient in found if gradient is not None]


@recurrence_backward.register_fake
def _(
    given: list[Tensor],
    present: list[bool],
    gates: Tensor,
    buffer: Tensor,
    memory: Tensor,
    dy: Tensor,
    dh: Tensor,
    dc: Tensor,
    kind: str,
    nonlinearity: str,
    reverse: bool,
) -> list[Tensor]:
    masked = present[-1]
    return [
        torch.empty_like(value, memory_format=torch.contiguous_format)
        for value in (given[:-1] if masked else given)
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, kind, nonlinearity, reverse, _ = inputs
    ctx.present = [tensor is not None for tensor in tensors]
    ctx.options = (kind, nonlinearity, reverse)
    ctx.save_for_backward(*(tensor for tensor in tensors if tensor is not None), *output[3:])


def _backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor, *_: Any) -> tuple[Any, ...]:
    *given, gates, buffer, memory = ctx.saved_tensors
    found = iter(
        recurrence_backward(list(given), ctx.present, gates, buffer, memory, dy, dh, dc, *ctx.options)
    )
    gradients = [next(found) if there else None for there in ctx.present[:-1]]
    return (*gradients, None, None, None, None, None)


recurrence.register_autograd(_backward, setup_context=_keep)
