"""The caller's batch in the form in which it is measured: float64, a few examples, and the loss's side with time first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from throughtime.errors import InputError
from throughtime.flow.convert import layers_of


def read_batch(model: nn.Module, batch: Any, state: Any, examples: int) -> tuple[Tensor, Any, Any]:
    """Inputs, targets and state in float64, of the first examples alone."""
    pair = isinstance(batch, tuple | list) and not isinstance(batch, nn.utils.rnn.PackedSequence)
    if pair and len(batch) != 2:
        raise InputError(f"batch must be inputs or (inputs, targets), got {len(batch)} parts")
    inputs, targets = batch if pair else (batch, None)
    inputs = _doubled(_check_inputs(inputs))
    alone = layers_of(model).get("")
    if alone is not None and inputs.dim() == 2:  # one sequence [T, D]
        inputs = inputs.unsqueeze(0 if alone.batch_first else 1)
        state = tree_map(lambda s: s.unsqueeze(-2) if isinstance(s, Tensor) else s, state)
    if inputs.dim() < 2:
        raise InputError(f"inputs must be [T, B] or [T, B, D], got {list(inputs.shape)}: add a batch axis")
    if 0 in inputs.shape:
        raise InputError(f"inputs must not be empty, got {list(inputs.shape)}: give at least one example")
    axis = 0 if _batch_first(model) else 1
    rows = inputs.shape[axis]
    inputs, targets = inputs.narrow(axis, 0, min(examples, rows)), _doubled(targets)

    def fewer(value: Any, at: int) -> Any:
        has_axis = isinstance(value, Tensor) and -value.dim() <= at < value.dim()
        return value.narrow(at, 0, min(examples, rows)) if has_axis and value.shape[at] == rows else value

    if isinstance(targets, Tensor):
        # One target for a whole sequence has the batch first; one for each step has it where the inputs do.
        each_step = targets.dim() > 1 and targets.shape[:2] == _leading(inputs, rows, axis)
        targets = fewer(targets, axis if each_step else 0)
        if each_step and axis == 0:
            targets = targets.transpose(0, 1)
    return inputs, targets, tree_map(lambda leaf: fewer(leaf, -2), _doubled(state))


def _leading(inputs: Tensor, rows: int, axis: int) -> tuple[int, int]:
    return (rows, inputs.shape[1]) if axis == 0 else (inputs.shape[0], rows)


def _batch_first(model: nn.Module) -> bool:
    return all(layer.batch_first for layer in layers_of(model).values())


def time_first(outputs: Any, model: nn.Module, steps: int, rows: int) -> Any:
    """The outputs with time before the examples, where the model's layers have it the other way round."""
    if _batch_first(model) and isinstance(outputs, Tensor) and outputs.shape[:2] == (rows, steps):
        return outputs.transpose(0, 1)
    return outputs


def _doubled(value: Any) -> Any:
    """Every floating tensor in `value` in float64, detached; the rest as it is."""

    def each(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.detach().double() if leaf.is_floating_point() else leaf

    return tree_map(each, value)


def _check_inputs(inputs: Any) -> Tensor:
    """Return `inputs` if it is a tensor of a whole batch.

    Raises: InputError for anything else, packed sequences among it.
    """
    if isinstance(inputs, nn.utils.rnn.PackedSequence):
        raise InputError(
            "inputs must be a tensor of sequences of equal length, got a PackedSequence: "
            "measure sequences of one length at a time"
        )
    if not isinstance(inputs, Tensor) or inputs.dim() < 1 or inputs.dtype == torch.bool:
        raise InputError(f"inputs must be a tensor [T, B] of ids or [T, B, D], got {type(inputs).__name__}")
    return inputs
