"""A random window length: a regulariser, not an unbiased estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime.bptt.strategy import Backward, BackwardCall, Loss, Reduction, Run, Tally
from throughtime.bptt.tree import Tree
from throughtime.bptt.truncated import cut_every_window
from throughtime.bptt.windows import Windows
from throughtime.errors import InputError


@dataclass(frozen=True)
class RandomWindow:
    """Truncate like `Truncated`, with a length drawn anew for every window, evenly from low..high.

    Biased: nothing is reweighted, so the expectation is not the full gradient (that is `Randomized`). What it
    buys is that the cuts fall at other places in every epoch, so that no step is always the first of its
    window. The loss is divided by the count of the whole batch, so that long windows weigh more by themselves
    and the learning rate need not follow the length.

    Cost: one forward and one backward pass; keeps the activations of at most `high` steps. One draw from
    `generator` per window.
    Raises: InputError unless 1 <= low <= high.
    Source: Merity, Keskar & Socher 2017, arXiv 1708.02182, section 4.1 (variable length BPTT).
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise InputError(
                f"low and high must be numbers of steps with 1 <= low <= high, got {self.low} and {self.high}"
            )

    def backward(
        self,
        run: Run,
        loss: Loss,
        inputs: Any,
        targets: Any = None,
        state: Tree = None,
        *,
        reduction: Reduction = "mean",
        count: int | None = None,
        backward: BackwardCall | None = None,
        generator: torch.Generator | None = None,
    ) -> Backward:
        """Go back after every window. See `Strategy.backward`."""
        device = "cpu" if generator is None else generator.device

        def length() -> int:
            return int(torch.randint(self.low, self.high + 1, (), generator=generator, device=device))

        tally = Tally(loss, targets, reduction, count)
        windows = Windows(inputs, targets, length)
        return cut_every_window(run, tally, windows, state, backward or Tensor.backward)

    def describe(self) -> str:
        """Say what it does."""
        return f"random window: the gradient is cut every {self.low} to {self.high} steps, not reweighted"
