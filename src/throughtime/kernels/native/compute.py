"""Forward and backward of one direction of one layer on packed rows, as functions of tensors.

Native code runs what must wait for the state; the products over all steps (input projection, dW, dx) are torch's. A long sequence
is run in pieces of a few megabytes, so that what one of the two wrote is still in the cache when the other reads it; what
backward makes on the way never takes more memory than one piece.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.kernels.native.layout import LAYOUTS, Sizes, cut, cut_rows, pad, pad_rows
from throughtime.kernels.native.library import Library, NativeCall
from throughtime.kernels.native.memory import pool
from throughtime.kernels.native.rows import Rows
from throughtime.kernels.native.zone import Zone

ACTIVATIONS = {"tanh": 0, "relu": 1, "sigmoid": 2, "identity": 3}
PIECE = 4 << 20  # bytes of gates


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


_GAINS = Given._fields[-4:]


class Kept(NamedTuple):
    """What backward needs besides the given tensors."""

    gates: Tensor  # [N, ldg] activated
    buffer: Tensor  # outputs, padded; with a full batch the initial state lies before (reverse: behind) them
    c: Tensor | None  # [N, H] memory of every step


def check(given: Given) -> None:
    """The kernel reads memory as it is told to: every tensor must be on the CPU and of x's dtype.

    Raises: RuntimeError naming the one that is not.
    """
    dtype = given.x.dtype
    for name, value in zip(Given._fields, given, strict=True):
        if value is not None and (value.dtype != dtype or not value.is_cpu):
            raise RuntimeError(
                f"{name} must be {dtype} on the CPU, as the input is, got {value.dtype} on {value.device}: "
                "convert it with .to()"
            )


def sizes_of(plan: Plan, given: Given) -> Sizes:
    """The sizes of a call."""
    rows, columns = given.weight_hh.shape
    hidden, wide = rows // LAYOUTS[plan.kind].gates, given.x.dtype == torch.float64
    return Sizes(hidden, columns, plan.library.pad(hidden, wide), plan.library.pad(columns, wide))


def forward(plan: Plan, given: Given) -> tuple[Tensor, Tensor, Tensor | None, Kept]:
    """Returns y [N, H], h_T and c_T [B, H], and what backward needs."""
    rows, layout, x, sizes = plan.rows, LAYOUTS[plan.kind], given.x, sizes_of(plan, given)
    hidden, columns, size, width = sizes
    ldg = _row(plan, given, sizes)
    pieces = rows.pieces(PIECE // (ldg * x.itemsize), plan.reverse)
    keep_gates = plan.training
    gates = pool.empty(rows.total if keep_gates else rows.longest(pieces), ldg, dtype=x.dtype)
    w_ih = pad_rows(given.weight_ih, layout.gates, hidden, size).t()
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
    call, alive = _call(plan, given, sizes, ldg)
    alive += [_pointer(call, name, getattr(given, name)) for name in ("bias_ih", "bias_hh")]
    call.y, call.h_state = y.data_ptr(), h.data_ptr()
    if y_before is not None:
        call.y_before = y_before.data_ptr()
    if c_state is not None:
        call.c_state = c_state.data_ptr()
    if c is not None:
        call.c = c.data_ptr()
    if len(pieces) > 1:
        alive.append(_packed(plan, call, x, back=False))
    columns_of_inputs = slice(layout.inputs.start * size, layout.inputs.stop * size)
    # With one feature the product is an outer one, which the matrix product does many times slower.
    product = torch.mul if x.shape[1] == 1 else torch.mm
    for begin, end, first, last in pieces:
        skipped = 0 if keep_gates else first
        inputs = x if len(pieces) == 1 else x[first:last]
        product(inputs, w_ih, out=gates[first - skipped : last - skipped, columns_of_inputs])
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
    pieces = rows.pieces(PIECE // (ldg * x.itemsize), plan.reverse)
    dgates = pool.empty(rows.longest(pieces), ldg, dtype=x.dtype)
    dy, dh, dc = gradients
    dh0 = x.new_empty(rows.batch, columns)
    dc0 = None if given.c0 is None else x.new_empty(rows.batch, hidden)
    dbias = None if given.bias_ih is None else [x.new_zeros(layout.gates * hidden) for _ in range(2)]
    dpeephole = None if given.weight_peephole is None else torch.zeros_like(given.weight_peephole)
    gains = {
        name: torch.zeros_like(value, memory_format=torch.contiguous_format)
        for name, value in zip(_GAINS, given[-len(_GAINS) :], strict=True)
        if value is not None
    }
    call, alive = _call(plan, given, sizes, ldg)
    alive += [_pointer(call, f"d{name}", value) for name, value in gains.items()]
    alive += [
        _pointer(call, "dy", dy, width),
        _pointer(call, "dc", dmemories, size),
        _pointer(call, "dh_final", dh),
        _pointer(call, "dc_final", dc),
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
        alive.append(_packed(plan, call, x, back=True))
    before = _before(plan, given, kept, sizes) if wanted.weight_hh else None
    w_ih = pad_rows(given.weight_ih, layout.gates, hidden, size) if wanted.x else None
    dx = torch.empty_like(x, memory_format=torch.contiguous_format) if wanted.x else None
    dw_ih = x.new_empty(layout.gates * size, x.shape[1]) if wanted.weight_ih else None
    dw_hh = x.new_empty(layout.gates * size, width) if wanted.weight_hh else None
    dw_hr = x.new_empty(columns, size) if wanted.weight_hr else None
    # Layer norm's backward tells the two maps apart: the gradient of W_ih x is behind the row.
    behind = layout.blocks + (given.weight_hr is not None)
    blocks = layout.inputs if given.gain_ih is None else slice(behind, behind + layout.gates)
    columns_of_inputs = slice(blocks.start * size, blocks.stop * size)
    beta = 0
    for begin, end, first, last in reversed(pieces):
        call.begin, call.end = begin, end
        call.dgates = dgates.data_ptr() - first * ldg * x.itemsize
        plan.library.backward(call, x.dtype)
        call.packed_ready = 1
        rows_here, count = slice(first, last), last - first
        threads, flushed = (
            plan.library.flush_denormals()
        )  # what a vanishing gradient is multiplied with vanishes too
        inputs = dgates[:count, columns_of_inputs]
        if dx is not None and w_ih is not None:
            torch.mm(inputs, w_ih, out=dx[rows_here])
        if dw_ih is not None:
            torch.addmm(dw_ih, inputs.t(), x[rows_here], beta=beta, out=dw_ih)
        if dw_hh is not None and before is not None:
            for source, place, reads_gates in layout.recurrent:
                through = dgates[:count, source.start * size : source.stop * size]
                target = dw_hh[place.start * size : place.stop * size]
                read = kept.gates[rows_here, :size] if reads_gates else before[rows_here]
                torch.addmm(target, through.t(), read, beta=beta, out=target)
        if dw_hr is not None:
            projected = slice(layout.blocks * size, layout.blocks * size + size)
            through = dgates[:count, projected][:, :columns]
            torch.addmm(dw_hr, through.t(), kept.gates[rows_here, projected], beta=beta, out=dw_hr)
        plan.library.restore_denormals(threads, flushed)
        beta = 1
    if dw_ih is not None:
        dw_ih = cut_rows(dw_ih, layout.gates, hidden, size)
    if dw_hh is not None:
        dw_hh = cut(cut_rows(dw_hh, layout.gates, hidden, size), columns)
    if dw_hr is not None:
        dw_hr = cut(dw_hr, hidden)
    db_ih, db_hh = (None, None) if dbias is None else (dbias[0], dbias[1])
    dgains = tuple(gains.get(name) for name in _GAINS)
    return dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh, dpeephole, None, dw_hr, *dgains


def _row(plan: Plan, given: Given, sizes: Sizes) -> int:
    """How many numbers a row of gates takes; layer norm keeps both normalised maps behind it."""
    layout = LAYOUTS[plan.kind]
    kept = 2 * layout.gates if given.gain_hh is not None and (plan.training or plan.memories) else 0
    # Past a power of two, whose multiples would fight for the same cache lines.
    return (layout.blocks + (given.weight_hr is not None) + kept) * sizes.size + 16


def _call(plan: Plan, given: Given, sizes: Sizes, ldg: int) -> tuple[NativeCall, list[Any]]:
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
        offsets=rows.offsets.data_ptr(),
    )
    alive = [
        _pointer(call, "weight_hh", given.weight_hh),
        _pointer(call, "weight_hr", given.weight_hr),
        _pointer(call, "peephole", given.weight_peephole),
        _pointer(call, "h_mask", given.h_mask),
        *(_pointer(call, name, getattr(given, name)) for name in _GAINS),
        _pointer(call, "h0", given.h0),
        _pointer(call, "c0", given.c0),
    ]
    if plan.zone is not None:
        call.zoneout = 1
        for name, rate, mask, padded in zip(
            "hc", plan.zone.rates, plan.zone.keep, (sizes.width, sizes.size), strict=False
        ):
            setattr(call, f"share_{name}", rate)
            alive.append(
                _pointer(call, f"keep_{name}", None if mask is None else mask.view(torch.uint8), padded)
            )
    return call, alive


def _pointer(call: NativeCall, name: str, value: Tensor | None, padded: int | None = None) -> Tensor | None:
    """Sets a field to where the contiguous tensor lies, with its rows padded to that size."""
    if value is None:
        return None
    value = value.contiguous() if padded is None else pad(value, padded)
    setattr(call, name, value.data_ptr())
    return value


def _packed(plan: Plan, call: NativeCall, x: Tensor, back: bool) -> Tensor:
    """Memory for the packed weights that the pieces of a call share."""
    packed = pool.empty(plan.library.packed(call, x.dtype, back), dtype=x.dtype)
    call.packed = packed.data_ptr()
    return packed


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
