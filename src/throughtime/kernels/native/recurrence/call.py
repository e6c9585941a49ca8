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
    library, batch = weights.library, rows.batch
    shape = (rows.steps, batch, weights.outputs) if rows.offsets is None else (rows.total, weights.outputs)
    y = x.new_empty(shape) if rows.total < 64 else pool.empty_like(x, shape)
    h_n, c_n = final_states(weights, batch, x)
    saved = pool.empty_like(x, (rows.total, weights.saved_row)) if training else None
    call = library.call(
        stack=weights.address,
        steps=rows.steps,
        batch=batch,
        total=rows.total,
        training=training,
        threads=torch.get_num_threads(),
        x=x.data_ptr(),
        y=y.data_ptr(),
        h0=None if h0 is None else h0.data_ptr(),
        c0=None if c0 is None else c0.data_ptr(),
        h_n=h_n.data_ptr(),
        c_n=None if c_n is None else c_n.data_ptr(),
        saved=None if saved is None else saved.data_ptr(),
    )
    alive = None if _plain(rows, extras) else set_extras(call, weights, rows, extras)
    if library.tt_forward(byref(call)):
        raise MemoryError(NO_MEMORY)
    del alive
    return y, h_n, c_n, saved


def _plain(rows: Rows, extras: Extras) -> bool:
    return extras is NONE and rows.offsets is None and seconds is None and not chunk_rows and not split


def final_states(weights: Weights, batch: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Uninitialized memory for the states of all layers and directions."""
    if weights.one_size:
        rows = len(weights.hidden)
        h_n = x.new_empty((rows, batch, weights.columns[0]))
        return h_n, x.new_empty((rows, batch, weights.hidden[0])) if weights.lstm else None
    h_n = x.new_empty(batch * sum(weights.columns))
    return h_n, x.new_empty(batch * sum(weights.hidden)) if weights.lstm else None


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
    library = weights.library
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
    call = library.call(
        stack=weights.address,
        steps=rows.steps,
        batch=rows.batch,
        total=rows.total,
        training=True,
        threads=torch.get_num_threads(),
        x=x.data_ptr(),
        y=y.data_ptr(),
        h0=None if states[0] is None else states[0].data_ptr(),
        c0=None if states[1] is None else states[1].data_ptr(),
        saved=saved.data_ptr(),
        dy=None if dy is None else dy.data_ptr(),
        dh_n=None if dh is None else dh.data_ptr(),
        dc_n=None if dc is None else dc.data_ptr(),
        dx=None if dx is None else dx.data_ptr(),
        dh0=None if dh0 is None else dh0.data_ptr(),
        dc0=None if dc0 is None else dc0.data_ptr(),
        gradients=ctypes.addressof(structs),
    )
    alive = None if _plain(rows, extras) else set_extras(call, weights, rows, extras)
    if library.tt_backward(byref(call)):
        raise MemoryError(NO_MEMORY)
    del alive
    return dx, dh0, dc0, *found


def set_extras(call: Any, weights: Weights, rows: Rows, extras: Extras) -> list[Any]:
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
