"""Forward and backward of one direction of one layer on packed rows, as functions of tensors.

The loop over time in C++ runs what depends on the state; the products over all steps (input projection, dW, dx) run before and
after it. A long sequence is run in chunks (CHUNK_BYTES, CHUNK_ROWS), so that what one of the two wrote is still in the cache when
the other reads it; temporary memory of backward never exceeds that of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from throughtime.kernels.native.library import (
    COLUMNS_OF_C,
    DEPTH_OF_A,
    LAYOUTS,
    ROWS_OF_A,
    NativeProduct,
    unpad,
)
from throughtime.kernels.native.recurrence.call import (
    GAINS,
    CallTensors,
    Plan,
    Saved,
    chunks_of,
    initial_state_in,
    native_call,
    outputs_in,
    packed_weights,
    recurrent_inputs,
    set_pointer,
    sizes_of,
)
from throughtime.kernels.native.recurrence.rows import pool


def forward(plan: Plan, tensors: CallTensors) -> tuple[Tensor, Tensor, Tensor | None, Saved]:
    """Returns y [N, H], h_T and c_T [B, H], and what backward needs."""
    rows, layout, x, sizes = plan.rows, LAYOUTS[plan.kind], tensors.x, sizes_of(plan, tensors)
    hidden, columns, size, width = sizes
    normed = tensors.gain_hh is not None and (plan.training or plan.cell_states)
    ldg = layout.row(size, tensors.weight_hr is not None, normed)
    chunks = chunks_of(plan, tensors, size)
    keep_gates = plan.training
    gates = pool.empty(rows.total if keep_gates else rows.longest(chunks), ldg, dtype=x.dtype)
    h = x.new_empty(rows.batch, columns)
    lstm = tensors.c0 is not None
    c_state = x.new_empty(rows.batch, hidden) if lstm else None
    c = pool.empty(rows.total, size, dtype=x.dtype) if lstm and (plan.training or plan.cell_states) else None
    if rows.source is None:  # the initial state next to the outputs: backward reads both as one matrix
        buffer = pool.empty(rows.total + rows.batch, width, dtype=x.dtype)
        y, y_before = outputs_in(plan, buffer), initial_state_in(plan, buffer)
    else:
        buffer = y = pool.empty(rows.total, width, dtype=x.dtype)
        y_before = None
    call, alive = native_call(plan, tensors, sizes, ldg)
    alive += [set_pointer(call, name, getattr(tensors, name)) for name in ("bias_ih", "bias_hh")]
    call.y, call.h_state = y.data_ptr(), h.data_ptr()
    if y_before is not None:
        call.y_before = y_before.data_ptr()
    if c_state is not None:
        call.c_state = c_state.data_ptr()
    if c is not None:
        call.c = c.data_ptr()
    if len(chunks) > 1:
        alive.append(packed_weights(plan, call, x, back=False))
    columns_of_inputs = slice(layout.inputs.start * size, layout.inputs.stop * size)
    for begin, end, first, last in chunks:
        skipped = 0 if keep_gates else first
        inputs = x if len(chunks) == 1 else x[first:last]
        inside = gates[first - skipped : last - skipped, columns_of_inputs]
        input_projection(plan, inputs, tensors.weight_ih, inside, size)
        call.begin, call.end = begin, end
        call.gates = gates.data_ptr() - skipped * ldg * x.itemsize
        plan.library.forward(call, x.dtype)
        call.packed_ready, call.y_before = 1, None
    return unpad(y, columns), h, c_state, Saved(gates, buffer, c)


def backward(
    plan: Plan,
    tensors: CallTensors,
    saved: Saved,
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
    needs: tuple[bool, ...],
    dcell_states: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients of `tensors`, in its order, from those of y, h_T, c_T and the c of every step; `needs`: which to compute."""
    rows, layout, x, sizes = plan.rows, LAYOUTS[plan.kind], tensors.x, sizes_of(plan, tensors)
    hidden, columns, size, width = sizes
    wanted = CallTensors(*needs)  # type: ignore[arg-type]
    ldg = saved.gates.shape[1]
    chunks = chunks_of(plan, tensors, size)
    dgates = pool.empty(rows.longest(chunks), ldg, dtype=x.dtype)
    dy, dh, dc = gradients
    dh0 = x.new_empty(rows.batch, columns)
    dc0 = None if tensors.c0 is None else x.new_empty(rows.batch, hidden)
    dbias = None if tensors.bias_ih is None else [x.new_zeros(layout.gates * hidden) for _ in range(2)]
    dpeephole = None if tensors.weight_peephole is None else torch.zeros_like(tensors.weight_peephole)
    gains = {}
    if tensors.gain_hh is not None:
        values = {name: getattr(tensors, name) for name in GAINS}
        gains = {name: x.new_zeros(value.shape) for name, value in values.items() if value is not None}
    call, alive = native_call(plan, tensors, sizes, ldg)
    alive += [set_pointer(call, f"d{name}", value) for name, value in gains.items()]
    alive += [
        set_pointer(call, "dy", dy, width),
        set_pointer(call, "dc", dcell_states, size),
        set_pointer(call, "dh_final", dh),
        set_pointer(call, "dc_final", dc),
    ]
    call.gates, call.y = saved.gates.data_ptr(), outputs_in(plan, saved.buffer).data_ptr()
    call.dh_state = dh0.data_ptr()
    if dc0 is not None and saved.c is not None:
        call.dc_state, call.c = dc0.data_ptr(), saved.c.data_ptr()
    if dbias is not None:
        call.dbias_ih, call.dbias_hh = dbias[0].data_ptr(), dbias[1].data_ptr()
    if dpeephole is not None:
        call.dpeephole = dpeephole.data_ptr()
    if len(chunks) > 1:
        alive.append(packed_weights(plan, call, x, back=True))
    before = recurrent_inputs(plan, tensors, saved, sizes) if wanted.weight_hh else None
    dx = _empty_like(x) if wanted.x else None
    dw_ih = _empty_like(tensors.weight_ih) if wanted.weight_ih else None
    dw_hh = _empty_like(tensors.weight_hh) if wanted.weight_hh else None
    dw_hr = _empty_like(tensors.weight_hr) if wanted.weight_hr and tensors.weight_hr is not None else None
    # Layer norm's backward separates the two maps: the gradient of W_ih x is stored after the row.
    after = layout.blocks + (tensors.weight_hr is not None)
    blocks = layout.inputs if tensors.gain_ih is None else slice(after, after + layout.gates)
    columns_of_inputs = slice(blocks.start * size, blocks.stop * size)
    native = uses_library(plan, min(x.shape[1], columns))
    started = False
    for begin, end, first, last in reversed(chunks):
        call.begin, call.end = begin, end
        call.dgates = dgates.data_ptr() - first * ldg * x.itemsize
        plan.library.backward(call, x.dtype)
        call.packed_ready = 1
        rows_here, count = slice(first, last), last - first
        # Denormal factors are slow. The library's own products flush them by themselves.
        flush = None if native else plan.library.flush_denormals()
        inputs = dgates[:count, columns_of_inputs]
        if dx is not None:
            input_gradient(plan, inputs, tensors.weight_ih, dx[rows_here], size)
        if dw_ih is not None:
            accumulate_weight_gradient(plan, inputs, x[rows_here], dw_ih, size, not started)
        if dw_hh is not None and before is not None:
            for source, place, reads_gates in layout.recurrent:
                through = dgates[:count, source.start * size : source.stop * size]
                target = dw_hh[place.start * hidden : place.stop * hidden]
                read = saved.gates[rows_here, :size] if reads_gates else before[rows_here]
                accumulate_weight_gradient(plan, through, read, target, size, not started)
        if dw_hr is not None:
            projected = slice(layout.blocks * size, layout.blocks * size + size)
            through = dgates[:count, projected][:, :columns]
            accumulate_weight_gradient(
                plan, through, saved.gates[rows_here, projected], dw_hr, columns, not started
            )
        if flush is not None:
            plan.library.restore_denormals(*flush)
        started = True
    db_ih, db_hh = (None, None) if dbias is None else (dbias[0], dbias[1])
    dgains = tuple(gains.get(name) for name in GAINS)
    return dx, dh0, dc0, dw_ih, dw_hh, db_ih, db_hh, dpeephole, None, dw_hr, *dgains


