"""Cut batches into windows, and carry gradients across the cuts by hand.

States and inputs are pytrees: tensors inside tuples, NamedTuples, lists, dicts, registered classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from throughtime.data.batch import Batch, tensors

Tree = Any  # nested containers of tensors; None and anything else is left alone


class Windows:
    """The windows of one sequence, in order and made one at a time; iterate once.

    source: the whole sequence as one Batch, or an iterable of Batches, of which none is read ahead.

    A whole batch whose inputs or context come out of a graph (an encoder) is detached here: each window would
    otherwise backpropagate through the encoder, whose graph does not survive the first time. `send_upstream`
    does it once, at the end. Batches of an iterable keep the graph they came with.
    """

    def __init__(self, source: Batch | Iterable[Batch]) -> None:
        self._upstream: list[tuple[Tensor, Tensor]] = []  # (tensor with a graph, the leaf in its place)
        self._input_leaves: list[list[Tensor]] = []  # for each window
        self.whole: Batch | None = None
        self._batches: Iterable[Batch]
        if isinstance(source, Batch):
            self.whole = source._replace(context=self.detached(source.context))
            self._batches = [self.whole]
        else:
            self._batches = source
        self._inputs_have_graph = isinstance(source, Batch) and any(
            tensor.requires_grad for tensor in tensors(source.inputs)
        )

    def detached(self, tree: Tree) -> Tree:
        """The tree with a leaf in the place of each tensor that requires grad; `send_upstream` continues from it."""

        def leaf(tensor: Tensor) -> Tensor:
            if tensor.requires_grad:
                self._upstream.append((tensor, tensor.detach().requires_grad_()))
                return self._upstream[-1][1]
            return tensor

        return tree_map_only(Tensor, leaf, tree)

    def cut(self, length: Callable[[int], int]) -> Iterator[Batch]:
        """Yield windows; `length(left)` gives the number of steps of the next one, of the `left` steps of its Batch.

        A window never joins two Batches of an iterable, and the last window of a Batch may be shorter.
        """
        for batch in self._batches:
            steps, start = batch.steps, 0
            while start < steps:
                stop = min(start + length(steps - start), steps)
                yield self._on_leaves(batch.window(start, stop))
                start = stop

    def _on_leaves(self, window: Batch) -> Batch:
        if not self._inputs_have_graph:
            return window
        inputs = tree_map_only(
            Tensor, lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad), window.inputs
        )
        self._input_leaves.append(tensors(inputs))
        return window._replace(inputs=inputs)

    def send_upstream(self) -> None:
        """Continue into the graphs of inputs, context and initial state, all at once. Call it once, last."""
        roots, gradients = [], []
        for source, leaf in self._upstream:
            if leaf.grad is not None:
                roots.append(source)
                gradients.append(leaf.grad)
        if self.whole is not None and self._input_leaves:
            for source, leaves in zip(
                tensors(self.whole.inputs), zip(*self._input_leaves, strict=True), strict=True
            ):
                if source.requires_grad:
                    roots.append(source)
                    gradients.append(
                        torch.cat([torch.zeros_like(p) if p.grad is None else p.grad for p in leaves])
                    )
        if roots:
            torch.autograd.backward(roots, gradients)


def detach(state: Tree) -> Tree:
    """Return the same values as constants: no gradient flows through them.

    Any pytree; None stays None. Nothing is copied: the tensors share the storage of `state`.
    """
    return tree_map_only(Tensor, Tensor.detach, state)


def as_leaves(tree: Tree) -> Tree:
    """Return `tree` as new leaf tensors, whose `.grad` collects the gradient that arrives here.

    Integer and boolean tensors become constants. Nothing is copied.
    """
    return tree_map_only(Tensor, lambda t: t.detach().requires_grad_(differentiable(t)), tree)


def differentiable(tensor: Tensor) -> bool:
    """Tell whether a tensor of this dtype can carry a gradient."""
    return tensor.is_floating_point() or tensor.is_complex()


def take_gradients(source: Tree, leaves: Tree) -> tuple[list[Tensor], list[Tensor]]:
    """Take the gradients that `leaves = as_leaves(source)` have collected, paired with the tensors of `source`.

    The leaves' `.grad` is emptied, so that the next backward pass starts from zero. Tensors that no gradient
    reached, and tensors of `source` that are constants, are left out.
    """
    roots, gradients = [], []
    for tensor, leaf in zip(tensors(source), tensors(leaves), strict=True):
        gradient, leaf.grad = leaf.grad, None
        if gradient is not None and tensor.requires_grad:
            roots.append(tensor)
            gradients.append(gradient)
    return roots, gradients


def backward_from(source: Tree, leaves: Tree, *, retain_graph: bool = False) -> None:
    """Backpropagate into the graph of `source` the gradient that its `leaves` have collected."""
    roots, gradients = take_gradients(source, leaves)
    if roots:
        torch.autograd.backward(roots, gradients, retain_graph=retain_graph)
