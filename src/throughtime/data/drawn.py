"""Sequences that are made, not read: as many as one likes, each drawn anew, resumable at any batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from throughtime.data.epochs import Epochs
from throughtime.data.streams import Window
from throughtime.errors import InputError


class Problem(Protocol):
    """How the sequences of a problem are drawn, and how well one can do. A frozen dataclass, see `Adding`."""

    @property
    def steps(self) -> int:
        """Steps of one sequence."""
        ...

    @property
    def targets(self) -> int:
        """Targets of one sequence that are not masked."""
        ...

    @property
    def baseline(self) -> float:
        """The loss of who knows nothing of the past."""
        ...

    @property
    def optimum(self) -> float:
        """The lowest loss that can be expected."""
        ...

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and targets of `batch` sequences, time first."""
        ...


class Drawn(Epochs):
    """Windows for training: each is a batch of whole sequences that were never seen before.

    Window number n is a function of (problem, seed, n), so the position is two numbers and nothing is stored: see
    `state_dict`. Nothing repeats; an "epoch" is only a name for `examples` sequences over all processes. With `world`
    processes each draws its own.
    Raises: InputError unless batch and examples are positive and 0 <= rank < world.
    """

    def __init__(
        self, problem: Problem, batch: int, *, examples: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        for name, value in (("batch", batch), ("examples", examples)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        super().__init__(rank, world)
        self.problem, self.batch, self.examples, self.seed = problem, batch, examples, seed

    def __len__(self) -> int:
        """Windows in an epoch."""
        return -(-self.examples // (self.batch * self.world))

    def _windows(self, epoch: int) -> Callable[[int], Window]:
        first = epoch * len(self)
        return lambda index: _window(
            self.problem, self.batch, f"train/{self.seed}/{self.rank}/{first + index}"
        )

    @property
    def _identity(self) -> dict[str, Any]:
        names = ("batch", "examples", "world", "seed")
        return {"problem": repr(self.problem)} | {name: getattr(self, name) for name in names}


def held_out(problem: Problem, examples: int, batch: int) -> Iterator[Window]:
    """The same `examples` sequences on every call, drawn apart from any training data, `batch` at a time.

    The last window may be smaller. What is drawn depends on `batch` too.
    Raises: InputError unless both are positive.
    """
    for name, value in (("examples", examples), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    return (
        _window(problem, min(batch, examples - start), f"validation/{start}")
        for start in range(0, examples, batch)
    )


def _window(problem: Problem, batch: int, place: str) -> Window:
    """The sequences of one place; equal on every machine, as Python's and torch's CPU generators are."""
    seed = random.Random(f"{problem!r}/{place}").getrandbits(63)
    inputs, targets = problem.draw(batch, torch.Generator().manual_seed(seed))
    return Window(inputs, targets, fresh=True, count=problem.targets * batch)
