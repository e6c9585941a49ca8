"""A stack in C++ as one differentiable operation of torch's autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.errors import BackendError
from throughtime.kernels.native.library import Library, load
from throughtime.kernels.native.recurrence import call, precision
from throughtime.kernels.native.recurrence.call import NONE, Extras
from throughtime.kernels.native.recurrence.rows import Rows, is_batched, rows_of
from throughtime.kernels.native.recurrence.weights import Weights, check_memory
from throughtime.kernels.reference import Zoneout, unroll
from throughtime.kernels.stack import Stack, Stacked

_READ = ("x", "h0", "c0", "the output", "what was saved", "dy", "dh", "dc")  # in backward


class NativeStack(torch.autograd.Function):
    """(weights, rows, extras, named, x [N, D], h0, c0, *weights.tensors) -> y, h_T, c_T, as of `call.forward`.

    A second derivative (create_graph=True), and vectorized ones (is_grads_batched=True), are computed by the reference from the
    same inputs, unless the call had to be `named` native.
    """

    @staticmethod
    def forward(
        ctx: Any,
        weights: Weights,
        rows: Rows,
        extras: Extras,
        named: bool,
        x: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        *tensors: Tensor,
    ) -> Any:
        y, h_n, c_n, saved = call.forward(weights, rows, extras, x, h0, c0, True)
        ctx.call = weights, rows, extras, named
        ctx.save_for_backward(x, h0, c0, y, saved, *tensors)
        ctx.set_materialize_grads(False)
        return (y, h_n) if c_n is None else (y, h_n, c_n)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        weights, rows, extras, named = ctx.call
        x, h0, c0, y, saved, *tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[4:]
        dy, dh, dc = gradients if len(gradients) == 3 else (*gradients, None)
        gradients = tuple(None if g is None or g._is_zerotensor() else g for g in (dy, dh, dc))
        if torch.is_grad_enabled() or any(g is not None and not _is_memory(g) for g in gradients):
            if named:
                raise BackendError(
                    "backend 'native' was asked for by name: native has no second or vectorized derivatives "
                    "(create_graph, is_grads_batched) and reads no tensor subclass; leave backend= out, and the reference "
                    "computes them"
                )
            with torch.enable_grad(), precision.without_autocast():
                found = _reference_gradients(weights, rows, extras, (x, h0, c0, *tensors), gradients, needs)
        else:
            weights = weights.for_backward(tensors)
            read = (x, h0, c0, y, saved, *gradients)
            for name, value in zip(_READ, read, strict=True):
                if value is not None:
                    check_memory(name, value, weights.dtype)
            found = call.backward(weights, rows, extras, x, (h0, c0), y, saved, gradients, needs)
        return (None, None, None, None, *(g if need else None for g, need in zip(found, needs, strict=True)))


def _is_memory(gradient: Tensor) -> bool:
    """Whether it is dense numbers, not a batch of gradients (`is_grads_batched`) nor a subclass with operations of its own."""
    return (
        type(gradient).__torch_dispatch__ is Tensor.__torch_dispatch__
        and gradient.layout is torch.strided
        and not is_batched(gradient)
    )


def apply(
    weights: Weights, rows: Rows, extras: Extras, named: bool, x: Tensor, h0: Tensor | None, c0: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a stack over x [N, D]: y, h_T and c_T as `call.forward` does, differentiable where a gradient is wanted."""
    if torch.is_grad_enabled() and any(
        value is not None and value.requires_grad for value in (x, h0, c0, *weights.tensors)
    ):
        y, h_n, *c_n = NativeStack.apply(weights, rows, extras, named, x, h0, c0, *weights.tensors)  # type: ignore[no-untyped-call]
        return y, h_n, c_n[0] if c_n else None
    return call.forward(weights, rows, extras, x, h0, c0, False)[:3]


