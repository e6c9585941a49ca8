"""A plain recurrent layer in the place of torch.nn.RNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from throughtime.cells.contract import HiddenState
from throughtime.cells.rnn import RNNRecurrence, check_nonlinearity
from throughtime.layers.base import RecurrentLayer


class RNN(RecurrentLayer):
    """h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh); torch.nn.RNN's arguments, state_dict, inputs and outputs.

    Args: input_size, hidden_size, num_layers=1, nonlinearity="tanh" (also "relu", "sigmoid", "identity"), bias=True,
    batch_first=False, dropout=0.0, bidirectional=False, device, dtype; and the keywords of `RecurrentLayer`.
    Cost of a step: H*(D+H) multiplications a row, layer and direction. Equation: `throughtime.cells.rnn`.
    """

    recurrence = RNNRecurrence
    state_type = HiddenState

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **keywords: Any,
    ) -> None:
        if "proj_size" in keywords:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        self_nonlinearity = check_nonlinearity(nonlinearity)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype,
            options={"nonlinearity": self_nonlinearity}, **reject_forget_bias(keywords),
        )  # fmt: skip
        self.nonlinearity = self_nonlinearity

    @property
    def mode(self) -> str:
        """torch.nn's name for the kind of layer."""
        return f"RNN_{self.nonlinearity.upper()}"

    def _extras(self) -> list[str]:
        return [] if self.nonlinearity in ("tanh", "relu") else [f"nonlinearity={self.nonlinearity}"]


def reject_forget_bias(keywords: dict[str, Any]) -> dict[str, Any]:
    """The keywords, unless they name a gate that the layer does not have."""
    if keywords.get("forget_bias"):
        raise ValueError("forget_bias is for the LSTM's forget gate: use LSTM, or leave it out")
    return keywords
