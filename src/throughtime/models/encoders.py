"""What a sequence is written from: a source sequence, a class, a vector, or nothing, read once into memory and a summary."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from throughtime.data.batch import Source
from throughtime.errors import InputError
from throughtime.models.many_to_many import has_bidirectional


class Encoded(NamedTuple):
    """What a decoder gets from an encoder, for B sources."""

    outputs: Tensor | None  # [S, B, M] for attention; None: there is nothing to attend to
    lengths: Tensor | None  # int64 [B], steps of each source; None: all S
    summary: Tensor  # [B, E], one vector for the whole source
    state: Any = (
        None  # the final state of recurrent layers, where a decoder of the same form can start from it
    )


class SequenceEncoder(nn.Module):
    """Read a `Source` with layers of any kind, in one direction or both.

        summary = [output at the last real step of the forward direction, output at the first step of the backward one]

    Args: embedding: values [S, B, ...] to vectors [S, B, D], has `embedding_dim`; layers; features: of the layers' output, both
    directions together; dropout, on the vectors and on the outputs.
    Call: `encoder(Source) -> Encoded`; `encoder(Source, state)` continues from a state, where the layers run in one direction.
    """

    def __init__(
        self, embedding: nn.Module, layers: nn.Module, features: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = layers
        self.dropout = nn.Dropout(dropout)
        self.memory_features = self.summary_features = features
        self.reads_both_ways = has_bidirectional(layers)

    def forward(self, source: Source, state: Any = None) -> Encoded:
        """Read B sources."""
        if state is not None and self.reads_both_ways:
            raise InputError(
                "a bidirectional encoder cannot continue from a state: its backward direction starts at the end; pass None"
            )
        values, lengths = source.values.transpose(0, 1), source.lengths.cpu()
        y, final = self.layers(self.dropout(self.embedding(values)), state, lengths=lengths)
        size, features = y.shape[1:]
        at = (lengths - 1).clamp(min=0).to(y.device).view(1, size, 1).expand(1, size, features)
        summary = y.gather(0, at)[0]
        if self.reads_both_ways:
            summary = torch.cat([summary[:, : features // 2], y[0, :, features // 2 :]], dim=1)
        return Encoded(self.dropout(y), lengths, summary, None if self.reads_both_ways else final)


class VectorEncoder(nn.Module):
    """A class, a vector, or nothing as the summary that a decoder starts from; there is nothing to attend to.

    Args: features, E; classes: how many, then the context is whole numbers [B], and -1 stands for none of them (a zero vector);
    without it the context is vectors [B, E].
    """

    memory_features = 0

    def __init__(self, features: int, classes: int | None = None) -> None:
        super().__init__()
        self.summary_features = features
        self.embedding = None if classes is None else nn.Embedding(classes, features)

    def forward(self, context: Tensor) -> Encoded:
        """Encode B classes [B] or vectors [B, E]."""
        if self.embedding is None:
            if context.dim() != 2 or context.shape[1] != self.summary_features:
                raise InputError(
                    f"context must be vectors [B, {self.summary_features}], got {list(context.shape)}"
                )
            return Encoded(None, None, context)
        vectors = self.embedding(context.clamp(min=0))
        return Encoded(None, None, torch.where((context >= 0).unsqueeze(1), vectors, 0))
