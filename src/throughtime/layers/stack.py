"""Stacked layers in one or both directions, on the backend that dispatch chose, and the random masks of such a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.kernels.aten import Stack
from throughtime.kernels.native.recurrence import operators
from throughtime.kernels.native.recurrence.autograd import run as run_native
from throughtime.kernels.native.recurrence.rows import rows_of
from throughtime.kernels.reference import Steppable, Zoneout, rebuild, unroll
from throughtime.layers.sequence import PaddedBatch
from throughtime.layers.trace import Tracer

RunDirection = Callable[[int, Steppable, Tensor, State, bool], tuple[Tensor, State]]
"""Runs one direction of one layer: (its number, recurrence, x [T, B, D], state, reverse) -> (outputs, final state)."""


def run_stack(
    recurrences: Sequence[Steppable],
    x: Tensor,
    states: Sequence[State],
    run: RunDirection,
    *,
    bidirectional: bool,
    dropout: float,
    training: bool,
) -> tuple[Tensor, list[State]]:
    """Layer l reads the outputs of layer l - 1; the outputs of two directions are put side by side.

    `recurrences` and `states` are in torch.nn's order: layer 0 forward, layer 0 backward, layer 1 forward, ...
    Dropout acts between layers, not after the last.
    Returns: outputs [T, B, directions * H] and the final states in the same order.
    """
    directions = 2 if bidirectional else 1
    finals: list[State] = []
    for first in range(0, len(recurrences), directions):
        if first and dropout:
            x = F.dropout(x, dropout, training)
        outputs = []
        for number in range(first, first + directions):
            y, final = run(number, recurrences[number], x, states[number], number != first)
            outputs.append(y)
            finals.append(final)
        x = torch.cat(outputs, dim=-1) if bidirectional else outputs[0]
    return x, finals


def on_reference(
    stack: Stack,
    batch: PaddedBatch,
    states: Sequence[State],
    tracer: Tracer | None = None,
    carry_scale: Tensor | None = None,
) -> tuple[Tensor, list[State]]:
    """Every layer and direction as a loop in plain torch."""

    def run(number: int, recurrence: Any, x: Tensor, state: State, reverse: bool) -> tuple[Tensor, State]:
        recurrence.h_mask = recurrent_dropout_mask(state, stack.recurrent_dropout, stack.training)
        return unroll(
            recurrence,
            x,
            state,
            lengths=batch.lengths,
            reverse=reverse,
            zoneout=zoneout_masks(state, x.shape[0], stack.zoneout, stack.training),
            observe=None if tracer is None else tracer.watch(number, recurrence),
            carry_scale=carry_scale,
        )

    return _through(stack, batch.x, states, run)


def on_native(stack: Stack, batch: PaddedBatch, states: Sequence[State]) -> tuple[Tensor, list[State]]:
    """Every layer and direction in C++."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return _on_operators(stack, batch, states)
    rows = rows_of(batch.x, batch.lengths)

    def run(number: int, recurrence: Any, x: Tensor, state: State, reverse: bool) -> tuple[Tensor, State]:
        # In the caller's order of sequences, as for the reference: the same seed gives the same masks.
        mask = recurrent_dropout_mask(state, stack.recurrent_dropout, stack.training)
        recurrence.h_mask = mask if mask is None or rows.order is None else mask[rows.order]
        zoneout = zoneout_masks(state, rows.steps, stack.zoneout, stack.training)
        y, final, _ = run_native(recurrence, rows, x, state, reverse, zoneout)
        return y, final

    # Between layers the rows stay packed.
    states = [reorder(state, rows.order) for state in states]
    y, finals = _through(stack, rows.pack(batch.x), states, run)
    return rows.unpack(y), [reorder(state, rows.restore) for state in finals]


def _on_operators(stack: Stack, batch: PaddedBatch, states: Sequence[State]) -> tuple[Tensor, list[State]]:
    """Every layer and direction in C++, as one operator in the graph that is being recorded."""

    def run(number: int, recurrence: Any, x: Tensor, state: State, reverse: bool) -> tuple[Tensor, State]:
        recurrence.h_mask = recurrent_dropout_mask(state, stack.recurrent_dropout, stack.training)
        zoneout = zoneout_masks(state, x.shape[0], stack.zoneout, stack.training)
        return operators.run(recurrence, x, state, lengths=batch.lengths, reverse=reverse, zoneout=zoneout)

    return _through(stack, batch.x, states, run)


def _through(stack: Stack, x: Tensor, states: Sequence[State], run: Any) -> tuple[Tensor, list[State]]:
    return run_stack(
        stack.recurrences,
        x,
        states,
        run,
        bidirectional=stack.bidirectional,
        dropout=stack.dropout,
        training=stack.training,
    )


def reorder(state: State, order: Tensor | None) -> State:
    """The state with its sequences in another order; None for the same."""
    return state if order is None else rebuild(state, [value.index_select(0, order) for value in state])


def recurrent_dropout_mask(state: State, rate: float, training: bool) -> Tensor | None:
    """One random mask [B, H] for all steps, scaled so that its mean is 1; None when nothing is dropped.

    Source: Gal & Ghahramani 2016, arXiv 1512.05287.
    """
    if rate == 0 or not training:
        return None
    return torch.empty_like(state[0]).bernoulli_(1 - rate).div_(1 - rate)


def zoneout_masks(state: State, steps: int, rates: tuple[float, ...], training: bool) -> Zoneout | None:
    """Which units keep their value at which step, random; the expectation when not training. None without zoneout.

    Cost: T*B*H bytes for each tensor of the state while training. Source: Krueger et al. 2016, arXiv 1606.01305.
    """
    if not any(rates):
        return None
    if not training:
        return Zoneout(rates, None)
    keep = tuple(
        None if rate == 0 else torch.rand(steps, *s.shape, device=s.device, dtype=torch.float32) < rate
        for rate, s in zip(rates, state, strict=True)
    )
    return Zoneout(rates, keep)
