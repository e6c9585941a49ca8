"""Layers upon layers, in one or both directions, over any steppable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.kernels.reference import Steppable

Run = Callable[[int, Steppable, Tensor, State, bool], tuple[Tensor, State]]
"""Runs one direction of one layer: (its number, recurrence, x [T, B, D], state, reverse) -> (outputs, final state)."""


def run_stack(
    recurrences: Sequence[Steppable],
    x: Tensor,
    states: Sequence[State],
    run: Run,
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
