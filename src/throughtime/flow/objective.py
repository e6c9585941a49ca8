"""The loss, step by step: what is sent back through time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.errors import InputError

Loss = Callable[[Any, Any], Tensor]
IGNORED = -100  # torch's mark for a target that does not count


class Objective(NamedTuple):
    """The loss of every example, at every step or at the end alone."""

    losses: Tensor  # [T, B], or [1, B] where there is one loss for a whole sequence
    counted: Tensor  # bool of the same shape: not masked
    at_end: bool  # one loss for a whole sequence: it belongs to the last step of each layer

    def mean(self) -> Tensor:
        """The batch's loss: the mean over all that counts."""
        return torch.where(self.counted, self.losses, 0).sum() / self.counted.sum()


def objective(outputs: Any, targets: Any, loss: Loss | None, steps: int, batch: int) -> Objective:
    """The losses of `loss(outputs, targets)`, or of the defaults that `measure` describes.

    Raises: InputError where there is no default, or the loss has another shape than [T, B], [T] or [B].
    """
    timed = isinstance(outputs, Tensor) and outputs.shape[:2] == (steps, batch)
    if loss is not None:
        values = loss(outputs, targets)
        return _read(values, steps, batch, timed)
    if not isinstance(outputs, Tensor):
        raise InputError(f"the model returned {type(outputs).__name__}, not a tensor: give loss=")
    if targets is None:
        return _read(_along_a_direction(outputs, timed), steps, batch, timed)
    whole = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not whole or targets.shape != outputs.shape[:-1]:
        came = list(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise InputError(
            f"without loss= targets must be classes, whole numbers of shape {list(outputs.shape[:-1])}, got {came}: "
            "give loss=lambda outputs, targets: one value for each step and example"
        )
    values = F.cross_entropy(
        outputs.flatten(0, -2), targets.flatten().long(), reduction="none", ignore_index=IGNORED
    ).view(targets.shape)
    found = _read(values, steps, batch, timed)
    counted = (targets != IGNORED).reshape(found.losses.shape)
    if not bool(counted.any()):
        raise InputError(f"every target is {IGNORED}, masked: there is no loss to send back")
    return found._replace(counted=counted)


def _along_a_direction(outputs: Tensor, timed: bool) -> Tensor:
    """A random direction of unit length, the same each time, times every output."""
    first = 2 if timed else 1
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(outputs.shape[first:], generator=generator, dtype=torch.float64)
    direction = (direction / direction.norm()).to(outputs.device, outputs.dtype)
    return (outputs * direction).flatten(first).sum(-1) if outputs.dim() > first else outputs


def _read(values: Any, steps: int, batch: int, timed: bool) -> Objective:
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    at_end = False
    if shape == (steps, batch):
        losses = values
    elif shape == (steps,) and (timed or steps != batch):
        # The mean over the examples, as torch's losses give it: each has its part.
        losses = values[:, None].expand(steps, batch)
    elif shape == (batch,):
        losses, at_end = values[None], True
    else:
        raise InputError(
            f"the loss must be one value for each step and example [{steps}, {batch}], for each step [{steps}] or for each "
            f"example [{batch}], got {list(shape) if isinstance(shape, tuple) else shape}: use reduction='none'"
        )
    if not losses.requires_grad:
        raise InputError("the loss does not depend on the model: compute it from the model's outputs")
    return Objective(losses, torch.ones_like(losses, dtype=torch.bool), at_end)
