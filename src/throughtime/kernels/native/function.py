"""The native recurrence as one differentiable step of torch's autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from throughtime.cells.recurrence import Recurrence
from throughtime.kernels.native import compute
from throughtime.kernels.native.compute import Given, Kept, Plan
from throughtime.kernels.native.library import Library, load
from throughtime.kernels.native.rows import Rows
from throughtime.kernels.reference import unroll

WEIGHTS = Given._fields[3:]


class NativeRecurrence(torch.autograd.Function):
    """(rows, recurrence, reverse, *Given) -> y [N, H], h_T, c_T.

    A second derivative (create_graph=True) is computed by the reference from the same inputs.
    """

    @staticmethod
    def forward(ctx: Any, rows: Rows, recurrence: Recurrence, reverse: bool, *tensors: Tensor | None) -> Any:
        library = load()
        assert isinstance(library, Library)  # dispatch has asked
        nonlinearity = getattr(recurrence, "nonlinearity", "tanh")
        plan = Plan(library, recurrence.kind, nonlinearity, rows, reverse, any(ctx.needs_input_grad))
        y, h, c, kept = compute.forward(plan, Given(*tensors))  # type: ignore[arg-type]
        if plan.training:
            ctx.plan, ctx.recurrence = plan, recurrence
            ctx.save_for_backward(*tensors, *kept)
        return y, h, c

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad[3:]
        given, kept = Given(*saved[: len(needs)]), Kept(*saved[len(needs) :])
        if torch.is_grad_enabled():
            found = _twice_differentiable(ctx.plan, ctx.recurrence, given, gradients, needs)
        else:
            dy, dh, dc = gradients
            found = compute.backward(ctx.plan, given, kept, (dy, dh, dc), needs)
        return (None, None, None, *found)


def run(
    recurrence: Recurrence, rows: Rows, x: Tensor, state: tuple[Tensor, ...], reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction of one layer on packed rows x [N, D]; `state` has its sequences in the order of the rows."""
    weights = [getattr(recurrence, name, None) for name in WEIGHTS]
    c0 = state[1] if len(state) > 1 else None
    y, h, c = NativeRecurrence.apply(rows, recurrence, reverse, x, state[0], c0, *weights)  # type: ignore[no-untyped-call]
    return y, (h,) if c is None else (h, c)


def _twice_differentiable(
    plan: Plan,
    recurrence: Recurrence,
    given: Given,
    gradients: tuple[Tensor | None, ...],
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """The same gradients with a graph of their own, through the reference."""
    options = {
        name: getattr(recurrence, name)
        for name in ("nonlinearity", "reset_after")
        if hasattr(recurrence, name)
    }
    bound = type(recurrence).bind(dict(zip(WEIGHTS, given[3:], strict=True)), **options)
    state = (given.h0,) if given.c0 is None else (given.h0, given.c0)
    rows, lengths, x = plan.rows, None, given.x
    if rows.source is not None:
        # The sequences stay in the order of the rows, from long to short.
        lengths = (rows.offsets.diff()[:, None] > torch.arange(rows.batch)).sum(0)
        real = torch.arange(rows.steps)[:, None] < lengths
        source = real.flatten().nonzero().squeeze(1)
        x = x.new_zeros(rows.steps * rows.batch, x.shape[-1]).index_copy(0, source, x)
    y, final = unroll(bound, x.view(rows.steps, rows.batch, -1), state, lengths=lengths, reverse=plan.reverse)
    y = y.reshape(-1, y.shape[-1])
    outputs = [y if lengths is None else y.index_select(0, source), *final]
    pairs = [(o, g) for o, g in zip(outputs, gradients, strict=False) if g is not None and o.requires_grad]
    wanted = [value for value, need in zip(given, needs, strict=True) if need and value is not None]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True
        )
    )
    return tuple(next(found) if need else None for need in needs)
