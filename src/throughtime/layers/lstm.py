"""A long short-term memory layer in the place of torch.nn.LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from throughtime.cells.lstm import LSTMRecurrence, LSTMState
from throughtime.layers.base import RecurrentLayer


class LSTM(RecurrentLayer):
    """Long short-term memory; torch.nn.LSTM's arguments, state_dict, inputs and outputs.

    Args: input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False, proj_size=0,
    device, dtype; peepholes=False lets the gates see the memory; forget_bias=0.0 is added to the forget gate's bias at the
    start; and the keywords of `RecurrentLayer`.
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
            options={"peepholes": peepholes}, **keywords,
        )  # fmt: skip
        self.peepholes = peepholes

    @property
    def mode(self) -> str:
        """torch.nn's name for the kind of layer."""
        return "LSTM"

    def _extras(self) -> list[str]:
        return ["peepholes"] * self.peepholes
