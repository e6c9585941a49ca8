"""From logits to the next symbol: temperature, top-k, top-p, greedy. Pure functions; V is the last axis."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from throughtime.errors import InputError
from throughtime.kernels.native.generation.interface import check_sampling

_NEVER = float("-inf")


def scale_by_temperature(logits: Tensor, temperature: float) -> Tensor:
    """`logits / temperature`: below 1 the likely symbols become likelier, above 1 all become more alike.

    Raises: InputError unless 0 < temperature < infinity; 0 is `greedy`.
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature must be a positive number (or 0 for greedy), got {temperature}")
    # The largest goes to 0 first: a small temperature would otherwise overflow to infinity.
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest logits, the others become -infinity; exactly k stay, also among equals.

    Raises: InputError unless k >= 1; a k beyond V keeps all.
    Source: Fan, Lewis & Dauphin 2018, ACL.
    """
    check_sampling(top_k=k)
    kept, places = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return torch.full_like(logits, _NEVER).scatter(-1, places, kept)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest symbols, likeliest first, whose probabilities sum to at least p (the nucleus).

    The likeliest symbol always stays; p = 1 keeps all.
    Raises: InputError unless 0 < p <= 1.
    Source: Holtzman, Buys, Du, Forbes & Choi 2020, ICLR.
    """
    check_sampling(top_p=p)
    if p == 1:  # by rounding, the tail could lie past a sum of 1
        return logits
    ordered, places = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.double().softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # what the likelier symbols sum to
    return torch.empty_like(logits).scatter(-1, places, ordered.masked_fill(before >= p, _NEVER))


def greedy(logits: Tensor) -> Tensor:
    """The likeliest symbol [...]; the first among equals."""
    return logits.argmax(-1)


def draw(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw one symbol for each row of `logits` [..., V], and return their ids [...].

    Temperature first, then top-k, then top-p of what is left. Temperature 0 is greedy and draws nothing.
    The draw itself is made on the CPU in float64, so that a seed means the same on every device.
    Raises: InputError for a value out of range, logits that hold NaN or infinity, no symbol left to draw.
    """
    check_sampling(temperature, top_k, top_p)
    if bool((logits.isnan() | logits.isposinf()).any()):
        raise InputError("the logits hold NaN or infinity: the model's training diverged, or it is damaged")
    if temperature == 0:
        return greedy(logits)
    if bool((logits.amax(-1) == _NEVER).any()):
        raise InputError("every symbol is excluded: there is nothing left to draw from")
    logits = scale_by_temperature(logits.detach().cpu().double(), temperature)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    rows = logits.softmax(-1).reshape(-1, logits.shape[-1])
    return torch.multinomial(rows, 1, generator=generator).reshape(logits.shape[:-1])
