"""A run on disk, written whole or not at all."""

from throughtime.runs.run import Run
from throughtime.runs.tensors import load_tensors, save_tensors
from throughtime.runs.tree import load_tree, save_tree

__all__ = ["Run", "load_tensors", "load_tree", "save_tensors", "save_tree"]
