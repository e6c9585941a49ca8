"""What every metric offers: it takes in batch after batch, and its totals add up over batches and processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from throughtime.data.batch import Batch


class Metric(ABC):
    """A number for a model on a split, from totals that add up: over batches, files and processes.

    `totals` is a float64 tensor on the CPU that `update` adds to; of several parts the totals are summed in place. A new
    metric starts at zero.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    convention: ClassVar[str] = ""
    """How it is computed where that differs between libraries, for the model card."""

    def __init__(self, size: int | tuple[int, ...] = 2) -> None:
        self.totals: Tensor = torch.zeros(size, dtype=torch.float64)

    def begin(self, model: nn.Module) -> None:  # noqa: B027  most metrics need none
        """Told the model before the first batch of an evaluation: for a metric that depends on what the model holds."""

    @abstractmethod
    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        """Take in one batch: the model's outputs for it, and the task's loss, summed over its unmasked targets."""

    @abstractmethod
    def value(self) -> float:
        """The number; NaN where nothing was taken in."""

    def details(self) -> str:
        """More than the number, as Markdown for the model card; often nothing."""
        return ""

    def better(self, value: float, than: float) -> bool:
        """Whether a value is better than another one."""
        return value > than if self.higher_is_better else value < than
