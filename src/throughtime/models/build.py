"""From settings to a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.models.config import ModelConfig
from throughtime.models.embeddings import OneHot
from throughtime.models.encoder_decoder import EncoderDecoder
from throughtime.models.encoders import SequenceEncoder
from throughtime.models.fill_blank import FillBlank
from throughtime.models.many_to_many import ManyToMany
from throughtime.models.many_to_one import ManyToOne
from throughtime.models.words import PretrainedVectors, WithVectors


def symbol_embedding(config: ModelConfig, symbols: int) -> nn.Module:
    """A learned or one-hot vector for each of so many symbols."""
    if symbols < 1:
        raise InputError(
            f"a vocabulary must have at least 1 symbol, got {symbols}: build it from a text first"
        )
    if isinstance(config.embedding, int):
        embedding = nn.Embedding(symbols, config.embedding)
        if config.tied:  # as the head's weight, torch's N(0, 1) would start with logits of size sqrt(H)
            nn.init.normal_(embedding.weight, std=config.embedding**-0.5)
        return embedding
    return OneHot(symbols)


def word_embedding(
    config: ModelConfig, symbols: int, rows: Tensor, pretrained: PretrainedVectors
) -> WithVectors:
    """`symbol_embedding` with pretrained vectors behind it.

    Args: rows, whole numbers [symbols], the number of each symbol's vector (`throughtime.data.readers.vectors.vector_rows`), 0
    for none.
    """
    if rows.shape != (symbols,):
        raise InputError(f"rows must be [{symbols}], one for each symbol, got {list(rows.shape)}")
    return WithVectors(symbol_embedding(config, symbols), pretrained, rows)


def many_to_many(config: ModelConfig, embedding: Any, outputs: int) -> ManyToMany:
    """The model of `config` with so many outputs for each step, its weights drawn from torch's generator."""
    recurrent = layers(config, embedding.embedding_dim)
    return ManyToMany(embedding, recurrent, config.outputs, outputs, dropout=config.dropout, tied=config.tied)


def many_to_one(config: ModelConfig, embedding: Any, outputs: int) -> ManyToOne:
    """The model of `config` with so many outputs for a whole sequence, its weights drawn from torch's generator."""
    recurrent = layers(config, embedding.embedding_dim)
    return ManyToOne(
        embedding, recurrent, config.outputs, outputs, pooling=config.pooling, dropout=config.dropout
    )


def fill_blank(config: ModelConfig, embedding: Any, outputs: int) -> FillBlank:
    """The model of `config` that predicts each step from all the others, its weights drawn from torch's generator."""
    one_way = replace(config, bidirectional=False, tied=False)
    stack, backward = layers(one_way, embedding.embedding_dim), None
    if config.bidirectional:
        backward = layers(one_way, embedding.embedding_dim)
    return FillBlank(
        embedding, stack, backward, config.outputs, outputs, dropout=config.dropout, tied=config.tied
    )


def sequence_encoder(config: ModelConfig, embedding: Any) -> SequenceEncoder:
    """The encoder of `config` for sequences, in both directions if it says so."""
    recurrent = layers(replace(config, tied=False), embedding.embedding_dim)
    return SequenceEncoder(embedding, recurrent, config.outputs, dropout=config.dropout)


def encoder_decoder(
    config: ModelConfig, encoder: nn.Module, embedding: Any, outputs: int, *, attention: str = "general",
    input_feeding: bool = False, scheduled_sampling: float = 0.0,
) -> EncoderDecoder:  # fmt: skip
    """The model of `config` that writes from what `encoder` reads; `bidirectional` is the encoder's alone."""
    one_way = replace(config, bidirectional=False, tied=False)
    features = one_way.outputs
    size = EncoderDecoder.input_size(embedding, encoder, features, attention, input_feeding)
    return EncoderDecoder(
        encoder,
        embedding,
        layers(one_way, size),
        features,
        outputs,
        attention=attention,
        input_feeding=input_feeding,
        scheduled_sampling=scheduled_sampling,
        dropout=config.dropout,
        tied=config.tied,
    )


