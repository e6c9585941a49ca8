"""The native recurrence as one differentiable operation of torch's autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.cells.gru import GRURecurrence
from throughtime.cells.lstm import LSTMRecurrence
from throughtime.cells.recurrence import Recurrence
from throughtime.cells.rnn import RNNRecurrence
from throughtime.kernels.native.library import Library, load
from throughtime.kernels.native.recurrence import compute, precision
from throughtime.kernels.native.recurrence.call import (
    WEIGHTS,
    CallTensors,
    Plan,
    Saved,
    check,
    kind_of,
    low_dtype,
    pack_zoneout,
    present_of,
    restore_absent,
)
from throughtime.kernels.native.recurrence.rows import Rows, is_batched
from throughtime.kernels.reference import Zoneout, unroll

_RECURRENCES: dict[str, tuple[type[Recurrence], dict[str, bool]]] = {
    "rnn": (RNNRecurrence, {}),
    "gru": (GRURecurrence, {"reset_after": True}),
    "gru reset before": (GRURecurrence, {"reset_after": False}),
    "lstm": (LSTMRecurrence, {}),
}


class NativeRecurrence(torch.autograd.Function):
    """(plan, which tensors there are, *those) -> y [N, H], h_T, c_T, and with `plan.cell_states` c [N, H].

    A second derivative (create_graph=True) is computed by the reference from the same inputs.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, present: tuple[bool, ...], *tensors: Tensor) -> Any:
        *results, saved = _forward(plan, CallTensors(*restore_absent(present, tensors)))
        ctx.plan, ctx.present = plan, present
        ctx.save_for_backward(*tensors, *saved)
        ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        present: tuple[bool, ...] = ctx.present
        saved, count = ctx.saved_tensors, sum(present)
        tensors = CallTensors(*restore_absent(present, saved[:count]))
        needs = restore_absent(present, ctx.needs_input_grad[2:], False)
        batched = any(g is not None and is_batched(g) for g in gradients)
        if torch.is_grad_enabled() or batched:
            with torch.enable_grad(), precision.without_autocast():
                results = _reference_gradients(ctx.plan, tensors, gradients, needs)
        else:
            dy, dh, dc, dcell_states = gradients
            results = compute.backward(
                ctx.plan, tensors, Saved(*saved[count:]), (dy, dh, dc), needs, dcell_states
            )
        return (None, None, *(g for g, there in zip(results, present, strict=True) if there))


def _forward(plan: Plan, tensors: CallTensors) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Saved]:
    y, h, c, saved = compute.forward(plan, tensors)
    if not plan.cell_states:
        return y, h, c, None, saved
    assert saved.c is not None
    # A copy: what was saved for backward must not be an output that a caller may write to.
    return y, h, c, saved.c[:, : tensors.weight_hh.shape[0] // 4].clone(), saved


def run(
    recurrence: Recurrence,
    rows: Rows,
    x: Tensor,
    state: tuple[Tensor, ...],
    reverse: bool,
    zoneout: Zoneout | None = None,
    *,
    cell_states: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
    """One direction of one layer on packed rows x [N, D].

    `state` has its sequences in the order of the rows, the masks of `zoneout` in the caller's.
    Returns: outputs [N, H], the final state, and with `cell_states` an LSTM's c of every step [N, H], differentiable too.
    Raises: RuntimeError for tensors that do not belong together.
    """
    weights = [getattr(recurrence, name, None) for name in WEIGHTS]
    tensors = CallTensors(x, state[0], state[1] if len(state) > 1 else None, *weights)  # type: ignore[arg-type]
    low = low_dtype(x)
    if low is None:
        return _run(recurrence, rows, tensors, reverse, zoneout, cell_states, 0)
    with precision.without_autocast():
        lowered = precision.lower(tensors, low)
        number = precision.number_for(low)
        y, final, every_c = _run(recurrence, rows, lowered, reverse, zoneout, cell_states, number)
    dtype = tensors.weight_hh.dtype
    return (
        y.to(low),
        tuple(value.to(dtype) for value in final),
        None if every_c is None else every_c.to(dtype),
    )


def _run(
    recurrence: Recurrence,
    rows: Rows,
    tensors: CallTensors,
    reverse: bool,
    zoneout: Zoneout | None,
    cell_states: bool,
    bf16: int,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor | None]:
    library, kind = load(), kind_of(recurrence)
    assert isinstance(library, Library)  # dispatch has asked
    check(tensors, kind, rows.batch)
    present = [value for value in tensors if value is not None]
    training = torch.is_grad_enabled() and any(value.requires_grad for value in present)
    nonlinearity = getattr(recurrence, "nonlinearity", "tanh")
    masks = pack_zoneout(zoneout, rows)
    plan = Plan(library, kind, nonlinearity, rows, reverse, training, cell_states, masks, bf16)
    if training:
        y, h, c, every_c = NativeRecurrence.apply(plan, present_of(tensors), *present)  # type: ignore[no-untyped-call]
    else:
        y, h, c, every_c, _ = _forward(plan, tensors)
    return y, (h,) if c is None else (h, c), every_c


def _reference_gradients(
    plan: Plan, tensors: CallTensors, gradients: tuple[Tensor | None, ...], needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients as `compute.backward` gives them, themselves differentiable, through the reference."""
    # The sequences stay in the order of the rows, from long to short.
    rows = plan.rows.sorted_rows()
    lengths = (
        None
        if rows.source is None
        else (rows.offsets.diff()[:, None] > torch.arange(rows.batch, device="cpu")).sum(0)
    )
    zoneout = plan.zoneout
    if zoneout is not None and zoneout.keep is not None:
        zoneout = Zoneout(zoneout.rates, tuple(None if m is None else rows.unpack(m) for m in zoneout.keep))
    every: list[Tensor] = [tensors.x] * rows.steps

    def observe(t: int, _before: State, _u: Tensor, after: State) -> None:
        every[t] = after[-1]

    y, final = unroll(
        bind(plan.kind, plan.nonlinearity, tensors[3:]),
        rows.unpack(tensors.x),
        (tensors.h0,) if tensors.c0 is None else (tensors.h0, tensors.c0),
        lengths=lengths,
        reverse=plan.reverse,
        zoneout=zoneout,
        observe=observe,
    )
    outputs = [rows.pack(y), final[0], final[-1], rows.pack(torch.stack(every))]
    found = iter(differentiable_gradients(outputs, gradients, tensors, needs))
    return tuple(next(found) if need else None for need in needs)


def bind(kind: str, nonlinearity: str, weights: Sequence[Tensor | None]) -> Recurrence:
    """The equation of this kind over weights in the order of WEIGHTS, for the reference."""
    recurrence, options = _RECURRENCES[kind]
    return recurrence.bind(dict(zip(WEIGHTS, weights, strict=True)), nonlinearity=nonlinearity, **options)


def differentiable_gradients(
    outputs: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients of the needed tensors, with a graph of their own; None for an output without one."""
    pairs = [(o, g) for o, g in zip(outputs, gradients, strict=False) if g is not None and o.requires_grad]
    wanted = [value for value, need in zip(tensors, needs, strict=True) if need and value is not None]
    return torch.autograd.grad(
        [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True
    )
