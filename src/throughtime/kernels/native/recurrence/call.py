"""One call of the library: forward or backward of a whole stack over packed rows."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.kernels.native.recurrence.rows import Rows, pool
from throughtime.kernels.native.recurrence.weights import Weights

NO_MEMORY = (
    "no memory for a recurrent layer's call: take shorter sequences, a smaller batch, or BPTT with windows"
)
# For tests: rows at a time (0: as many as stay in the cache), and how threads divide the work (0 choose, 1 rows, 2 units).
chunk_rows = 0
split = 0
# For benchmarks: seconds of the loops over time, forward and backward, and of the products over all steps; or None.
seconds: Any = None


def count_seconds(on: bool) -> Any:
    """Start counting in a new `seconds`, an array of 3, or stop."""
    global seconds
    seconds = (ctypes.c_double * 3)() if on else None
    return seconds


class Extras(NamedTuple):
    """What only some calls have."""

    # (recurrent dropout [B, P], zoneout of h [N, P] and of c [N, H]) for each layer and direction, in the order of the rows
    masks: tuple[tuple[Tensor | None, Tensor | None, Tensor | None], ...] | None = None
    rates: tuple[float, ...] = ()  # zoneout's, one for each tensor of the state
    carry_scale: Tensor | None = None  # float64 [T], see `throughtime.kernels.reference.unroll`
    reverse: bool = False  # one direction, from the last step to the first


NONE = Extras()


def forward(
    weights: Weights,
    rows: Rows,
    extras: Extras,
    x: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Run a stack over x [N, D], all tensors contiguous; states are None for zero.

    Returns: y [N, outputs], of a full batch [T, B, outputs]; h_T and, of an LSTM, c_T, for all layers and directions one behind
    the other; and when training what backward needs.
    """
    batch = rows.batch
    shape = (rows.steps, batch, weights.outputs) if rows.offsets is None else (rows.total, weights.outputs)
    y = x.new_empty(shape) if rows.total < 64 else pool.empty_like(x, shape)
    h_n = x.new_empty(_flat_state(weights, batch, weights.columns)) if h0 is None else torch.empty_like(h0)
    call = weights.call_for(rows.steps, batch, rows.total, x, y)
    call.h_n = h_n.data_ptr()
    if h0 is not None:
        call.h0 = h0.data_ptr()
    c_n = saved = None
    if weights.lstm:
        c_n = x.new_empty(_flat_state(weights, batch, weights.hidden)) if c0 is None else torch.empty_like(c0)
        call.c_n = c_n.data_ptr()
        if c0 is not None:
            call.c0 = c0.data_ptr()
    if training:
        saved = pool.empty_like(x, (rows.total, weights.saved_row))
        call.training, call.saved = 1, saved.data_ptr()
    _run(weights.library.tt_forward, call, weights, rows, extras)
    return y, h_n, c_n, saved


def _flat_state(weights: Weights, batch: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """The shape of a component of the state, for all layers and directions."""
    return (len(sizes), batch, sizes[0]) if weights.one_size else (batch * sum(sizes),)


def backward(
    weights: Weights,
    rows: Rows,
    extras: Extras,
    x: Tensor,
    states: tuple[Tensor | None, Tensor | None],
    y: Tensor,
    saved: Tensor,
    gradients: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients of x, h0, c0 and `weights.tensors` from those of y, h_T and c_T; `needs`: which to compute."""
    dy, dh, dc = [None if g is None else g.resolve_neg().contiguous() for g in gradients]
    dh0, dc0 = [
        value.new_empty(value.shape) if need and value is not None else None
        for value, need in zip(states, needs[1:3], strict=True)
    ]
    dx = x.new_empty(x.shape) if needs[0] else None
    found = [
        value.new_empty(value.shape) if need else None
        for value, need in zip(weights.tensors, needs[3:], strict=True)
    ]
    structs = weights.structs(found)
    call = weights.call_for(rows.steps, rows.batch, rows.total, x, y)
    call.training, call.saved, call.gradients = 1, saved.data_ptr(), ctypes.addressof(structs)
    named = {
        "h0": states[0],
        "c0": states[1],
        "dy": dy,
        "dh_n": dh,
        "dc_n": dc,
        "dx": dx,
        "dh0": dh0,
        "dc0": dc0,
    }
    for name, value in named.items():
        if value is not None:
            setattr(call, name, value.data_ptr())
    _run(weights.library.tt_backward, call, weights, rows, extras)
    return dx, dh0, dc0, *found


def _run(function: Any, call: Any, weights: Weights, rows: Rows, extras: Extras) -> None:
    alive = None
    if extras is not NONE or rows.offsets is not None or seconds or chunk_rows or split:
        alive = _set_extras(call, weights, rows, extras)
    if function(byref(call)):
        raise MemoryError(NO_MEMORY)
    del alive


def _set_extras(call: Any, weights: Weights, rows: Rows, extras: Extras) -> list[Any]:
    """Set the fields of what only some calls have; returns what must live as long as the call."""
    call.chunk_rows, call.split = chunk_rows, split
    if seconds is not None:
        call.seconds = ctypes.addressof(seconds)
    alive: list[Any] = [rows.offsets]
    if rows.offsets is not None:
        call.offsets = rows.offsets.data_ptr()
    if extras is NONE:
        return alive
    call.reverse = extras.reverse
    if any(extras.rates):
        call.zoneout = 1
        call.fraction_h = extras.rates[0]
        call.fraction_c = extras.rates[-1]
    if extras.carry_scale is not None:
        call.carry_scale = extras.carry_scale.data_ptr()
        alive.append(extras.carry_scale)
    if extras.masks is not None:
        structs: Any = (weights.library.structs["masks"] * len(extras.masks))()
        for struct, masks in zip(structs, extras.masks, strict=True):
            for name, mask in zip(("h_mask", "keep_h", "keep_c"), masks, strict=True):
                if mask is not None:
                    mask = mask.contiguous()
                    setattr(struct, name, mask.data_ptr())
                    alive.append(mask)
        call.masks = ctypes.addressof(structs)
        alive.append(structs)
    return alive
