"""Weights in the panels of csrc/generate.h: all gates of some units side by side, packed once for many symbols."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

GATES = {"rnn": 1, "gru": 3, "lstm": 4}  # in the order of tt_cell in csrc/call.h
ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
LOGIT_BLOCK = 64  # of csrc/sampling.hpp
_TABLE_BYTES = 64 * 2**20


class GeneratorLayer(NamedTuple):
    """One recurrent layer's tensors, of torch.nn's shapes."""

    kind: str  # "rnn", "gru" (reset after), "lstm"
    weight_ih: Tensor  # [gates*H, D]
    weight_hh: Tensor  # [gates*H, H]
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    nonlinearity: str = "tanh"  # of the RNN

    @property
    def hidden(self) -> int:
        """H."""
        return self.weight_hh.shape[1]


class Panels(NamedTuple):
    """How the units of a layer, or the symbols of the head, are divided."""

    gates: int
    size: int  # H
    vectors: int  # registers of one gate in a panel
    width: int  # numbers in a register

    @property
    def padded(self) -> int:
        """H in whole panels."""
        panel = self.vectors * self.width
        return -(-self.size // panel) * panel

    def rows(self, value: Tensor) -> Tensor:
        """[..., gates*H] -> [..., panel, gates, vectors, width]: rows of numbers for each unit, in panel order."""
        before = value.shape[:-1]
        units = F.pad(value.reshape(*before, self.gates, self.size), (0, self.padded - self.size))
        split = units.reshape(*before, self.gates, -1, self.vectors, self.width)
        return split.transpose(-4, -3).contiguous()

    def weights(self, weight: Tensor) -> Tensor:
        """[gates*H, K] -> [panel, K, gates, vectors, width]."""
        return self.rows(weight.t()).movedim(0, 1).contiguous()


class PackedLayer(NamedTuple):
    """What the native loop reads of a layer."""

    kind: str
    nonlinearity: str
    panels: Panels
    inputs: int  # features that are multiplied
    weight_ih: Tensor | None
    weight_hh: Tensor
    bias: Tensor
    bias_hn: Tensor | None  # of a GRU's n, which is inside the reset


def pack_layer(layer: GeneratorLayer, width: int, *, folded: bool) -> PackedLayer:
    """`folded`: the inputs come as rows of a table."""
    gates = layer.weight_hh.shape[0] // layer.hidden
    panels = Panels(gates, layer.hidden, 4 if layer.kind == "rnn" else 1, width)
    bias, bias_hn = _biases(layer)
    return PackedLayer(
        layer.kind,
        layer.nonlinearity,
        panels,
        0 if folded else layer.weight_ih.shape[1],
        None if folded else panels.weights(layer.weight_ih),
        panels.weights(layer.weight_hh),
        panels.rows(bias),
        None if bias_hn is None else F.pad(bias_hn, (0, panels.padded - layer.hidden)),
    )


def pack_head(weight: Tensor, bias: Tensor | None, width: int) -> tuple[Tensor, Tensor]:
    """The head's weights [V, H] and bias; what is padded has a logit of -infinity, so it is never drawn."""
    symbols = weight.shape[0]
    whole = -(-symbols // LOGIT_BLOCK) * LOGIT_BLOCK
    panels = Panels(1, whole, 4, width)
    bias = weight.new_zeros(symbols) if bias is None else bias
    padded = F.pad(bias, (0, whole - symbols), value=float("-inf"))
    return panels.weights(F.pad(weight, (0, 0, 0, whole - symbols))), panels.rows(padded)


def table(layer: GeneratorLayer, embedding: Tensor | None, width: int) -> Tensor | None:
    """W_ih x + biases of every symbol, in panel order; None where that is too large. `embedding` None: one-hot symbols."""
    gates = layer.weight_hh.shape[0] // layer.hidden
    panels = Panels(gates, layer.hidden, 4 if layer.kind == "rnn" else 1, width)
    if embedding is not None and embedding.shape[0] * gates * panels.padded * 4 > _TABLE_BYTES:
        return None
    inputs = layer.weight_ih.t() if embedding is None else embedding @ layer.weight_ih.t()
    return panels.rows(inputs + _biases(layer)[0])


def _biases(layer: GeneratorLayer) -> tuple[Tensor, Tensor | None]:
    """Both biases together, a GRU's b_hn apart."""
    rows, hidden = layer.weight_hh.shape
    none = layer.weight_hh.new_zeros(rows)
    b_ih = none if layer.bias_ih is None else layer.bias_ih
    b_hh = none if layer.bias_hh is None else layer.bias_hh
    if layer.kind != "gru":
        return b_ih + b_hh, None
    through = torch.cat([b_hh[: 2 * hidden], b_hh.new_zeros(hidden)])
    return b_ih + through, b_hh[2 * hidden :]
