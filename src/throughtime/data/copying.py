"""The copying problem: ten symbols are to be said again after a long silence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from throughtime.errors import InputError


@dataclass(frozen=True)
class Copying:
    """Sequences of `length` + 20 steps over ten symbols: eight letters 0 .. 7, the blank 8 and the delimiter 9.

        inputs   10 letters, drawn uniformly   length - 1 blanks   the delimiter   10 blanks
        targets  length + 10 blanks                                                the same 10 letters

    So letter i, read at step i, is the target `length` + 10 steps later. The loss is the cross-entropy over all steps. Without
    memory one can say blanks until the delimiter has come and then guess: 10 ln 8 / (length + 20) nats a step.

    Raises: InputError if length is below 1, the delimiter alone.
    Source: Arjovsky, Shah & Bengio 2016, arXiv 1511.06464, section 4.1; after Hochreiter & Schmidhuber 1997.
    """

    length: int
    letters: ClassVar[int] = 8
    copied: ClassVar[int] = 10
    blank: ClassVar[int] = 8
    delimiter: ClassVar[int] = 9
    symbols: ClassVar[int] = 10

    def __post_init__(self) -> None:
        if self.length < 1:
            raise InputError(
                f"length must be at least 1 in the copying problem, the delimiter, got {self.length}"
            )

    @property
    def steps(self) -> int:
        """Steps of one sequence."""
        return self.length + 2 * self.copied

    @property
    def targets(self) -> int:
        """Targets of one sequence."""
        return self.steps

    @property
    def baseline(self) -> float:
        """Cross-entropy, nats a step, of the best guess without memory."""
        return self.copied * math.log(self.letters) / self.steps

    @property
    def optimum(self) -> float:
        """Cross-entropy of who remembers."""
        return 0.0

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and targets, [T, batch] int64 each."""
        said = torch.randint(self.letters, (self.copied, batch), generator=generator)
        inputs = torch.full((self.steps, batch), self.blank)
        targets = inputs.clone()
        inputs[: self.copied] = said
        inputs[self.length + self.copied - 1] = self.delimiter
        targets[-self.copied :] = said
        return inputs, targets
