"""Truncated backpropagation through time: windows of a fixed or a random length, or one that slides."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch

from throughtime.bptt.strategy import Pass, Strategy
from throughtime.bptt.windows import Tree, as_leaves, backward_from, detach
from throughtime.data.batch import Batch
from throughtime.errors import InputError


@dataclass(frozen=True)
class Truncated(Strategy):
    """Carry the state over the border of every window of `window` steps, and no gradient.

    `stride=None` cuts the sequence into windows. The gradient of the loss at a window's first step then goes back one
    step only, that of the loss at its last step through all `window` steps.

    `stride < window` lets the window slide, which is BPTT(h; h') with h = window and h' = stride: after every
    `stride` steps the gradient of their loss goes back `window` steps, so that every loss sees at least
    `window - stride + 1` steps where there are as many. Detaching the state of `window` steps ago does not do
    that: the step that followed it still holds its edge into the graph, so nothing is cut. Here every `stride`
    steps have a graph of their own, and the gradient is passed from each graph to the one before it.

    Biased: what lies further back than the window is taken to have no influence. Equal to `Full` if
    window >= T. Batches of an iterable are cut where they are longer than the window, never joined where shorter.

    Cost: one forward pass. Backward once over every step, or window/stride times if the window slides; a given
    `backward` is then called as `backward(loss, retain_graph=True)`. Keeps the activations of `window` steps, whatever T.
    Raises: InputError if window or stride is below 1, or window is no multiple of stride.
    Source: Williams & Peng 1990, Neural Computation 2(4).
    """

    window: int
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InputError(f"window must be at least 1 step, got {self.window}")
        if self.stride is None:
            return
        if self.stride < 1:
            raise InputError(f"stride must be at least 1 step, got {self.stride}")
        if self.window % self.stride:
            raise InputError(
                f"window must be a multiple of stride, got window {self.window} and stride {self.stride}: "
                f"take window {max(1, round(self.window / self.stride)) * self.stride}"
            )

    def describe(self) -> str:
        """Say what it does."""
        if self.stride is None or self.stride == self.window:
            return f"truncated: the gradient is cut every {self.window} steps"
        return (
            f"truncated: every {self.stride} steps the gradient of their loss goes back {self.window} steps"
        )

    def splits(self, steps: int) -> bool:
        """If there are more steps than are run in one call."""
        return steps > (self.stride or self.window)

    def _accumulate(self, one_pass: Pass, state: Tree) -> tuple[Tree, int]:
        stride = self.stride or self.window
        if stride == self.window:
            return _cut_every_window(one_pass, state, lambda left: stride)
        return _slide(one_pass, state, stride, self.window // stride)


@dataclass(frozen=True)
class RandomWindow(Strategy):
    """Truncate like `Truncated`, with the length of every window drawn evenly from low..high.

    Biased: nothing is reweighted, so the expectation is not the full gradient (that is `Randomized`). What it
    gains is that the cuts fall at other places in every epoch, so that no step is always the first of its
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

    def describe(self) -> str:
        """Say what it does."""
        return f"random window: the gradient is cut every {self.low} to {self.high} steps, not reweighted"

    def splits(self, steps: int) -> bool:
        """If there are more steps than in the shortest window."""
        return steps > self.low

    def _accumulate(self, one_pass: Pass, state: Tree) -> tuple[Tree, int]:
        generator = one_pass.generator
        device = "cpu" if generator is None else generator.device

        def length(left: int) -> int:
            return int(torch.randint(self.low, self.high + 1, (), generator=generator, device=device))

        return _cut_every_window(one_pass, state, length)


def _cut_every_window(one_pass: Pass, state: Tree, length: Callable[[int], int]) -> tuple[Tree, int]:
    """Run, backpropagate and free the graph, window by window; the state is carried as a constant."""
    number = 0
    for window in one_pass.windows.cut(length):
        state = _one_window(one_pass, window, state)
        number += 1
    return state, number


def _one_window(one_pass: Pass, window: Batch, state: Tree) -> Tree:
    # A function of its own, so that the graph is freed with the locals before the next window is run.
    outputs, state = one_pass.run(window, state)
    one_pass.backward(one_pass.loss(outputs, window))
    return detach(state)


class _Block(NamedTuple):
    """`stride` steps with a graph of their own."""

    start: Tree  # the state before them, as leaves that collect its gradient
    end: Tree  # the state after them, with the graph


def _slide(one_pass: Pass, state: Tree, stride: int, blocks: int) -> tuple[Tree, int]:
    """Keep the last `blocks` graphs; the newest loss is backpropagated through all of them, one after another."""
    kept: deque[_Block] = deque()
    initial, first_start = state, None
    number = 0
    for window in one_pass.windows.cut(lambda left: stride):
        if len(kept) == blocks:
            kept.popleft()  # before the next block is built: never more than `window` steps are alive
        kept.append(_block(one_pass, window, state))
        _backward_through(kept)
        if number == 0:
            first_start = kept[0].start
        state = kept[-1].end
        number += 1
    if number:
        backward_from(initial, first_start)
    return state, number


def _block(one_pass: Pass, window: Batch, state: Tree) -> _Block:
    """Run the newest block and backpropagate its loss to its start."""
    start = as_leaves(state)
    outputs, end = one_pass.run(window, start)
    one_pass.backward(one_pass.loss(outputs, window), retain_graph=True)
    return _Block(start, end)


def _backward_through(kept: deque[_Block]) -> None:
    # A function of its own, so that no local keeps the oldest block alive while the next one is run.
    for newer, older in pairwise(reversed(kept)):
        backward_from(older.end, newer.start, retain_graph=True)
