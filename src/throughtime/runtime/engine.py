"""A model in the native loop of generation, where the loop can run it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from throughtime.errors import BackendError
from throughtime.kernels import dispatch
from throughtime.kernels.dispatch import NativeBackend
from throughtime.kernels.native.generation.generator import (
    Generator,
    GeneratorLayer,
    GeneratorState,
    unavailable,
)
from throughtime.layers import GRU, LSTM, RNN
from throughtime.models.embeddings import OneHot
from throughtime.models.many_to_many import ManyToMany
from throughtime.runtime.session import Session, State


class Engine:
    """The native loop with a copy of a model's weights; converts a session's state to the loop's and back.

    Args: weights, as of `Generator`; `throughtime.runtime.with_quantized_weights` shows what quantized ones lose.
    Raises: BackendError with `refusal(model)` where there is one.
    """

    def __init__(self, model: nn.Module, weights: str = "float32") -> None:
        if reason := refusal(model):
            raise BackendError(reason)
        assert isinstance(model, ManyToMany)
        self._layers: Any = model.layers
        self.generator = Generator(
            native_layers(model),
            model.head.weight.detach(),
            None if model.head.bias is None else model.head.bias.detach(),
            embedding_of(model),
            weights=weights,
        )

    def read(self, session: Session, ids: Tensor) -> None:
        """Feed ids [T] to a session with the engine's own weights, which may be quantized ones."""
        position = session.position
        start = None if session.logits is None else self.state(session, position)
        after = self.generator.feed(ids.cpu(), start)
        session.set_state(self.session_state(after, position + len(ids)))

    def state(self, session: Session, position: int) -> GeneratorState:
        """The session's state, after at least one symbol, as the loop takes it; `position` numbers the next random number."""
        assert session.logits is not None
        hx = session.state.model
        parts = list(hx) if isinstance(self._layers, LSTM) else [hx]
        columns = [tuple(part) for part in parts]  # of a stacked tensor or a tuple: one [1, H] for each layer
        cell_states = columns[1] if len(columns) > 1 else ()
        return GeneratorState(columns[0], cell_states, session.logits.unsqueeze(0), position)

    def session_state(self, state: GeneratorState, position: int) -> State:
        """The loop's state as the session's, after `position` symbols."""
        parts = [state.h, state.c] if state.c else [state.h]
        uniform = len(set(self._layers.hidden_sizes)) == 1
        stacked: list[Any] = [torch.stack(part) if uniform else part for part in parts]
        return State(tuple(stacked) if len(stacked) > 1 else stacked[0], state.logits[0], position)


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
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return "the model has forward hooks, which native generation would not call"
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
