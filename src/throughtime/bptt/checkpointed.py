"""Checkpointed backpropagation through time: exact, in little memory, by running steps again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.bptt.random_state import RandomState
from throughtime.bptt.revolve import advances, split
from throughtime.bptt.strategy import Backward, BackwardCall, Loss, Reduction, Run, Tally
from throughtime.bptt.tree import Tree, collected, detach, hand_on, leaves_of
from throughtime.bptt.windows import Window, Windows, steps_of
from throughtime.errors import InputError


@dataclass(frozen=True)
class Checkpointed:
    """Hold a few states, and run what lies between them again when the gradient arrives: exact.

    The sequence is n units of `window` steps. Going forward only states are held, at most `slots` of them;
    going backward, a unit is run again from the nearest state, with a graph, and that graph is gone before the
    next one is built. Which states to hold is chosen so that the fewest steps are run again (`revolve.py`).

    `slots=None` puts the n units into ceil(sqrt(n)) longer ones and holds the state before each.

    Cost: T steps with their backward pass, as in `Full`, plus `advances(n, slots)` units without a graph: n - 1
    if slots >= n, and below r n for the smallest r with n <= C(slots + r, r). Keeps `slots` states (for None,
    ceil(sqrt(n))) and the activations of `window` steps (for None, of `window` ceil(sqrt(n))). The inputs of
    all windows are kept, also an iterator's. `for_budget` chooses from a number of bytes.

    A unit is run again with the random state of its first run, so dropout drops the same. `run` must depend on
    nothing else that changes: counters or running averages inside a module are updated more than once. On CUDA
    torch.nn's layers leave their dropout to cuDNN, whose random state cannot be set back: put nn.Dropout between
    single layers instead.
    Raises: InputError if window or slots is below 1.
    Source: Gruslys et al. 2016, arXiv 1606.03401; Chen et al. 2016, arXiv 1604.06174, for sqrt(n).
    """

    window: int = 1
    slots: int | None = None

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InputError(f"window must be at least 1 step, got {self.window}")
        if self.slots is not None and self.slots < 1:
            raise InputError(f"slots must be at least 1 (the first state is held), got {self.slots}")

    @classmethod
    def for_budget(cls, budget: int, steps: int, *, state_bytes: int, step_bytes: int) -> Checkpointed:
        """Return the strategy that runs the fewest steps again within `budget` bytes.

        steps: T. state_bytes: one state, of all layers and the whole batch. step_bytes: the activations that
        autograd keeps for one step. Memory is counted as (slots + 2) state_bytes + window step_bytes; the two
        are the state on its way forward and the gradient on its way back.

        Raises: InputError if not even one state and one step fit. Cost: O(T) integer arithmetic.
        """
        for name, value in (("steps", steps), ("state_bytes", state_bytes), ("step_bytes", step_bytes)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        least = 3 * state_bytes + step_bytes
        if budget < least:
            raise InputError(
                f"budget must be at least {least} bytes (three states and one step), got {budget}: "
                "take a smaller batch"
            )
        best: tuple[int, int, int] | None = None
        # For each number of units the shortest window is best: it leaves the most room for states.
        for window in sorted({-(-steps // units) for units in range(1, steps + 1)}):
            units = -(-steps // window)
            slots = min(units, (budget - window * step_bytes) // state_bytes - 2)
            if slots >= 1:
                found = (advances(units, slots) * window, units, slots)
                best = found if best is None else min(best, found)
        assert best is not None  # window 1 with one slot costs `least`
        _, units, slots = best
        return cls(-(-steps // units), slots)

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
        """Reverse the sequence unit by unit. See `Strategy.backward`; nothing is drawn from `generator`."""
        tally = Tally(loss, targets, reduction, count)
        windows, units = self._units(inputs, targets)
        slots = len(units) if self.slots is None else self.slots
        journey = _Journey(run, tally, units, backward or Tensor.backward)
        leaves = journey.reverse(state, slots)
        result = tally.result(journey.final, len(units))
        hand_on(state, leaves)
        windows.flow()
        return result

    def describe(self) -> str:
        """Say what it does."""
        held = "about sqrt(n) states" if self.slots is None else f"{self.slots} states"
        return f"checkpointed: exact, holds {held}, runs windows of {self.window} steps again"

    def _units(self, inputs: Any, targets: Any) -> tuple[Windows, list[list[Window]]]:
        """Return the windows, and the units, each the windows that share a graph."""
        length = self.window
        if self.slots is None and targets is not None:
            length *= _root(ceil(steps_of(inputs, targets) / self.window))  # one long call, not many short
        windows = Windows(inputs, targets, lambda: length)
        pieces = list(windows)
        group = _root(len(pieces)) if self.slots is None and targets is None else 1
        return windows, [pieces[i : i + group] for i in range(0, len(pieces), group)]


def _root(n: int) -> int:
    """Return ceil(sqrt(n))."""
    return isqrt(n - 1) + 1 if n else 1


class _Held(NamedTuple):
    """A checkpoint: all that running on from before unit `unit` needs."""

    unit: int
    state: Tree
    random: RandomState


class _Journey:
    """One sequence on its way back."""

    def __init__(
        self, run: Run, tally: Tally, units: list[list[Window]], backward: Callable[..., object]
    ) -> None:
        self._run = run
        self._tally = tally
        self._units = units
        self._backward = backward
        self.final: Tree = None  # the state after the last step, a constant

    def reverse(self, state: Tree, slots: int) -> Tree:
        """Go through the units from the last to the first, each forward once more and then back.

        Returns leaves of `state` that have collected the gradient of the state before the first unit.
        """
        held = [_Held(0, state, RandomState.now())]
        leaves: Tree = None
        after: RandomState | None = None
        for unit in reversed(range(len(self._units))):
            here = self._before(unit, held, slots)
            leaves = self._unit(here, leaves, last=after is None)
            after = after or RandomState.now()
        if after is not None:
            after.restore()  # as if everything had been run once
        return leaves

    def _before(self, unit: int, held: list[_Held], slots: int) -> _Held:
        """Return the state before `unit`, holding others on the way there while slots are free."""
        while (first := held[-1].unit) < unit:
            # What is free for the units first..unit, the slot of `first` included. If that is the only one, the
            # split leads straight to `unit`: a state on its way, not one that is held.
            free = slots - len(held) + 1
            held.append(self._advance(held[-1], first + split(unit + 1 - first, free)))
        return held.pop()

    def _advance(self, start: _Held, stop: int) -> _Held:
        """Run the units start.unit..stop-1 without a graph."""
        start.random.restore()
        state = start.state
        with torch.no_grad():
            for unit in self._units[start.unit : stop]:
                for window in unit:
                    state = self._run(window.inputs, state)[1]
        # Under autocast, weights that were cast here have no graph; the run with a graph must cast its own.
        torch.clear_autocast_cache()
        return _Held(stop, detach(state), RandomState.now())

    def _unit(self, here: _Held, later: Tree, *, last: bool) -> Tree:
        """Run one unit with its graph, and go back through it.

        later: leaves with the gradient of the state after it. Returns such leaves for the state before it.
        """
        here.random.restore()
        leaves = state = leaves_of(here.state)
        outputs = []
        windows = self._units[here.unit]
        for window in windows:  # all runs before all losses: a loss that draws must not shift the dropout
            y, state = self._run(window.inputs, state)
            outputs.append(y)
        shares = [self._tally.add(y, window.target) for y, window in zip(outputs, windows, strict=True)]
        share = sum(shares[1:], start=shares[0])
        if last:
            self.final = detach(state)
        else:
            ends, gradients = collected(state, later)
            share = _Inject.apply(share, gradients, *ends)  # type: ignore[no-untyped-call]
        self._backward(share)
        return leaves


class _Inject(torch.autograd.Function):
    """The loss of a unit, whose backward pass also starts the gradient of the unit's last state.

    One backward pass does for both, and a loss scaler's factor, which the state's gradient already carries,
    is not applied to it twice.
    """

    @staticmethod
    def forward(ctx: Any, share: Tensor, gradients: list[Tensor], *ends: Tensor) -> Tensor:
        ctx.gradients = gradients
        return share.view_as(share)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None, *ctx.gradients
