"""Drop-in replacements of torch.nn.RNN, torch.nn.GRU and torch.nn.LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from throughtime.cells.contract import HiddenState
from throughtime.cells.gru import GRURecurrence
from throughtime.cells.lstm import LSTMRecurrence, LSTMState
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
        check_nonlinearity(nonlinearity)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype,
            options={"nonlinearity": nonlinearity},
            extras=() if nonlinearity in ("tanh", "relu") else (f"nonlinearity={nonlinearity}",),
            **reject_lstm_arguments(keywords),
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    @property
    def mode(self) -> str:
        """torch.nn's name for this kind of layer."""
        return f"RNN_{self.nonlinearity.upper()}"


class GRU(RecurrentLayer):
    """Gated recurrent units; torch.nn.GRU's arguments, state_dict, inputs and outputs.

    Args: input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False, device, dtype;
    reset_after=True is torch's candidate, False that of Cho et al.; and the keywords of `RecurrentLayer`.
    Cost of a step: 3*H*(D+H) multiplications a row, layer and direction. Equations: `throughtime.cells.gru`.
    """

    recurrence = GRURecurrence
    state_type = HiddenState

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        reset_after: bool = True,
        **keywords: Any,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype,
            options={"reset_after": reset_after}, extras=() if reset_after else ("reset_after=False",),
            **reject_lstm_arguments(keywords),
        )  # fmt: skip
        self.reset_after = reset_after

    @property
    def mode(self) -> str:
        """torch.nn's name for this kind of layer."""
        return "GRU"


class LSTM(RecurrentLayer):
    """Long short-term memory; torch.nn.LSTM's arguments, state_dict, inputs and outputs.

    Args: input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False, proj_size=0,
    device, dtype; peepholes=True connects the cell state to the gates; forget_bias=0.0 is added to the forget gate's bias at
    initialization; and the keywords of `RecurrentLayer`.
    Cost of a step: 4*H*(D+H) multiplications a row, layer and direction. Equations: `throughtime.cells.lstm`.
    """

    recurrence = LSTMRecurrence
    state_type = LSTMState

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        peepholes: bool = False,
        **keywords: Any,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype,
            options={"peepholes": peepholes}, extras=("peepholes",) if peepholes else (), **keywords,
        )  # fmt: skip
        self.peepholes = peepholes

    @property
    def mode(self) -> str:
        """torch.nn's name for this kind of layer."""
        return "LSTM"


def reject_lstm_arguments(keywords: dict[str, Any]) -> dict[str, Any]:
    """The keywords, unless they contain one that only an LSTM has."""
    if "proj_size" in keywords:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
    if keywords.get("forget_bias"):
        raise ValueError("forget_bias is for the LSTM's forget gate: use LSTM, or leave it out")
    return keywords
