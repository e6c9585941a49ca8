"""Randomized truncation: random cuts, and a reweighted gradient whose expectation is the full gradient."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from throughtime.bptt.carry import Carry, active, scale_gradient
from throughtime.bptt.checkpointed import RandomState
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

    Cost: one forward and one backward pass. One draw from `generator` per border; the same seed gives the same
    bits. Calls of `run`: one for the first block. Where that shows that all of the state is carried by throughtime's
    layers (RNN, GRU, LSTM or Recurrent, of one direction), the layers multiply the gradient inside a call, by 0 at a
    cut, and a call goes on over cuts up to `call_steps` steps: it ends at a cut after which `mean_length` more steps
    would be too many. Its activations are kept, those of at most about `call_steps` steps; with `call_steps` = 1 a call ends at
    each cut, which keeps `mean_length` steps on average and takes longer. Any other `run` (torch.nn's layers, its own
    loop over time, a state that it transforms) is called for every block, T / every times, and keeps the
    activations between two cuts. The gradient is the same. A `run` that does for several steps what it did not do
    for the first block is called once more, for those steps block by block, with the random state of before.
    Raises: InputError if mean_length is not above `every` (each border would be a cut), or alpha not above 2.
    Source: Tallec & Ollivier 2017, arXiv 1705.08209 (alpha = 4 by default here).
    """

    mean_length: float
    form: Literal["step", "polynomial"] = "step"
    alpha: float = 4.0
    every: int = 1
    call_steps: int = 512

    def __post_init__(self) -> None:
        one_of("form", self.form, ("step", "polynomial"))
        for name in ("every", "call_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1 step, got {getattr(self, name)}")
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
        borders = _Borders(self, one_pass.generator)
        pending: Tensor | None = None  # the losses since the last cut, with their graph
        parts = 1
        for window in one_pass.windows.cut(borders.length):
            if borders.factors[0] == 0:
                assert pending is not None  # the first block has no border before it
                one_pass.backward(pending)
                pending, state = None, detach(state)
                borders.factors[0], parts = 1.0, parts + 1
            state, pending = _run(one_pass, window, state, pending, borders)
        if pending is not None:
            one_pass.backward(pending)
        return state, parts


class _Borders:
    """Draws at the borders between blocks, in their order, as many as the next call needs."""

    def __init__(self, strategy: Randomized, generator: torch.Generator | None) -> None:
        self.every = strategy.every
        self.factors: list[
            float
        ] = []  # of the next call's blocks: xi at the border before each, 1 before the first of all
        self.inside: bool | None = (
            None  # whether `run` multiplies the gradient at borders inside a call; None: not known yet
        )
        self._strategy, self._generator = strategy, generator
        self._delta = 0  # borders since the last cut
        self._next: float | None = 1.0  # xi at the border before the next block, if it is drawn
        self._numbers: list[float] = []  # drawn and not used yet, the next one last

    def length(self, left: int) -> int:
        """Steps of the next call, where `left` steps follow: up to a cut if borders can lie inside, else one block."""
        blocks = ceil(left / self.every)
        self.factors = [self._draw(blocks) if self._next is None else self._next]
        self._next = None
        while self.inside and len(self.factors) < blocks:
            factor = self._draw(blocks - len(self.factors))
            steps = len(self.factors) * self.every
            if factor == 0 and steps + self._strategy.mean_length > self._strategy.call_steps:
                self._next = factor
                break
            self.factors.append(factor)
        return len(self.factors) * self.every

    def scale(self, steps: int) -> Tensor:
        """The factors of the borders inside the call, at its steps [T]; that of the border before it is not among them."""
        scale = torch.ones(steps, dtype=torch.float64, device="cpu")
        scale[self.every :: self.every] = torch.tensor(self.factors[1:], dtype=torch.float64, device="cpu")
        return scale

    def _draw(self, borders: int) -> float:
        """The factor xi at the next border, of so many that are known to follow: their numbers are drawn at once."""
        if not self._numbers:
            self._numbers = _uniform(borders, self._generator)[::-1]
        self._delta += 1
        probability = self._strategy.cut_probability(self._delta)
        if self._numbers.pop() < probability:
            self._delta = 0
            return 0.0
        return 1 / (1 - probability)


def _uniform(count: int, generator: torch.Generator | None) -> list[float]:
    """So many numbers, uniform in [0, 1)."""
    device = "cpu" if generator is None else generator.device
    numbers: list[float] = torch.rand(count, dtype=torch.float64, generator=generator, device=device).tolist()
    return numbers


def _run(
    one_pass: Pass, window: Batch, state: Tree, pending: Tensor | None, borders: _Borders
) -> tuple[Tree, Tensor]:
    """Run a window without a cut; return the state after it and the losses since the last cut."""
    # A function of its own, so that no local keeps the graph before a cut alive.
    if borders.inside is False:
        end, loss = _blocks(one_pass, window, state, borders)
    elif len(borders.factors) == 1:
        end, loss, borders.inside = _one_call(one_pass, window, state, borders)
    else:
        before, random = (one_pass.total, one_pass.seen), RandomState.now()
        end, loss, borders.inside = _one_call(one_pass, window, state, borders)
        if not borders.inside:
            one_pass.total, one_pass.seen = before
            random.restore()
            end, loss = _blocks(one_pass, window, state, borders)
    return end, loss if pending is None else pending + loss


def _one_call(one_pass: Pass, window: Batch, state: Tree, borders: _Borders) -> tuple[Tree, Tensor, bool]:
    """The state after the window, its loss, and whether the gradient is multiplied at all borders inside."""
    if len(borders.factors) > 1:
        # With a graph in any case, so that it shows what reads the state.
        state = tree_map_only(Tensor, _with_graph, state)
    if len(borders.factors) > 1 or borders.factors[0] != 1:
        state = scale_gradient(state, borders.factors[0])
    carry = Carry(borders.scale(window.steps), None if window.reset else state)
    with active(carry):
        outputs, end = one_pass.run(window, state)
    loss = one_pass.loss(outputs, window)
    return end, loss, carry.complete(end, loss)


def _with_graph(tensor: Tensor) -> Tensor:
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_(differentiable(tensor))


def _blocks(one_pass: Pass, window: Batch, state: Tree, borders: _Borders) -> tuple[Tree, Tensor]:
    """Run a window block by block: the state after it, and its loss."""
    losses = []
    for number, factor in enumerate(borders.factors):
        block = window.window(number * borders.every, (number + 1) * borders.every)
        state = scale_gradient(state, factor)
        outputs, state = one_pass.run(block, state)
        losses.append(one_pass.loss(outputs, block))
    return state, sum(losses[1:], start=losses[0])
