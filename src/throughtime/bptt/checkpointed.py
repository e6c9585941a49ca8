"""Backpropagation through time with gradient checkpointing: exact, in little memory, by recomputing windows."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, comb, isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.bptt.strategy import Pass, Strategy
from throughtime.bptt.windows import Tree, as_leaves, backward_from, detach, take_gradients
from throughtime.data.batch import Batch
from throughtime.errors import InputError


@dataclass(frozen=True)
class Checkpointed(Strategy):
    """Keep a few states, and recompute what lies between them in the backward pass: exact.

    The sequence is n units of `window` steps. The forward pass keeps only states, at most `slots` of them; the backward
    pass recomputes unit after unit from the nearest state, with a graph, and that graph is freed before the next one is
    built. Which states to keep is chosen so that the fewest steps are recomputed (`split`).

    `slots=None` puts the n units into ceil(sqrt(n)) longer ones and keeps the state before each.

    Cost: T steps with their backward pass, as in `Full`, plus `advances(n, slots)` units without a graph: n - 1
    if slots >= n, and below r n for the smallest r with n <= C(slots + r, r). Keeps `slots` states (for None,
    ceil(sqrt(n))) and the activations of `window` steps (for None, of `window` ceil(sqrt(n))). The inputs of
    all windows are kept, also an iterable's. `for_budget` chooses from a number of bytes.

    A unit is recomputed with the random state of its first run, so dropout drops the same. `run` must depend on
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
            raise InputError(f"slots must be at least 1 (the first state is kept), got {self.slots}")

    @classmethod
    def for_budget(cls, budget: int, steps: int, *, state_bytes: int, step_bytes: int) -> Checkpointed:
        """Return the strategy that recomputes the fewest steps within `budget` bytes.

        steps: T. state_bytes: one state, of all layers and the whole batch. step_bytes: the activations that
        autograd keeps for one step. Memory is counted as (slots + 2) state_bytes + window step_bytes; the two
        are the current state of the forward pass and the gradient of a state.

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

    def describe(self) -> str:
        """Say what it does."""
        kept = "about sqrt(n) states" if self.slots is None else f"{self.slots} states"
        return f"checkpointed: exact, keeps {kept}, recomputes windows of {self.window} steps"

    def splits(self, steps: int) -> bool:
        """If there are more steps than are run in one call."""
        return steps > self._unit_steps(steps)

    def _unit_steps(self, steps: int) -> int:
        return self.window * (_root(ceil(steps / self.window)) if self.slots is None else 1)

    def _accumulate(self, one_pass: Pass, state: Tree) -> tuple[Tree, int]:
        units = self._units(one_pass)
        recompute = _Recompute(one_pass, units, len(units) if self.slots is None else self.slots)
        leaves = recompute.backward(state)
        if units:
            backward_from(state, leaves)
        return recompute.final, len(units)

    def _units(self, one_pass: Pass) -> list[list[Batch]]:
        """Return the units, each the windows that share a graph."""
        whole = one_pass.windows.whole
        length = (
            self.window if whole is None else self._unit_steps(whole.steps)
        )  # one long call, not many short
        windows = list(one_pass.windows.cut(lambda left: length))
        group = _root(len(windows)) if self.slots is None and whole is None else 1
        return [windows[i : i + group] for i in range(0, len(windows), group)]


class RandomState(NamedTuple):
    """The default generators of the CPU and of every CUDA device in use, to recompute with the same dropout."""

    cpu: Tensor
    cuda: list[Tensor]

    @classmethod
    def now(cls) -> RandomState:
        # Does not start CUDA where nobody uses it.
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        return cls(torch.get_rng_state(), cuda)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for device, state in enumerate(self.cuda):
            torch.cuda.set_rng_state(state, device)


class _Checkpoint(NamedTuple):
    """All that is needed to run on from before unit `unit`."""

    unit: int
    state: Tree
    random: RandomState


class _Recompute:
    """The backward pass of one sequence, unit by unit from the last to the first."""

    def __init__(self, one_pass: Pass, units: list[list[Batch]], slots: int) -> None:
        self._pass = one_pass
        self._units = units
        self._slots = slots
        self.final: Tree = None  # the state after the last step, a constant

    def backward(self, state: Tree) -> Tree:
        """Run each unit with a graph and backpropagate through it.

        Returns leaves that have collected the gradient of `state`, the state before the first unit.
        """
        kept = [_Checkpoint(0, state, RandomState.now())]
        leaves: Tree = None
        after: RandomState | None = None
        for unit in reversed(range(len(self._units))):
            checkpoint = self._before(unit, kept)
            leaves = self._unit(checkpoint, leaves, last=after is None)
            after = after or RandomState.now()
        if after is not None:
            after.restore()  # as if everything had been run once
        return leaves

    def _before(self, unit: int, kept: list[_Checkpoint]) -> _Checkpoint:
        """Return the state before `unit`, keeping others on the way there while slots are free."""
        while (first := kept[-1].unit) < unit:
            # What is free for the units first..unit, the slot of `first` included. If that is the only one, the
            # split leads straight to `unit`: the current state, not one that is kept.
            free = self._slots - len(kept) + 1
            kept.append(self._advance(kept[-1], first + split(unit + 1 - first, free)))
        return kept.pop()

    def _advance(self, start: _Checkpoint, stop: int) -> _Checkpoint:
        """Run the units start.unit..stop-1 without a graph."""
        start.random.restore()
        state = start.state
        with torch.no_grad():
            for unit in self._units[start.unit : stop]:
                for window in unit:
                    state = self._pass.run(window, state)[1]
        # Under autocast, weights that were cast here have no graph; the run with a graph must cast its own.
        torch.clear_autocast_cache()
        return _Checkpoint(stop, detach(state), RandomState.now())

    def _unit(self, start: _Checkpoint, after: Tree, *, last: bool) -> Tree:
        """Run one unit with its graph, and backpropagate through it.

        after: leaves with the gradient of the state after it. Returns such leaves for the state before it.
        """
        start.random.restore()
        leaves = state = as_leaves(start.state)
        outputs = []
        windows = self._units[start.unit]
        for window in windows:  # all runs before all losses: a loss that draws must not shift the dropout
            y, state = self._pass.run(window, state)
            outputs.append(y)
        losses = [self._pass.loss(y, window) for y, window in zip(outputs, windows, strict=True)]
        loss = sum(losses[1:], start=losses[0])
        if last:
            self.final = detach(state)
        else:
            ends, gradients = take_gradients(state, after)
            loss = _WithStateGradient.apply(loss, gradients, *ends)  # type: ignore[no-untyped-call]
        self._pass.backward(loss)
        return leaves


class _WithStateGradient(torch.autograd.Function):
    """The loss of a unit, whose backward pass also starts from the gradient of the unit's last state.

    One backward pass does for both, and a loss scaler's factor, which the state's gradient already contains,
    is not applied to it twice.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *ends: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None, *ctx.gradients


