"""The native recurrence as operators of torch.library, for torch.compile and torch.export.

A traced graph sees one operator for each direction of each layer instead of T unrolled steps: it compiles in the time of one
layer and serves any T. Full and ragged batches. Eager calls use `autograd.py`, which costs less.

    throughtime::recurrence            in a layer's graph, and in an exported program
    throughtime::recurrence_kept       the same, and what backward needs: in the graph of a training step
    throughtime::recurrence_backward   the gradients

Cost beyond an eager call: a copy of the outputs; for a ragged batch, what backward needs also has rows for the padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from throughtime.kernels.native.library import load
from throughtime.kernels.native.recurrence import call
from throughtime.kernels.native.recurrence.autograd import differentiable_gradients
from throughtime.kernels.native.recurrence.operator_arguments import (
    H_MASK,
    TENSORS,
    WEIGHTS,
    Arguments,
    check_backward,
    empty_results,
    empty_saved,
    kind_of,
    prepare,
    saved_row,
    stack_of,
)
from throughtime.kernels.reference import Zoneout, rebuild, unroll
from throughtime.kernels.stack import Stack, Stacked, join, run_stack

# A constant, because a compiler that traces a layer cannot look for a file.
MISSING: str | None = None if not isinstance(found := load(), str) else found

_ARGUMENTS = (
    "Tensor x, Tensor h0, Tensor? c0, Tensor?[] weights, Tensor? lengths, Tensor?[] keep, float[] rates, "
    "str kind, str nonlinearity, bool reverse"
)
_library: Any = torch.library.Library("throughtime", "DEF")  # type: ignore[no-untyped-call]
for _name, _schema in {
    "recurrence": f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
    # What is kept has another form in another build or for another processor: its columns are an argument, so that a compiler's
    # cache on disk does not take a graph of the one for the other.
    "recurrence_kept": f"({_ARGUMENTS}, int columns) -> Tensor[]",
    "recurrence_backward": f"({_ARGUMENTS}, Tensor[] kept, Tensor?[] gradients, bool[] needs) -> Tensor[]",
}.items():
    _library.define(_name + _schema, tags=torch.Tag.pt2_compliant_tag)


def run(
    stack: Stack, x: Tensor, components: Sequence[Stacked], lengths: Tensor | None
) -> tuple[Tensor, list[Stacked]]:
    """Every layer and direction as one operator in the graph that is being recorded."""

    def run_direction(
        number: int, recurrence: Any, x: Tensor, state: Any, reverse: bool
    ) -> tuple[Tensor, Any]:
        h_mask, zoneout = stack.masks(number, state, x.shape[0])
        return _run_direction(stack.bind(number, h_mask), x, state, lengths, reverse, zoneout)

    y, finals = run_stack(
        [stack.bind(number) for number in range(len(stack.weights))],
        x,
        stack.states(components),
        run_direction,
        bidirectional=stack.bidirectional,
        dropout=stack.dropout,
        training=stack.training,
    )
    return y, join(finals, components)


def _run_direction(
    recurrence: Any, x: Tensor, state: Any, lengths: Tensor | None, reverse: bool, zoneout: Zoneout | None
) -> tuple[Tensor, Any]:
    y, *final = torch.ops.throughtime.recurrence.default(
        x,
        state[0],
        state[1] if len(state) > 1 else None,
        [getattr(recurrence, name, None) for name in WEIGHTS],
        lengths,
        [] if zoneout is None or zoneout.keep is None else list(zoneout.keep),
        [] if zoneout is None else list(zoneout.rates),
        kind_of(recurrence),
        getattr(recurrence, "nonlinearity", "tanh"),
        reverse,
    )
    return y, rebuild(state, final[: len(state)])


@torch.no_grad()
def _forward(a: Arguments, training: bool) -> list[Tensor]:
    """y, h_T, c_T, and for training what backward needs."""
    weights, rows, extras, x, h0, c0 = prepare(a)
    packed, h, c, saved = call.forward(weights, rows, extras, x, h0, c0, training)
    h, c = h.view(a.h0.shape), a.x.new_empty(0) if c is None else c.view(rows.batch, -1)
    if rows.restore is not None:
        h = h.index_select(0, rows.restore)
        c = c.index_select(0, rows.restore) if len(c) else c
    packed = packed.view(rows.total, -1)
    y = rows.unpack(packed)
    if saved is None:
        return [y, h, c]
    if rows.source is None:
        y = y.clone()  # the results of an operator may not share memory
    return [y, h, c, _with_rows(packed, rows.steps * rows.batch), _with_rows(saved, rows.steps * rows.batch)]


def _with_rows(value: Tensor, count: int) -> Tensor:
    """With more rows: a graph must know the shape of every result before it runs."""
    if len(value) == count:
        return value
    whole = value.new_empty(count, value.shape[1])
    whole[: len(value)] = value
    return whole


def _run_recurrence(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(_forward(Arguments(*arguments), training=False))


def _run_kept(*arguments: Any) -> list[Tensor]:
    *first, columns = arguments
    a = Arguments(*first)
    if columns != saved_row(a):
        raise RuntimeError(
            "this graph was compiled with another build of throughtime's native library, or for another processor: compile "
            "it again"
        )
    return _forward(a, training=True)


@torch.no_grad()
def _run_backward(*arguments: Any) -> list[Tensor]:
    *first, kept, gradients, needs = arguments
    a = Arguments(*first)
    weights, rows, extras, x, h0, c0 = prepare(a)
    check_backward(a, kept, gradients, needs)
    dy, dh, dc = gradients
    if rows.order is not None:
        dh, dc = (None if value is None else value.index_select(0, rows.order) for value in (dh, dc))
    dy = None if dy is None else rows.pack(dy)
    wanted = [
        need
        for need, name, value in zip(needs[3:], WEIGHTS, a.weights, strict=True)
        if value is not None and name != "h_mask"
    ]
    needed = [needs[0], True, True, *wanted]
    y, saved = (value[: rows.total] for value in kept)
    dx, dh0, dc0, *dweights = call.backward(
        weights, rows, extras, x, (h0, c0), y, saved, (dy, dh, dc), needed
    )
    states = [None if v is None else v.view(rows.batch, -1) for v in (dh0, dc0)]
    if rows.restore is not None:
        states = [None if v is None else v.index_select(0, rows.restore) for v in states]
    each = iter(dweights)
    of_weights = [
        next(each) if value is not None and name != "h_mask" else None
        for name, value in zip(WEIGHTS, a.weights, strict=True)
    ]
    found = [None if dx is None else rows.unpack(dx), *states, *of_weights]
    return [v.contiguous() for v, need in zip(found, needs, strict=True) if need and v is not None]


def _fake_recurrence(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(empty_results(Arguments(*arguments)))


def _fake_kept(*arguments: Any) -> list[Tensor]:
    *first, columns = arguments
    a = Arguments(*first)
    return [*empty_results(a), *empty_saved(a, columns)]


def _fake_backward(*arguments: Any) -> list[Tensor]:
    *call, _, _, needs = arguments
    return [
        torch.empty_like(value, memory_format=torch.contiguous_format)
        for value, need in zip(Arguments(*call).tensors, needs, strict=True)
        if need and value is not None
    ]


class _Differentiable(torch.autograd.Function):
    """(rest of the arguments, *TENSORS) -> y, h_T, c_T. A second derivative is computed by the reference."""

    @staticmethod
    def forward(ctx: Any, rest: tuple[Any, ...], *tensors: Any) -> Any:
        x, h0, c0, *weights = tensors
        columns = saved_row(Arguments(x, h0, c0, weights, *rest))
        y, h, c, *kept = torch.ops.throughtime.recurrence_kept.default(x, h0, c0, weights, *rest, columns)
        lengths, keep, *ctx.options = rest
        ctx.counts = len(tensors), len(keep)
        ctx.save_for_backward(*tensors, lengths, *keep, *kept)
        ctx.set_materialize_grads(False)
        if c0 is None:
            ctx.mark_non_differentiable(c)
        return y, h, c

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        saved, (tensors, masks) = list(ctx.saved_tensors), ctx.counts
        x, h0, c0, *weights = saved[:tensors]
        lengths, *keep = saved[tensors : tensors + 1 + masks]
        kept = saved[tensors + 1 + masks :]
        a = Arguments(x, h0, c0, weights, lengths, keep, *ctx.options)
        # The mask of recurrent dropout is random, not a parameter.
        needs = [
            need and name != "h_mask" for need, name in zip(ctx.needs_input_grad[1:], TENSORS, strict=True)
        ]
        if torch.is_grad_enabled():
            found = iter(_reference_gradients(a, gradients, needs))
        else:
            found = iter(torch.ops.throughtime.recurrence_backward.default(*a, kept, list(gradients), needs))
        return (None, *(next(found) if need else None for need in needs))


def _autograd(*arguments: Any) -> Any:
    a = Arguments(*arguments)
    if torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in a.tensors):
        return _Differentiable.apply(tuple(a[4:]), *a.tensors)  # type: ignore[no-untyped-call]
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.throughtime.recurrence.default(*arguments)


def _reference_gradients(
    a: Arguments, gradients: Sequence[Tensor | None], needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The needed gradients, themselves differentiable, through the reference."""
    bound = stack_of(a.kind, a.nonlinearity, a.weights).bind(0, a.weights[H_MASK])
    state = (a.h0,) if a.c0 is None else (a.h0, a.c0)
    y, final = unroll(bound, a.x, state, lengths=a.lengths, reverse=a.reverse, zoneout=a.zoneout)
    return differentiable_gradients((y, *final), gradients, a.tensors, needs)


for _name, _kernel, _fake in (
    ("recurrence", _run_recurrence, _fake_recurrence),
    ("recurrence_kept", _run_kept, _fake_kept),
    ("recurrence_backward", _run_backward, _fake_backward),
):
    _library.impl(_name, _kernel, "CPU")
    torch.library.register_fake(f"throughtime::{_name}", _fake, lib=_library)
_library.impl("recurrence", _autograd, "Autograd")


def _count_operations(x: Any, h0: Any, c0: Any, weights: Any, *_: Any, **__: Any) -> int:
    """Of the matrix products, for torch.utils.flop_counter: shapes in the place of tensors."""
    products = sum(
        math.prod(weights[WEIGHTS.index(name)] or (0,)) for name in ("weight_ih", "weight_hh", "weight_hr")
    )
    return int(2 * x[0] * x[1] * products)


def _count_backward(x: Any, h0: Any, c0: Any, weights: Any, *_: Any, **__: Any) -> int:
    return 2 * _count_operations(x, h0, c0, weights)


_operations = torch.ops.throughtime
register_flop_formula([_operations.recurrence, _operations.recurrence_kept])(_count_operations)
register_flop_formula(_operations.recurrence_backward)(_count_backward)
