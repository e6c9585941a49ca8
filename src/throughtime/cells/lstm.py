"""Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000).

    i_t = sigmoid(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi   [+ p_i * c_{t-1}])    input gate
    f_t = sigmoid(W_if x_t + b_if + W_hf h_{t-1} + b_hf   [+ p_f * c_{t-1}])    forget gate
    g_t = tanh   (W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)                        candidate
    c_t = f_t * c_{t-1} + i_t * g_t                                             cell state
    o_t = sigmoid(W_io x_t + b_io + W_ho h_{t-1} + b_ho   [+ p_o * c_t])        output gate
    h_t = o_t * tanh(c_t)                                 [W_hr (o_t * tanh(c_t)) with proj_size]

[p]: peepholes (Gers & Schmidhuber 2000; Graves 2013, arXiv 1308.0850). [W_hr]: projection (Sak et al. 2014, arXiv 1402.1128).
With layer norm h_t = o_t * tanh(LN(c_t)), and both linear maps are normalized (Ba et al. 2016, arXiv 1607.06450).
Rows of weight_ih, weight_hh and the biases are in the order i, f, g, o. W_ii is
weight_ih[:H], b_ii is bias_ih[:H], and so on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.cells.contract import Cell, State
from throughtime.cells.recurrence import OwnedCell, Recurrence, zeros


class LSTMState(NamedTuple):
    """The output and the cell state."""

    h: Tensor  # [B, H] output of the last step, and its recurrent input ([B, proj_size] with a projection)
    c: Tensor  # [B, H] cell state


class LSTMRecurrence(Recurrence):
    """The equation at the top of this file."""

    kind = "lstm"
    num_gates = 4
    optional = (*Recurrence.optional, "weight_hr", "weight_peephole", "gain_c", "bias_c")

    weight_hr: Tensor | None  # [proj_size, H]
    weight_peephole: Tensor | None  # [3*H], in the order i, f, o
    gain_c: Tensor | None  # [H]
    bias_c: Tensor | None  # [H]

    @classmethod
    def shapes(
        cls,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        layer_norm: bool = False,
        proj_size: int = 0,
        peepholes: bool = False,
        **_: Any,
    ) -> dict[str, tuple[int, ...]]:
        shapes = super().shapes(input_size, hidden_size, bias=bias, layer_norm=layer_norm)
        if proj_size:
            shapes |= {"weight_hh": (4 * hidden_size, proj_size), "weight_hr": (proj_size, hidden_size)}
        if peepholes:
            shapes |= {"weight_peephole": (3 * hidden_size,)}
        if layer_norm:
            shapes |= {"gain_c": (hidden_size,)} | ({"bias_c": (hidden_size,)} if bias else {})
        return shapes

    def step(self, state: State, u: Tensor) -> LSTMState:
        _, _, _, o, c = self._gates(state, u)
        h = o * torch.tanh(
            c if self.gain_c is None else F.layer_norm(c, c.shape[-1:], self.gain_c, self.bias_c)
        )
        return LSTMState(h if self.weight_hr is None else F.linear(h, self.weight_hr), c)

    def gates(self, state: State, u: Tensor) -> dict[str, Tensor]:
        return dict(zip("ifgo", self._gates(state, u)[:4], strict=True))

    def _gates(self, state: State, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        h, c = state
        i, f, g, o = (u + self.recur(h)).chunk(4, dim=-1)
        if self.weight_peephole is not None:
            p_i, p_f, p_o = self.weight_peephole.chunk(3)
            i, f = i + p_i * c, f + p_f * c
        i, f, g = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g)
        c = f * c + i * g
        if self.weight_peephole is not None:
            o = o + p_o * c
        return i, f, g, torch.sigmoid(o), c


class LSTMCell(LSTMRecurrence, OwnedCell):
    """One step of an LSTM, with torch.nn.LSTMCell's arguments, parameters and shapes.

    Args:
        input_size, hidden_size: features of the input D and of the cell state H.
        bias: False leaves bias_ih and bias_hh out.
        peepholes: connect the cell state to the gates; adds weight_peephole [3*H].
        forget_bias: added to the forget gate's bias at initialization; 1 makes the cell keep its state at first
            (Jozefowicz, Zaremba & Sutskever 2015, ICML).
        proj_size: features of h after a linear projection, less than H; 0 for none.
        layer_norm: normalize both linear maps and the cell state that the output is computed from.

    Call: `cell(input [B, D] or [D], (h, c) or None) -> (h, c)`. Cost: 4*H*(D+H) multiplications a row.
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
        peepholes: bool = False,
        forget_bias: float = 0.0,
        proj_size: int = 0,
        layer_norm: bool = False,
        init: str = "torch",
    ) -> None:
        if proj_size < 0 or proj_size >= hidden_size:
            raise ValueError("proj_size has to be smaller than hidden_size, and 0 for no projection")
        Cell.__init__(self, input_size, hidden_size)
        self.proj_size = proj_size
        self.own(
            bias=bias,
            layer_norm=layer_norm,
            init=init,
            forget_bias=forget_bias,
            device=device,
            dtype=dtype,
            peepholes=peepholes,
            proj_size=proj_size,
        )

    def initial_state(
        self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LSTMState:
        return LSTMState(
            zeros(batch, self.proj_size or self.hidden_size, device, dtype),
            zeros(batch, self.hidden_size, device, dtype),
        )

    def forward(  # type: ignore[override]
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        h, c = self.one_step(input, hx)
        return h, c
