"""A model with the quantized weights that generation computes with."""

from __future__ import annotations

import copy

import torch
from torch import nn

from throughtime.errors import BackendError, one_of
from throughtime.kernels.native.generation.packing import WEIGHTS, folds, quantize
from throughtime.layers.packed import packed_layers
from throughtime.models.many_to_many import ManyToMany
from throughtime.runtime.native import embedding_of, refusal


def with_quantized_weights(model: nn.Module, weights: str) -> ManyToMany:
    """A copy of a model, in float32, with the values of its quantized weights: what generation with `weights` computes.

    Its loss, beside the model's own, is the loss in quality. Quantized are the matrices that a symbol is multiplied by: W_hh, the
    head, and W_ih but for a first layer whose input is looked up in a table. Embedding and biases are not, also where
    the head shares the embedding's weight.

    Args:
        weights: "float32" (a plain copy), "bf16" or "int8"; see `throughtime.kernels.native.generation.packing.quantize`.

    Raises: BackendError with the reason for a model that native generation cannot run; InputError for other `weights`.
    Cost: a copy of the model.
    """
    one_of("weights", weights, WEIGHTS)
    if reason := refusal(model):
        raise BackendError(f"{weights} weights are those of native generation: {reason}")
    quantized: ManyToMany = copy.deepcopy(model)  # type: ignore[assignment]
    layers, embedding = packed_layers(quantized.layers), embedding_of(quantized)
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.weight_hh.copy_(quantize(layer.weight_hh, weights).dequantize())
            if number or not folds(layer, embedding):
                layer.weight_ih.copy_(quantize(layer.weight_ih, weights).dequantize())
        head = quantized.head.weight
        # A new parameter, as the old one may be the embedding's too.
        quantized.head.weight = nn.Parameter(
            quantize(head.detach(), weights).dequantize().clone(), requires_grad=head.requires_grad
        )
    return quantized
