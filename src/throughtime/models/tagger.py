"""A label for every step, with or without a CRF over the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.data.readers.spans import may_follow
from throughtime.errors import InputError
from throughtime.models.crf import CRF, Scored
from throughtime.models.many_to_many import ManyToMany, StreamingParts


class Tagger(ManyToMany):
    """`ManyToMany` with logits of the labels [T, B, K]; with a CRF it returns `Scored`, whose emissions they are.

    A CRF scores the labels of a whole sequence: such a model reads it in one call and carries no state.
    """

    def __init__(
        self,
        embedding: nn.Module,
        layers: nn.Module,
        features: int,
        labels: int,
        *,
        crf: CRF | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(embedding, layers, features, labels, dropout=dropout)
        self.crf = crf

    @property
    def needs_whole(self) -> str:
        """What in the model must read a whole sequence, in words; "" for nothing."""
        return "a CRF" if self.crf is not None else ""

    def streaming_parts(self) -> StreamingParts | None:
        if self.crf is not None:
            return None
        return StreamingParts(self.embedding, self.layers, (self.head.weight, self.head.bias))

    def forward(self, inputs: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Any, Any]:
        """As `ManyToMany.forward`; of a model with a CRF the outputs are `Scored`, and the state is None."""
        if self.crf is None:
            return super().forward(inputs, state, lengths)
        if state is not None:
            raise InputError("a model with a CRF cannot continue from a state: give it whole sequences")
        logits, _ = super().forward(inputs, None, lengths)
        return Scored(logits, self.crf), None


def transitions_allowed(tags: Sequence[str], scheme: str) -> Tensor:
    """Which tag may follow which in "bio" or "bioes", bool [K + 1, K + 1] as `CRF` takes it."""
    rows = [[may_follow(before, after, scheme) for after in (*tags, "")] for before in (*tags, "")]
    return torch.tensor(rows, dtype=torch.bool)
