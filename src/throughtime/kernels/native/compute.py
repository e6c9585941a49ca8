"""Forward and backward of one direction of one layer on packed rows, as functions of tensors.

Native code runs what must wait for the state. The products over all steps (input projection, dW, dx) are torch's.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.kernels.native.layout import (
    LAYOUTS,
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
from throughtime.kernels.native.rows import Rows

ACTIVATIONS = {"tanh": 0, "relu": 1, "sigmoid": 2, "identity": 3}


class Plan(NamedTuple):
    """What a call is, besides its tensors."""

    library: Library
    kind: str  # "rnn", "gru", "lstm"
    nonlinearity: str  # of the RNN
    rows: Rows
    reverse: bool
    training: bool


class Given(NamedTuple):
    """The tensors of a call."""

    x: Tensor  # [N, D]
    h0: Tensor  # [B, H]
    c0: Tensor | None
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    weight_peephole: Tensor | None
    h_mask: Tensor | None


class Kept(NamedTuple):
    """What backward needs besides the given tensors."""

    gates: Tensor  # [N, ldg] activated
    buffer: Tensor  # outputs, padded; with a full batch the initial state lies before (reverse: behind) them
    c: Tensor | None  # [N, H] memory of every step


def _numbers(plan: Plan, hidden: int, ldg: int) -> dict[str, int]:
    return {
        "cell": LAYOUTS[plan.kind].cell,
        "activation": ACTIVATIONS[plan.nonlinearity],
        "steps": plan.rows.steps,
        "batch": plan.rows.batch,
        "hidden": hidden,
        "reverse": int(plan.reverse),
        "training": int(plan.training),
        "threads": torch.get_num_threads(),
        "ldg": ldg,
    }


def _outputs(plan: Plan, buffer: Tensor) -> Tensor:
    """The rows of `buffer` that are outputs."""
    total, batch = plan.rows.total, plan.rows.batch
    return (
        buffer
        if plan.rows.source is not None
        else buffer[:total]
        if plan.reverse
        else buffer[batch : batch + total]
    )


def forward(plan: Plan, given: Given) -> tuple[Tensor, Tensor, Tensor | None, Kept]:
    """Returns y [N, H], h_T and c_T [B, H], and what backward needs."""
    rows, layout, x = plan.rows, LAYOUTS[plan.kind], given.x
    hidden = given.weight_hh.shape[1]
    size = plan.library.pad(hidden, x.dtype == torch.float64)
    ldg = (
        layout.blocks * size + 16
    )  # past a power of two, whose multiples would fight for the same cache lines
    gates = x.new_empty(rows.total, ldg)
    inputs = gates[:, layout.inputs.start * size : layout.inputs.stop * size]
    torch.mm(x, pad_rows(given.weight_ih, layout.gates, hidden, size).t(), out=inputs)
    h0 = pad(given.h0, size)
    h_state = h0.clone()
    c0 = c_state = c = None
    if given.c0 is not None:
        c0 = pad(given.c0, size)
        c_state = c0.clone()
        c = x.new_empty(rows.total, size) if plan.training else None
    if rows.source is None:
        buffer = x.new_empty(rows.total + rows.batch, size)
        buffer[rows.total if plan.reverse else 0 :][: rows.batch] = h0
    else:
        buffer = x.new_empty(rows.total, size)
    y = _outputs(plan, buffer)
    plan.library.run(
        "forward",
        x.dtype == torch.float64,
        _numbers(plan, size, ldg),
        {
            "offsets": rows.offsets,
            "weight_hh": pad(pad_rows(given.weight_hh, layout.gates, hidden, size), size),
            "bias": gate_bias(plan.kind, given.bias_ih, given.bias_hh, hidden, size),
            "peephole": _peephole(given, hidden, size),
            "h_mask": None if given.h_mask is None else pad(given.h_mask, size),
            "gates": gates,
            "y": y,
            "c": c,
            "h_state": h_state,
            "c_state": c_state,
            "h0": h0,
            "c0": c0,
        },
    )
    c_final = None if c_state is None else cut(c_state, hidden)
    return cut(y, hidden), cut(h_state, hidden), c_final, Kept(gates, buffer, c)


def backward(
    plan: Plan,
    given: Given,
    kept: Kept,
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """The gradients of `given`, in its order, from those of y, h_T and c_T; `needs` says which products to make."""
    rows, layout, x = plan.rows, LAYOUTS[plan.kind], given.x
    hidden = given.weight_hh.shape[1]
    size = kept.buffer.shape[1]
    wanted = Given(*needs)  # type: ignore[arg-type]
    dy, dh, dc = gradients
    dh_state = _state_gradient(dh, given.h0, size)
    dc_state = None if given.c0 is None else _state_gradient(dc, given.c0, size)
    dgates = _workspace(x, rows.total, kept.gates.shape[1])
    dbias = x.new_empty(layout.blocks * size)
    dpeephole = None if given.weight_peephole is None else x.new_empty(3 * size)
    h_mask = None if given.h_mask is None else pad(given.h_mask, size)
    h0 = pad(given.h0, size)
    y = _outputs(plan, kept.buffer)
    plan.library.run(
        "backward",
        x.dtype == torch.float64,
        _numbers(plan, size, kept.gates.shape[1]),
        {
            "offsets": rows.offsets,
            "weight_hh": pad(pad_rows(given.weight_hh, layout.gates, hidden, size), size),
            "peephole": _peephole(given, hidden, size),
            "h_mask": h_mask,
            "gates": kept.gates,
            "y": y,
            "c": kept.c,
            "h0": h0,
            "c0": None if given.c0 is None else pad(given.c0, size),
            "dy": None if dy is None else pad(dy, size),
            "dgates": dgates,
            "dh_state": dh_state,
            "dc_state": dc_state,
            "dbias": dbias,
            "dpeephole": dpeephole,
        },
    )
    dx = dw_ih = dw_hh = None
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
            dw_hh = recurrent_gradient(plan.kind, torch.mm(through.t(), before), hidden, size)
    db_ih = db_hh = None
    if given.bias_ih is not None:
        db_ih, db_hh = bias_gradients(plan.kind, dbias, hidden, size)
    dp = None if dpeephole is None else dpeephole.view(3, size)[:, :hidden].reshape(-1)
    dc0 = None if dc_state is None else cut(dc_state, hidden)
    return dx, cut(dh_state, hidden), dc0, dw_ih, dw_hh, db_ih, db_hh, dp, None


def _peephole(given: Given, hidden: int, size: int) -> Tensor | None:
    return None if given.weight_peephole is None else pad_blocks(given.weight_peephole, 3, hidden, size)


def _state_gradient(gradient: Tensor | None, state: Tensor, size: int) -> Tensor:
    """The final state's gradient, in memory that the kernel may write."""
    if gradient is None:
        return state.new_zeros(state.shape[0], size)
    padded = pad(gradient, size)
    return padded.clone() if padded.data_ptr() == gradient.data_ptr() else padded


class _Workspaces(threading.local):
    """Memory for one backward pass, kept for the next: fresh pages would cost more than the arithmetic at long T."""

    def __init__(self) -> None:
        self.kept: dict[torch.dtype, Tensor] = {}


_workspaces = _Workspaces()


def _workspace(like: Tensor, rows: int, columns: int) -> Tensor:
    kept = _workspaces.kept.get(like.dtype)
    if kept is None or kept.numel() < rows * columns:
        kept = _workspaces.kept[like.dtype] = like.new_empty(rows * columns)
    return kept[: rows * columns].view(rows, columns)
