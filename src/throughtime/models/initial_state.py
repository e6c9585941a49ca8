"""The initial state of layers, computed from a vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from throughtime.errors import InputError
from throughtime.layers import CausalCNN, FeedForward
from throughtime.layers.eval_mode import evaluating


class InitialState(nn.Module):
    """A vector x to the initial state of recurrent layers: tanh(W x + b), with weights of its own for each tensor of the state.

    Works for any recurrent layer, since the form of the state is read from what the layers return.

    Args: layers: `(x [T, B, D], state) -> (y, state)` with `input_size` and a state of tensors [..., B, H]; features: of x.
    Call: `initial(vector [B, features]) -> state`.
    Raises: InputError for layers that carry no recurrent state.
    Cost: B * features multiplications for each number of the state.
    Source: Cho et al. 2014, EMNLP, appendix A.2.2 (h_0 = tanh(V c)).
    """

    def __init__(self, layers: nn.Module, features: int) -> None:
        super().__init__()
        if not has_state(layers):
            raise InputError(
                f"{type(layers).__name__} has no recurrent state to start from a vector: use a recurrent cell"
            )
        tensors, self._form = tree_flatten(example_state(layers))
        self._shapes = [tuple(tensor.shape) for tensor in tensors]
        self.maps = nn.ModuleList(nn.Linear(features, tensor.numel()) for tensor in tensors)

    def forward(self, vector: Tensor) -> Any:
        """Return the state for a batch of vectors [B, features]."""
        found = []
        for linear, shape in zip(self.maps, self._shapes, strict=True):
            values = linear(vector).tanh().view(len(vector), *shape[:-2], shape[-1])
            found.append(values.movedim(0, -2).contiguous())
        return tree_unflatten(found, self._form)


def has_state(layers: nn.Module) -> bool:
    """Whether layers carry a recurrent state; convolutions carry past inputs, and layers without recurrence nothing."""
    return not any(isinstance(module, CausalCNN | FeedForward) for module in layers.modules())


def example_state(layers: Any) -> Any:
    """A state of layers, of one row."""
    with evaluating(layers), torch.no_grad():
        _, state = layers(next(layers.parameters()).new_zeros(1, 1, layers.input_size), None)
    return state
