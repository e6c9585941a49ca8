"""Forward and backward of one direction of one layer on packed rows, as functions of tensors.

The loop over time runs what must wait for the state; the products over all steps (input projection, dW, dx) stand around it.
A long sequence is run in pieces (PIECE, ROWS), so that what one of the two wrote is still in the cache when the other reads
it; what backward makes on the way never takes more memory than one piece.
"""

from __future__ import annotations

import torch
from torch import Tensor

from throughtime.kernels.native import products
from throughtime.kernels.native.given import (
    ACTIVATIONS,
    GAINS,
    Given,
    Kept,
    Plan,
    check,
    native_call,
    packed_weights,
    point,
    sizes_of,
)
from throughtime.kernels.native.layout import LAYOUTS, Sizes, cut, pad
from throughtime.kernels.native.memory import pool
from throughtime.kernels.native.rows import Piece

__all__ = ["ACTIVATIONS", "PIECE", "Given", "Kept", "Plan", "backward", "check", "forward"]

PIECE = 4 << 20  # bytes of gates, without what layer norm keeps
ROWS = 2048  # or so many rows, if they are more: the products over a piece pack all weights anew


def forward(plan: Plan, given: Given) -> tuple[Tensor, Tensor, Tensor | None, Kept]:
    """Returns y [N, H], h_T and c_T [B, H], and what backward needs."""
    rows, layout, x, sizes = plan.rows, LAYOUTS[plan.kind], given.x, sizes_of(plan, given)
    hidden, columns, size, width = sizes
    normed = given.gain_hh is not None and (plan.training or plan.memories)
    ldg = layout.row(size, given.weight_hr is not None, normed)
    pieces = _pieces(plan, given, size)
    keep_gates = plan.training
    gates = pool.empty(rows.total if keep_gates else rows.longest(pieces), ldg, dtype=x.dtype)
    h = x.new_empty(rows.batch, columns)
    lstm = given.c0 is not None
    c_state = x.new_empty(rows.batch, hidden) if lstm else None
    c = pool.empty(rows.total, size, dtype=x.dtype) if lstm and (plan.training or plan.memories) else None
    if rows.source is None:  # the initial state beside the outputs: backward reads both as one
        buffer = pool.empty(rows.total + rows.batch, width, dtype=x.dtype)
        y, y_before = _outputs(plan, buffer), _initial(plan, buffer)
    else:
        buffer = y = pool.empty(rows.total, width, dtype=x.dtype)
        y_before = None
    call, alive = native_call(plan, given, sizes, ldg)
    alive += [point(call, name, getattr(given, name)) for name in ("bias_ih", "bias_hh")]
    call.y, call.h_state = y.data_ptr(), h.data_ptr()
    if y_before is not None:
        call.y_before = y_before.data_ptr()
    if c_state is not None:
        call.c_state = c_state.data_ptr()
    if c is not None:
        call.c = c.data_ptr()
    if len(pieces) > 1:
        alive.append(packed_weights(plan, call, x, back=False))
    columns_of_inputs = slice(layout.inputs.start * size, layout.inputs.stop * size)
    for begin, end, first, last in pieces:
        skipped = 0 if keep_gates else first
        inputs = x if len(pieces) == 1 else x[first:last]
        inside = gates[first - skipped : last - skipped, columns_of_inputs]
        products.forward(plan, inputs, given.weight_ih, inside, size)
        call.begin, call.end = begin, end
        call.gates = gates.data_ptr() - skipped * ldg * x.itemsize
        plan.library.forward(call, x.dtype)
        call.packed_ready, call.y_before = 1, None
    return cut(y, columns), h, c_state, Kept(gates, buffer, c)


