"""torch's own fused recurrences: oneDNN and ATen loops on the CPU, cuDNN on CUDA."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from throughtime.kernels.stack import Stack, Stacked

_OPERATIONS = {"rnn tanh": "rnn_tanh", "rnn relu": "rnn_relu", "gru": "gru", "lstm": "lstm"}
_WEIGHTS = (
    "weight_ih",
    "weight_hh",
    "bias_ih",
    "bias_hh",
    "weight_hr",
)  # in the order that torch's operations take


def run(
    stack: Stack, x: Tensor, components: Sequence[Stacked], lengths: Tensor | None
) -> tuple[Tensor, list[Stacked]]:
    """Run the whole stack: x [T, B, D] and states [L*directions, B, ...] to outputs and final states."""
    states = [c for c in components if isinstance(c, Tensor)]
    kind = stack.recurrence.kind
    operation = getattr(
        torch._VF, _OPERATIONS[f"rnn {stack.options['nonlinearity']}" if kind == "rnn" else kind]
    )
    weights = [w[name] for w in stack.weights for name in _WEIGHTS if name in w]
    options = (
        "bias_ih" in stack.weights[0],
        stack.num_layers,
        stack.dropout,
        stack.training,
        stack.bidirectional,
    )
    hx = tuple(states) if kind == "lstm" else states[0]
    if lengths is None:
        y, *final = operation(x, hx, weights, *options, False)
        return y, final
    packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
    order, restore = packed.sorted_indices, packed.unsorted_indices
    assert order is not None  # not enforce_sorted, so both are there
    assert restore is not None
    sorted_states = [s.index_select(1, order) for s in states]
    hx = tuple(sorted_states) if kind == "lstm" else sorted_states[0]
    data, *final = operation(packed.data, packed.batch_sizes, hx, weights, *options)
    y, _ = torch._VF._pad_packed_sequence(data, packed.batch_sizes, False, 0.0, x.shape[0])
    return y.index_select(1, restore), [s.index_select(1, restore) for s in final]
