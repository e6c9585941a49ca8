"""How well a model predicts: one loss for all targets, whatever the windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from throughtime.bptt.strategy import one_number
from throughtime.errors import InputError
from throughtime.training.autocast import autocast
from throughtime.training.task import Window


@dataclass(frozen=True)
class Evaluation:
    """A loss in its three usual dresses."""

    loss: float  # nats per unmasked target
    count: int  # unmasked targets

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite when that is more than a float holds."""
        return perplexity(self.loss)

    @property
    def bits(self) -> float:
        """Loss / log 2: bits per target."""
        return self.loss / math.log(2)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    windows: Iterable[Window],
    loss: Callable[[Any, Any], Tensor],
    *,
    device: torch.device | str = "cpu",
    precision: str = "fp32",
) -> Evaluation:
    """Sum the losses of all windows and divide once by the count of their unmasked targets.

    The state is carried from window to window, and starts anew where a window is fresh. The model runs in
    eval mode and draws no random numbers, so a training that evaluates is the one that does not.
    Raises: InputError when there is no unmasked target.
    """
    device = torch.device(device)
    training, state = model.training, None
    total, count = torch.zeros((), dtype=torch.float64), 0
    model.eval()
    try:
        for window in windows:
            inputs, targets = (to_device(part, device) for part in (window.inputs, window.targets))
            with autocast(device, precision):
                outputs, state = model(inputs, None if window.fresh else state)
            total = total.to(device) + one_number(loss(outputs, targets)).double().sum()
            count += window.count
    finally:
        model.train(training)
    if count == 0:
        raise InputError("expected at least one target to evaluate, got none: give more data")
    return Evaluation(float(total) / count, count)


def perplexity(loss: float) -> float:
    """exp(loss), infinite when that is more than a float holds."""
    return math.exp(loss) if loss < 709 else math.inf


def to_device(tree: Any, device: torch.device) -> Any:
    """The same pytree with its tensors on the device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=True), tree)
