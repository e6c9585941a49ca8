"""Metrics of rankings: where the correct candidate stands when all candidates are ordered by their scores."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from throughtime.data.batch import Batch, unmasked
from throughtime.errors import InputError
from throughtime.metrics.metric import Metric

_TIES = "a candidate with the same score as the correct one counts as ranked before it"


def ranks(scores: Tensor, correct: Tensor) -> Tensor:
    """The rank of the correct candidate of each row, int64 [N], 1 for the best.

    Args: scores [N, M], larger is better; correct, int64 [N], the number of the correct candidate, 0 to M-1.
    Ties are conservative: a candidate with the same score counts as ranked before the correct one, and so does one whose score
    is NaN; a correct candidate whose score is NaN is last.
    Raises: InputError for shapes that do not belong together, or a number outside 0 to M-1.
    Cost: one pass over the scores, and M bytes for each row.
    """
    if scores.dim() != 2 or correct.shape != scores.shape[:1] or correct.is_floating_point():
        raise InputError(
            f"expected scores [N, M] and whole numbers [N], got {list(scores.shape)} and {correct.dtype} {list(correct.shape)}"
        )
    if len(correct) and not 0 <= int(correct.min()) <= int(correct.max()) < scores.shape[1]:
        raise InputError(
            f"the correct candidates must be 0 to {scores.shape[1] - 1}, got {int(correct.min())} to {int(correct.max())}"
        )
    own = scores.gather(1, correct[:, None])
    return (scores < own).logical_not().sum(1)  # not (a < b) is also true of a NaN


def reciprocal_rank(ranks: Tensor, k: int | None = None) -> Tensor:
    """1 / rank of each, float64 of the same shape; 0 for a rank beyond k."""
    found = 1 / ranks.double()
    return found if k is None else found * (ranks <= k)


def recall_at(ranks: Tensor, k: int) -> Tensor:
    """1 where the correct candidate is among the first k, else 0, float64 of the same shape."""
    return (ranks <= k).double()


class _MeanOfRanks(Metric):
    """The mean over unmasked targets of a number that follows from the rank of the target.

    Outputs [B, M] with targets [B], or [T, B, M] with [T, B]: the scores of all candidates, and the number of the correct one.
    """

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        targets = batch.targets
        if targets is None or not bool((kept := unmasked(targets)).any()):
            return  # a batch that asks nothing, as one that only holds candidates
        if not isinstance(outputs, Tensor) or outputs.shape[:-1] != targets.shape:
            shape = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise InputError(
                f"expected outputs [..., M] for targets [...] of the same leading shape, got {shape} for {list(targets.shape)}"
            )
        each = self._of(ranks(outputs[kept], targets[kept].long()).cpu())
        self.totals += torch.stack([each.sum(), torch.tensor(float(len(each)), dtype=torch.float64)])

    def value(self) -> float:
        total, count = self.totals.tolist()
        return total / count if count else float("nan")

    @abstractmethod
    def _of(self, ranks: Tensor) -> Tensor:
        """The number for each rank, float64 [n]."""


class MRR(_MeanOfRanks):
    """Mean reciprocal rank over all candidates; with k, a rank beyond k counts as 0 and the name is mrr@k."""

    name: ClassVar[str] = "mrr"
    convention: ClassVar[str] = f"mean of 1 / rank over all candidates; {_TIES}"

    def __init__(self, k: int | None = None) -> None:
        super().__init__()
        self.k = k
        if k is not None:
            _check(k)
            self.name = f"mrr@{k}"  # type: ignore[misc]

    def _of(self, ranks: Tensor) -> Tensor:
        return reciprocal_rank(ranks, self.k)


class Recall(_MeanOfRanks):
    """The fraction of targets that are among the first k of all candidates. Its name is recall@k."""

    convention: ClassVar[str] = f"fraction of correct candidates among the first k of all; {_TIES}"

    def __init__(self, k: int) -> None:
        super().__init__()
        _check(k)
        self.k = k
        self.name = f"recall@{k}"  # type: ignore[misc]

    def _of(self, ranks: Tensor) -> Tensor:
        return recall_at(ranks, self.k)


def _check(k: int) -> None:
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}")
