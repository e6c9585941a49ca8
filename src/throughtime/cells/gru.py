"""The gated recurrent unit (Cho et al. 2014, arXiv 1406.1078).

    r_t = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)                  reset
    z_t = sigmoid(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)                  update: 1 keeps the old state
    n_t = tanh(W_in x_t + b_in + r_t * (W_hn h_{t-1} + b_hn))             candidate, reset_after=True  (torch, cuDNN, Keras)
    n_t = tanh(W_in x_t + b_in + W_hn (r_t * h_{t-1}) + b_hn)             candidate, reset_after=False (Cho et al.)
    h_t = (1 - z_t) * n_t + z_t * h_{t-1}

The two candidates are different functions, not two ways to compute one; ONNX calls the choice `linear_before_reset`.
Rows of weight_ih, weight_hh and the biases are in the order r, z, n: W_ir is weight_ih[:H], and so on.
Cho et al. swap the roles of z and 1 - z. The plain RNN is the case r = 1 and z = 0.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.cells.contract import Cell, HiddenState, State
from throughtime.cells.recurrence import OwnedCell, Recurrence, zeros


class GRURecurrence(Recurrence):
    """The equation at the top of this file."""

    kind = "gru"
    num_gates = 3
    reset_after: bool

    def step(self, state: State, u: Tensor) -> HiddenState:
        (h,) = state
        _, z, n = self._gates(h, u)
        return HiddenState(n + z * (h - n))

    def gates(self, state: State, u: Tensor) -> dict[str, Tensor]:
        return dict(zip("rzn", self._gates(state[0], u), strict=True))

    def _gates(self, h: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u_r, u_z, u_n = u.chunk(3, dim=-1)
        if self.reset_after:
            a_r, a_z, a_n = self.recur(h).chunk(3, dim=-1)
            r, z = torch.sigmoid(u_r + a_r), torch.sigmoid(u_z + a_z)
            return r, z, torch.tanh(u_n + r * a_n)
        a_r, a_z = self._recur_rows(h, slice(None, 2 * h.shape[-1])).chunk(2, dim=-1)
        r, z = torch.sigmoid(u_r + a_r), torch.sigmoid(u_z + a_z)
        return r, z, torch.tanh(u_n + self._recur_rows(r * h, slice(2 * h.shape[-1], None)))

    def _recur_rows(self, h: Tensor, rows: slice) -> Tensor:
        """The rows of `recur` that belong to some of the gates."""
        bias = None if self.bias_hh is None else self.bias_hh[rows]
        if self.h_mask is not None:
            h = h * self.h_mask
        if self.gain_hh is None:
            return F.linear(h, self.weight_hh[rows], bias)
        a = F.linear(h, self.weight_hh[rows])
        return F.layer_norm(a, a.shape[-1:], self.gain_hh[rows], bias)

    def normalize(self, a: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        """Layer norm of the two gates together and of the candidate by itself, as Ba et al. do."""
        if gain is None:
            return a
        size = a.shape[-1] // 3
        parts = (slice(None, 2 * size), slice(2 * size, None))
        return torch.cat(
            [
                F.layer_norm(a[..., part], gain[part].shape, gain[part], None if bias is None else bias[part])
                for part in parts
            ],
            dim=-1,
        )


class GRUCell(GRURecurrence, OwnedCell):
    """One step of a GRU, with torch.nn.GRUCell's arguments, parameters and shapes.

    Args:
        input_size, hidden_size: features of the input D and of the state H.
        bias: False leaves bias_ih and bias_hh out.
        reset_after: True is torch's candidate, False that of Cho et al.; see the equations.
        layer_norm: normalize both linear maps.

    Call: `cell(input [B, D] or [D], hx [B, H] or [H] or None) -> h`. Cost: 3*H*(D+H) multiplications a row.
    Raises: ValueError, RuntimeError with torch.nn's words for wrong shapes.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        reset_after: bool = True,
        layer_norm: bool = False,
        init: str = "torch",
    ) -> None:
        Cell.__init__(self, input_size, hidden_size)
        self.reset_after = reset_after
        self.own(bias=bias, layer_norm=layer_norm, init=init, device=device, dtype=dtype)

    def initial_state(
        self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> HiddenState:
        return HiddenState(zeros(batch, self.hidden_size, device, dtype))

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return self.one_step(input, None if hx is None else (hx,))[0]
