"""A gated recurrent layer in the place of torch.nn.GRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from throughtime.cells.contract import HiddenState
from throughtime.cells.gru import GRURecurrence
from throughtime.layers.base import RecurrentLayer
from throughtime.layers.rnn import reject_forget_bias


class GRU(RecurrentLayer):
    """Gated recurrent units; torch.nn.GRU's arguments, state_dict, inputs and outputs.

    Args: input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False, device, dtype;
    reset_after=True is torch's candidate, False the one of Cho et al. and the course; and the keywords of `RecurrentLayer`.
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
        if "proj_size" in keywords:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype,
            options={"reset_after": reset_after}, **reject_forget_bias(keywords),
        )  # fmt: skip
        self.reset_after = reset_after

    @property
    def mode(self) -> str:
        """torch.nn's name for the kind of layer."""
        return "GRU"

    def _extras(self) -> list[str]:
        return [] if self.reset_after else ["reset_after=False"]
