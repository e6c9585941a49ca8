"""The adding problem: two numbers far apart in a sequence are to be added at its end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.errors import InputError


@dataclass(frozen=True)
class Adding:
    """Sequences of `length` steps with two inputs: a number, and a mark that says whether to remember it.

        value_t ~ U(0, 1);  mark_t = 1 at one step of the first half and one of the second, drawn uniformly, else 0
        target_T = value_i + value_j with mark_i = mark_j = 1;  no target at any other step

    The loss is the squared error at the last step. Predicting 1 always, all that can be done without memory, has the
    variance of a sum of two U(0, 1): 2/12 = 1/6. The number in the first half lies `length`/2 to `length` - 1 steps back.

    Raises: InputError if length is below 2, one step for each mark.
    Source: Hochreiter & Schmidhuber 1997, Neural Computation 9(8), experiment 4; in this form (one mark in each half, the
        sum not scaled) Le, Jaitly & Hinton 2015, arXiv 1504.00941, and Arjovsky, Shah & Bengio 2016, arXiv 1511.06464.
    """

    length: int

    def __post_init__(self) -> None:
        if self.length < 2:
            raise InputError(
                f"length must be at least 2 in the adding problem, one step for each mark, got {self.length}"
            )

    @property
    def steps(self) -> int:
        """Steps of one sequence."""
        return self.length

    @property
    def targets(self) -> int:
        """Targets of one sequence."""
        return 1

    @property
    def baseline(self) -> float:
        """Squared error of the best guess without memory: Var(U + U') = 2 Var(U), Var(U) = 1/12."""
        return 2 / 12

    @property
    def optimum(self) -> float:
        """Squared error of who adds."""
        return 0.0

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs [T, batch, 2] (value, mark) and targets [T, batch, 1], NaN where there is none; float32."""
        values = torch.rand(self.length, batch, generator=generator)
        half = self.length // 2
        first = torch.randint(0, half, (1, batch), generator=generator)
        second = torch.randint(half, self.length, (1, batch), generator=generator)
        marks = torch.zeros_like(values).scatter_(0, torch.cat([first, second]), 1.0)
        targets = torch.full((self.length, batch, 1), torch.nan)
        targets[-1, :, 0] = (values * marks).sum(0)
        return torch.stack([values, marks], dim=-1), targets
