"""The random masks of recurrent dropout and zoneout, drawn once for a call of one direction of one layer."""

from __future__ import annotations

import torch
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.kernels.reference import Zoneout


def recurrent_dropout_mask(state: State, rate: float, training: bool) -> Tensor | None:
    """One mask [B, H] for all steps, scaled so that its mean is 1; None when nothing is dropped.

    Source: Gal & Ghahramani 2016, arXiv 1512.05287.
    """
    if rate == 0 or not training:
        return None
    return torch.empty_like(state[0]).bernoulli_(1 - rate).div_(1 - rate)


def zoneout_masks(state: State, steps: int, rates: tuple[float, ...], training: bool) -> Zoneout | None:
    """Which units keep their value at which step; the expectation when not training. None when no unit does.

    Cost: T*B*H bytes for each zoned tensor while training. Source: Krueger et al. 2016, arXiv 1606.01305.
    """
    if not any(rates):
        return None
    if not training:
        return Zoneout(rates, None)
    keep = tuple(
        None if rate == 0 else torch.rand(steps, *s.shape, device=s.device, dtype=torch.float32) < rate
        for rate, s in zip(rates, state, strict=True)
    )
    return Zoneout(rates, keep)