def _empty_like(value: Tensor) -> Tensor:
    """Contiguous, uninitialized."""
    return torch.empty_like(value, memory_format=torch.contiguous_format)


def input_projection(plan: Plan, x: Tensor, weight: Tensor, gates: Tensor, size: int) -> None:
    """Write x W^T to the rows of gates [n, gates * size], with zeros in the padding of each gate; x [n, D], W [gates * H, D].

    A row of gates is made of blocks of `size` columns, one for each gate, of which the first H are real.
    """
    hidden = len(weight) * size // gates.shape[1]
    if uses_library(plan, weight.shape[1]):
        return _multiply(plan, x, weight, gates, (COLUMNS_OF_C, hidden, size), transposed_b=1)
    x, low = _factors(plan, x, weight)
    for place, rows in _blocks(weight, hidden, size):
        _mm(x, low[rows].t(), gates[:, place], False)
    # Nonzero padding would pass an infinite input on to every unit.
    if size != hidden:
        gates.view(len(gates), gates.shape[1] // size, size)[..., hidden:].zero_()


def input_gradient(plan: Plan, dgates: Tensor, weight: Tensor, dx: Tensor, size: int) -> None:
    """Write d W to dx [n, D], for rows d of gate gradients."""
    hidden = len(weight) * size // dgates.shape[1]
    if uses_library(plan, weight.shape[1]):
        return _multiply(plan, dgates, weight, dx, (DEPTH_OF_A, hidden, size))
    dgates, low = _factors(plan, dgates, weight)
    for place, rows in _blocks(weight, hidden, size):
        _mm(dgates[:, place], low[rows], dx, rows.start > 0)


def accumulate_weight_gradient(
    plan: Plan, dgates: Tensor, read: Tensor, dweight: Tensor, size: int, first: bool
) -> None:
    """Add d^T r to dW [gates * H, K], uninitialized at `first`; r [n, >= K] is what the weights were multiplied by."""
    hidden = len(dweight) * size // dgates.shape[1]
    read = read[:, : dweight.shape[1]]
    if not len(read):  # a product over no rows is zero
        if first:
            dweight.zero_()
        return None
    if uses_library(plan, dweight.shape[1]):
        blocked = (ROWS_OF_A, hidden, size)
        return _multiply(plan, dgates, read, dweight, blocked, transposed_a=1, accumulate=not first)
    dgates, read = _factors(plan, dgates, read)
    for place, rows in _blocks(dweight, hidden, size):
        _mm(dgates[:, place].t(), read, dweight[rows], not first)


def uses_library(plan: Plan, columns: int) -> bool:
    """Whether the library computes a product with a matrix of this many columns, and not torch's `mm`.

    Both give the same results up to rounding; the library's (csrc/matmul.hpp) needs no copy of padded matrices and runs where it
    is faster, with AVX2. THROUGHTIME_PRODUCTS=torch or native overrides that. Factors in bfloat16, and matrices of one
    column, are always torch's.
    """
    return plan.library.multiplies and not plan.bf16 and columns > 1


def _blocks(weight: Tensor, hidden: int, size: int) -> Iterator[tuple[slice, slice]]:
    """For each gate its columns in a row of gates and its rows in the weights; all gates at once where nothing is padded."""
    if size == hidden:
        yield slice(None), slice(0, len(weight))
    else:
        for gate in range(len(weight) // hidden):
            yield slice(gate * size, gate * size + hidden), slice(gate * hidden, (gate + 1) * hidden)


def _factors(plan: Plan, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """In the dtype that they are multiplied in. An outer product has no sums: it is left in float32."""
    return (a.bfloat16(), b.bfloat16()) if plan.bf16 and a.shape[1] > 1 else (a, b)


def _mm(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    """Write a b to `out`, or add it."""
    if a.dtype != out.dtype:
        product = torch.mm(a, b)
        out.add_(product) if add else out.copy_(product)
    elif a.shape[1] == 1 and not add:  # an outer product: many times slower as a matrix product
        torch.mul(a, b, out=out)
    else:
        torch.addmm(out, a, b, beta=int(add), out=out)


def _multiply(
    plan: Plan,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    blocked: tuple[int, int, int],
    transposed_a: int = 0,
    transposed_b: int = 0,
    accumulate: bool = False,
) -> None:
    """C (+)= A B in the library; `blocked`: which dimension is in blocks, their real and their padded size."""
    a, b = _as_rows(a), _as_rows(b)
    dimension, block, padded = blocked
    plan.library.multiply(
        NativeProduct(
            rows=len(c),
            columns=b.shape[1 - transposed_b],
            depth=b.shape[transposed_b],
            lda=a.stride(0),
            ldb=b.stride(0),
            ldc=c.stride(0),
            transposed_a=transposed_a,
            transposed_b=transposed_b,
            blocked=dimension,
            block=block,
            padded=padded,
            accumulate=accumulate,
            threads=torch.get_num_threads(),
            a=a.data_ptr(),
            b=b.data_ptr(),
            c=c.data_ptr(),
        ),
        c.dtype,
    )


def _as_rows(matrix: Tensor) -> Tensor:
    """With contiguous rows, as its memory has them."""
    matrix = matrix.resolve_neg()
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
