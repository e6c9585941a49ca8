"""Cut a sequence into windows: views of tensors, or pieces of what an iterator yields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from throughtime.bptt.tree import Tree, tensors
from throughtime.errors import InputError


class Window(NamedTuple):
    """Some consecutive steps."""

    inputs: Any  # [t, ...]
    target: Any  # [t, ...]


def steps_of(inputs: Tree, target: Tree) -> int:
    """Return T, the number of steps that all tensors of a pair share.

    Raises: InputError if there is no tensor, no step, or not the same number of steps everywhere.
    """
    leaves = tensors(inputs) + tensors(target)
    if not leaves or any(leaf.dim() == 0 for leaf in leaves):
        raise InputError("inputs and targets must be tensors with time first, [T, ...], got none or a scalar")
    lengths = sorted({leaf.shape[0] for leaf in leaves})
    if len(lengths) > 1:
        raise InputError(
            f"inputs and targets must have the same number of steps (dimension 0), got {lengths}: "
            "put time first, as in [T, B, F]"
        )
    if lengths[0] == 0:
        raise InputError("inputs must have at least one step (dimension 0), got 0")
    return lengths[0]


def pull(inputs: Any, targets: Any) -> Iterator[Window]:
    """Yield the one pair of tensors whole, or the pairs of an iterator one at a time, never ahead.

    Raises: InputError if `inputs` is neither, or yields something other than pairs.
    """
    if targets is not None:
        steps_of(inputs, targets)
        yield Window(inputs, targets)
        return
    if isinstance(inputs, Tensor) or not isinstance(inputs, Iterable):
        raise InputError(
            f"inputs without targets must be an iterable of pairs (x, target), got {type(inputs).__name__}: "
            "pass targets= too, or an iterator of windows"
        )
    for pair in inputs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(
                f"an iterator of windows must yield pairs (x, target), got {type(pair).__name__}: "
                "map it, as in ((w.inputs, w.targets) for w in windows)"
            )
        steps_of(*pair)
        yield Window(*pair)


class Windows:
    """The windows of a sequence in order, made one at a time; iterate once.

    length: gives the next window's number of steps. A piece never joins two pulled windows, and the last
    piece of a tensor, or of a pulled window, may be shorter.

    Tensors that come out of a graph (the features of an encoder) are cut off it here: each window would
    otherwise send its gradient through the whole encoder, whose graph does not survive the first. `flow`
    sends all of it through once, at the end. Windows that an iterator yields keep the graph they came with.
    """

    def __init__(self, inputs: Any, targets: Any, length: Callable[[], int]) -> None:
        self._inputs = inputs
        self._targets = targets
        self._length = length
        self._upstream = targets is not None and any(t.requires_grad for t in tensors(inputs))
        self._leaves: list[list[Tensor]] = []

    def __iter__(self) -> Iterator[Window]:
        for whole in pull(self._inputs, self._targets):
            steps, start = steps_of(*whole), 0
            while start < steps:
                stop = min(start + self._length(), steps)
                inputs, target = (_steps(part, start, stop) for part in whole)
                if self._upstream:
                    inputs = tree_map_only(
                        Tensor, lambda t: t.detach().requires_grad_(t.requires_grad), inputs
                    )
                    self._leaves.append(tensors(inputs))
                yield Window(inputs, target)
                start = stop

    def flow(self) -> None:
        """Send the gradient that reached the inputs on to where they came from. Call it once, last."""
        if not self._upstream:
            return
        roots, gradients = [], []
        for source, pieces in zip(tensors(self._inputs), zip(*self._leaves, strict=True), strict=True):
            if source.requires_grad:
                roots.append(source)
                gradients.append(
                    torch.cat([torch.zeros_like(p) if p.grad is None else p.grad for p in pieces])
                )
        torch.autograd.backward(roots, gradients)


def _steps(tree: Tree, start: int, stop: int) -> Tree:
    """Return steps start..stop-1 of every tensor, as views."""
    return tree_map_only(Tensor, lambda t: t[start:stop], tree)
