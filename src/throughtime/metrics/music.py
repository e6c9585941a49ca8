"""Negative log-likelihood of music, in nats. Lower is better."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from throughtime.data.batch import Batch, unmasked
from throughtime.metrics.metric import Metric


class FrameLikelihood(Metric):
    """-log P of each frame but the first of a piece, given those before it: the mean over frames, or over pieces.

    Args: by_piece: the mean over a piece's frames first, then over pieces; else over all frames of all pieces.
    """

    higher_is_better = False

    def __init__(self, by_piece: bool = False) -> None:
        super().__init__()
        self.by_piece = by_piece
        self.name = "nll_piece" if by_piece else "nll"  # type: ignore[misc]
        over = "pieces of the mean over a piece's" if by_piece else "all"
        self.convention = (  # type: ignore[misc]
            f"nats; the mean over {over} frames 2 to T; the loss also counts the first frame, which is predicted from nothing"
        )

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        kept = unmasked(batch.targets[..., 0])
        losses = outputs.nll(batch.targets).detach().double().cpu()
        kept = kept.cpu()
        if batch.reset:
            losses, kept = losses[1:], kept[1:]
        if not self.by_piece:
            self.totals += torch.stack([losses.sum(), kept.sum().double()])
            return
        counts = kept.sum(0)
        means = losses.sum(0)[counts > 0] / counts[counts > 0]
        self.totals += torch.stack([means.sum(), (counts > 0).sum().double()])

    def value(self) -> float:
        total, count = self.totals.tolist()
        return total / count if count else float("nan")


class NoteLikelihood(Metric):
    """-log P of each note of a melody, or of its pitch or its length alone; the end of a tune counts as a note.

    Args: part: "nll", "nll_pitch" or "nll_length"; the last two add up to the first.
    """

    higher_is_better = False

    def __init__(self, part: str = "nll") -> None:
        super().__init__()
        self.name = part  # type: ignore[misc]
        self.convention = {  # type: ignore[misc]
            "nll": "nats a note, its pitch and its length; all notes of a tune count, the first one too, and its end as one more",
            "nll_pitch": "the part of it that is the pitch's",
            "nll_length": "the part of it that is the length's, given the pitch; the end has none",
        }[part]

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        kept = unmasked(batch.targets[..., 0])
        if self.name == "nll":
            losses = outputs.nll(batch.targets)
        else:
            column = 0 if self.name == "nll_pitch" else 1
            losses = outputs.head.parts(outputs.hidden, batch.targets)[..., column]
        self.totals += torch.stack([losses.detach().double().sum().cpu(), kept.sum().double().cpu()])

    def value(self) -> float:
        total, count = self.totals.tolist()
        return total / count if count else float("nan")
