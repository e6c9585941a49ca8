"""The layer-normalized LSTM, written against the cell contract alone (Ba, Kiros & Hinton 2016, arXiv 1607.06450, eq. 20-22).

    [i f g o] = LN_hh(W_hh h_{t-1}) + LN_ih(W_ih x_t) + b
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(LN_c(c_t))

`LSTMCell(layer_norm=True)` is the same function with torch.nn's parameter names; this file shows that a variant is ten lines.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from throughtime.cells.contract import Cell, State
from throughtime.cells.lstm import LSTMState


class LayerNormLSTMCell(Cell):
    """One step of a layer-normalized LSTM.

    Args: input_size D, hidden_size H.
    Parameters: linear maps `ih` and `hh` without biases, norms `norm_ih`, `norm_hh` over 4*H and `norm_c` over H.
    Cost: 4*H*(D+H) multiplications a row, and three norms.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.ih = nn.Linear(input_size, 4 * hidden_size, bias=False)
        self.hh = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.norm_ih, self.norm_hh = nn.LayerNorm(4 * hidden_size), nn.LayerNorm(4 * hidden_size)
        self.norm_c = nn.LayerNorm(hidden_size)

    def initial_state(
        self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LSTMState:
        zero = torch.zeros(batch, self.hidden_size, device=device, dtype=dtype)
        return LSTMState(zero, zero)

    def project(self, x: Tensor) -> Tensor:
        return self.norm_ih(self.ih(x))  # type: ignore[no-any-return]

    def step(self, state: State, u: Tensor) -> LSTMState:
        h, c = state
        i, f, g, o = (u + self.norm_hh(self.hh(h))).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return LSTMState(o.sigmoid() * self.norm_c(c).tanh(), c)
