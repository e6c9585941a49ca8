"""Implementations of generation with the same weights: each has `probabilities(ids)` and `generate(count)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from throughtime.data.char import CharVocabulary
from throughtime.errors import BackendError
from throughtime.models.many_to_many import ManyToMany
from throughtime.runtime import Session, generate, with_quantized_weights
from throughtime.runtime.native import generator_of

SYMBOLS = 100


class Generates(Protocol):
    """One implementation."""

    def probabilities(self, ids: Tensor) -> Tensor:
        """Of the next symbol after each of the ids [T, B], from a zero state: [T, B, V]."""

    def generate(self, count: int) -> None:
        """Sample `count` symbols for each row, continuing from the current state."""


class Weights(nn.Module):
    """The weights that all share: embedding [V, H], torch.nn's layers, head."""

    def __init__(self, cell: str, layers: int, hidden: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = cell
        self.embedding = nn.Embedding(SYMBOLS, hidden)
        self.layers: nn.RNNBase = getattr(nn, cell)(hidden, hidden, layers)
        self.head = nn.Linear(hidden, SYMBOLS)

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """As `throughtime.models.many_to_many.ManyToMany`."""
        y, state = self.layers(self.embedding(ids), state)
        return self.head(y), state


class Loop:
    """A model called once for every symbol: of torch.nn's layers, or of ours."""

    def __init__(self, model: nn.Module, batch: int) -> None:
        self.model, self.state = model.eval(), None
        self.ids = torch.zeros(1, batch, dtype=torch.int64)

    def probabilities(self, ids: Tensor) -> Tensor:
        with torch.inference_mode():
            state, found = None, []
            for row in ids.unsqueeze(1):
                logits, state = self.model(row, state)
                found.append(logits.softmax(-1))
            return torch.cat(found)

    def generate(self, count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                logits, self.state = self.model(self.ids, self.state)
                self.ids = torch.multinomial(logits[0].softmax(-1), 1).t()


class CellStack(nn.Module):
    """The same layers made of torch.nn's cells, which cost less to call than a layer for one step."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.embedding, self.head = weights.embedding, weights.head
        layers = weights.layers
        kind = getattr(nn, weights.cell + "Cell")
        self.cells = nn.ModuleList(
            kind(layers.input_size, layers.hidden_size) for _ in range(layers.num_layers)
        )
        for number, cell in enumerate(self.cells):
            cell.load_state_dict({name: getattr(layers, f"{name}_l{number}") for name in cell.state_dict()})

    def forward(self, ids: Tensor, state: Sequence[Any] | None = None) -> tuple[Tensor, Any]:
        """One step: ids [1, B]."""
        x = self.embedding(ids[0])
        after = []
        for cell, before in zip(self.cells, state or [None] * len(self.cells), strict=True):
            after.append(cell(x, before))
            x = after[-1][0] if isinstance(after[-1], tuple) else after[-1]
        return self.head(x).unsqueeze(0), after


def ours_model(weights: Weights) -> ManyToMany:
    """The same weights in this library's layers."""
    import throughtime.layers

    theirs = weights.layers
    layers = getattr(throughtime.layers, weights.cell)(
        theirs.input_size, theirs.hidden_size, theirs.num_layers
    )
    layers.load_state_dict(theirs.state_dict())
    model = ManyToMany(weights.embedding, layers, theirs.hidden_size, SYMBOLS)
    model.head = weights.head
    return model.eval()


def make(name: str, weights: Weights, batch: int) -> Generates:
    """One implementation, by the name of its side.

    Raises: BackendError or ImportError where there is none.
    """
    if name == "ours":
        return ours(weights, batch)[0]
    if name == "torch.nn":
        return Loop(weights, batch)
    if name == "cells":
        return Loop(CellStack(weights), batch)
    if name == "onnxruntime":
        from benchmarks.onnx_peer import Onnx

        return Onnx(weights, batch)
    return Native(weights, batch, name.removeprefix("ours, "))


def ours(weights: Weights, batch: int) -> tuple[Generates, str]:
    """This library's fastest implementation here, and the name of its backend."""
    try:
        return Native(weights, batch), "native"
    except (ImportError, BackendError):
        return (Ours(weights) if batch == 1 else Loop(ours_model(weights), batch)), "layers, step by step"


def quantized(weights: Weights, form: str) -> ManyToMany:
    """The model in float32 with the values that native generation with `form` weights computes with."""
    return with_quantized_weights(ours_model(weights), form)


class Native:
    """The native loop; its weights are packed once, in the constructor."""

    def __init__(self, weights: Weights, batch: int, form: str = "float32") -> None:
        self.generator = generator_of(ours_model(weights), form)
        self.state = self.generator.initial(batch)

    def probabilities(self, ids: Tensor) -> Tensor:
        state, found = None, []
        for row in ids.unsqueeze(1):
            state = self.generator.feed(row, state)
            assert state.logits is not None  # something was fed
            found.append(state.logits.softmax(-1))
        return torch.stack(found)

    def generate(self, count: int) -> None:
        self.state = self.generator.run(count, self.state)[1]

    def greedy(self, first: int, count: int) -> Tensor:
        """The most probable symbols after `first`, without the unknown one (0)."""
        state = self.generator.feed(torch.tensor([first]))
        return self.generator.run(count, state, temperature=0, banned=(0,))[0][:, 0]


class Ours:
    """The library's own `generate` for one row, where there is no native loop."""

    def __init__(self, weights: Weights) -> None:
        self.vocabulary = CharVocabulary("".join(chr(0x4E00 + n) for n in range(SYMBOLS - 1)))
        self.session = Session(ours_model(weights), self.vocabulary)

    def probabilities(self, ids: Tensor) -> Tensor:
        self.session.reset()
        found = torch.stack([self.session.feed([int(number)]).softmax(-1) for number in ids[:, 0]])
        self.session.reset()
        return found.unsqueeze(1)

    def generate(self, count: int) -> None:
        for _ in generate(self.session, length=count, seed=0):
            pass

    def greedy(self, first: int, count: int) -> Tensor:
        """The most probable symbols after `first`, without the unknown one (0)."""
        self.session.reset()
        prompt = self.vocabulary.decode(torch.tensor([first]))
        text = "".join(generate(self.session, prompt, length=count, temperature=0))
        self.session.reset()
        return self.vocabulary.encode(text)
