"""Metrics that follow from the loss. Lower is better."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from throughtime.data.batch import Batch, count_targets, tensors, unmasked
from throughtime.metrics.metric import Metric


class MeanLoss(Metric):
    """The task's loss for each unmasked target."""

    name: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        # A window's own targets: `num_targets` counts those of the batch that it was cut from.
        self.totals += torch.tensor([float(loss), self._count(batch)], dtype=torch.float64)

    def value(self) -> float:
        total, count = self.totals.tolist()
        return total / count if count else float("nan")

    def _count(self, batch: Batch) -> int:
        return count_targets(batch.targets)


class Perplexity(MeanLoss):
    """exp of the mean loss in nats; infinite where that is beyond float64."""

    name: ClassVar[str] = "perplexity"
    convention: ClassVar[str] = (
        "exp of the mean cross-entropy over all targets, those of unknown symbols included"
    )

    def value(self) -> float:
        mean = super().value()
        return math.exp(mean) if not mean > 700 else float("inf")


class Bits(MeanLoss):
    """The mean loss in bits for each target: nats / ln 2."""

    name: ClassVar[str] = "bits"

    def value(self) -> float:
        return super().value() / math.log(2)


class BitsPerCharacter(Bits):
    """The loss in bits for each character that the targets stand for, so that vocabularies can be compared.

    Args: characters: whole numbers [V], how many characters each symbol stands for.
    """

    name: ClassVar[str] = "bits_per_character"
    convention: ClassVar[str] = "an unknown symbol counts as the characters that it is decoded to"

    def __init__(self, characters: Tensor) -> None:
        super().__init__()
        self.characters = characters.cpu()

    def _count(self, batch: Batch) -> int:
        return sum(int(self.characters[leaf[unmasked(leaf)].cpu()].sum()) for leaf in tensors(batch.targets))
