"""IndRNN: every unit is connected only to itself (Li et al. 2018, arXiv 1803.04831).

    h_t = relu(W x_t + b + w * h_{t-1})

The recurrent weight is a vector w, so the gradient through k steps of one unit is w^k where the unit is alive: keeping
|w| <= 2^(1/T) keeps it below 2 over T steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from throughtime.cells.contract import Cell, HiddenState, State


class IndRNNCell(Cell):
    """One step of an independently recurrent network.

    Args: input_size D, hidden_size H.
    Parameters: `linear`, D -> H, and `weight_hh` [H], which starts at U(0, 1). Cost: H*(D+1) multiplications a row.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.linear = nn.Linear(input_size, hidden_size)
        self.weight_hh = nn.Parameter(torch.rand(hidden_size))

    def project(self, x: Tensor) -> Tensor:
        return self.linear(x)  # type: ignore[no-any-return]

    def step(self, state: State, u: Tensor) -> HiddenState:
        return HiddenState(torch.relu(u + self.weight_hh * state[0]))

    def gates(self, state: State, u: Tensor) -> dict[str, Tensor]:
        return {"a": u + self.weight_hh * state[0]}
