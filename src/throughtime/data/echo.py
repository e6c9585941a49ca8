"""The echo task: a coin whose bias depends on two coins thrown earlier, so that what is remembered shows in the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from throughtime.data.streams import IGNORE
from throughtime.errors import InputError


@dataclass(frozen=True)
class Echo:
    """Sequences of `length` steps of two symbols, and a target at every step from the ninth on.

        P(X_t = 1) = 1/2;   P(Y_t = 1) = 1/2 + 1/2 [X_{t-3} = 1] - 1/4 [X_{t-8} = 1]

    Three levels of loss tell how far a model remembers: nothing, 3 steps, 8 steps. The first eight targets would depend on
    symbols before the beginning; they are left out, which makes the levels exact.

    Raises: InputError if length is below 9, one target.
    """

    length: int
    lags: ClassVar[dict[int, float]] = {3: 0.5, 8: -0.25}
    symbols: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.length <= max(self.lags):
            raise InputError(
                f"length must be at least {max(self.lags) + 1} in the echo task, so that there is a target, got {self.length}"
            )

    @property
    def steps(self) -> int:
        """Steps of one sequence."""
        return self.length

    @property
    def targets(self) -> int:
        """Targets of one sequence."""
        return self.length - max(self.lags)

    @property
    def baseline(self) -> float:
        """Cross-entropy, nats a step, of who knows nothing of the past: 0.6616."""
        return self.entropy()

    @property
    def optimum(self) -> float:
        """Cross-entropy of who knows both: 0.4545, the entropy of the coin itself."""
        return self.entropy(self.lags)

    @classmethod
    def entropy(cls, known: Iterable[int] = ()) -> float:
        """H(Y_t | X_{t-k} for the lags k in `known`) in nats, by summing over the values of all lags.

        `known` is () for 0.6616, (3,) for 0.5192, (3, 8) for 0.4545.
        """
        known = tuple(known)
        chances: dict[tuple[int, ...], list[float]] = {}
        for bits in product((0, 1), repeat=len(cls.lags)):
            at = dict(zip(cls.lags, bits, strict=True))
            chance = 0.5 + sum(weight * at[lag] for lag, weight in cls.lags.items())
            chances.setdefault(tuple(at[lag] for lag in known), []).append(chance)
        return sum(_entropy(sum(each) / len(each)) for each in chances.values()) / len(chances)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and targets, [T, batch] int64 each; IGNORE where there is no target."""
        inputs = torch.randint(2, (self.length, batch), generator=generator)
        chance = torch.full((self.length, batch), 0.5)
        for lag, weight in self.lags.items():
            chance[lag:] += weight * inputs[: self.length - lag]
        targets = (torch.rand(self.length, batch, generator=generator) < chance).long()
        targets[: max(self.lags)] = IGNORE
        return inputs, targets


def _entropy(p: float) -> float:
    """Of a coin, in nats."""
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)
