"""States and inputs are pytrees: tensors inside tuples, NamedTuples, lists, dicts, registered classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

Tree = Any  # nested containers of tensors; None and anything else is a leaf that is left alone


def tensors(tree: Tree) -> list[Tensor]:
    """Return the tensors of a pytree, in the one order that every function of this file uses."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def detach(state: Tree) -> Tree:
    """Return the same values as constants: they cross, the gradient does not.

    Any pytree; None stays None. Nothing is copied: the tensors share the memory of `state`.
    """
    return tree_map_only(Tensor, Tensor.detach, state)


def leaves_of(tree: Tree) -> Tree:
    """Return `tree` as fresh leaves, whose `.grad` collects the gradient that arrives here.

    Integer and boolean tensors become constants. Nothing is copied.
    """
    return tree_map_only(Tensor, lambda t: t.detach().requires_grad_(differentiable(t)), tree)


def differentiable(tensor: Tensor) -> bool:
    """Tell whether a tensor of this dtype can carry a gradient."""
    return tensor.is_floating_point() or tensor.is_complex()


def collected(source: Tree, leaves: Tree) -> tuple[list[Tensor], list[Tensor]]:
    """Take the gradient that `leaves = leaves_of(source)` have collected, paired with the tensors of `source`.

    The leaves' `.grad` is emptied, so that the next journey starts from zero. Tensors that no gradient
    reached, and tensors of `source` that are constants, are left out.
    """
    roots, gradients = [], []
    for tensor, leaf in zip(tensors(source), tensors(leaves), strict=True):
        gradient, leaf.grad = leaf.grad, None
        if gradient is not None and tensor.requires_grad:
            roots.append(tensor)
            gradients.append(gradient)
    return roots, gradients


def hand_on(source: Tree, leaves: Tree, *, retain_graph: bool = False) -> None:
    """Continue into the graph of `source` with the gradient that its `leaves` have collected."""
    roots, gradients = collected(source, leaves)
    if roots:
        torch.autograd.backward(roots, gradients, retain_graph=retain_graph)