def backward(
    plan: Plan,
    given: Given,
    kept: Kept,
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
    needs: tuple[bool, ...],
    dmemories: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients of `given`, in its order, from those of y, h_T, c_T and all c; `needs` says which products to make."""
    rows, layout, x, sizes = plan.rows, LAYOUTS[plan.kind], given.x, sizes_of(plan, given)
    hidden, columns, size, width = sizes
    wanted = Given(*needs)  # type: ignore[arg-type]
    ldg = kept.gates.shape[1]
    pieces = _pieces(plan, given, size)
    dgates = pool.empty(rows.longest(pieces), ldg, dtype=x.dtype)
    dy, dh, dc = gradients
    dh0 = x.new_empty(rows.batch, columns)
    dc0 = None if given.c0 is None else x.new_empty(rows.batch, hidden)
    dbias = None if given.bias_ih is None else [x.new_zeros(layout.gates * hidden) for _ in range(2)]
    dpeephole = None if given.weight_peephole is None else torch.zeros_like(given.weight_peephole)
    gains = {}
    if given.gain_hh is not None:
        values = {name: getattr(given, name) for name in GAINS}
        gains = {name: x.new_zeros(value.shape) for name, value in values.items() if value is not None}
    call, alive = native_call(plan, given, sizes, ldg)
    alive += [point(call, f"d{name}", value) for name, value in gains.items()]
    alive += [
        point(call, "dy", dy, width),
        point(call, "dc", dmemories, size),
        point(call, "dh_final", dh),
        point(call, "dc_final", dc),
    ]
    call.gates, call.y = kept.gates.data_ptr(), _outputs(plan, kept.buffer).data_ptr()
    call.dh_state = dh0.data_ptr()
    if dc0 is not None and kept.c is not None:
        call.dc_state, call.c = dc0.data_ptr(), kept.c.data_ptr()
    if dbias is not None:
        call.dbias_ih, call.dbias_hh = dbias[0].data_ptr(), dbias[1].data_ptr()
    if dpeephole is not None:
        call.dpeephole = dpeephole.data_ptr()
    if len(pieces) > 1:
        alive.append(packed_weights(plan, call, x, back=True))
    before = _before(plan, given, kept, sizes) if wanted.weight_hh else None
    dx = _empty_like(x) if wanted.x else None
    dw_ih = _empty_like(given.weight_ih) if wanted.weight_ih else None
    dw_hh = _empty_like(given.weight_hh) if wanted.weight_hh else None
    dw_hr = _empty_like(given.weight_hr) if wanted.weight_hr and given.weight_hr is not None else None
    # Layer norm's backward tells the two maps apart: the gradient of W_ih x is behind the row.
    behind = layout.blocks + (given.weight_hr is not None)
    blocks = layout.inputs if given.gain_ih is None else slice(behind, behind + layout.gates)
    columns_of_inputs = slice(blocks.start * size, blocks.stop * size)
    native = products.native(plan, min(x.shape[1], columns))
    started = False
    for begin, end, first, last in reversed(pieces):
        call.begin, call.end = begin, end
        call.dgates = dgates.data_ptr() - first * ldg * x.itemsize
        plan.library.backward(call, x.dtype)
        call.packed_ready = 1
        rows_here, count = slice(first, last), last - first
        # What a vanishing gradient is multiplied with vanishes too. The library's products see to it themselves.
        flush = None if native else plan.library.flush_denormals()
        inputs = dgates[:count, columns_of_inputs]
        if dx is not None:
            products.back(plan, inputs, given.weight_ih, dx[rows_here], size)
        if dw_ih is not None:
            products.accumulate(plan, inputs, x[rows_here], dw_ih, size, not started)
        if dw_hh is not None and before is not None:
            for source, place, reads_gates in layout.recurrent:
                through = dgates[:count, source.start * size : source.stop * size]
                target = dw_hh[place.start * hidden : place.stop * hidden]
                read = kept.gates[rows_here, :size] if reads_gates else before[rows_here]
                products.accumulate(plan, through, read, target, size, not started)
        if dw_hr is not None:
            projected = slice(layout.blocks * size, layout.blocks * size + size)
            through = dgates[:count, projected][:, :columns]
            products.accumulate(plan, through, kept.gates[rows_here, projected], dw_hr, columns, not started)
        if flush is not None:
            plan.library.restore_denormals(*flush)
        started = True
    db_ih, db_hh = (None, None) if dbias is None else (dbias[0], dbias[1])
    dgains = tuple(gains.get(name) for name in GAINS)
    return dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh, dpeephole, None, dw_hr, *dgains


def _empty_like(value: Tensor) -> Tensor:
    """Contiguous, with no numbers yet."""
    return torch.empty_like(value, memory_format=torch.contiguous_format)


def _pieces(plan: Plan, given: Given, size: int) -> list[Piece]:
    """The pieces of a call: of as many rows with layer norm as without, or the products would have too few."""
    row = LAYOUTS[plan.kind].row(size, given.weight_hr is not None, False)
    return plan.rows.pieces(max(PIECE // (row * given.x.itemsize), ROWS), plan.reverse)


def _outputs(plan: Plan, buffer: Tensor) -> Tensor:
    """The rows of `buffer` that are outputs."""
    if plan.rows.source is not None:
        return buffer
    return buffer[: plan.rows.total] if plan.reverse else buffer[plan.rows.batch :]


def _initial(plan: Plan, buffer: Tensor) -> Tensor:
    """The rows of `buffer` that hold the initial state, with a full batch."""
    return buffer[plan.rows.total :] if plan.reverse else buffer[: plan.rows.batch]


def _before(plan: Plan, given: Given, kept: Kept, sizes: Sizes) -> Tensor:
    """What W_hh read at each row [N, P]: the state before it, through the mask of recurrent dropout."""
    rows = plan.rows
    if rows.source is not None:
        before = rows.before(kept.buffer, pad(given.h0, sizes.width), plan.reverse)
    else:
        before = kept.buffer[rows.batch :] if plan.reverse else kept.buffer[: rows.total]
    if given.h_mask is None:
        return before
    mask = pad(given.h_mask, sizes.width)
    if rows.source is None:
        return (before.view(rows.steps, rows.batch, sizes.width) * mask).view(rows.total, sizes.width)
    return before * mask.index_select(0, rows.sequences())