def run(
    stack: Stack,
    x: Tensor,
    components: Sequence[Stacked],
    lengths: Tensor | None,
    named: bool = False,
) -> tuple[Tensor, list[Stacked]]:
    """Run a stack: x [T, B, D] and the components of the state to outputs [T, B, H] and final components.

    Raises: RuntimeError for tensors that do not belong together; BackendError in backward, see `NativeStack`.
    """
    rows = rows_of(x, lengths)
    x = rows.pack(x)
    if rows.order is not None:
        components = [_reordered(c, rows.order) for c in components]
    low = low_dtype(x)
    if low is None:
        y, finals = _through(stack, rows, x, components, named, 0)
    else:
        with precision.without_autocast():
            lowered = precision.lower(stack, low)
            states = [c.float() if isinstance(c, Tensor) else tuple(v.float() for v in c) for c in components]
            number = precision.number_for(low)
            y, finals = _through(lowered, rows, precision.rounded(x, low), states, named, number)
        dtype = stack.weights[0]["weight_hh"].dtype
        y = y.to(low)
        finals = [c.to(dtype) if isinstance(c, Tensor) else tuple(v.to(dtype) for v in c) for c in finals]
    if rows.restore is not None:
        finals = [_reordered(c, rows.restore) for c in finals]
    return rows.unpack(y), finals


def low_dtype(x: Tensor) -> torch.dtype | None:
    """The low dtype of a call with these inputs (see `precision`), or None. Autocast does not apply to float64."""
    if x.dtype == torch.bfloat16:
        return torch.bfloat16
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        return torch.get_autocast_dtype("cpu")
    return None


def _reordered(component: Stacked, order: Tensor) -> Stacked:
    if isinstance(component, Tensor):
        return component.index_select(1, order)
    return tuple(value.index_select(0, order) for value in component)


def _through(
    stack: Stack,
    rows: Rows,
    x: Tensor,
    components: Sequence[Stacked],
    named: bool,
    bf16: int,
) -> tuple[Tensor, list[Stacked]]:
    """All layers in one call; with dropout between them, in one call each."""
    per_call = stack.directions if stack.dropout and stack.training else len(stack.weights)
    finals: list[Sequence[Stacked]] = []
    for first in range(0, len(stack.weights), per_call):
        if first:  # over the padded batch: the same seed drops what the reference drops
            x = rows.pack(F.dropout(rows.unpack(x), stack.dropout, True))
        part = stack._replace(
            weights=stack.weights[first : first + per_call], num_layers=per_call // stack.directions
        )
        states = [c[first : first + per_call] for c in components]
        x, final = _run_layers(part, rows, x, states, named, bf16)
        finals.append(final)
    if len(finals) == 1:
        return x, list(finals[0])
    return x, [
        torch.cat(parts) if isinstance(parts[0], Tensor) else tuple(v for p in parts for v in p)
        for parts in zip(*finals, strict=True)
    ]


def _run_layers(
    stack: Stack,
    rows: Rows,
    x: Tensor,
    components: Sequence[Stacked],
    named: bool,
    bf16: int,
) -> tuple[Tensor, list[Stacked]]:
    library = load()
    assert isinstance(library, Library)  # dispatch has asked
    weights = Weights(stack, library, bf16)
    extras = NONE
    if stack.recurrent_dropout or any(stack.zoneout) or stack.carry_scale is not None:
        extras = _extras(stack, rows, components)
    x = x.resolve_neg().contiguous()
    flat = [_flat(c) for c in components]
    for name, value in zip(("x", "h0", "c0"), (x, *flat), strict=False):
        check_memory(name, value, weights.dtype)
    sizes = [weights.columns, weights.hidden]
    for value, each in zip(flat, sizes, strict=False):
        if value.numel() != rows.batch * sum(each):
            raise RuntimeError(f"a state must have {rows.batch * sum(each)} numbers, got {value.numel()}")
    if x.shape != (rows.total, weights.features):
        raise RuntimeError(f"x must be {[rows.total, weights.features]}, got {list(x.shape)}")
    y, *found = apply(weights, rows, extras, named, x, flat[0], flat[1] if len(flat) > 1 else None)
    y = y.view(rows.total, weights.outputs)
    finals = [v for v in found if v is not None]
    return y, [
        _like(value, component, rows.batch, each)
        for value, component, each in zip(finals, components, sizes, strict=False)
    ]


