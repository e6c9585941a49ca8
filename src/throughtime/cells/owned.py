"""A recurrence that owns its tensors: what RNNCell, GRUCell and LSTMCell share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from throughtime.cells.contract import Cell, State
from throughtime.cells.init import initialise
from throughtime.cells.recurrence import Recurrence


class OwnedCell(Recurrence, Cell):
    """A cell whose parameters are those that its recurrence names, with torch.nn's errors for wrong shapes."""

    bias: bool

    def own(
        self,
        *,
        bias: bool,
        init: str,
        forget_bias: float = 0.0,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        """Register and fill the parameters; those that an option leaves out are registered as None."""
        self.bias = bias
        self.init = init
        self.forget_bias = forget_bias
        self.h_mask = None
        shapes = self.shapes(self.input_size, self.hidden_size, bias=bias, **options)
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        for name in self.optional:
            if name not in shapes and name != "h_mask":
                self.register_parameter(name, None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start again from the cell's own `init`."""
        initialise(dict(self.named_parameters()), self.hidden_size, self.init, self.forget_bias)

    def one_step(self, input: Tensor, hx: State | None) -> State:
        """One step with torch.nn's checks and its unbatched form."""
        name = type(self).__name__
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        for index, value in enumerate(hx or ()):
            if value.dim() not in (1, 2):
                what = f"hx[{index}]" if len(hx or ()) > 1 else "hidden"
                raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {value.dim()}D instead")
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {x.shape[-1]} expected {self.input_size}"
            )
        zero = self.initial_state(x.shape[0], device=x.device, dtype=x.dtype)
        state = zero if hx is None else tuple(s if batched else s.unsqueeze(0) for s in hx)
        for index, (value, like) in enumerate(zip(state, zero, strict=True)):
            if value.shape[0] != x.shape[0]:
                raise RuntimeError(
                    f"Input batch size {x.shape[0]} doesn't match hidden{index} batch size {value.shape[0]}"
                )
            if value.shape[1] != like.shape[1]:
                raise RuntimeError(
                    f"hidden{index} has inconsistent hidden_size: got {value.shape[1]}, expected {like.shape[1]}"
                )
        new = self.step(type(zero)(*state), self.project(x))
        return new if batched else tuple(s.squeeze(0) for s in new)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if not self.bias:
            text += ", bias=False"
        nonlinearity = getattr(self, "nonlinearity", "tanh")
        if nonlinearity != "tanh":
            text += f", nonlinearity={nonlinearity}"
        return text
