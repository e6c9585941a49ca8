"""The base of the RNN, the GRU and the LSTM: a linear map of the input and one of the hidden state.

A `Recurrence` is an equation over any tensors. A cell is a Recurrence that owns its tensors as parameters (`OwnedCell`); a layer
binds one to its own parameters for every layer and direction. So each equation is written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from throughtime.cells.contract import Cell, State
from throughtime.cells.init import initialize


class Recurrence:
    """One recurrence, bound to tensors by name: `LSTM.bind({"weight_ih": ..., "weight_hh": ...})`.

    weight_ih [G*H, D], weight_hh [G*H, H], bias_ih and bias_hh [G*H] or None, for G gates.
    gain_ih, gain_hh [G*H] or None: with them each linear map is layer-normalized (Ba, Kiros & Hinton 2016,
    arXiv 1607.06450, the form of their LSTM and GRU) and the biases are the norm's.
    h_mask [B, H] or None: recurrent dropout, one mask for all steps (Gal & Ghahramani 2016, arXiv 1512.05287).
    It applies to the hidden state only where the linear map reads it, never to the state that is carried on.
    """

    kind: ClassVar[str]
    num_gates: ClassVar[int]
    optional: ClassVar[tuple[str, ...]] = ("bias_ih", "bias_hh", "gain_ih", "gain_hh", "h_mask")

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    gain_ih: Tensor | None
    gain_hh: Tensor | None
    h_mask: Tensor | None

    @classmethod
    def bind(cls, tensors: Mapping[str, Tensor | None], **options: Any) -> Recurrence:
        """The equation over `tensors`; missing names are absent terms."""
        bound = cls()
        for name in cls.optional:
            setattr(bound, name, None)
        for name, value in (*tensors.items(), *options.items()):
            setattr(bound, name, value)
        return bound

    @classmethod
    def shapes(
        cls, input_size: int, hidden_size: int, *, bias: bool = True, layer_norm: bool = False, **_: Any
    ) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in torch.nn's order."""
        rows = cls.num_gates * hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, input_size),
            "weight_hh": (rows, hidden_size),
        }
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if layer_norm:
            shapes |= {"gain_ih": (rows,), "gain_hh": (rows,)}
        return shapes

    def project(self, x: Tensor) -> Tensor:
        """`W_ih x + b_ih`, for one step or for all of them: [..., D] -> [..., G*H]."""
        return self.normalize(
            F.linear(x, self.weight_ih, self._added(self.bias_ih)), self.gain_ih, self.bias_ih
        )

    def recur(self, h: Tensor) -> Tensor:
        """`W_hh h + b_hh`: [B, H] -> [B, G*H]."""
        if self.h_mask is not None:
            h = h * self.h_mask
        return self.normalize(
            F.linear(h, self.weight_hh, self._added(self.bias_hh)), self.gain_hh, self.bias_hh
        )

    def normalize(self, a: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        """Layer norm of a linear map's result, over all its gates together; nothing without a gain."""
        return a if gain is None else F.layer_norm(a, a.shape[-1:], gain, bias)

    def _added(self, bias: Tensor | None) -> Tensor | None:
        # Under layer norm the bias comes after the norm.
        return bias if self.gain_ih is None else None

    def step(self, state: State, u: Tensor) -> State:
        """The next state; written by each recurrence."""
        raise NotImplementedError

    def gates(self, state: State, u: Tensor) -> dict[str, Tensor]:
        """The gates of a step by name; written by each recurrence."""
        raise NotImplementedError


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
        """Register and initialize the parameters; those that an option leaves out are registered as None."""
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
        """Initialize all parameters again by the cell's `init`."""
        initialize(dict(self.named_parameters()), self.hidden_size, self.init, self.forget_bias)

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


def zeros(batch: int, size: int, device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
    """A zero state: [batch, size]."""
    return torch.zeros(batch, size, device=device, dtype=dtype)
