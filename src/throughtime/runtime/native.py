"""Which models the native loop of generation runs, and their packed weights, which are kept while the weights are the same."""

from __future__ import annotations

import threading
import zlib
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from throughtime.errors import BackendError
from throughtime.kernels import dispatch
from throughtime.kernels.dispatch import NativeBackend
from throughtime.kernels.native.generation.generator import Generator, GeneratorLayer, unavailable
from throughtime.layers import GRU, LSTM, RNN
from throughtime.models.embeddings import OneHot
from throughtime.models.many_to_many import ManyToMany

# Of each model the marks of the weights that were packed, and a generator for each form of them. A generator does not refer to
# its model, so an entry ends with its model.
_cache: WeakKeyDictionary[nn.Module, tuple[list[Any], dict[str, Generator]]] = WeakKeyDictionary()
_lock = threading.Lock()


def generator_of(model: nn.Module, weights: str = "float32") -> Generator:
    """The native loop with a model's weights as they are now.

    The packed weights are kept until the model is deleted or its weights change, however they are written: every call reads the
    weights and compares the version counter and the CRC-32 of each tensor. The counter finds every write that autograd
    sees. Others (through `p.data` or NumPy) are found by the CRC: with certainty if they lie within 32 bits, else but for a
    chance of 2^-32 in each tensor.

    Args: weights, as of `Generator`; `throughtime.runtime.with_quantized_weights` shows what quantized ones lose.
    Raises: BackendError with `refusal(model)` where there is one.
    Cost: a CRC of the weights, and packing them if they are new. Memory: the weights once more in each form that is used, until
        they change; `clear_generation_cache` frees it. Threads may call it; they must not write the weights meanwhile.
    """
    if reason := refusal(model):
        raise BackendError(reason)
    assert isinstance(model, ManyToMany)
    layers, others = native_layers(model), (model.head.weight, model.head.bias, embedding_of(model))
    with _lock:
        marks = [_mark(value) for values in (*layers, others) for value in values]
        packed, generators = _cache.get(model, ([], {}))
        if packed != marks:
            _cache[model] = marks, (generators := {})
        if weights not in generators:
            generators[weights] = Generator(layers, *others, weights=weights)
        return generators[weights]


def clear_generation_cache(model: nn.Module | None = None) -> None:
    """Free the packed weights that native generation keeps of a model, or of all models; the next generation packs them again.

    Deleting a model frees its own.
    """
    with _lock:
        if model is None:
            _cache.clear()
        else:
            _cache.pop(model, None)


def _mark(value: Any) -> Any:
    """What changes when a tensor is written; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    version = 0 if value.is_inference() else value._version
    return tuple(value.shape), version, zlib.crc32(value.detach().contiguous().numpy().data)


def embedding_of(model: ManyToMany) -> Tensor | None:
    """[V, D], or None where symbols are one-hot."""
    weight: Tensor | None = getattr(model.embedding, "weight", None)
    return None if weight is None else weight.detach()


def native_layers(model: ManyToMany) -> list[GeneratorLayer]:
    """The tensors of each layer of a model without a `refusal`; they are the model's own."""
    return [_layer(model.layers, number) for number in range(cast(Any, model.layers).num_layers)]


def refusal(model: nn.Module) -> str | None:
    """Why the native loop cannot run this model, or None."""
    if type(model) is not ManyToMany:
        return f"native generation is for language models (ManyToMany), this is a {type(model).__name__}"
    layers: Any = model.layers
    if type(layers) not in (RNN, GRU, LSTM):
        return f"native generation runs RNN, GRU and LSTM layers, these are {type(layers).__name__}"
    if type(model.embedding) not in (nn.Embedding, OneHot) or type(model.head) is not nn.Linear:
        return "native generation runs an embedding or one-hot symbols, and a linear head"
    if model.embedding.num_embeddings != model.head.out_features:
        return "native generation feeds back what it samples: it needs as many embedded symbols as logits"
    if getattr(model.embedding, "max_norm", None) is not None:
        return "native generation has no embedding with max_norm"
    if (
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or any(
            module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
            for module in model.modules()
        )
    ):
        return "the model has forward hooks or a replaced forward, which native generation would not call"
    options = [
        name
        for name in ("bidirectional", "layer_norm", "proj_size", "peepholes", "batch_first")
        if getattr(layers, name, False)
    ]
    options += ["zoneout"] * any(layers.zoneout) + ["reset_after=False"] * (
        not getattr(layers, "reset_after", True)
    )
    if options:
        return f"native generation has no {type(layers).__name__} with {', '.join(options)}"
    for parameter in model.parameters():
        if type(parameter) is not nn.Parameter:
            return f"native generation reads plain parameters, this model has {type(parameter).__name__}"
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            kind = f"{str(parameter.dtype).removeprefix('torch.')} on {parameter.device.type}"
            return f"native generation computes in float32 on the CPU, this model is in {kind}"
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
