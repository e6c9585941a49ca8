"""The precision of the forward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from throughtime.errors import one_of
from throughtime.training.config import PRECISIONS


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """fp32: nothing. bf16: torch's autocast, for the forward pass only.

    torch's and not accelerate's, which is a setting of the whole process that cannot be changed once made: two
    trainings in one process may differ.
    """
    one_of("precision", precision, PRECISIONS)
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, torch.bfloat16)
