"""The gradient of the carried state, multiplied at steps inside a call, and the check that a model does it.

`Randomized` multiplies the gradient of the carried state by a number at the border before a step. Where the state is an argument
of the call, that is `scale_gradient`. Inside a call only the layer that carries the state can do it. A `Carry` offers the
numbers to the recurrent layers that run while it is `ACTIVE`: each asks for them with `enter`, and shows its final state with
`leave`. Afterwards `complete` tells whether the numbers met all that is carried from step to step; else the call does not count.

Layers are not imported here: any module that calls `enter` and `leave` takes part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils._pytree import tree_map_only

from throughtime.bptt.windows import Tree, detach, differentiable
from throughtime.data.batch import tensors


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


def scale_gradient(state: Tree, factor: float) -> Tree:
    """Return the same values; what comes back through any tensor of the state is multiplied by `factor`.

    0 detaches it, so that a gradient that is not finite does not pass either.
    """
    if factor == 0:
        return detach(state)

    def scaled(tensor: Tensor) -> Tensor:
        return _Scale.apply(tensor, factor) if differentiable(tensor) else tensor  # type: ignore[no-untyped-call]

    return tree_map_only(Tensor, scaled, state)


class _Visit(NamedTuple):
    """One layer's call."""

    layer: object
    input: Tree
    state: list[Tensor]  # before its first step
    outputs: Tree
    final: list[Tensor]  # after its last


class Carry:
    """Numbers for the carried state's gradient inside one call `run(window, state) -> (outputs, state)`.

    scale: float64 [T] on the CPU. scale[t] multiplies the gradient of the state that enters step t, of the rows that have that
        step; t = 0 is the state that the call is given. What a loss reads as an output of step t - 1 is not multiplied.
    given: the state that the call is given.
    """

    def __init__(self, scale: Tensor, given: Tree) -> None:
        self._scale = None if bool((scale == 1).all()) else scale
        self._steps = len(scale)
        self._given = _floating(given)
        self._versions = [(tensor, tensor._version) for tensor in self._given]
        self._entered: list[tuple[object, Tree, list[Tensor]]] = []
        self._visits: list[_Visit] = []
        self._refused = False

    def enter(self, layer: object, input: Tree, state: Tree, steps: int, *, able: bool) -> Tensor | None:
        """A layer asks for `scale`, None if nothing is to be multiplied.

        input, state: what the layer was called with. steps: T of the input. able: whether it can multiply the gradient of all
        that it carries from step to step, in the order of the steps.
        """
        # Without a graph now, the layer may run again in the backward pass, when no Carry is there.
        if not able or steps != self._steps or not torch.is_grad_enabled():
            self._refused = True
            return None
        self._entered.append((layer, input, _floating(state)))
        return self._scale

    def leave(self, layer: object, outputs: Tree, final: Tree) -> None:
        """The layer that entered last shows what it returns."""
        if self._refused:
            return
        entered, input, state = self._entered[-1]
        if entered is not layer or len(self._entered) != len(self._visits) + 1:
            self._refused = True
            return
        after = _floating(final)
        self._visits.append(_Visit(layer, input, state, outputs, after))
        self._versions += [(tensor, tensor._version) for tensor in after]

    def complete(self, end: Tree, loss: Tensor) -> bool:
        """Whether all that the call carries from step to step was multiplied.

        end: the state that the call returned. loss: what will be backpropagated.

        It was if the carried state is that of layers which entered once each: every tensor of `given` went into one of
        them, the tensor at the same place of `end` came out of it, unchanged both times, and neither the loss nor the
        input of a layer reads `given` past the layers. Without a given state only `end` can tell.
        This speaks for the steps inside a call too as long as a call over several steps does what calls over one step each do.
        """
        visits = self._visits
        if self._refused or not visits or len(self._entered) != len(visits):
            return False
        if len({id(visit.layer) for visit in visits}) != len(visits):
            return False
        if any(tensor._version != version for tensor, version in self._versions):
            return False
        after = _places([visit.final for visit in visits])
        found = [after.get(id(tensor)) for tensor in _floating(end)]
        if set(found) != set(after.values()):
            return False
        if not self._given:
            return True
        before = _places([visit.state for visit in visits])
        if [before.get(id(tensor)) for tensor in self._given] != found:
            return False
        stops = _nodes(t for visit in visits for t in [*tensors(visit.outputs), *visit.final])
        return not _leads_to(
            _nodes([loss, *tensors([visit.input for visit in visits])]), stops, _nodes(self._given)
        )


ACTIVE: ContextVar[Carry | None] = ContextVar("carry", default=None)
"""What the recurrent layers of this thread enter; None nearly always."""


@contextmanager
def active(carry: Carry) -> Iterator[None]:
    """`ACTIVE` is `carry` in this block."""
    token = ACTIVE.set(carry)
    try:
        yield
    finally:
        ACTIVE.reset(token)


def _floating(tree: Tree) -> list[Tensor]:
    return [tensor for tensor in tensors(tree) if differentiable(tensor)]


def _places(states: list[list[Tensor]]) -> dict[int, tuple[int, int]]:
    """Id of each tensor -> (number of the layer, its place in the layer's state)."""
    return {id(tensor): (n, i) for n, state in enumerate(states) for i, tensor in enumerate(state)}


def _nodes(values: Iterable[Tensor]) -> set[Node]:
    return {value.grad_fn for value in values if value.grad_fn is not None}


def _leads_to(start: set[Node], stops: set[Node], targets: set[Node]) -> bool:
    """Whether a gradient at `start` gets to `targets` past `stops`. Cost: the nodes between."""
    seen, open_nodes = set(stops), list(start)
    while open_nodes:
        node = open_nodes.pop()
        if node in seen:
            continue
        if node in targets:
            return True
        seen.add(node)
        open_nodes += [following for following, _ in node.next_functions if following is not None]
    return False
