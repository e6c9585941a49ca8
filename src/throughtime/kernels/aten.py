"""torch's own fused recurrences: oneDNN and ATen loops on the CPU, cuDNN on CUDA."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from throughtime.cells.recurrence import Recurrence

_OPERATIONS = {"rnn tanh": "rnn_tanh", "rnn relu": "rnn_relu", "gru": "gru", "lstm": "lstm"}


class Stack(NamedTuple):
    """All layers and directions of one call, in torch.nn's order: layer 0 forward, layer 0 backward, layer 1 forward, ..."""

    recurrences: tuple[Recurrence, ...]
    num_layers: int
    bidirectional: bool
    dropout: float  # between the layers
    training: bool
    recurrent_dropout: float = 0.0
    zoneout: tuple[float, ...] = ()  # one rate for each tensor of the state


def run(stack: Stack, x: Tensor, states: list[Tensor], lengths: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Run the whole stack: x [T, B, D] and states [L*directions, B, ...] to outputs and final states."""
    first = stack.recurrences[0]
    kind = f"{first.kind} {first.nonlinearity}" if first.kind == "rnn" else first.kind  # type: ignore[attr-defined]
    operation = getattr(torch._VF, _OPERATIONS[kind])
    weights = [w for r in stack.recurrences for w in flat_weights(r)]
    options = (
        first.bias_ih is not None,
        stack.num_layers,
        stack.dropout,
        stack.training,
        stack.bidirectional,
    )
    hx = tuple(states) if first.kind == "lstm" else states[0]
    if lengths is None:
        y, *final = operation(x, hx, weights, *options, False)
        return y, final
    packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
    order, restore = packed.sorted_indices, packed.unsorted_indices
    assert order is not None  # not enforce_sorted, so both are there
    assert restore is not None
    sorted_states = [s.index_select(1, order) for s in states]
    hx = tuple(sorted_states) if first.kind == "lstm" else sorted_states[0]
    data, *final = operation(packed.data, packed.batch_sizes, hx, weights, *options)
    y, _ = torch._VF._pad_packed_sequence(data, packed.batch_sizes, False, 0.0, x.shape[0])
    return y.index_select(1, restore), [s.index_select(1, restore) for s in final]


def flat_weights(recurrence: Recurrence) -> list[Tensor]:
    """One layer and direction's weights in the order that torch's operations take them."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    values = [getattr(recurrence, name, None) for name in names]
    return [value for value in values if value is not None]
