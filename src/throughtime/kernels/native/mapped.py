"""Gradients that torch maps a backward pass over, as `is_grads_batched` and vectorised Jacobians do."""

from __future__ import annotations

import torch
from torch import Tensor

_functorch = torch._C._functorch
_legacy = getattr(_functorch, "is_legacy_batchedtensor", lambda value: False)


def is_mapped(value: Tensor) -> bool:
    """Whether it stands for many tensors, and so has no memory of its own for a kernel to read."""
    return bool(_functorch.is_batchedtensor(value) or _legacy(value))
