"""An LSTM that also gives its memory after every step, differentiable: the kernel's, and the reference's trace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from throughtime.kernels.native.recurrence.autograd import run
from throughtime.kernels.native.recurrence.rows import rows_of
from throughtime.layers import LSTM

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Native(nn.Module):
    """One layer on the native kernel: `(x, (h, c)) -> (outputs and memories [T, B, 2 H], final states)`."""

    def __init__(self, layer: LSTM) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        layer = self.layer
        recurrence = layer.recurrence.bind(
            {name: getattr(layer, f"{name}_l0") for name in NAMES}, **layer.options
        )
        zero = x.new_zeros(1, x.shape[1], layer.hidden_sizes[0])
        h, c = (zero, zero) if hx is None else hx
        rows = rows_of(x, None)
        y, finals, cell_states = run(recurrence, rows, rows.pack(x), (h[0], c[0]), False, cell_states=True)
        both = torch.cat([rows.unpack(y), rows.unpack(cell_states)], -1)
        return both, tuple(value.unsqueeze(0) for value in finals)


class Reference(nn.Module):
    """The same by `trace`."""

    def __init__(self, layer: LSTM) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        y, finals, steps = self.layer.trace(x, hx)
        return torch.cat([y, steps["l0"]["c"]], -1), finals