def layers(config: ModelConfig, input_size: int) -> nn.Module:
    """The layers of `config` for inputs [T, B, input_size]."""
    depth = len(config.sizes)
    # Dropout between layers needs two of them; the one before the head is the model's.
    shared: dict[str, Any] = {
        "num_layers": depth,
        "bidirectional": config.bidirectional,
        "dropout": config.dropout if depth > 1 else 0.0,
    }
    if config.cell in ("none", "cnn"):
        return _not_recurrent(config, input_size)
    if config.cell in ("rnn", "gru", "lstm"):
        return _builtin(config, input_size, shared)
    return _generic(config, input_size, shared)


def limits(config: ModelConfig, model: nn.Module, steps: int | None) -> list[str]:
    """What a model without recurrence cannot see, in sentences; an empty list of a recurrent one.

    Args: steps, of the longest sequence; None where that is not known.
    """
    field = config.receptive_field
    if config.cell == "none" and isinstance(model, FillBlank):
        return ["without recurrence, a blank is filled from its neighbours alone"]
    if config.cell == "none" and config.bidirectional:
        return [
            "without recurrence, bidirectional adds a second set of weights and nothing of the other steps"
        ]
    if config.cell == "none" and getattr(model, "pooling", "") == "last":
        return [
            "without recurrence, pooling last sees the last step of a sequence and nothing else; mean, max and attention pool "
            "all of its steps"
        ]
    if config.cell == "cnn" and field is not None and (steps or 0) > field:
        return [
            f"an output depends on {field} steps (receptive field), and the longest sequence has {steps}; more layers or a "
            "larger kernel reach further"
        ]
    return []


def _not_recurrent(config: ModelConfig, input_size: int) -> nn.Module:
    from throughtime.layers import CausalCNN, FeedForward
    from throughtime.layers.direction import BothWays

    def stack() -> nn.Module:
        depth = len(config.sizes)
        if config.cell == "cnn":
            return CausalCNN(
                input_size, config.sizes, depth, kernel_size=config.kernel, dropout=config.dropout
            )
        dropout = config.dropout if depth > 1 else 0.0
        return FeedForward(input_size, config.sizes, depth, nonlinearity=config.nonlinearity, dropout=dropout)

    return BothWays(stack(), stack()) if config.bidirectional else stack()


def _builtin(config: ModelConfig, input_size: int, shared: dict[str, Any]) -> nn.Module:
    from throughtime.layers import GRU, LSTM, RNN

    options: dict[str, Any] = {
        "layer_norm": config.layer_norm,
        "recurrent_dropout": config.recurrent_dropout,
        "zoneout": config.zoneout,
        "init": config.init,
    }
    sizes: Any = config.sizes[0] if len(set(config.sizes)) == 1 else config.sizes
    if config.cell == "rnn":
        return RNN(input_size, sizes, nonlinearity=config.nonlinearity, **options, **shared)
    if config.cell == "gru":
        return GRU(input_size, sizes, reset_after=not config.reset_before, **options, **shared)
    extra: dict[str, Any] = {"forget_bias": config.forget_bias, "peepholes": config.peepholes}
    return LSTM(input_size, sizes, **extra, **options, **shared)


def _generic(config: ModelConfig, input_size: int, shared: dict[str, Any]) -> nn.Module:
    from throughtime.cells import Cell, IndRNNCell, LayerNormLSTMCell, MinGRUCell
    from throughtime.layers import Recurrent

    if len(set(config.sizes)) > 1:
        raise InputError(
            f"{config.cell} has one size for all layers, got hidden = {list(config.sizes)}: give one number"
        )
    cells: dict[str, Callable[[int, int], Cell]] = {
        "mingru": MinGRUCell,
        "indrnn": IndRNNCell,
        "lnlstm": LayerNormLSTMCell,
    }
    cell, hidden = cells[config.cell], config.sizes[0]
    return Recurrent(lambda size: cell(size, hidden), input_size, **shared)
