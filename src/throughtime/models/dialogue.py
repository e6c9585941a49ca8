"""The parts of a model that replies: an encoder that goes on reading, and the confidence of what is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.data.batch import Source
from throughtime.models.build import encoder_decoder, layers, symbol_embedding
from throughtime.models.config import ModelConfig
from throughtime.models.encoder_decoder import EncoderDecoder
from throughtime.models.encoders import Encoded, SequenceEncoder


class HistoryEncoder(SequenceEncoder):
    """Reads a history from left to right; its memory for attention is the outputs of the last `memory` steps of each row.

    So a dialogue may go on without end: reading it turn by turn, the state carried, is reading it at once.
    Args: as `SequenceEncoder`; memory: None keeps all steps.
    """

    def __init__(
        self,
        embedding: nn.Module,
        layers: nn.Module,
        features: int,
        *,
        memory: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(embedding, layers, features, dropout=dropout)
        self.memory = memory

    def forward(self, source: Source, state: Any = None) -> Encoded:
        found = super().forward(source, state)
        assert found.outputs is not None
        assert found.lengths is not None
        outputs, lengths = last_steps(found.outputs, found.lengths, self.memory)
        return found._replace(outputs=outputs, lengths=lengths)


def last_steps(outputs: Tensor, lengths: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """The last `count` of each row's own steps: outputs [S, B, M] and lengths [B] to [S', B, M] and [B]; all where it is None."""
    if count is None or len(outputs) <= count:
        return outputs, lengths
    start = (lengths - count).clamp(min=0).to(outputs.device)
    at = start + torch.arange(count, device=outputs.device)[:, None]
    at = at.clamp(max=len(outputs) - 1).unsqueeze(-1).expand(-1, -1, outputs.shape[2])
    return outputs.gather(0, at), lengths.clamp(max=count)


class ReplyConfidence(nn.Module):
    """The probability that a reply is right, from its mean log-likelihood: sigmoid(slope x + offset), both fitted after training.

    The two are buffers: they are saved with the weights, and receive no gradient.
    Source: Platt 1999, Advances in Large Margin Classifiers.
    """

    slope: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.full((), torch.nan, dtype=torch.float64))
        self.register_buffer("offset", torch.full((), torch.nan, dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether both were set."""
        return bool(self.slope.isfinite() & self.offset.isfinite())

    def set(self, slope: float, offset: float) -> None:
        """Set both."""
        self.slope.fill_(slope)
        self.offset.fill_(offset)

    def forward(self, mean_log_likelihood: float) -> float:
        """Return the probability; NaN where it was not fitted."""
        return float((self.slope * mean_log_likelihood + self.offset).sigmoid())


def reply_model(config: ModelConfig, symbols: int, *, memory: int | None, **options: Any) -> EncoderDecoder:
    """The model of `config` that replies, its weights drawn from torch's generator; encoder and decoder share the embedding.

    Args: symbols, V, those of speakers and of the end included; memory, of `HistoryEncoder`; options, of
    `throughtime.models.build.encoder_decoder`.
    """
    embedding: Any = symbol_embedding(config, symbols)
    recurrent = layers(replace(config, tied=False), embedding.embedding_dim)
    encoder = HistoryEncoder(embedding, recurrent, config.outputs, memory=memory, dropout=config.dropout)
    model = encoder_decoder(config, encoder, embedding, symbols, **options)
    model.confidence = ReplyConfidence()
    return model


def mean_log_likelihood(
    model: EncoderDecoder, state: Any, symbols: Sequence[int], start: int, end: int
) -> float:
    """The mean log-probability of a reply's symbols and its end, of one row.

    Args: state, before the first symbol; start, the symbol that is read first.
    """
    device = model.head.weight.device
    logits, _ = model(torch.tensor([start, *symbols], device=device)[:, None], state)
    written = torch.tensor([*symbols, end], device=device)
    each = logits[:, 0].float().log_softmax(-1).gather(1, written[:, None])
    return float(each.double().mean())
