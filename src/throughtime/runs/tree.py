"""Nested values with tensors in them, as one safetensors file: a checkpoint without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from throughtime.errors import InputError, RunError
from throughtime.runs.tensors import load_tensors, save_tensors

Tree = Any  # None | bool | int | float | str | Tensor | list[Tree] | tuple[Tree, ...] | dict[str | int, Tree]


def save_tree(path: Path, tree: Tree) -> None:
    """Write nested dicts (keys str or int), lists and tuples of None, bool, int, float, str and tensors.

    Loading returns the same bits, NaN and infinities included, with tensors on the CPU. A NamedTuple is loaded as a
    plain tuple, as a file that names classes would choose what code runs: rebuild it with `State(*values)`.
    Raises: InputError naming the place of a value of another type; RunError when the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_flatten(tree, "", tensors))
    save_tensors(path, tensors, {"tree": structure})


def load_tree(path: Path) -> Tree:
    """What `save_tree` wrote.

    Raises: RunError when a byte of the file is not as written, or it holds something else; FileNotFoundError.
    """
    tensors, metadata = load_tensors(path)
    try:
        return _unflatten(json.loads(metadata["tree"]), tensors)
    except (KeyError, TypeError, ValueError, RecursionError):
        raise RunError(f"{path} holds tensors, but not a checkpoint of ours") from None


def _flatten(node: Tree, place: str, tensors: dict[str, Tensor]) -> Any:
    """The structure as JSON, tensors replaced by their names in `tensors`.

    Lists stay lists; a tensor, tuple or dict becomes an object whose one key says which it is.
    """
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    if isinstance(node, Tensor):
        name = f"{len(tensors)}{place}"  # numbered, as two places can have one path: "a/b" and "a" -> "b"
        tensors[name] = node
        return {"tensor": name}
    if isinstance(node, (list, tuple)):
        items = [_flatten(item, f"{place}/{index}", tensors) for index, item in enumerate(node)]
        return items if isinstance(node, list) else {"tuple": items}
    if isinstance(node, Mapping):
        for key in node:
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise InputError(f"keys of a checkpoint must be str or int, got {key!r} at {place or '/'}")
        return {"dict": [[key, _flatten(item, f"{place}/{key}", tensors)] for key, item in node.items()]}
    kinds = "None, bool, int, float, str, tensors, and lists, tuples and dicts of these"
    raise InputError(f"a checkpoint holds {kinds}, got {type(node).__name__} at {place or '/'}")


def _unflatten(node: Any, tensors: dict[str, Tensor]) -> Tree:
    if isinstance(node, list):
        return [_unflatten(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "tuple":
        return tuple(_unflatten(item, tensors) for item in value)
    if kind == "dict":
        return {key: _unflatten(item, tensors) for key, item in value}
    raise ValueError(f"unknown node {kind!r}")
