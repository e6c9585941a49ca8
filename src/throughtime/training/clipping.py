"""Gradient clipping, by norm, which keeps the direction, or by value, which does not.

The norm before clipping is always returned: an exploding gradient is seen by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from throughtime.errors import InputError
from throughtime.training.config import clip_of


class Clipped(NamedTuple):
    """The result of clipping. Both are scalars on the gradients' device; reading them waits for the device."""

    norm: Tensor  # of all gradients together, before clipping
    changed: Tensor  # bool: whether any gradient was changed


class Clip(Protocol):
    """Changes gradients in place."""

    def __call__(self, parameters: Tensor | Iterable[Tensor]) -> Clipped:
        """Clip the `.grad` of the parameters; one without a gradient is skipped."""
        ...


@dataclass(frozen=True)
class ClipNorm:
    """See `clip_norm_`."""

    threshold: float

    def __call__(self, parameters: Tensor | Iterable[Tensor]) -> Clipped:
        norm = clip_norm_(parameters, self.threshold)
        return Clipped(norm, norm > self.threshold)


@dataclass(frozen=True)
class ClipValue:
    """See `clip_value_`."""

    threshold: float

    def __call__(self, parameters: Tensor | Iterable[Tensor]) -> Clipped:
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        largest = get_total_norm(gradients(parameters), norm_type=math.inf)
        return Clipped(clip_value_(parameters, self.threshold), largest > self.threshold)


@dataclass(frozen=True)
class NoClip:
    """Only return the norm."""

    def __call__(self, parameters: Tensor | Iterable[Tensor]) -> Clipped:
        norm = get_total_norm(gradients(parameters))
        return Clipped(norm, torch.zeros_like(norm, dtype=torch.bool))


def clip_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float) -> Tensor:
    """G <- g * min(1, max_norm / ||g||), with ||g|| the norm of all gradients together.

    A gradient within the norm keeps its bits, and there is no epsilon in the denominator.
    Args: parameters, tensors with `.grad`, or one tensor, as `torch.nn.utils.clip_grad_norm_`.
    Returns: ||g|| before, a scalar tensor. It is not finite when a gradient is not: then the gradients are not to
    be used.
    Raises: InputError if max_norm is not above 0.
    Source: Pascanu, Mikolov & Bengio 2013, arXiv 1211.5063.
    """
    _check("max_norm", max_norm)
    found = gradients(parameters)
    norm = get_total_norm(found)
    if found:
        torch._foreach_mul_(found, (max_norm / norm).clamp(max=1.0))
    return norm


def clip_value_(parameters: Tensor | Iterable[Tensor], max_value: float) -> Tensor:
    """Clamp every element of the gradients to [-max_value, max_value]; the direction may change.

    Args: parameters, tensors with `.grad`, or one tensor, as `torch.nn.utils.clip_grad_value_`.
    Returns: the norm of all gradients together before, a scalar tensor.
    Raises: InputError if max_value is not above 0.
    """
    _check("max_value", max_value)
    found = gradients(parameters)
    norm = get_total_norm(found)
    for gradient in found:
        gradient.clamp_(-max_value, max_value)
    return norm


def parse(spec: str) -> Clip:
    """Read "norm:1", "value:0.1" or "none".

    Raises: InputError saying what can be written.
    """
    kind, threshold = clip_of(spec)
    if kind == "none":
        return NoClip()
    return ClipNorm(threshold) if kind == "norm" else ClipValue(threshold)


def gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The gradients of one or several tensors, those that have one."""
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _check(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{name} must be above 0, got {value}")
