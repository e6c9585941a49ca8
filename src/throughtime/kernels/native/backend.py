"""The native backend's answer to dispatch."""

from __future__ import annotations

import torch

from throughtime.kernels.call import Call
from throughtime.kernels.native import operators, precision

_CAN = (
    "layer_norm",
    "zoneout",
    "reset_after=False",
    "peepholes",
    "recurrent_dropout",
    "different hidden sizes",
    "nonlinearity=sigmoid",
    "nonlinearity=identity",
)


class NativeBackend:
    """C++ on the CPU."""

    name = "native"

    @property
    def runs(self) -> str:
        """What it can do, in words."""
        done = "RNN, GRU, LSTM with every option; full and ragged batches; float32, float64"
        return f"{done}; {precision.in_words()}"

    def unavailable(self) -> str | None:
        """Why the library is not there, or None."""
        return operators.MISSING

    def refusal(self, call: Call) -> str | None:
        """Why this call cannot run here, or None."""
        if call.device != "cpu":
            return f"native runs on the CPU, this call is on {call.device}"
        if call.cell not in ("rnn", "gru", "lstm"):
            return f"native has no kernel for {call.cell}"
        unknown = [extra for extra in call.extras if extra not in _CAN]
        if unknown:
            return f"native has no kernel for {call.cell} with {', '.join(unknown)}"
        if call.dtype not in (torch.float32, torch.float64, torch.bfloat16):
            name = str(call.dtype).removeprefix("torch.")
            return f"native computes in float32, float64 and bfloat16, this call is in {name}"
        if call.transform == "torch.compile":
            return operators.refusal(call)
        if call.transform:
            return f"native cannot run under {call.transform}"
        if call.dtype == torch.bfloat16 or call.autocast:
            return _low_refusal()
        return None


def _low_refusal() -> str | None:
    """Why a call in low precision cannot run here, or None."""
    if torch._C._len_torch_dispatch_stack():  # the operators that a dispatch mode sees have no such border
        return "native computes in float32 and float64 only under a torch_dispatch mode, without autocast"
    found = precision.arithmetic()
    return found if isinstance(found, str) else None
