"""Which models the native loop of generation runs, and their packed weights, which are kept while the weights are the same."""

from __future__ import annotations

import threading
import zlib
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from throughtime.errors import BackendError
from throughtime.kernels.native.generation.generator import Generator
from throughtime.layers import GRU, LSTM, RNN
from throughtime.layers.packed import layer_refusal, packed_layers, tensor_refusal
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
    layers, others = (
        packed_layers(model.layers),
        (model.head.weight, model.head.bias, embedding_of(model)),
    )
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


def refusal(model: nn.Module) -> str | None:
    """Why the native loop cannot run this model, or None."""
    if type(model) is not ManyToMany:
        return f"native generation is for language models (ManyToMany), this is a {type(model).__name__}"
    layers: Any = model.layers
    if type(layers) not in (RNN, GRU, LSTM):
        return layer_refusal(layers, "generation")
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
    return layer_refusal(model.layers, "generation") or tensor_refusal(model, layers, "generation")
