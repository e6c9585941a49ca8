"""Something that the model writes while it is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Sampler = Callable[[nn.Module], str]


def sample_of(model: nn.Module, sampler: Sampler, device: torch.device) -> str:
    """What `sampler` makes of the model, in eval mode; the random numbers that it draws are not missed after."""
    training = model.training
    # A CPU's numbers are always kept; of an accelerator those of the one device.
    devices, kind = ([], "cuda") if device.type == "cpu" else ([device.index or 0], device.type)
    with torch.random.fork_rng(devices, device_type=kind):
        try:
            return sampler(model.eval())
        finally:
            model.train(training)
