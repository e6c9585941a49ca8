"""Two many-to-one encoders: a query and the passage that answers it become vectors that point the same way."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from throughtime.models.build import layers, symbol_embedding
from throughtime.models.config import ModelConfig
from throughtime.models.many_to_one import ManyToOne

EMBEDDING_STD = 0.3  # of a symbol's vector at the start; with torch's 1 the states hardly count beside it
SCALE, LARGEST_SCALE = 20.0, 100.0  # 1 / temperature: at the start, and at most


class TextEncoder(ManyToOne):
    """A unit vector for each text.

        h_t = layers(x)_t                where x_t is the embedded symbol
        attention  p = sum_t a_t [h_t ; x_t],  a = softmax_t(v^T tanh(W [h_t ; x_t] + b))
        max        p = max_t [h_t ; x_t]
        mean       p = mean_t [h_t ; x_t]
        last       p = [h at the last step ; mean_t x_t]
        v = W dropout(p) + b,  v / |v|

    The symbols beside the states keep which words occur, also words too rare to have learned anything about: a random
    projection keeps angles, so an untrained encoder compares bags of words.

    Args: as `ManyToOne`, with `outputs` the size of the vectors; features, of the layers' output; states_only: without x_t.
    Cost: the layers' and, with attention, a product of [h_t ; x_t] with a square matrix; for the steps of each text alone.
    """

    def __init__(
        self,
        embedding: Any,
        layers: nn.Module,
        features: int,
        outputs: int,
        *,
        pooling: str = "attention",
        dropout: float = 0.0,
        states_only: bool = False,
    ) -> None:
        width = features if states_only else features + embedding.embedding_dim
        super().__init__(embedding, layers, width, outputs, pooling=pooling, dropout=dropout)
        self.states_only = states_only
        nn.init.zeros_(self.head.bias)  # else it is a part that all vectors share, as large as the rest

    def encode(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Unit vectors [B, D] of texts [T, B]; lengths [B], steps of each row."""
        x = self.embedding(inputs)
        y, _ = self.layers(x, None, **({} if lengths is None else {"lengths": lengths}))
        return F.normalize(self.head(self.dropout(self._pooled(y, x.to(y.dtype), lengths))), dim=-1)

    def _pooled(self, y: Tensor, x: Tensor, lengths: Tensor | None) -> Tensor:
        """States [T, B, H] and symbols [T, B, D] to [B, H + D]; computed from the steps of each text alone."""
        steps, size = y.shape[:2]
        if lengths is None:
            lengths = torch.full((size,), steps)
        both = [y] if self.states_only else [y, x]
        if self.pooling == "max" or (self.states_only and self.pooling != "attention"):
            return self._pool(torch.cat(both, dim=-1), lengths)
        inside = (torch.arange(steps)[:, None] < lengths).to(y.device)
        row = inside.nonzero()[:, 1]
        if self.pooling == "attention":
            kept = torch.cat([part[inside] for part in both], dim=-1)  # [steps of all texts, H + D]
            scores = self.query(self.attention(kept).tanh())[:, 0]
            padded = scores.new_full((steps, size), -torch.inf).masked_scatter(inside, scores)
            empty = (lengths == 0).to(y.device)  # a softmax over nothing would be NaN
            weights = padded.masked_fill(empty, 0).softmax(0)[inside]
            return kept.new_zeros(size, kept.shape[1]).index_add(0, row, weights[:, None] * kept)
        mean = x.new_zeros(size, x.shape[2]).index_add(0, row, x[inside])
        return torch.cat([self._pool(y, lengths), mean / lengths.clamp(min=1).to(x.device)[:, None]], dim=-1)


