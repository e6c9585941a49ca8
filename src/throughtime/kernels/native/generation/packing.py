"""Weights for the native loop of generation: quantized, and packed once into the panels of csrc/generate.h.

In a panel all gates of some units are stored next to each other. Weights are float32, or quantized so that reading them takes
less time; the arithmetic is float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.kernels.native.library import GATES

WEIGHTS = ("float32", "bf16", "int8")  # in the order of tt_generation_weights in csrc/generate.h
LOGIT_BLOCK = 64  # of csrc/sampling.hpp
_TABLE_BYTES = 64 * 2**20


class Quantized(NamedTuple):
    """A weight [R, K] in one of the forms of `WEIGHTS`."""

    values: Tensor  # [R, K] float32, bfloat16 or int8
    scale: Tensor | None  # [R] float32, of int8 only

    def dequantize(self) -> Tensor:
        """The float32 weight [R, K] that generation computes with."""
        values = self.values.float()
        return values if self.scale is None else self.scale[:, None] * values


def quantize(weight: Tensor, weights: str) -> Quantized:
    """Quantize a float32 weight [R, K].

        bf16:  rounded to 8 significant bits, ties to even: within 2^-9 of each weight, relatively
        int8:  q = round(w / s), s = max_k |w_k| / 127 of each row: within s / 2 of each weight

    int8 is symmetric, -127 to 127, and zero stays zero. A row that holds NaN or infinity gives NaN.
    Cost: a copy of the weight.
    Source: int8 with a scale for each output row: Krishnamoorthi 2018, arXiv 1806.08342.
    """
    if weights == "bf16":
        return Quantized(weight.to(torch.bfloat16), None)
    if weights == "int8":
        scale = weight.abs().amax(1) / 127
        # nan_to_num: a row of zeros divides zero by zero. clamp: a denormal scale is not exact.
        q = (weight / scale[:, None]).round().nan_to_num(0.0).clamp(-127, 127)
        return Quantized(q.to(torch.int8), scale)
    return Quantized(weight, None)


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
    """How the units of a layer, or the symbols of the head, are divided into panels."""

    gates: int
    size: int  # H
    vectors: int  # registers of one gate in a panel
    width: int  # numbers in a register

    @staticmethod
    def of(layer: GeneratorLayer, width: int) -> Panels:
        """Those of a layer."""
        return Panels(GATES[layer.kind], layer.hidden, 4 if layer.kind == "rnn" else 1, width)

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

    values: Tensor  # [panel, K, gates, vectors, width], or words of several quantized ones
    scale: Tensor | None  # int8: a row in panel order


class PackedLayer(NamedTuple):
    """A layer's tensors in the form that the native loop reads."""

    kind: str
    nonlinearity: str
    panels: Panels
    inputs: int  # features that W_ih is multiplied by
    weight_ih: Packed | None
    weight_hh: Packed
    bias: Tensor
    bias_hn: Tensor | None  # of a GRU's n, inside the reset


def pack(panels: Panels, weight: Tensor, weights: str) -> Packed:
    """`weight` [gates*H, K] in one of the forms of `WEIGHTS`."""
    values, scale = quantize(weight, weights)
    packed = panels.weights(values)
    if weights == "bf16":
        packed = bf16_words(packed)
    elif weights == "int8":
        packed = int8_words(packed)
    return Packed(packed, None if scale is None else panels.rows(scale))


def bf16_words(packed: Tensor) -> Tensor:
    """[panel, K, gates, vectors, width] bfloat16 -> [panel, words, width] int32, of two consecutive vectors.

    The first is in the lower half of each word. K is padded with zeros to a multiple of 4.
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
    """Pack one layer; `folded`: its input projection is looked up in a table."""
    panels = Panels.of(layer, width)
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
    """The head's weights [V, H] and bias; padding has a logit of -infinity, so it is never sampled."""
    symbols = weight.shape[0]
    padded_symbols = -(-symbols // LOGIT_BLOCK) * LOGIT_BLOCK
    panels = Panels(1, padded_symbols, 4, width)
    bias = weight.new_zeros(symbols) if bias is None else bias
    padded = F.pad(bias, (0, padded_symbols - symbols), value=float("-inf"))
    return pack(panels, F.pad(weight, (0, 0, 0, padded_symbols - symbols)), weights), panels.rows(padded)


def folds(layer: GeneratorLayer, embedding: Tensor | None) -> bool:
    """Whether the input projection is computed once for every symbol, as a table with a row for each, and W_ih is not used after.

    `embedding` None: one-hot symbols, where W_ih is that table.
    """
    return embedding is None or embedding.shape[0] * layer.weight_ih.shape[0] * 4 <= _TABLE_BYTES


def table(layer: GeneratorLayer, embedding: Tensor | None, width: int) -> Tensor | None:
    """W_ih x + biases of every symbol, in panel order; None where that is too large."""
    if not folds(layer, embedding):
        return None
    panels = Panels.of(layer, width)
    inputs = layer.weight_ih.t() if embedding is None else embedding @ layer.weight_ih.t()
    return panels.rows(inputs + _biases(layer)[0])


def _biases(layer: GeneratorLayer) -> tuple[Tensor, Tensor | None]:
    """The sum of both biases, and a GRU's b_hn separately."""
    rows, hidden = layer.weight_hh.shape
    none = layer.weight_hh.new_zeros(rows)
    b_ih = none if layer.bias_ih is None else layer.bias_ih
    b_hh = none if layer.bias_hh is None else layer.bias_hh
    if layer.kind != "gru":
        return b_ih + b_hh, None
    through = torch.cat([b_hh[: 2 * hidden], b_hh.new_zeros(hidden)])
    return b_ih + through, b_hh[2 * hidden :]
