"""What the RNN, the GRU and the LSTM share: a linear map of the input and one of the hidden state.

A `Recurrence` is an equation over whatever tensors it is given. A cell is a Recurrence that owns its tensors as
parameters; a layer binds one to its own parameters for every layer and direction. So each equation is written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.cells.contract import State


class Recurrence:
    """One recurrence, bound to tensors by name: `LSTM.bind({"weight_ih": ..., "weight_hh": ...})`.

    weight_ih [G*H, D], weight_hh [G*H, H], bias_ih and bias_hh [G*H] or None, for G gates.
    gain_ih, gain_hh [G*H] or None: with them each linear map is layer-normalised (Ba, Kiros & Hinton 2016,
    arXiv 1607.06450, the form of their LSTM and GRU) and the biases are the norm's.
    h_mask [B, H] or None: recurrent dropout, one mask for all steps (Gal & Ghahramani 2016, arXiv 1512.05287).
    It touches the hidden state on its way into the linear map only, never the memory that is carried on.
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
        """The equation over `tensors`; names that are not given are absent terms."""
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
        return self.normalise(
            F.linear(x, self.weight_ih, self._added(self.bias_ih)), self.gain_ih, self.bias_ih
        )

    def recur(self, h: Tensor) -> Tensor:
        """`W_hh h + b_hh`: [B, H] -> [B, G*H]."""
        if self.h_mask is not None:
            h = h * self.h_mask
        return self.normalise(
            F.linear(h, self.weight_hh, self._added(self.bias_hh)), self.gain_hh, self.bias_hh
        )

    def normalise(self, a: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
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


def zeros(batch: int, size: int, device: torch.device | None, dtype: torch.dtype | None) -> Tensor:
    """A state of nothing: [batch, size]."""
    return torch.zeros(batch, size, device=device, dtype=dtype)
