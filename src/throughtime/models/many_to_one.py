"""Many to one: one output for a whole sequence, as in text classification."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from throughtime.errors import InputError, one_of
from throughtime.models.calibrated import CalibratedLinear
from throughtime.models.config import POOLINGS
from throughtime.models.many_to_many import StreamingParts, has_bidirectional, run_layers


class ManyToOne(nn.Module):
    """One row of outputs for each sequence.

        h_t = layers(embedding(input_t))
        last       p = h at each row's last step; of a bidirectional layer, the backward half at its own last step, t = 0
        mean, max  p = mean_t h_t, max_t h_t, over each row's own steps, for each feature
        attention  p = sum_t a_t h_t,  a = softmax_t(v^T tanh(W h_t + b))
        outputs = W_hq dropout(p) + b_q

    With pooling "last" the model can read a sequence in windows: state in, state out, and the outputs of a row count in the
    window in which it ends. The other poolings, and a bidirectional layer, need the whole sequence at once (`reads_whole`). A row
    of no steps is pooled to zeros.

    Args: as `ManyToMany`; pooling, one of `POOLINGS`.
    Source: attention after Yang et al. 2016, NAACL, section 2.2.
    """

    def __init__(
        self,
        embedding: nn.Module,
        layers: nn.Module,
        features: int,
        outputs: int,
        *,
        pooling: str = "last",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.layers = layers
        self.pooling = one_of("pooling", pooling, POOLINGS)
        if pooling == "attention":
            self.attention = nn.Linear(features, features)
            self.query = nn.Linear(features, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, outputs)
        self.bidirectional = has_bidirectional(layers)

    @property
    def needs_whole(self) -> str:
        """What of the model no strategy may cut a sequence for; nothing where its state carries over a cut."""
        return "" if self.pooling == "last" else f"{self.pooling} pooling"

    @property
    def reads_whole(self) -> bool:
        """Whether a sequence must be read in one call."""
        return self.pooling != "last" or self.bidirectional

    def streaming_parts(self) -> StreamingParts | None:
        """What the outputs after each step are computed from, in eval mode; None where all steps are needed."""
        if self.reads_whole or type(self).forward is not ManyToOne.forward:
            return None
        head = (
            self.head.folded()
            if isinstance(self.head, CalibratedLinear)
            else (self.head.weight, self.head.bias)
        )
        return StreamingParts(self.embedding, self.layers, head)

    def forward(self, inputs: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """Read sequences.

        Args:
            inputs: [T, B] ids, or [T, B, D] numbers.
            state: with pooling "last", what the last call returned; None for the initial state.
            lengths: [B], steps of each row, 0 to T.

        Returns: outputs [B, Q], and the state after each row's last step.
        """
        if state is not None and self.reads_whole:
            raise InputError(
                f"{self.pooling} pooling reads all steps of a sequence at once, and cannot continue from a state: pass None, "
                "and train with bptt = full"
            )
        y, state = run_layers(self, inputs, state, lengths)
        return self.head(self.dropout(self._pool(y, lengths))), state

    def _pool(self, y: Tensor, lengths: Tensor | None) -> Tensor:
        """[T, B, H] to [B, H]."""
        steps, size, features = y.shape
        if lengths is None:
            lengths = torch.full((size,), steps)
        lengths = lengths.to(y.device)
        if self.pooling == "last":
            at = (lengths - 1).clamp(min=0)
            last = y.gather(0, at.view(1, size, 1).expand(1, size, features))[0]
            if self.bidirectional:
                last = torch.cat([last[:, : features // 2], y[0, :, features // 2 :]], dim=1)
            return torch.where((lengths > 0)[:, None], last, 0)
        inside = (torch.arange(steps, device=y.device)[:, None] < lengths).unsqueeze(-1)  # [T, B, 1]
        if self.pooling == "mean":
            return torch.where(inside, y, 0).sum(0) / lengths.clamp(min=1)[:, None]
        empty = (lengths == 0)[:, None]
        if self.pooling == "max":
            return y.masked_fill(~inside, -torch.inf).amax(0).masked_fill(empty, 0)
        scores = self.query(self.attention(y).tanh()).masked_fill(~inside, -torch.inf)
        weights = scores.masked_fill(empty, 0).softmax(0)  # a softmax over nothing would be NaN
        return torch.where(inside, weights * y, 0).sum(0)
