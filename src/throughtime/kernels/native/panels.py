"""Weights in the panels of csrc/generate.h: all gates of some units side by side, packed once for many symbols."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.kernels.native.generator_weights import store

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


class Packed(NamedTuple):
    """A weight in panel order."""

    values: Tensor  # [panel, K, gates, vectors, width], or words of several rounded ones
    scale: Tensor | None  # int8: a row in panel order


class PackedLayer(NamedTuple):
    """What the native loop reads of a layer."""

    kind: str
    nonlinearity: str
    panels: Panels
    inputs: int  # features that are multiplied
    weight_ih: Packed | None
    weight_hh: Packed
    bias: Tensor
    bias_hn: Tensor | None  # of a GRU's n, which is inside the reset


def pack(panels: Panels, weight: Tensor, weights: str) -> Packed:
    """`weight` [gates*H, K] in one of the forms of `generator_weights.WEIGHTS`."""
    values, scale = store(weight, weights)
    packed = panels.weights(values)
    if weights == "bf16":
        packed = bf16_words(packed)
    elif weights == "int8":
        packed = int8_words(packed)
    return Packed(packed, None if scale is None else panels.rows(scale))


def bf16_words(packed: Tensor) -> Tensor:
    """[panel, K, gates, vectors, width] bfloat16 -> [panel, words, width] int32, of two vectors that follow each other.

    The first lies in the lower half of each word. K is padded with zeros to a multiple of 4.
    """
    padded = F.pad(packed.flatten(2), (0, 0, 0, -packed.shape[1] % 4))
    low, high = padded.reshape(len(packed), -1, 2, packed.shape[-1]).view(torch.int16).unbind(2)
    return (high.int() << 16) | (low.int() & 0xFFFF)


def int8_words(packed: Tensor) -> Tensor:
    """[panel, K, gates, vectors, width] int8 -> [panel, K, width] int32, q0 + 2^8 q1 + 2^16 q2 + 2^24 q3 of the up to 4 vectors.

    K is padded with zeros to a multiple of 4.
    """
    vectors = packed.flatten(2, 3)
    padded = F.pad(vectors, (0, 0, 0, 4 - vectors.shape[2], 0, -packed.shape[1] % 4)).int()
    return sum((padded[:, :, part] << 8 * part for part in range(1, 4)), start=padded[:, :, 0])


def pack_layer(layer: GeneratorLayer, width: int, weights: str, *, folded: bool) -> PackedLayer:
    """`folded`: the inputs come as rows of a table."""
    gates = layer.weight_hh.shape[0] // layer.hidden
    panels = Panels(gates, layer.hidden, 4 if layer.kind == "rnn" else 1, width)
    bias, bias_hn = _biases(layer)
    return PackedLayer(
        layer.kind,
        layer.nonlinearity,
        panels,
        0 if folded else layer.weight_ih.shape[1],
        None if folded else pack(panels, layer.weight_ih, weights),
        pack(panels, layer.weight_hh, weights),
        panels.rows(bias),
        None if bias_hn is None else F.pad(bias_hn, (0, panels.padded - layer.hidden)),
    )


def pack_head(weight: Tensor, bias: Tensor | None, width: int, weights: str) -> tuple[Packed, Tensor]:
    """The head's weights [V, H] and bias; what is padded has a logit of -infinity, so it is never drawn."""
    symbols = weight.shape[0]
    whole = -(-symbols // LOGIT_BLOCK) * LOGIT_BLOCK
    panels = Panels(1, whole, 4, width)
    bias = weight.new_zeros(symbols) if bias is None else bias
    padded = F.pad(bias, (0, whole - symbols), value=float("-inf"))
    return pack(panels, F.pad(weight, (0, 0, 0, whole - symbols)), weights), panels.rows(padded)


def folds(layer: GeneratorLayer, embedding: Tensor | None) -> bool:
    """Whether the layer's input becomes a table with a row for each symbol: one row is read for a symbol, and W_ih is not.

    `embedding` None: one-hot symbols, where W_ih is that table.
    """
    return embedding is None or embedding.shape[0] * layer.weight_ih.shape[0] * 4 <= _TABLE_BYTES


def table(layer: GeneratorLayer, embedding: Tensor | None, width: int) -> Tensor | None:
    """W_ih x + biases of every symbol, in panel order; None where that is too large."""
    if not folds(layer, embedding):
        return None
    gates = layer.weight_hh.shape[0] // layer.hidden
    panels = Panels(gates, layer.hidden, 4 if layer.kind == "rnn" else 1, width)
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
