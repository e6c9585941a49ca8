"""The state of a model while it writes: rows are chosen, repeated and dropped; arrays as JSON."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Step = Callable[[Any, Tensor], tuple[Tensor, Any]]
"""`step(state, symbols [N]) -> (logits [N, V], state)`: one symbol read for each of N rows."""


def select(state: Any, rows: Tensor) -> Any:
    """Rows `rows` [N'] of a state of N rows, in that order; a row may come several times, or not at all.

    Every tensor has its rows on axis -2, [..., N, H], as the states of all layers here have them; an object with a method
    `select(rows)`, such as the memory of attention, is asked. Tuples, lists and dicts are searched; other values stay.
    Cost: a copy of the chosen rows.
    """
    if isinstance(state, Tensor):
        return state.index_select(-2, rows)
    if hasattr(state, "select"):
        return state.select(rows)
    if isinstance(state, tuple):
        parts = [select(part, rows) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if isinstance(state, list):
        return [select(part, rows) for part in state]
    if isinstance(state, dict):
        return {name: select(part, rows) for name, part in state.items()}
    return state


def array_to_json(array: NDArray[Any]) -> dict[str, Any]:
    """An array of numbers as JSON, with all its bits."""
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"type": array.dtype.str, "shape": list(array.shape), "data": data}


def array_from_json(value: dict[str, Any]) -> NDArray[Any]:
    """What `array_to_json` gave."""
    found = np.frombuffer(base64.b64decode(value["data"]), np.dtype(value["type"]))
    return found.reshape(value["shape"]).copy()
