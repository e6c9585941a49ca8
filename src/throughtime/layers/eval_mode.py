"""Evaluation mode for a while, with every submodule's own mode afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put `model` and all its submodules into evaluation mode; on exit, also by an exception, each gets its own mode back.

    `model.eval()` and `model.train()` would not do: a submodule that is frozen in evaluation mode inside a model in training mode
    would be in training mode afterwards. Gradients stay enabled or disabled as they are.
    Nothing is written to what is in evaluation mode already, so threads can share such a model.
    """
    in_training = [module for module in model.modules() if module.training]
    try:
        for module in in_training:
            module.training = False
        yield model
    finally:
        for module in in_training:
            module.training = True
