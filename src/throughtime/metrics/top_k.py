"""How often the target is among the few likeliest symbols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from throughtime.data.batch import Batch, unmasked
from throughtime.errors import InputError
from throughtime.metrics.metric import Metric


class TopK(Metric):
    """The fraction of unmasked targets that are among the k largest outputs; see `Top1` and `Top5`.

    Outputs [..., V] for targets [...]. Of equal outputs the one with the smaller number counts as the larger.
    Args: never, symbols that are no answer, such as the unknown one: they take no place among the k, and a target that is one of
    them counts as missed.
    """

    k: ClassVar[int]

    def __init__(self, never: Sequence[int] = ()) -> None:
        super().__init__()
        self._never = torch.tensor(list(never), dtype=torch.int64)

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        targets = batch.targets
        if not isinstance(outputs, Tensor) or outputs.shape[:-1] != targets.shape:
            came = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise InputError(f"expected outputs [..., V] for targets {list(targets.shape)}, got {came}")
        kept = unmasked(targets)
        wanted = targets[kept].long()[:, None]
        scores = outputs[kept].index_fill(-1, self._never.to(outputs.device), float("-inf"))
        found = scores.gather(1, wanted)
        before = torch.arange(scores.shape[1], device=scores.device) < wanted
        rank = ((scores > found) | ((scores == found) & before)).sum(1)
        hits = (rank < self.k) & ~torch.isin(wanted[:, 0], self._never.to(wanted.device))
        self.totals[0] += int((hits & ~found[:, 0].isnan()).sum())
        self.totals[1] += len(wanted)

    def value(self) -> float:
        return float(self.totals[0] / self.totals[1]) if float(self.totals[1]) else float("nan")


class Top1(TopK):
    """The fraction of targets that the largest output predicts."""

    name: ClassVar[str] = "top_1"
    convention: ClassVar[str] = "an unknown word is no answer: where it is the target, that counts as missed"
    k: ClassVar[int] = 1


class Top5(TopK):
    """The fraction of targets among the five largest outputs."""

    name: ClassVar[str] = "top_5"
    k: ClassVar[int] = 5
