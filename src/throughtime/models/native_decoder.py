"""An encoder-decoder's steps in native code: what decoding calls in place of `EncoderDecoder.step`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from throughtime.decoding.state import Step
from throughtime.errors import BackendError
from throughtime.kernels.native.decoding import Call, PackedDecoder, Rows, Sources, Weights
from throughtime.layers import packed
from throughtime.models.embeddings import OneHot
from throughtime.models.encoder_decoder import DecoderState, EncoderDecoder

_KEPT: WeakKeyDictionary[EncoderDecoder, tuple[Any, NativeDecoder]] = WeakKeyDictionary()


class NativeState(NamedTuple):
    """A decoder between two symbols, of N rows."""

    call: Call
    states: Tensor  # [rows of the step before, width]
    parents: Tensor  # int64 [N], which of them each row continues
    sources: Tensor  # int64 [N]
    attention: Tensor | None = None  # [N, S], the weights of the last step

    def select(self, rows: Tensor) -> NativeState:
        """Rows `rows` of these. Cost: none that grows with the state; the next step gathers it."""
        return NativeState(self.call, self.states, self.parents[rows], self.sources[rows])


class NativeDecoder:
    """The decoder of a model with packed weights, for `throughtime.decoding`: greedy, sampling and beam search.

        step = NativeDecoder(model)
        beam(step, step.enter(model.begin(context)), start, limits, width=5)

    A step of all rows is one call: states are gathered, layers, attention and head run, and the best symbols of each row are
    found without their logits leaving C. What a row gets does not depend on the rows beside it, to the last bit.
    The weights are copied: later changes of the model have no effect.
    Raises: BackendError with `refusal(model)`.
    """

    def __init__(self, model: EncoderDecoder) -> None:
        if reason := refusal(model):
            raise BackendError(reason)
        self._packed = PackedDecoder(_weights(model))
        self.symbols = self._packed.symbols

    def enter(self, state: DecoderState) -> NativeState:
        """A state of the model, as this step takes it."""
        leaves = [each.transpose(0, -2).flatten(1) for each in tree_flatten(state.layers)[0]]
        layers = len(self._packed.layers)
        parts = [list(leaf.chunk(layers, dim=1)) for leaf in leaves]
        states = self._packed.states(parts, state.fed)
        rows = torch.arange(len(states))
        memory = state.memory
        if memory is None:
            sources = Sources(summary=_plain(state.summary))
            of_row = rows
        else:
            lengths = (~memory.padding).sum(1)
            of_row = memory.sources
            summary = None if state.summary is None else state.summary[_first_of(of_row, len(lengths))]
            sources = Sources(_plain(memory.keys), _plain(memory.outputs), lengths, _plain(summary))
        return NativeState(self._packed.bind(sources), states, rows, of_row.contiguous())

    def __call__(self, state: NativeState, symbols: Tensor) -> tuple[Tensor, NativeState]:
        """Read one symbol of each row [N]: the logits [N, V] of the next, and the new state."""
        logits, states, weights = state.call.logits(_rows(state, symbols))
        return logits, self._after(state, states, weights)

    def extend(
        self,
        state: NativeState,
        symbols: Tensor,
        count: int,
        end: int,
        excluded: Tensor | None,
        rules: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, NativeState]:
        """Read one symbol of each row [N]: log-probabilities and symbols of the best next ones [N, C], whether the end is the
        likeliest [N], and the new state. Arguments and errors: see `throughtime.kernels.native.decoding.Call.best`.
        """
        best, states, weights = state.call.best(_rows(state, symbols), count, end, excluded, rules)
        return *best, self._after(state, states, weights)

    @staticmethod
    def _after(state: NativeState, states: Tensor, weights: Tensor | None) -> NativeState:
        return NativeState(state.call, states, torch.arange(len(states)), state.sources, weights)


def decoding_step(model: EncoderDecoder) -> tuple[Step, Callable[[DecoderState], Any]]:
    """The fastest step of a model in eval mode, for `throughtime.decoding`, and what makes its state of the model's own.

        step, enter = decoding_step(model)
        greedy(step, enter(model.begin(context)), start, limits)

    The packed weights are kept with the model until a parameter changes.
    Cost: one pass over the parameters to see that; packing costs ten times as much.
    """
    if refusal(model):
        return model.step, lambda state: state
    # A fused optimizer changes values and no version: their squares are summed.
    values = [each.detach().flatten() for each in model.parameters()]
    key = [(each.data_ptr(), each._version, float(each.dot(each))) for each in values]
    kept = _KEPT.get(model)
    if kept is None or kept[0] != key:
        kept = _KEPT[model] = key, NativeDecoder(model)
    return kept[1], kept[1].enter


def refusal(model: EncoderDecoder) -> str | None:
    """Why native decoding cannot run a model, or None."""
    if type(model) is not EncoderDecoder:
        return f"native decoding runs an EncoderDecoder, this is a {type(model).__name__}"
    if type(model.embedding) not in (torch.nn.Embedding, OneHot):
        return f"native decoding reads one-hot or embedded symbols, not {type(model.embedding).__name__}"
    if getattr(model.embedding, "max_norm", None) is not None:
        return "native decoding has no embedding with max_norm"
    return packed.layer_refusal(model.layers, "decoding") or packed.tensor_refusal(
        model, model.layers, "decoding"
    )


def _weights(model: EncoderDecoder) -> Weights:
    kind, combine, query, bias, score = "none", None, None, None, None
    if model.attention is not None:
        kind, combine = "product", model.combine.weight
        if model.attention.kind == "additive":
            kind, query, bias = "additive", model.attention.query.weight, model.attention.query.bias
            score = model.attention.score.weight[0]
    embedding: Any = model.embedding
    encoder: Any = model.encoder
    table = torch.eye(embedding.num_embeddings) if isinstance(embedding, OneHot) else embedding.weight
    summarized = int(encoder.summary_features) if model.reads_summary else 0
    return Weights(
        packed.packed_layers(model.layers), table, model.head.weight, model.head.bias, kind, combine, query, bias, score,
        summarized, model.input_feeding,
    )  # fmt: skip


def _rows(state: NativeState, symbols: Tensor) -> Rows:
    return Rows(symbols.contiguous(), state.states, state.parents, state.sources)


def _plain(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().float().contiguous()


def _first_of(of_row: Tensor, count: int) -> Tensor:
    """For each of `count` sources its first row."""
    rows = torch.arange(len(of_row))
    return rows.new_zeros(count).scatter_reduce_(0, of_row, rows, "amin", include_self=False)
