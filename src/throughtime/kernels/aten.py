"""torch's own fused recurrences, for the calls that they can run: oneDNN and ATen loops on the CPU, cuDNN on CUDA."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from throughtime.cells.recurrence import Recurrence
from throughtime.kernels.call import Call

_OPERATIONS = {"rnn tanh": "rnn_tanh", "rnn relu": "rnn_relu", "gru": "gru", "lstm": "lstm"}


class Stack(NamedTuple):
    """All layers and directions of one call, in torch.nn's order: layer 0 forward, layer 0 backward, layer 1 forward, ..."""

    recurrences: tuple[Recurrence, ...]
    num_layers: int
    bidirectional: bool
    dropout: float
    training: bool


class AtenBackend:
    """torch's CPU recurrences: fast on a full batch."""

    name = "aten"
    runs = "RNN (tanh, relu), GRU (reset after), LSTM as in torch.nn; full batches on the CPU"

    def unavailable(self) -> str | None:
        """Why nothing at all can run here, or None."""
        return None

    def refusal(self, call: Call) -> str | None:
        """Why this call cannot run here, or None."""
        if call.device != "cpu":
            return f"aten runs on the CPU, this call is on {call.device}"
        if call.ragged:
            return "aten runs full batches only: torch's packed loop on the CPU is many times slower than the padded one"
        if call.autocast and call.cell == "lstm":
            # oneDNN has no such primitive on processors without bfloat16 instructions, and torch does not ask it first.
            return "aten does not run an LSTM under autocast: torch's kernel fails there on many processors"
        return stock_refusal(self.name, call)

    def run(
        self, stack: Stack, x: Tensor, states: list[Tensor], lengths: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the whole stack: x [T, B, D] and states [L*directions, B, ...] to outputs and final states."""
        first = stack.recurrences[0]
        kind = f"{first.kind} {first.nonlinearity}" if first.kind == "rnn" else first.kind  # type: ignore[attr-defined]
        operation = getattr(torch._VF, _OPERATIONS[kind])
        weights = [w for r in stack.recurrences for w in flat_weights(r)]
        options = (
            first.bias_ih is not None,
            stack.num_layers,
            stack.dropout,
            stack.training,
            stack.bidirectional,
        )
        hx = tuple(states) if first.kind == "lstm" else states[0]
        if lengths is None:
            y, *final = operation(x, hx, weights, *options, False)
            return y, final
        packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
        order, back = packed.sorted_indices, packed.unsorted_indices
        assert order is not None  # not enforce_sorted, so both are there
        assert back is not None
        sorted_states = [s.index_select(1, order) for s in states]
        hx = tuple(sorted_states) if first.kind == "lstm" else sorted_states[0]
        data, *final = operation(packed.data, packed.batch_sizes, hx, weights, *options)
        y, _ = torch._VF._pad_packed_sequence(data, packed.batch_sizes, False, 0.0, x.shape[0])
        return y.index_select(1, back), [s.index_select(1, back) for s in final]


class CudnnBackend(AtenBackend):
    """torch's CUDA recurrences: cuDNN."""

    name = "cudnn"
    runs = "RNN (tanh, relu), GRU (reset after), LSTM as in torch.nn; full and ragged batches on CUDA"

    def unavailable(self) -> str | None:
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        if not torch.backends.cudnn.enabled:
            return "torch.backends.cudnn.enabled is False"
        if not torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
            return "this torch was built without cuDNN"
        return None

    def refusal(self, call: Call) -> str | None:
        if call.device != "cuda":
            return f"cudnn runs on CUDA, this call is on {call.device}"
        if call.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return f"cudnn has no recurrence for {call.dtype}"
        if call.empty_rows:
            return "cudnn cannot run a row of length zero"
        return stock_refusal(self.name, call)


def stock_refusal(name: str, call: Call) -> str | None:
    """What both of torch's backends cannot do."""
    if call.cell not in ("rnn", "gru", "lstm"):
        return f"{name} has no kernel for {call.cell}"
    if call.extras:
        return f"{name} has no kernel for {call.cell} with {', '.join(call.extras)}"
    if call.transform:
        return f"{name} cannot run under {call.transform}"
    return None


def flat_weights(recurrence: Recurrence) -> list[Tensor]:
    """One layer and direction's weights in the order that torch's operations take them."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    values = [getattr(recurrence, name, None) for name in names]
    return [value for value in values if value is not None]
