"""A call of a recurrent layer as plain data, so that choosing a backend needs neither the tensors nor the hardware."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.autograd import forward_ad


class Call(NamedTuple):
    """What a backend must know to say whether it can run a call."""

    cell: str  # "rnn", "gru", "lstm", or the name of a cell's class
    extras: tuple[str, ...] = ()  # what torch.nn's layer cannot do: "layer_norm", "peepholes", ...
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    ragged: bool = False  # rows of different lengths
    empty_rows: bool = False  # a row of length zero
    transform: str = (
        ""  # "torch.func", "forward-mode AD", "torch.compile" or "torch.jit.trace" when the call is under one
    )
    autocast: bool = False  # under torch.autocast on the CPU
    projected: bool = False  # an LSTM whose output is projected, proj_size > 0


def active_transform() -> str:
    """The function transform that this call is made under, or ""."""
    # What changes the derivatives comes first: a compiled torch.func.vmap is a vmap.
    if torch._C._are_functorch_transforms_active():
        return "torch.func"
    if forward_ad._current_level >= 0:
        return "forward-mode AD"
    if torch.compiler.is_compiling():
        return "torch.compile"  # or torch.export
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace"
    return ""


def under_autocast(device: str) -> bool:
    """Whether torch.autocast is on for the CPU and the call runs there; on CUDA it matters to no backend."""
    return device == "cpu" and torch.is_autocast_enabled("cpu")
