"""Sequences that are computed, not read: each drawn from a seed of its own, none repeated, resumable at any batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch

from throughtime.data.batch import Batch
from throughtime.data.epochs import Epochs
from throughtime.errors import InputError

Draw = Callable[[int, torch.Generator], Batch]  # (batch size, generator) -> that many sequences


class Generated(Epochs):
    """Batches for training: each is new sequences.

    Batch number n is a function of (name, seed, n), so the position is two numbers and nothing is stored: see `state_dict`.
    Nothing repeats; an "epoch" is only a name for `examples` sequences over all processes. With `world` processes each draws
    its own.
    Args: draw, makes a batch; name, says what is drawn and its sizes, as in "adding/100".
    Raises: InputError unless batch and examples are positive and 0 <= rank < world.
    """

    def __init__(
        self,
        draw: Draw,
        name: str,
        batch: int,
        *,
        examples: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        for what, value in (("batch", batch), ("examples", examples)):
            if value < 1:
                raise InputError(f"{what} must be at least 1, got {value}")
        super().__init__(rank, world)
        self.draw, self.name, self.batch, self.examples, self.seed = draw, name, batch, examples, seed

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.examples // (self.batch * self.world))

    def _batches(self, epoch: int) -> Callable[[int], Batch]:
        first = epoch * len(self)
        return lambda index: _draw(
            self.draw, self.batch, f"{self.name}/train/{self.seed}/{self.rank}/{first + index}"
        )

    @property
    def _identity(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("name", "batch", "examples", "world", "seed")}


def held_out(draw: Draw, name: str, split: str, examples: int, batch: int) -> Iterator[Batch]:
    """The same `examples` sequences on every call, drawn apart from any training data and other splits, `batch` at a time.

    The last batch may be smaller. What is drawn depends on `batch` too.
    Raises: InputError unless both are positive.
    """
    for what, value in (("examples", examples), ("batch", batch)):
        if value < 1:
            raise InputError(f"{what} must be at least 1, got {value}")
    return (
        _draw(draw, min(batch, examples - start), f"{name}/{split}/{start}")
        for start in range(0, examples, batch)
    )


def _draw(draw: Draw, batch: int, place: str) -> Batch:
    """The sequences of one place; equal on every machine, as Python's and torch's CPU generators are."""
    return draw(batch, torch.Generator().manual_seed(random.Random(place).getrandbits(63)))
