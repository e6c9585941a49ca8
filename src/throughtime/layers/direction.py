"""Reading from the end to the beginning: each row from its own last real step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def padding_of(lengths: Tensor, x: Tensor) -> Tensor:
    """Where x [T, B, D] is padding: bool [T, B, 1] on its device."""
    return (torch.arange(x.shape[0], device=x.device)[:, None] >= lengths.to(x.device)).unsqueeze(-1)


def reverse_rows(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Each row of x [T, B, D] in reverse order of its own steps; its padding stays where it is. Twice is x again."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device)[:, None]
    last = lengths.to(x.device) - 1
    index = torch.where(steps <= last, last - steps, steps)
    return x.gather(0, index.unsqueeze(-1).expand_as(x))


class Reversed(nn.Module):
    """Runs layers from each row's last real step to its first; outputs are in the order of the input.

    Args: layers, any `(x [T, B, D], state, lengths=) -> (y, state)` of one direction.
    A state given to it is the one behind the row's last step. The sequence must be read in one call.
    """

    batch_first = False
    bidirectional = True  # what asks whether a model may be cut, or run from left to right, asks this

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """Y [T, B, H], and the state before each row's first step."""
        extra = {} if lengths is None else {"lengths": lengths}
        y, state = self.layers(reverse_rows(x, lengths), state, **extra)
        return reverse_rows(y, lengths), state


class BothWays(nn.Module):
    """Two stacks over the same input, one in each direction; their outputs side by side, [T, B, 2H].

    Unlike stacked bidirectional layers neither stack sees what the other one read.
    Args: forward_layers, backward_layers: as of `Reversed`, with weights of their own.
    """

    batch_first = False
    bidirectional = True

    def __init__(self, forward_layers: nn.Module, backward_layers: nn.Module) -> None:
        super().__init__()
        self.forward_layers = forward_layers
        self.backward_layers = Reversed(backward_layers)

    @property
    def runs_on(self) -> str:
        """Of both stacks."""
        return str(getattr(self.forward_layers, "runs_on", ""))

    def forward(self, x: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """The outputs, and the final states of both stacks as a pair."""
        before, behind = (None, None) if state is None else state
        extra = {} if lengths is None else {"lengths": lengths}
        left, before = self.forward_layers(x, before, **extra)
        right, behind = self.backward_layers(x, behind, **extra)
        return torch.cat([left, right], dim=-1), (before, behind)
