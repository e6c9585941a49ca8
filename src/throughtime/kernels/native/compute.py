"""Forward and backward of one direction of one layer on packed rows, as functions of tensors.

Native code runs what must wait for the state. The products over all steps (input projection, dW, dx) are torch's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.kernels.native.layout import (
    LAYOUTS,
    Sizes,
    bias_gradients,
    cut,
    cut_rows,
    gate_bias,
    pad,
    pad_blocks,
    pad_rows,
    recurrent_gradient,
)
from throughtime.kernels.native.library import Library
from throughtime.kernels.native.memory import pool
from throughtime.kernels.native.options import Options, Zone, run
from throughtime.kernels.native.rows import Rows

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


class Kept(NamedTuple):
    """What backward needs besides the given tensors."""

    gates: Tensor  # [N, ldg] activated
    buffer: Tensor  # outputs, padded; with a full batch the initial state lies before (reverse: behind) them
    c: Tensor | None  # [N, H] memory of every step


def _sizes(plan: Plan, given: Given) -> Sizes:
    rows, columns = given.weight_hh.shape
    hidden, wide = rows // LAYOUTS[plan.kind].gates, given.x.dtype == torch.float64
    return Sizes(hidden, columns, plan.library.pad(hidden, wide), plan.library.pad(columns, wide))


def _options(plan: Plan, given: Given, sizes: Sizes) -> Options:
    weight_hr = given.weight_hr
    if weight_hr is not None:
        weight_hr = pad(pad_rows(weight_hr, 1, sizes.columns, sizes.width), sizes.size)
    return Options(sizes.width, plan.kind == "gru reset before", plan.zone, weight_hr)


def _numbers(plan: Plan, hidden: int, ldg: int) -> dict[str, int]:
    return {
        "cell": LAYOUTS[plan.kind].cell,
        "activation": ACTIVATIONS[plan.nonlinearity],
        "steps": plan.rows.steps,
        "batch": plan.rows.batch,
        "hidden": hidden,
        "reverse": int(plan.reverse),
        "training": int(plan.training or plan.memories),
        "threads": torch.get_num_threads(),
        "ldg": ldg,
    }


def _outputs(plan: Plan, buffer: Tensor) -> Tensor:
    """The rows of `buffer` that are outputs."""
    if plan.rows.source is not None:
        return buffer
    return buffer[: plan.rows.total] if plan.reverse else buffer[plan.rows.batch :]


def check(given: Given) -> None:
    """The kernel reads memory as it is told to: every tensor must be on the CPU and of x's dtype.

    Raises: RuntimeError naming the one that is not.
    """
    for name, value in zip(Given._fields, given, strict=True):
        if value is not None and (value.dtype != given.x.dtype or value.device.type != "cpu"):
            raise RuntimeError(
                f"{name} must be {given.x.dtype} on the CPU, as the input is, got {value.dtype} on {value.device}: "
                "convert it with .to()"
            )


def forward(plan: Plan, given: Given) -> tuple[Tensor, Tensor, Tensor | None, Kept]:
    """Returns y [N, H], h_T and c_T [B, H], and what backward needs."""
    rows, layout, x, sizes = plan.rows, LAYOUTS[plan.kind], given.x, _sizes(plan, given)
    hidden, columns, size, width = sizes
    # Past a power of two, whose multiples would fight for the same cache lines.
    ldg = (layout.blocks + (given.weight_hr is not None)) * size + 16
    gates = pool.empty(rows.total, ldg, dtype=x.dtype)
    inputs = gates[:, layout.inputs.start * size : layout.inputs.stop * size]
    w_ih = pad_rows(given.weight_ih, layout.gates, hidden, size).t()
    # With one feature the product is an outer one, which the matrix product does many times slower.
    (torch.mul if x.shape[1] == 1 else torch.mm)(x, w_ih, out=inputs)
    h0 = pad(given.h0, width)
    h_state = h0.clone()
    c0 = c_state = c = None
    if given.c0 is not None:
        c0 = pad(given.c0, size)
        c_state = c0.clone()
        c = pool.empty(rows.total, size, dtype=x.dtype) if plan.training or plan.memories else None
    if rows.source is None:
        buffer = pool.empty(rows.total + rows.batch, width, dtype=x.dtype)
        buffer[rows.total if plan.reverse else 0 :][: rows.batch] = h0
    else:
        buffer = pool.empty(rows.total, width, dtype=x.dtype)
    y = _outputs(plan, buffer)
    run(
        plan.library,
        "forward",
        x.dtype == torch.float64,
        _numbers(plan, size, ldg),
        {
            "offsets": rows.offsets,
            "weight_hh": pad(pad_rows(given.weight_hh, layout.gates, hidden, size), width),
            "bias": gate_bias(plan.kind, given.bias_ih, given.bias_hh, hidden, size),
            "peephole": _peephole(given, hidden, size),
            "h_mask": None if given.h_mask is None else pad(given.h_mask, width),
            "gates": gates,
            "y": y,
            "c": c,
            "h_state": h_state,
            "c_state": c_state,
            "h0": h0,
            "c0": c0,
        },
        _options(plan, given, sizes),
    )
    c_final = None if c_state is None else cut(c_state, hidden)
    return cut(y, columns), cut(h_state, columns), c_final, Kept(gates, buffer, c)


def backward(
    plan: Plan,
    given: Given,
    kept: Kept,
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
    needs: tuple[bool, ...],
    dmemories: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients of `given`, in its order, from those of y, h_T, c_T and all c; `needs` says which products to make."""
    rows, layout, x, sizes = plan.rows, LAYOUTS[plan.kind], given.x, _sizes(plan, given)
    hidden, columns, size, width = sizes
    wanted = Given(*needs)  # type: ignore[arg-type]
    dy, dh, dc = gradients
    dh_state = _state_gradient(dh, given.h0, width)
    dc_state = None if given.c0 is None else _state_gradient(dc, given.c0, size)
    dgates = pool.empty(*kept.gates.shape, dtype=x.dtype)
    dbias = x.new_empty(layout.blocks * size)
    dpeephole = None if given.weight_peephole is None else x.new_empty(3 * size)
    h_mask = None if given.h_mask is None else pad(given.h_mask, width)
    h0 = pad(given.h0, width)
    dy = None if dy is None else pad(dy, width)
    dmemories = None if dmemories is None else pad(dmemories, size)
    y = _outputs(plan, kept.buffer)
    run(
        plan.library,
        "backward",
        x.dtype == torch.float64,
        _numbers(plan, size, kept.gates.shape[1]),
        {
            "offsets": rows.offsets,
            "weight_hh": pad(pad_rows(given.weight_hh, layout.gates, hidden, size), width),
            "peephole": _peephole(given, hidden, size),
            "h_mask": h_mask,
            "gates": kept.gates,
            "y": y,
            "c": kept.c,
            "h0": h0,
            "c0": None if given.c0 is None else pad(given.c0, size),
            "dy": dy,
            "dc": dmemories,
            "dgates": dgates,
            "dh_state": dh_state,
            "dc_state": dc_state,
            "dbias": dbias,
            "dpeephole": dpeephole,
        },
        _options(plan, given, sizes),
    )
    dx = dw_ih = dw_hh = dw_hr = None
    inputs = dgates[:, layout.inputs.start * size : layout.inputs.stop * size]
    through = dgates[:, layout.hidden.start * size : layout.hidden.stop * size]
    with plan.library.flushed_denormals():  # what a vanishing gradient is multiplied with vanishes too
        if wanted.x:
            dx = torch.mm(inputs, pad_rows(given.weight_ih, layout.gates, hidden, size))
        if wanted.weight_ih:
            dw_ih = cut_rows(torch.mm(inputs.t(), x), layout.gates, hidden, size)
        if wanted.weight_hh:
            if rows.source is not None:
                before = rows.before(y, h0, plan.reverse)
            else:
                before = kept.buffer[rows.batch :] if plan.reverse else kept.buffer[: rows.total]
            if h_mask is not None:
                before = before * h_mask.index_select(0, rows.sequences())
            dw_hh = recurrent_gradient(plan.kind, through, before, kept.gates, sizes)
        if wanted.weight_hr:
            projected = slice(layout.blocks * size, layout.blocks * size + size)
            dw_hr = torch.mm(dgates[:, projected][:, :columns].t(), kept.gates[:, projected])[:, :hidden]
    biased = given.bias_ih is not None
    db_ih, db_hh = bias_gradients(plan.kind, dbias, hidden, size) if biased else (None, None)
    dp = None if dpeephole is None else dpeephole.view(3, size)[:, :hidden].reshape(-1)
    dc0 = None if dc_state is None else cut(dc_state, hidden)
    return dx, cut(dh_state, columns), dc0, dw_ih, dw_hh, db_ih, db_hh, dp, None, dw_hr


def _peephole(given: Given, hidden: int, size: int) -> Tensor | None:
    return None if given.weight_peephole is None else pad_blocks(given.weight_peephole, 3, hidden, size)


def _state_gradient(gradient: Tensor | None, state: Tensor, size: int) -> Tensor:
    """The final state's gradient, in memory that the kernel may write."""
    if gradient is None:
        return state.new_zeros(state.shape[0], size)
    padded = pad(gradient, size)
    return padded.clone() if padded.data_ptr() == gradient.data_ptr() else padded