def _flat(component: Stacked) -> Tensor:
    """The states of all layers and directions one behind the other, contiguous."""
    if isinstance(component, Tensor):
        return component.resolve_neg().contiguous()
    return torch.cat([value.reshape(-1) for value in component])


def _like(value: Tensor, component: Stacked, batch: int, sizes: Sequence[int]) -> Stacked:
    """The inverse of `_flat`."""
    if isinstance(component, Tensor):
        return value.view(component.shape)
    parts = torch.split(value.reshape(-1), [batch * size for size in sizes])
    return tuple(part.view(batch, size) for part, size in zip(parts, sizes, strict=True))


def _extras(stack: Stack, rows: Rows, components: Sequence[Stacked]) -> Extras:
    """The random masks of a call: drawn in the caller's order of sequences, so the same seed gives those of the reference."""
    masks, order = [], rows.order
    for number, state in enumerate(stack.states(components)):
        h_mask, zoneout = stack.masks(number, state, rows.steps)
        keep = (None,) * len(state) if zoneout is None or zoneout.keep is None else zoneout.keep
        packed = [None if mask is None else rows.pack(mask) for mask in keep]
        if h_mask is not None and order is not None:
            h_mask = h_mask.index_select(0, order)
        masks.append((h_mask, packed[0], packed[1] if len(packed) > 1 else None))
    present = any(mask is not None for each in masks for mask in each)
    return Extras(tuple(masks) if present else None, stack.zoneout, stack.carry_scale)


def _reference_gradients(
    weights: Weights,
    rows: Rows,
    extras: Extras,
    inputs: Sequence[Any],
    gradients: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """The gradients as `call.backward` gives them, themselves differentiable, through the reference."""
    x, h0, c0, *tensors = inputs
    # The sequences stay in the order of the rows, from long to short.
    in_order, lengths = rows.sorted_rows(), rows.lengths
    stack = weights.stack._replace(weights=weights.split(tensors))
    sizes = [weights.columns, weights.hidden][: 1 + weights.lstm]
    components = []
    for value, each in zip((h0, c0), sizes, strict=False):
        flat = x.new_zeros(rows.batch * sum(each)) if value is None else value
        components.append(_like(flat, (), rows.batch, each))
    y = in_order.unpack(x)
    finals = []
    for layer in range(stack.num_layers):
        outputs = []
        for side in range(stack.directions):
            number = layer * stack.directions + side
            h_mask, *keep = (None, None, None) if extras.masks is None else extras.masks[number]
            out, final = unroll(
                stack.bind(number, h_mask),
                y,
                stack.state_type(*(c[number] for c in components)),
                lengths=lengths,
                reverse=extras.reverse or side == 1,
                zoneout=_zoneout(extras, keep, in_order),
                carry_scale=extras.carry_scale,
            )
            outputs.append(out)
            finals.append(final)
        y = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
    y = y if rows.offsets is None else in_order.pack(y)
    results = [y, *(torch.cat([v.reshape(-1) for v in c]) for c in zip(*finals, strict=True))]
    flat = [gradients[0], *(None if g is None else g.flatten() for g in gradients[1:])]
    found = iter(differentiable_gradients(results, flat, inputs, needs))
    return tuple(next(found) if need else None for need in needs)


def _zoneout(extras: Extras, keep: Sequence[Tensor | None], rows: Rows) -> Zoneout | None:
    if not any(extras.rates):
        return None
    if all(mask is None for mask in keep):
        return Zoneout(extras.rates, None)
    masks = (None if mask is None else rows.unpack(mask) for mask in keep[: len(extras.rates)])
    return Zoneout(extras.rates, tuple(masks))


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
