"""The native recurrence as one differentiable step of torch's autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.cells.recurrence import Recurrence
from throughtime.kernels.native import compute, precision
from throughtime.kernels.native.compute import Given, Kept, Plan
from throughtime.kernels.native.layout import kind_of
from throughtime.kernels.native.library import Library, load
from throughtime.kernels.native.mapped import is_mapped
from throughtime.kernels.native.rows import Rows
from throughtime.kernels.native.zone import Zone
from throughtime.kernels.reference import Zoneout, unroll

WEIGHTS = Given._fields[3:]


class Job(NamedTuple):
    """What is not a tensor in a call. Absent tensors are not handed to autograd, which looks at each argument at some cost."""

    rows: Rows
    recurrence: Recurrence
    reverse: bool
    zone: Zone | None
    memories: bool  # of every step are wanted
    present: tuple[bool, ...]  # which of the tensors of Given there are
    bf16: int = 0  # as in Plan

    def plan(self, training: bool) -> Plan:
        """This job for `compute`."""
        library, recurrence = load(), self.recurrence
        assert isinstance(library, Library)  # dispatch has asked
        nonlinearity = getattr(recurrence, "nonlinearity", "tanh")
        options = self.memories, self.zone, self.bf16
        return Plan(library, kind_of(recurrence), nonlinearity, self.rows, self.reverse, training, *options)

    def given(self, tensors: Sequence[Tensor]) -> Given:
        """The tensors that there are, each in its place."""
        each = iter(tensors)
        return Given(*(next(each) if there else None for there in self.present))  # type: ignore[arg-type]


class NativeRecurrence(torch.autograd.Function):
    """(job, *tensors that there are) -> y [N, H], h_T, c_T, and with `memories` c [N, H].

    A second derivative (create_graph=True) is computed by the reference from the same inputs.
    """

    @staticmethod
    def forward(ctx: Any, job: Job, *tensors: Tensor) -> Any:
        plan = job.plan(any(ctx.needs_input_grad))
        *found, kept = _forward(plan, job.given(tensors))
        if plan.training:
            ctx.plan, ctx.job = plan, job
            ctx.save_for_backward(*tensors, *kept)
        ctx.set_materialize_grads(False)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        job: Job = ctx.job
        saved, count = ctx.saved_tensors, sum(job.present)
        given, kept = job.given(saved[:count]), Kept(*saved[count:])
        each = iter(ctx.needs_input_grad[1:])
        needs = tuple(next(each) if there else False for there in job.present)
        mapped = any(g is not None and is_mapped(g) for g in gradients)
        if torch.is_grad_enabled() or mapped:
            with torch.enable_grad(), precision.without_autocast():
                found = _twice_differentiable(ctx.plan, job.recurrence, given, gradients, needs)
        else:
            dy, dh, dc, dmemories = gradients
            found = compute.backward(ctx.plan, given, kept, (dy, dh, dc), needs, dmemories)
        return (None, *(g for g, there in zip(found, job.present, strict=True) if there))


def _forward(plan: Plan, given: Given) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Kept]:
    y, h, c, kept = compute.forward(plan, given)
    if not plan.memories:
        return y, h, c, None, kept
    assert kept.c is not None
    # A copy: what was saved for backward must not be an output that a caller may write into.
    return y, h, c, kept.c[:, : given.weight_hh.shape[0] // 4].clone(), kept


def run(
    recurrence: Recurrence,
    rows: Rows,
    x: Tensor,
    state: tuple[Tensor, ...],
    reverse: bool,
    zoneout: Zoneout | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction of one layer on packed rows x [N, D].

    `state` has its sequences in the order of the rows, the masks of `zoneout` in the caller's.
    """
    y, final, _ = _apply(recurrence, rows, x, state, reverse, zoneout, False)
    return y, final


def run_with_memories(
    recurrence: Recurrence,
    rows: Rows,
    x: Tensor,
    state: tuple[Tensor, ...],
    reverse: bool,
    zoneout: Zoneout | None = None,
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """As `run`, for an LSTM, and its memory after every step [N, H], differentiable too."""
    return _apply(recurrence, rows, x, state, reverse, zoneout, True)


def _apply(
    recurrence: Recurrence,
    rows: Rows,
    x: Tensor,
    state: tuple[Tensor, ...],
    reverse: bool,
    zoneout: Zoneout | None,
    memories: bool,
) -> tuple[Tensor, tuple[Tensor, ...], Any]:
    weights = [getattr(recurrence, name, None) for name in WEIGHTS]
    given = Given(x, state[0], state[1] if len(state) > 1 else None, *weights)  # type: ignore[arg-type]
    zone, low = Zone.of(zoneout, rows), precision.low_dtype(x)
    present = tuple(value is not None for value in given)
    if low is None:
        return _through(Job(rows, recurrence, reverse, zone, memories, present), given)
    job = Job(rows, recurrence, reverse, zone, memories, present, precision.number_for(low))
    with precision.without_autocast():
        y, final, every = _through(job, precision.lower(given, low))
    dtype = given.weight_hh.dtype
    return y.to(low), tuple(v.to(dtype) for v in final), None if every is None else every.to(dtype)


def _through(job: Job, given: Given) -> tuple[Tensor, tuple[Tensor, ...], Any]:
    """Outputs, final state, and all memories or None."""
    compute.check(given, kind_of(job.recurrence), job.rows.batch)
    tensors = [value for value in given if value is not None]
    if torch.is_grad_enabled() and any(value.requires_grad for value in tensors):
        y, h, c, every = NativeRecurrence.apply(job, *tensors)  # type: ignore[no-untyped-call]
    else:
        y, h, c, every, _ = _forward(job.plan(False), given)
    return y, (h,) if c is None else (h, c), every


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
    # The sequences stay in the order of the rows, from long to short.
    rows = plan.rows.in_order()
    lengths = (
        None
        if rows.source is None
        else (rows.offsets.diff()[:, None] > torch.arange(rows.batch, device="cpu")).sum(0)
    )
    zoneout = None
    if plan.zone is not None:
        keep = tuple(None if mask is None else rows.unpack(mask) for mask in plan.zone.keep)
        zoneout = Zoneout(plan.zone.rates, keep if any(mask is not None for mask in keep) else None)
    every: list[Tensor] = [given.x] * rows.steps

    def observe(t: int, _before: State, _u: Tensor, after: State) -> None:
        every[t] = after[-1]

    y, final = unroll(
        bound,
        rows.unpack(given.x),
        state,
        lengths=lengths,
        reverse=plan.reverse,
        zoneout=zoneout,
        observe=observe,
    )
    outputs = [rows.pack(y), final[0], final[-1], rows.pack(torch.stack(every))]
    pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
    wanted = [value for value, need in zip(given, needs, strict=True) if need and value is not None]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True
        )
    )
    return tuple(next(found) if need else None for need in needs)
