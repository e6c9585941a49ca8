"""A layer's recurrences over a batch, on the backend that dispatch chose."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.kernels.aten import Stack
from throughtime.kernels.native import operators
from throughtime.kernels.native.function import run as run_native
from throughtime.kernels.native.rows import rows_of
from throughtime.kernels.reference import unroll
from throughtime.layers.noise import recurrent_dropout_mask, zoneout_masks
from throughtime.layers.sequence import Sequence
from throughtime.layers.stack import run_stack
from throughtime.layers.states import reorder
from throughtime.layers.trace import Tracer


class Noise(NamedTuple):
    """What is drawn at random for a call, besides the dropout between layers."""

    recurrent_dropout: float
    zoneout: tuple[float, ...]  # one for each tensor of the state


def on_reference(
    stack: Stack, noise: Noise, sequence: Sequence, states: Many[State], tracer: Tracer | None = None
) -> tuple[Tensor, list[State]]:
    """Every layer and direction as a loop in plain torch."""

    def run(number: int, recurrence: Any, x: Tensor, state: State, reverse: bool) -> tuple[Tensor, State]:
        recurrence.h_mask = recurrent_dropout_mask(state, noise.recurrent_dropout, stack.training)
        return unroll(
            recurrence,
            x,
            state,
            lengths=sequence.lengths,
            reverse=reverse,
            zoneout=zoneout_masks(state, x.shape[0], noise.zoneout, stack.training),
            observe=None if tracer is None else tracer.watch(number, recurrence),
        )

    return _through(stack, sequence.x, states, run)


def on_native(
    stack: Stack, noise: Noise, sequence: Sequence, states: Many[State]
) -> tuple[Tensor, list[State]]:
    """Every layer and direction in C++."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return _on_operators(stack, noise, sequence, states)
    rows = rows_of(sequence.x, sequence.lengths)

    def run(number: int, recurrence: Any, x: Tensor, state: State, reverse: bool) -> tuple[Tensor, State]:
        # Drawn for the caller's order of sequences, as for the reference: one seed, the same masks.
        mask = recurrent_dropout_mask(state, noise.recurrent_dropout, stack.training)
        recurrence.h_mask = mask if mask is None or rows.order is None else mask[rows.order]
        zoneout = zoneout_masks(state, rows.steps, noise.zoneout, stack.training)
        return run_native(recurrence, rows, x, state, reverse, zoneout)

    # Between layers the rows stay packed.
    states = [reorder(state, rows.order) for state in states]
    y, finals = _through(stack, rows.pack(sequence.x), states, run)
    return rows.unpack(y), [reorder(state, rows.restore) for state in finals]


def _on_operators(
    stack: Stack, noise: Noise, sequence: Sequence, states: Many[State]
) -> tuple[Tensor, list[State]]:
    """Every layer and direction in C++, as one operator in the graph that is being recorded."""

    def run(number: int, recurrence: Any, x: Tensor, state: State, reverse: bool) -> tuple[Tensor, State]:
        recurrence.h_mask = recurrent_dropout_mask(state, noise.recurrent_dropout, stack.training)
        zoneout = zoneout_masks(state, x.shape[0], noise.zoneout, stack.training)
        return operators.run(recurrence, x, state, lengths=sequence.lengths, reverse=reverse, zoneout=zoneout)

    return _through(stack, sequence.x, states, run)


def _through(stack: Stack, x: Tensor, states: Many[State], run: Any) -> tuple[Tensor, list[State]]:
    return run_stack(
        stack.recurrences,
        x,
        states,
        run,
        bidirectional=stack.bidirectional,
        dropout=stack.dropout,
        training=stack.training,
    )
