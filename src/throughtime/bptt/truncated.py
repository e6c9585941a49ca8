"""Truncated backpropagation through time: one cut after every window, or a window that slides."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.bptt.strategy import Backward, BackwardCall, Loss, Reduction, Run, Tally
from throughtime.bptt.tree import Tree, detach, hand_on, leaves_of
from throughtime.bptt.windows import Window, Windows
from throughtime.errors import InputError


@dataclass(frozen=True)
class Truncated:
    """Let values cross the border of every window of `window` steps, and no gradient.

    `stride=None` cuts the sequence into windows. The loss at a window's first step then travels back one step
    only, the loss at its last step through all `window` steps.

    `stride < window` lets the window slide, which is BPTT(h; h') with h = window and h' = stride: after every
    `stride` steps their loss travels back `window` steps, so that every loss sees at least
    `window - stride + 1` steps where there are as many. Detaching the state of `window` steps ago does not do
    that: the step that followed it still holds its edge into the graph, so nothing is cut. Here every `stride`
    steps have a graph of their own, and the gradient is handed from border to border.

    Biased: what lies further back than the window is taken to have no influence. Equal to `Full` if
    window >= T. An iterator's windows are cut to size where they are longer, never joined where shorter.

    Cost: one forward pass. Backward once over every step, or window/stride times if the window slides. Keeps
    the activations of `window` steps, whatever T.
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
        """Go back after every window. See `Strategy.backward`; nothing is drawn from `generator`.

        If the window slides, a given `backward` is called as `backward(loss, retain_graph=True)`.
        """
        tally = Tally(loss, targets, reduction, count)
        backward = backward or Tensor.backward
        stride = self.stride or self.window
        windows = Windows(inputs, targets, lambda: stride)
        if stride == self.window:
            return cut_every_window(run, tally, windows, state, backward)
        return _slide(run, tally, windows, state, backward, blocks=self.window // stride)

    def describe(self) -> str:
        """Say what it does."""
        if self.stride is None or self.stride == self.window:
            return f"truncated: the gradient is cut every {self.window} steps"
        return f"truncated: every {self.stride} steps their gradient travels back {self.window} steps"


def cut_every_window(
    run: Run, tally: Tally, windows: Windows, state: Tree, backward: Callable[..., object]
) -> Backward:
    """Run, go back and forget the graph, window by window; the state crosses as a constant."""
    number = 0
    for window in windows:
        state = _window(run, tally, window, state, backward)
        number += 1
    result = tally.result(state, number)
    windows.flow()
    return result


def _window(run: Run, tally: Tally, window: Window, state: Tree, backward: Callable[..., object]) -> Tree:
    # A function of its own, so that the graph is gone with the locals before the next window is run.
    y, state = run(window.inputs, state)
    backward(tally.add(y, window.target))
    return detach(state)


class _Block(NamedTuple):
    """`stride` steps with a graph of their own."""

    entry: Tree  # the state they started from, as leaves: the gradient at the border is collected here
    exit: Tree  # the state they ended in, with the graph


def _slide(
    run: Run, tally: Tally, windows: Windows, state: Tree, backward: Callable[..., object], blocks: int
) -> Backward:
    """Keep the last `blocks` graphs; the newest loss goes through all of them, border by border."""
    kept: deque[_Block] = deque()
    given, first_entry = state, None
    number = 0
    for window in windows:
        if len(kept) == blocks:
            kept.popleft()  # before the next block is built: never more than `window` steps are alive
        kept.append(_block(run, tally, window, state, backward))
        _travel(kept)
        if number == 0:
            first_entry = kept[0].entry
        state = kept[-1].exit
        number += 1
    result = tally.result(detach(state), number)
    hand_on(given, first_entry)
    windows.flow()
    return result


def _block(run: Run, tally: Tally, window: Window, state: Tree, backward: Callable[..., object]) -> _Block:
    """Run the newest block and send its loss as far back as its entry."""
    entry = leaves_of(state)
    y, end = run(window.inputs, entry)
    backward(tally.add(y, window.target), retain_graph=True)
    return _Block(entry, end)


def _travel(kept: deque[_Block]) -> None:
    """Carry the gradient from the entry of the newest block to the entry of the oldest."""
    for newer, older in pairwise(reversed(kept)):
        hand_on(older.exit, newer.entry, retain_graph=True)
