"""Randomized truncation: random cuts, and a reweighted gradient whose expectation is the full gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from throughtime.bptt.strategy import Pass, Strategy
from throughtime.bptt.windows import Tree, detach, differentiable
from throughtime.data.batch import Batch
from throughtime.errors import InputError, one_of


@dataclass(frozen=True)
class Randomized(Strategy):
    """Cut at random, and reweight what is not cut: unbiased, with variance.

    At each border between blocks of `every` steps the gradient of the whole state is multiplied by

        xi in {0, 1/pi},  P(xi = 1/pi) = pi = 1 - c,  so that E[xi] = 1 and E[gradient] = full gradient.

    c, the probability of a cut, is

        step:        c = 1 / L                                   the same at every border
        polynomial:  c = (alpha - 1) / ((alpha - 2) L + delta)   delta borders after the last cut: 1, 2, ...

    with L = mean_length / every. Both have L as mean distance between cuts. For the polynomial form a
    gradient crosses n borders with probability S(n) = prod_{d=1..n} (1 - c_d), which falls like
    n^-(alpha - 1), and its mean sum_{n>=0} S(n) is Gauss's sum 2F1(a - alpha + 2, 1; a + 1; 1) = a / (alpha - 2)
    with a = (alpha - 2) L: that is L.

    The weight of a gradient that crosses n borders grows like (1 - 1/L)^-n in the step form and only like
    n^(alpha - 1) in the polynomial one: its variance is smaller at long range. Cutting at random places
    *without* the weights is biased; `RandomWindow` does that, as a regularizer.

    Cost: one forward and one backward pass. Keeps the activations between two cuts: `mean_length` steps on
    average, sometimes several times that. One draw from `generator` per border; the same seed gives the
    same bits.
    Raises: InputError if mean_length is not above `every` (each border would be a cut), or alpha not above 2.
    Source: Tallec & Ollivier 2017, arXiv 1705.08209 (alpha = 4 by default here).
    """

    mean_length: float
    form: Literal["step", "polynomial"] = "step"
    alpha: float = 4.0
    every: int = 1

    def __post_init__(self) -> None:
        one_of("form", self.form, ("step", "polynomial"))
        if self.every < 1:
            raise InputError(f"every must be at least 1 step, got {self.every}")
        if not self.mean_length > self.every:
            raise InputError(
                f"mean_length must be above every ({self.every} steps), got {self.mean_length}: a gradient that "
                "is always cut cannot be reweighted; take a longer mean_length, or Truncated"
            )
        if not self.alpha > 2:
            raise InputError(f"alpha must be above 2, for a mean to exist, got {self.alpha}")

    def cut_probability(self, delta: int) -> float:
        """Return c at the `delta`-th border after the last cut, delta = 1, 2, ..."""
        length = self.mean_length / self.every
        if self.form == "step":
            return 1 / length
        return (self.alpha - 1) / ((self.alpha - 2) * length + delta)

    def describe(self) -> str:
        """Say what it does."""
        unit = "steps" if self.every == 1 else f"steps, in blocks of {self.every}"
        return f"randomized ({self.form}): cut every {self.mean_length:g} {unit} on average, reweighted, unbiased"

    def splits(self, steps: int) -> bool:
        """If there are more steps than in a block."""
        return steps > self.every

    def _accumulate(self, one_pass: Pass, state: Tree) -> tuple[Tree, int]:
        pending: Tensor | None = None  # the losses since the last cut, with their graph
        delta, parts = 0, 1
        for window in one_pass.windows.cut(lambda: self.every):
            if pending is not None:
                delta += 1
                probability = self.cut_probability(delta)
                if _draw(probability, one_pass.generator):
                    one_pass.backward(pending)
                    pending, state = None, detach(state)
                    delta, parts = 0, parts + 1
                else:
                    state = _scale_gradient(state, 1 / (1 - probability))
            state, pending = _run(one_pass, window, state, pending)
        if pending is not None:
            one_pass.backward(pending)
        return state, parts


def _draw(probability: float, generator: torch.Generator | None) -> bool:
    device = "cpu" if generator is None else generator.device
    return torch.rand((), dtype=torch.float64, generator=generator, device=device).item() < probability


def _run(one_pass: Pass, window: Batch, state: Tree, pending: Tensor | None) -> tuple[Tree, Tensor]:
    # A function of its own, so that no local keeps the graph before a cut alive.
    outputs, state = one_pass.run(window, state)
    loss = one_pass.loss(outputs, window)
    return state, loss if pending is None else pending + loss


class _Scale(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number.

    A node of its own: a hook on the state would also scale the losses that read the same tensor as output.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def _scale_gradient(state: Tree, factor: float) -> Tree:
    """Return the same values; what comes back through any tensor of the state is multiplied by `factor`."""

    def scaled(tensor: Tensor) -> Tensor:
        return _Scale.apply(tensor, factor) if differentiable(tensor) else tensor  # type: ignore[no-untyped-call]

    return tree_map_only(Tensor, scaled, state)
