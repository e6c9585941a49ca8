"""Layers without recurrence: what a network makes of each step alone. Beside them shows what the sequence adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from throughtime.cells.rnn import NONLINEARITIES, check_nonlinearity
from throughtime.errors import InputError
from throughtime.layers.checks import check_arguments, check_hidden_sizes
from throughtime.layers.direction import padding_of
from throughtime.layers.sequence import check_input, check_lengths


class FeedForward(nn.Module):
    """Stacked layers that see one step at a time.

        y_t = phi(W x_t + b)        phi: tanh, relu, sigmoid or identity

    Args: input_size; hidden_size, one number or one for each layer; num_layers; nonlinearity; dropout, between the layers.
    Call: `layer(x [T, B, D], state=None, lengths=None) -> (y [T, B, H], None)`. There is no state: it is None before and after.
    Cost: T*B*D*H multiplications for each layer.
    Raises: InputError for a state; torch.nn's errors for wrong sizes and shapes.
    """

    batch_first = False
    bidirectional = False
    runs_on = "torch's linear layers"

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_arguments(input_size, num_layers, True, False, dropout)
        self.hidden_sizes = check_hidden_sizes(hidden_size, num_layers, 0)
        self.input_size, self.num_layers = input_size, num_layers
        self.nonlinearity = check_nonlinearity(nonlinearity)
        self.dropout = float(dropout)
        features = (input_size, *self.hidden_sizes)
        self.linears = nn.ModuleList(
            nn.Linear(features[number], size) for number, size in enumerate(self.hidden_sizes)
        )

    def forward(self, x: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, None]:
        """Run the layers; input beyond a row's length is never read, and outputs there are zero."""
        if state:
            raise InputError("a network without recurrence carries no state, got one: pass None")
        check_input(x, 3, self.input_size, next(self.parameters()).dtype)
        padding = None
        if lengths is not None:
            padding = padding_of(check_lengths(lengths, x.shape[0], x.shape[1], x.device), x)
            x = x.masked_fill(padding, 0)
        for number, linear in enumerate(self.linears):
            if number and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            x = NONLINEARITIES[self.nonlinearity](linear(x))
        return (x if padding is None else x.masked_fill(padding, 0)), None

    def extra_repr(self) -> str:
        return f"nonlinearity={self.nonlinearity}, dropout={self.dropout}"
