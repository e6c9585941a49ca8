"""minGRU: a GRU whose gates depend on the input only (Feng et al. 2024, arXiv 2410.01201).

    z_t = sigmoid(W_z x_t + b_z)
    n_t = W_n x_t + b_n
    h_t = (1 - z_t) * h_{t-1} + z_t * n_t

Here z = 1 takes the candidate, as the paper has it: the other way round than in this library's GRU. The recurrence is linear
in h, so the gradient through time is a product of the (1 - z_t), at most 1: it never explodes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from throughtime.cells.contract import Cell, HiddenState, State


class MinGRUCell(Cell):
    """One step of a minGRU.

    Args: input_size D, hidden_size H.
    Parameters: `linear`, D -> 2*H, rows in the order z, n. Cost: 2*H*D multiplications a row, and none that waits for the state.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.linear = nn.Linear(input_size, 2 * hidden_size)

    def project(self, x: Tensor) -> Tensor:
        return self.linear(x)  # type: ignore[no-any-return]

    def step(self, state: State, u: Tensor) -> HiddenState:
        z, n = u.chunk(2, dim=-1)
        return HiddenState(state[0] + torch.sigmoid(z) * (n - state[0]))

    def gates(self, state: State, u: Tensor) -> dict[str, Tensor]:
        z, n = u.chunk(2, dim=-1)
        return {"z": torch.sigmoid(z), "n": n}