class DualEncoder(TextEncoder):
    """Scores of queries and passages: the cosine of their vectors times a learned scale, exp(s) v_q . v_p.

    The model's state is the index: the vectors of the passages that were read before. A batch of passages alone is added to it.
    The queries of any other batch are scored against it and against the batch's own passages, and leave it as it is. So pairs
    are scored against each other in training, and all passages, then queries, are an exact search.

    Args: as `TextEncoder`; passages: an encoder of their own for passages; None: one encoder reads both.
    Source: Huang et al. 2013, CIKM (two encoders); Radford et al. 2021, arXiv 2103.00020 (the learned scale, at most 100).
    """

    def __init__(
        self,
        embedding: Any,
        layers: nn.Module,
        features: int,
        outputs: int,
        *,
        pooling: str = "attention",
        dropout: float = 0.0,
        states_only: bool = False,
        passages: TextEncoder | None = None,
    ) -> None:
        super().__init__(
            embedding, layers, features, outputs, pooling=pooling, dropout=dropout, states_only=states_only
        )
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE)))
        self.passages = passages

    @property
    def needs_whole(self) -> str:
        """Itself: a query is scored against passages that end at other steps."""
        return "a dual encoder"

    @property
    def scale(self) -> Tensor:
        """What a cosine is multiplied by: 1 / temperature."""
        return self.log_scale.exp().clamp(max=LARGEST_SCALE)

    def forward(
        self,
        inputs: Tensor,
        state: Any = None,
        lengths: Tensor | None = None,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Read texts, and score the queries among them.

        Args:
            inputs: ids [T, B].
            state: the index so far, a tuple of tensors [n, D]; None: empty.
            lengths: [B], steps of each row.
            context: bool [B], true of passages; None: all are queries.

        Returns: scores [queries, passages], the index first, then the batch's passages, in the order of their rows; the index.
        Cost: the layers', and queries * passages * D multiplications.
        """
        size = inputs.shape[1]
        passage = torch.zeros(size, dtype=torch.bool) if context is None else context.cpu()
        queries, found = self._both(inputs, lengths, passage)
        index = (*(state or ()), found) if len(found) else tuple(state or ())
        wide = torch.promote_types(queries.dtype, torch.float32)
        with torch.autocast(queries.device.type, enabled=False):  # scores of 16 bits would often be equal
            parts = [queries.to(wide) @ each.to(wide).t() for each in index]
            scores = torch.cat(parts, 1) if parts else queries.new_zeros(len(queries), 0)
            return scores * self.scale, (state if len(queries) else index)

    def encode_passages(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Unit vectors [B, D] of passages; `encode` is for queries."""
        return (self.passages or self).encode(inputs, lengths)

    def _both(self, inputs: Tensor, lengths: Tensor | None, passage: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of the queries and of the passages; of one encoder in one call."""
        device = inputs.device
        if self.passages is None or bool(passage.all()) or not bool(passage.any()):
            vectors = (self.encode_passages if bool(passage.all()) else self.encode)(inputs, lengths)
            return vectors[(~passage).to(device)], vectors[passage.to(device)]
        parts = []
        for rows, encode in ((~passage, self.encode), (passage, self.encode_passages)):
            own = None if lengths is None else lengths[rows]
            steps = len(inputs) if own is None else max(1, int(own.max()))
            parts.append(encode(inputs[:steps, rows.to(device)], own))
        return parts[0], parts[1]


def dual_encoder(
    config: ModelConfig, symbols: int, outputs: int, *, separate: bool = False, states_only: bool = False
) -> DualEncoder:
    """The model of `config` for so many symbols and vectors of size `outputs`, its weights drawn from torch's generator.

    Args: separate: passages have layers, pooling and projection of their own; the embedding is shared.
    """
    embedding: Any = symbol_embedding(config, symbols)
    if isinstance(embedding, nn.Embedding):
        nn.init.normal_(embedding.weight, std=EMBEDDING_STD)
    options: Any = {"pooling": config.pooling, "dropout": config.dropout, "states_only": states_only}
    sizes = (config.outputs, outputs)
    passages = None
    if separate:
        passages = TextEncoder(embedding, layers(config, embedding.embedding_dim), *sizes, **options)
    recurrent = layers(config, embedding.embedding_dim)
    return DualEncoder(embedding, recurrent, *sizes, passages=passages, **options)
