"""What native loops over packed weights (generation, streaming) need of a layer: its tensors, or why they cannot run it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from throughtime.errors import BackendError
from throughtime.kernels import dispatch
from throughtime.kernels.dispatch import NativeBackend
from throughtime.kernels.native.generation.interface import unavailable
from throughtime.kernels.native.generation.packing import GeneratorLayer
from throughtime.layers.drop_in import GRU, LSTM, RNN


def layer_refusal(layers: nn.Module, what: str) -> str | None:
    """Why a native loop cannot run these layers in eval mode, or None. Args: what, the loop in a word: "generation"."""
    if type(layers) not in (RNN, GRU, LSTM):
        return f"native {what} runs RNN, GRU and LSTM layers, these are {type(layers).__name__}"
    assert isinstance(layers, RNN | GRU | LSTM)
    names = ("bidirectional", "layer_norm", "proj_size", "peepholes", "batch_first")
    options = [name for name in names if getattr(layers, name, False)]
    options += ["zoneout"] * any(layers.zoneout)
    options += ["reset_after=False"] * (not getattr(layers, "reset_after", True))
    if options:
        return f"native {what} has no {type(layers).__name__} with {', '.join(options)}"
    return None


def tensor_refusal(model: nn.Module, layers: Any, what: str) -> str | None:
    """Why a native loop cannot read a model's parameters, or run here at all, or None."""
    for parameter in model.parameters():
        if type(parameter) is not nn.Parameter:
            return f"native {what} reads plain parameters, this model has {type(parameter).__name__}"
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            kind = f"{str(parameter.dtype).removeprefix('torch.')} on {parameter.device.type}"
            return f"native {what} computes in float32 on the CPU, this model is in {kind}"
    call = layers.call(torch.empty(1, 1, layers.input_size))
    try:
        chosen = dispatch.choose(call, layers.backend)
    except BackendError as error:
        return str(error)
    if not isinstance(chosen, NativeBackend):
        return (
            NativeBackend().refusal(call) or unavailable() or f"backend {chosen.name!r} was asked for by name"
        )
    return unavailable()


def packed_layers(layers: Any) -> list[GeneratorLayer]:
    """The tensors of each layer, where there is no `refusal`; they are the layer's own."""
    return [_layer(layers, number) for number in range(layers.num_layers)]


def _layer(layers: Any, number: int) -> GeneratorLayer:
    def tensor(name: str) -> Tensor | None:
        value: Tensor | None = getattr(layers, f"{name}_l{number}", None)
        return None if value is None else value.detach()

    weight_ih, weight_hh = tensor("weight_ih"), tensor("weight_hh")
    assert weight_ih is not None
    assert weight_hh is not None
    return GeneratorLayer(
        layers.recurrence.kind,
        weight_ih,
        weight_hh,
        tensor("bias_ih"),
        tensor("bias_hh"),
        getattr(layers, "nonlinearity", "tanh"),
    )