def _root(n: int) -> int:
    """Return ceil(sqrt(n))."""
    return isqrt(n - 1) + 1 if n else 1


def advances(units: int, slots: int) -> int:
    """Return the fewest forward runs without a graph that `units` units take with `slots` kept states.

    The state before the first unit takes one slot. The run of a unit that is followed at once by its own
    backward pass does not count: every schedule has `units` of those. It is the value of

        F(1, s) = 0,  F(n, 1) = n (n - 1) / 2,  F(n, s) = min_{0<k<n} k + F(n - k, s - 1) + F(k, s)

    in closed form: F(n, s) = r n - C(s + r, s + 1), r the smallest number with n <= C(s + r, s), which is how
    often a unit is run at most.

    Source: Griewank & Walther 2000, ACM TOMS 26(1), proposition 1; Gruslys et al. 2016, arXiv 1606.03401.
    """
    if slots == 1:
        return units * (units - 1) // 2
    r = _repetitions(units, slots)
    return r * units - comb(slots + r, slots + 1)


def split(units: int, slots: int) -> int:
    """Return k, the unit before which to keep the next state: the minimizer of `advances`' recursion.

    The later part, n - k units, must fit into r repetitions with one slot fewer, the earlier part, k units,
    into r - 1 with all slots, and neither into fewer than it needs; the largest such k is taken.
    """
    if slots == 1:
        return units - 1  # no further state can be kept: the last unit comes next
    r = _repetitions(units, slots)
    return min(comb(slots + r - 1, slots), units - comb(slots + r - 2, slots - 1))


def _repetitions(units: int, slots: int) -> int:
    """Return the smallest r with units <= C(slots + r, slots)."""
    r = 0
    while comb(slots + r, slots) < units:
        r += 1
    return r
