"""Stacked layers in one or both directions: what a backend is given, and the random masks of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.cells.recurrence import Recurrence
from throughtime.kernels.reference import Observe, Steppable, Zoneout, rebuild, unroll

Stacked: TypeAlias = Tensor | tuple[Tensor, ...]
"""One component of a state (h, or c), for all layers and directions: [layers * directions, B, size], or a tuple of [B, size]
where the layers differ in size."""


class Stack(NamedTuple):
    """All layers and directions of a call, in torch.nn's order: layer 0 forward, layer 0 backward, layer 1 forward, ..."""

    recurrence: type[Recurrence]
    state_type: type[Any]
    options: Mapping[str, Any]  # of the recurrence itself: nonlinearity, reset_after, peepholes
    weights: tuple[dict[str, Tensor], ...]  # of each layer and direction, by the names of `Recurrence.shapes`
    num_layers: int
    bidirectional: bool
    dropout: float  # between the layers
    training: bool
    recurrent_dropout: float = 0.0
    zoneout: tuple[float, ...] = ()  # one rate for each tensor of the state
    carry_scale: Tensor | None = None  # float64 [T], see `unroll`

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def random(self) -> bool:
        """Whether a call draws random numbers."""
        return self.training and (
            self.recurrent_dropout > 0 or any(self.zoneout) or (self.dropout > 0 and self.num_layers > 1)
        )

    def bind(self, number: int, h_mask: Tensor | None = None) -> Recurrence:
        """The recurrence of one layer and direction over its weights."""
        return self.recurrence.bind({**self.weights[number], "h_mask": h_mask}, **self.options)

    def masks(self, number: int, state: State, steps: int) -> tuple[Tensor | None, Zoneout | None]:
        """The random masks of one layer and direction: of recurrent dropout, and of zoneout."""
        dropped = recurrent_dropout_mask(state, self.recurrent_dropout, self.training)
        return dropped, zoneout_masks(state, steps, self.zoneout, self.training)

    def states(self, components: Sequence[Stacked]) -> list[State]:
        """One state for each layer and direction from the components."""
        return [self.state_type(*(c[row] for c in components)) for row in range(len(self.weights))]


def join(states: Sequence[State], like: Sequence[Stacked]) -> list[Stacked]:
    """The components of the states of all layers and directions, in the form of `like`."""
    columns = zip(*states, strict=True)
    return [torch.stack(c) if isinstance(form, Tensor) else c for c, form in zip(columns, like, strict=True)]


RunDirection = Callable[[int, Steppable, Tensor, State, bool], tuple[Tensor, State]]
"""Runs one direction of one layer: (its number, recurrence, x [T, B, D], state, reverse) -> (outputs, final state)."""


def run_stack(
    recurrences: Sequence[Steppable],
    x: Tensor,
    states: Sequence[State],
    run: RunDirection,
    *,
    bidirectional: bool,
    dropout: float,
    training: bool,
) -> tuple[Tensor, list[State]]:
    """Layer l reads the outputs of layer l - 1; the outputs of two directions are put side by side.

    `recurrences` and `states` are in torch.nn's order: layer 0 forward, layer 0 backward, layer 1 forward, ...
    Dropout acts between layers, not after the last.
    Returns: outputs [T, B, directions * H] and the final states in the same order.
    """
    directions = 2 if bidirectional else 1
    finals: list[State] = []
    for first in range(0, len(recurrences), directions):
        if first and dropout:
            x = F.dropout(x, dropout, training)
        outputs = []
        for number in range(first, first + directions):
            y, final = run(number, recurrences[number], x, states[number], number != first)
            outputs.append(y)
            finals.append(final)
        x = torch.cat(outputs, dim=-1) if bidirectional else outputs[0]
    return x, finals


def run_reference(
    stack: Stack,
    x: Tensor,
    components: Sequence[Stacked],
    lengths: Tensor | None,
    watch: Callable[[int, Any], Observe] | None = None,
) -> tuple[Tensor, list[Stacked]]:
    """Every layer and direction as a loop in plain torch; `watch(number, recurrence)` gives what observes its steps."""
    states = stack.states(components)

    def run(number: int, _: Steppable, x: Tensor, state: State, reverse: bool) -> tuple[Tensor, State]:
        h_mask, zoneout = stack.masks(number, state, x.shape[0])
        recurrence = stack.bind(number, h_mask)
        observe = None if watch is None else watch(number, recurrence)
        return unroll(
            recurrence,
            x,
            state,
            lengths=lengths,
            reverse=reverse,
            zoneout=zoneout,
            observe=observe,
            carry_scale=stack.carry_scale,
        )

    y, finals = run_stack(
        [stack.bind(number) for number in range(len(stack.weights))],
        x,
        states,
        run,
        bidirectional=stack.bidirectional,
        dropout=stack.dropout,
        training=stack.training,
    )
    return y, join(finals, components)


def reorder(state: State, order: Tensor | None) -> State:
    """The state with its sequences in another order; None for the same."""
    return state if order is None else rebuild(state, [value.index_select(0, order) for value in state])


def recurrent_dropout_mask(state: State, rate: float, training: bool) -> Tensor | None:
    """One random mask [B, H] for all steps, scaled so that its mean is 1; None when nothing is dropped.

    Source: Gal & Ghahramani 2016, arXiv 1512.05287.
    """
    if rate == 0 or not training:
        return None
    return torch.empty_like(state[0]).bernoulli_(1 - rate).div_(1 - rate)


def zoneout_masks(state: State, steps: int, rates: tuple[float, ...], training: bool) -> Zoneout | None:
    """Which units keep their value at which step, random; the expectation when not training. None without zoneout.

    Cost: T*B*H bytes for each tensor of the state while training. Source: Krueger et al. 2016, arXiv 1606.01305.
    """
    if not any(rates):
        return None
    if not training:
        return Zoneout(rates, None)
    keep = tuple(
        None if rate == 0 else torch.rand(steps, *s.shape, device=s.device, dtype=torch.float32) < rate
        for rate, s in zip(rates, state, strict=True)
    )
    return Zoneout(rates, keep)
