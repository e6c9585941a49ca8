"""How well a model does on a split: one loss and the task's metrics, whatever the batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.bptt.strategy import one_number
from throughtime.data.batch import Batch
from throughtime.errors import InputError
from throughtime.layers.eval_mode import evaluating
from throughtime.metrics import Metric
from throughtime.training.step import autocast


@dataclass(frozen=True)
class Evaluation:
    """Loss per target and metrics of a model on some data."""

    loss: float  # per unmasked target; nats where it is a cross-entropy
    count: int  # unmasked targets
    metrics: tuple[Metric, ...] = ()

    @property
    def values(self) -> dict[str, float]:
        """The metrics' values by name, the main one first, and the loss."""
        return {**{metric.name: metric.value() for metric in self.metrics}, "loss": self.loss}

    @property
    def main(self) -> float:
        """The value that decides which weights are the best: the first metric's, the loss where there is none."""
        return self.metrics[0].value() if self.metrics else self.loss

    def better_than(self, other: Evaluation | None) -> bool:
        """Whether its main value is better than the other's; NaN never is."""
        if other is None:
            return True
        return self.metrics[0].better(self.main, other.main) if self.metrics else self.loss < other.loss

    def __add__(self, other: Evaluation) -> Evaluation:
        """Both together, as if measured at once. The metrics' totals are added in place."""
        count = self.count + other.count
        for mine, theirs in zip(self.metrics, other.metrics, strict=True):
            mine.totals += theirs.totals
        return Evaluation((self.loss * self.count + other.loss * other.count) / count, count, self.metrics)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Any, Batch], Tensor],
    metrics: Sequence[Metric] = (),
    *,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    progress: Callable[[int], None] = lambda targets: None,
) -> Evaluation:
    """Sum the losses of all batches and divide once by the count of their unmasked targets.

    The state is carried from batch to batch, and starts from none where a batch is a reset. The model runs in eval mode, each
    submodule is put back into its own mode, and no random numbers are drawn: a training that evaluates is the one that does not.
    Sums are taken in float64 on the CPU.
    Args: progress, told how many targets are done.
    Raises: InputError when there is no unmasked target.
    """
    device = torch.device(device)
    state, total, count = None, torch.zeros((), dtype=torch.float64), 0
    for metric in metrics:
        metric.begin(model)
    with evaluating(model):
        for batch in batches:
            moved = batch.to(device)
            with autocast(device, precision):
                outputs, state = moved.run(model, None if batch.reset else state)
            part = one_number(loss(outputs, moved)).sum()
            for metric in metrics:
                metric.update(outputs, moved, part)
            total += part.cpu().double()  # some devices have no float64
            count += batch.num_targets
            progress(count)
    if count == 0:
        raise InputError("expected at least one target to evaluate, got none: give more data")
    return Evaluation(float(total) / count, count, tuple(metrics))
