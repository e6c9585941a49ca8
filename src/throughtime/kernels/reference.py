"""The recurrence as a loop in plain torch: the definition that every other backend is tested against.

Differentiable any number of times, and at home under torch.func.vmap, forward-mode AD and torch.compile. It runs every cell.
Cost: T small steps, each a few torch calls; the activations of all steps are kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from throughtime.bptt.carry import scale_gradient
from throughtime.cells.contract import State
from throughtime.errors import InputError


class Steppable(Protocol):
    """What the loop needs: a cell, or a recurrence bound to tensors."""

    def project(self, x: Tensor) -> Tensor: ...
    def step(self, state: State, u: Tensor) -> State: ...


class Zoneout(NamedTuple):
    """Units that keep their old value at random (Krueger et al. 2016, arXiv 1606.01305), for one direction of one layer.

    In training the masks say who keeps it; without masks every unit takes the expectation, rate * old + (1 - rate) * new.
    """

    rates: tuple[float, ...]  # one for each tensor of the state
    keep: tuple[Tensor | None, ...] | None  # bool [T, B, H] for each tensor of the state

    def apply(self, t: int, old: State, new: State) -> State:
        """The state after step t."""
        mixed: list[Tensor] = []
        for index, rate in enumerate(self.rates):
            a, b = old[index], new[index]
            if self.keep is None:
                mixed.append(b if rate == 0 else b + rate * (a - b))
            else:
                mask = self.keep[index]
                mixed.append(b if mask is None else torch.where(mask[t], a, b))
        return rebuild(new, mixed)


def rebuild(like: State, values: list[Tensor]) -> State:
    """A state of the same kind from other tensors: a NamedTuple stays one."""
    return type(like)(*values) if hasattr(like, "_fields") else type(like)(values)


Observe = Callable[[int, State, Tensor, State], None]
"""Told at each step: t, the state before, u = project(x) of the step, the state after (padding not yet cleared)."""


def unroll(
    recurrence: Steppable,
    x: Tensor,
    state: State,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    zoneout: Zoneout | None = None,
    observe: Observe | None = None,
    carry_scale: Tensor | None = None,
) -> tuple[Tensor, State]:
    """Run one recurrence over a whole sequence, in one direction.

    Args:
        x: [T, B, D].
        state: the state before the first step, tensors [B, ...].
        lengths: int64 [B]; input beyond a row's length is never read and may be NaN. None: all T steps are real.
        reverse: from each row's last real step back to its first.
        carry_scale: [T] on the CPU. In the backward pass carry_scale[t] multiplies the gradient of the state that enters step t,
            all its tensors, in the rows that have step t; t = 0 is the initial state. What reads the output of step t - 1 is
            not multiplied. The values stay the same. None: ones.

    Raises: InputError for a carry_scale with `reverse`, where the steps are not entered in their order, or of another shape.
    Returns: outputs [T, B, H], zero in the padding, and the state after each row's last real step (the initial one if it
    has none).
    """
    if carry_scale is not None and (reverse or carry_scale.shape != x.shape[:1]):
        where = "in reverse" if reverse else f"for {x.shape[0]} steps"
        raise InputError(
            f"carry_scale must have one number for each step and the steps in their order, got {list(carry_scale.shape)} {where}"
        )
    factors = None if carry_scale is None else carry_scale.tolist()
    padding = None
    if lengths is not None:
        padding = torch.arange(x.shape[0], device=x.device)[:, None] >= lengths.to(x.device)
        # Cleared before the linear map: 0 * NaN would poison the weights' gradient even where the gradient is zero.
        x = x.masked_fill(padding.reshape(padding.shape + (1,) * (x.dim() - 2)), 0)
    # unbind, not u[t]: the gradient of T separate reads would be T tensors of u's full size.
    u = recurrence.project(x).unbind(0)
    outputs: list[Tensor] = [x] * len(u)
    order = range(len(u) - 1, -1, -1) if reverse else range(len(u))
    for t in order:
        # Rows that have ended keep the state itself, whose gradient is not multiplied.
        entering = state if factors is None or factors[t] == 1 else scale_gradient(state, factors[t])
        new = recurrence.step(entering, u[t])
        if zoneout is not None:
            new = zoneout.apply(t, entering, new)
        if padding is not None:
            new = _keep_where(padding[t], state, new)
        if observe is not None:
            observe(t, state, u[t], new)
        outputs[t] = new[0]
        state = new
    y = torch.stack(outputs)
    if padding is not None:
        y = y.masked_fill(padding.reshape(padding.shape + (1,) * (y.dim() - 2)), 0)
    return y, state


def _keep_where(padding: Tensor, old: State, new: State) -> State:
    """Rows that have ended keep their state."""
    return rebuild(
        new,
        [
            torch.where(padding.reshape(padding.shape + (1,) * (b.dim() - 1)), a, b)
            for a, b in zip(old, new, strict=True)
        ],
    )
