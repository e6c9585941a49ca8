"""The interface of a cell that can be run over time, stacked, reversed and trained.

A custom cell is a class with two methods:

    class LeakyCell(tt.Cell):
        def __init__(self, input_size: int, hidden_size: int):
            super().__init__(input_size, hidden_size)
            self.mix = torch.nn.Linear(input_size, hidden_size)

        def project(self, x):                 # the part that needs no state: called once for all steps
            return self.mix(x)

        def step(self, state, u):             # u = project(x) of this step
            return tt.HiddenState(0.9 * state.h + 0.1 * u.tanh())

`tt.scan(cell, x)` runs it over a sequence, `tt.Recurrent(cell)` makes it a layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]
"""The state carried from step to step: a NamedTuple of tensors, batch first. The first one is the output."""


class HiddenState(NamedTuple):
    """The state of a cell whose state is one hidden vector."""

    h: Tensor  # [B, H] output of the last step, and its recurrent input


class Cell(nn.Module):
    """One step of one recurrence; base class of every cell.

    A subclass defines `step`, usually `project`, and `initial_state` where its state is more than one hidden vector.
    `project` returns one tensor; `step` returns a new tuple of tensors and leaves the old state unchanged.

    Args:
        input_size: number of features of one input step.
        hidden_size: number of features of the state's first tensor, which is the output of a step.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size

    def initial_state(
        self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """The state before the first step: zeros, `[batch, hidden_size]`."""
        return HiddenState(torch.zeros(batch, self.hidden_size, device=device, dtype=dtype))

    def project(self, x: Tensor) -> Tensor:
        """The part of a step that needs no state, for one step `[B, D]` or for all of them `[T, B, D]`."""
        return x

    def step(self, state: State, u: Tensor) -> State:
        """The next state, from the last one and `u = project(x)` of this step `[B, ...]`."""
        raise NotImplementedError(
            f"{type(self).__name__} has no step(state, u): write one, see throughtime.Cell"
        )

    def gates(self, state: State, u: Tensor) -> dict[str, Tensor]:
        """The intermediate values of a step, by name; used by `trace` only."""
        return {}

    def forward(self, input: Tensor, hx: State | None = None) -> State:
        """One step on a batch `[B, D]`: returns the new state."""
        if hx is None:
            hx = self.initial_state(input.shape[0], device=input.device, dtype=input.dtype)
        return self.step(hx, self.project(input))

    def extra_repr(self) -> str:
        """Show the sizes, as torch.nn's cells do."""
        return f"{self.input_size}, {self.hidden_size}"
