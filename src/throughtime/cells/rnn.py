"""The plain recurrent network (Elman 1990, Cognitive Science 14(2)).

    h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)        phi: tanh, relu, sigmoid or identity

Textbooks often write H_t = phi(X_t W_xh + H_{t-1} W_hh + b_h) with examples as rows; torch.nn stores the transposed weights and
two biases, so W_xh = weight_ih.T, their W_hh = weight_hh.T, b_h = bias_ih + bias_hh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from throughtime.cells.contract import Cell, HiddenState, State
from throughtime.cells.recurrence import OwnedCell, Recurrence, zeros
from throughtime.errors import InputError, nearest

NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda a: a,
}


def check_nonlinearity(name: str) -> str:
    """Return `name` if it is a nonlinearity of the plain RNN.

    Raises: InputError (a ValueError, with torch.nn's opening words) naming the four.
    """
    if name in NONLINEARITIES:
        return name
    raise InputError(
        f"Unknown nonlinearity '{name}'. Select from {', '.join(map(repr, NONLINEARITIES))}."
        + nearest(str(name), NONLINEARITIES)
    )


class RNNRecurrence(Recurrence):
    """The equation at the top of this file."""

    kind = "rnn"
    num_gates = 1
    nonlinearity: str

    def step(self, state: State, u: Tensor) -> HiddenState:
        (h,) = state
        return HiddenState(NONLINEARITIES[self.nonlinearity](u + self.recur(h)))

    def gates(self, state: State, u: Tensor) -> dict[str, Tensor]:
        """The pre-activation `a`: phi'(a) is what the gradient is multiplied by."""
        return {"a": u + self.recur(state[0])}


class RNNCell(RNNRecurrence, OwnedCell):
    """One step of a plain recurrent network, with torch.nn.RNNCell's arguments, parameters and shapes.

    Args:
        input_size, hidden_size: features of the input D and of the state H.
        bias: False leaves bias_ih and bias_hh out.
        nonlinearity: "tanh", "relu", "sigmoid" or "identity" (a linear network).
        layer_norm: normalize both linear maps.

    Call: `cell(input [B, D] or [D], hx [B, H] or [H] or None) -> h` of hx's shape. Cost: H*(D+H) multiplications a row.
    Raises: ValueError, RuntimeError with torch.nn's words for wrong shapes; InputError for an unknown nonlinearity.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
        *,
        layer_norm: bool = False,
        init: str = "torch",
    ) -> None:
        Cell.__init__(self, input_size, hidden_size)
        self.nonlinearity = check_nonlinearity(nonlinearity)
        self.own(bias=bias, layer_norm=layer_norm, init=init, device=device, dtype=dtype)

    def initial_state(
        self, batch: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> HiddenState:
        return HiddenState(zeros(batch, self.hidden_size, device, dtype))

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return self.one_step(input, None if hx is None else (hx,))[0]
