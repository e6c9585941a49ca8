"""Checks of constructor arguments, of cells and of their states; torch.nn's arguments fail with torch.nn's own words."""

from __future__ import annotations

import inspect
import numbers
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.cells.contract import Cell, State
from throughtime.errors import InputError


def check_arguments(
    input_size: Any, num_layers: Any, bias: Any, batch_first: Any, dropout: Any, stacklevel: int = 4
) -> None:
    """Raise ValueError or TypeError for what a constructor cannot take; warn of a dropout that does nothing."""
    if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= dropout <= 1:  # type: ignore[operator]
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
        )
    if dropout > 0 and num_layers == 1:  # type: ignore[operator]
        warnings.warn(
            "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects num_layers "
            f"greater than 1, but got dropout={dropout} and num_layers={num_layers}",
            stacklevel=stacklevel,
        )
    for name, value, kind in (
        ("bias", bias, bool),
        ("batch_first", batch_first, bool),
        ("input_size", input_size, int),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} should be of type {kind.__name__}, got: {type(value).__name__}")
    if input_size <= 0:
        raise ValueError("input_size must be greater than zero")


def check_hidden_sizes(hidden_size: Any, num_layers: int, proj_size: int) -> tuple[int, ...]:
    """One hidden size for each layer, from one number or a sequence of them."""
    per_layer = isinstance(hidden_size, list | tuple)
    if not per_layer and not isinstance(hidden_size, int):
        raise TypeError(f"hidden_size should be of type int, got: {type(hidden_size).__name__}")
    if num_layers <= 0:
        raise ValueError("num_layers must be greater than zero")
    sizes = tuple(hidden_size) if per_layer else (hidden_size,) * num_layers
    if len(sizes) != num_layers:
        raise ValueError(
            f"hidden_size must be one number or one for each of the {num_layers} layers, got {len(sizes)} numbers: "
            f"give {num_layers} sizes"
        )
    if not all(isinstance(size, int) for size in sizes):
        raise TypeError(f"hidden_size should be of type int, got: {[type(size).__name__ for size in sizes]}")
    if any(size <= 0 for size in sizes):
        raise ValueError("hidden_size must be greater than zero")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if any(proj_size >= size for size in sizes):
        raise ValueError("proj_size has to be smaller than hidden_size")
    return sizes


def check_rate(name: str, value: Any) -> float:
    """A probability below 1: at 1 the state would never change."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(
            f"{name} must be a number in [0, 1), got {value!r}: it is the fraction of units that is dropped or kept"
        )
    return float(value)


def check_cell(cell: Any) -> Cell:
    """Return `cell` if it is a cell.

    Raises: TypeError for anything else, with what to do about the likeliest mistakes.
    """
    if isinstance(cell, Cell):
        return cell
    kind = type(cell).__name__
    if isinstance(cell, type):
        kind, advice = f"the class {cell.__name__}", f"make one, {cell.__name__}(input_size, hidden_size)"
    elif isinstance(cell, nn.RNNCellBase):
        kind, advice = f"torch.nn's {kind}", f"take throughtime.{kind}, whose weights have the same names"
    elif isinstance(getattr(cell, "num_layers", None), int):
        kind, advice = f"the layer {kind}", "it runs over time by itself: call it, layer(x)"
    else:
        advice = "write one as a subclass of throughtime.Cell, with step(state, u)"
    raise TypeError(f"cell must be a throughtime.Cell, got {kind}: {advice}")


def check_maker(make: Any) -> None:
    """Raise TypeError, as `check_cell` does, unless `make` is a function or a class."""
    if isinstance(make, nn.Module) or not callable(make):
        check_cell(make)


def make_cell(make: Any, features: int) -> Cell:
    """The cell that `make(features)` makes.

    Raises: TypeError if `make` is not one of that one argument, or makes something else.
    """
    try:
        signature = inspect.signature(make)
    except ValueError:  # written in C, and silent about its arguments
        signature = None
    if signature is not None:
        try:
            signature.bind(features)
        except TypeError as error:
            name = getattr(make, "__name__", type(make).__name__)
            raise TypeError(
                f"cell must make a cell from its input size alone, but {name}({features}) does not work: {error}; fix the "
                f"rest with functools.partial({name}, ...)"
            ) from None
    return check_cell(make(features))


def check_cell_state(state: Any, batch: int | None, name: str = "state") -> None:
    """A cell's state: a tuple of tensors [B, ...], or of [...] with batch None.

    One row would otherwise be broadcast over the batch silently.
    """
    if not isinstance(state, tuple) or not all(isinstance(value, Tensor) and value.dim() for value in state):
        what = f"one tensor {list(state.shape)}" if isinstance(state, Tensor) else type(state).__name__
        raise InputError(
            f"{name} must be a tuple of tensors [B, ...], got {what}: make it one, as throughtime.HiddenState(h) is"
        )
    for value in state:
        if batch is not None and value.shape[0] != batch:
            raise InputError(
                f"{name} must have one row for each of the {batch} rows of the input, got a tensor {list(value.shape)}"
            )


class CheckedCell:
    """A cell for the loop over time, with checks of what its methods return: mistakes there would give a wrong result."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.name = type(cell).__name__

    def project(self, x: Tensor) -> Tensor:
        """`cell.project`, which must return one tensor [T, ...]."""
        u = self.cell.project(x)
        if not isinstance(u, Tensor):
            raise InputError(
                f"project of {self.name} must return one tensor [T, B, ...], got {type(u).__name__}: join its parts with "
                "torch.cat, and take them apart in step"
            )
        if u.dim() == 0 or u.shape[0] != x.shape[0]:
            raise InputError(
                f"project of {self.name} must return one row for each of the {x.shape[0]} steps, got {list(u.shape)}: it is "
                "called once with all steps [T, B, D]"
            )
        return u

    def step(self, state: State, u: Tensor) -> State:
        """`cell.step`, which must return a state like the one before and leave that as it is."""
        before = _fingerprint(state)
        new = self.cell.step(state, u)
        check_cell_state(new, u.shape[0], f"what step of {self.name} returns")
        if len(new) != len(state):
            raise InputError(
                f"what step of {self.name} returns must have {len(state)} tensors, as the state before, got {len(new)}"
            )
        if before != _fingerprint(state):
            raise InputError(
                f"step of {self.name} must not change its state in place: every step's state is an output, and the gradient "
                "needs it; return new tensors, such as h * 0.9 in the place of h.mul_(0.9)"
            )
        return new


def _fingerprint(state: State) -> list[Any]:
    """What an in-place operation changes: torch's version counters, or the bytes in inference mode, which has no counters."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return []
    return [_bytes(value) if value.is_inference() else value._version for value in state]


def _bytes(value: Tensor) -> bytes:
    # On the CPU only: elsewhere each step would wait for the device.
    return value.contiguous().view(torch.uint8).numpy().tobytes() if value.is_cpu else b""
