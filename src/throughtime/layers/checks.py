"""What torch.nn's recurrent layers refuse, in torch.nn's own words, so that a drop-in fails as the original does."""

from __future__ import annotations

import inspect
import numbers
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.cells.contract import Cell


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
    """A probability below 1: at 1 nothing of the state would ever move."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(
            f"{name} must be a number in [0, 1), got {value!r}: it is the share of units that is left out"
        )
    return float(value)


def check_input(x: Tensor, dims: int, input_size: int, dtype: torch.dtype) -> None:
    """The dtype, number of dimensions and features of a layer's input."""
    if x.dtype != dtype and not torch._C._is_any_autocast_enabled():
        raise ValueError(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({dtype}). "
            f"Convert input: input.to({dtype}), or convert model: model.to({x.dtype})"
        )
    if x.dim() != dims:
        raise RuntimeError(f"input must have {dims} dimensions, got {x.dim()}")
    if x.shape[-1] != input_size:
        raise RuntimeError(
            f"input.size(-1) must be equal to input_size. Expected {input_size}, got {x.shape[-1]}"
        )


def check_state_size(value: Tensor, expected: tuple[int, ...], name: str) -> None:
    """One tensor of hx, [layers * directions, batch, size]."""
    if value.shape != expected:
        raise RuntimeError(f"Expected {name} size {expected}, got {list(value.shape)}")


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

    One row would otherwise be broadcast over the batch in silence.
    """
    if not isinstance(state, tuple) or not all(isinstance(value, Tensor) and value.dim() for value in state):
        raise ValueError(
            f"{name} must be a tuple of tensors, as the cell's initial_state makes it, got {type(state).__name__}"
        )
    for value in state:
        if batch is not None and value.shape[0] != batch:
            raise ValueError(
                f"{name} must have one row for each of the {batch} rows of the input, got a tensor {list(value.shape)}"
            )


def check_state_dtype(value: Tensor, x: Tensor, name: str) -> None:
    """One tensor of hx must be of the input's dtype and on its device; under autocast the dtypes may differ."""
    if value.device != x.device:
        raise RuntimeError(
            f"{name} must be on the input's device, {x.device}, got {value.device}: move it with .to()"
        )
    if value.dtype != x.dtype and not torch._C._is_any_autocast_enabled():
        raise RuntimeError(
            f"{name} must have the input's dtype, {x.dtype}, got {value.dtype}: convert it with .to()"
        )


_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_lengths(lengths: Tensor, steps: int, batch: int) -> Tensor:
    """Return lengths as int64 [B], each between 0 and T."""
    if not isinstance(lengths, Tensor):
        lengths = torch.as_tensor(lengths)
    if lengths.dtype not in _WHOLE or lengths.dim() != 1:
        raise ValueError(
            f"lengths must be whole numbers of shape [{batch}], got {lengths.dtype} of shape {list(lengths.shape)}"
        )
    if lengths.shape[0] != batch:
        raise ValueError(
            f"lengths must have one number for each of the {batch} rows of the batch, got {lengths.shape[0]}"
        )
    if batch and values_known(lengths):
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > steps:
            raise ValueError(
                f"lengths must lie between 0 and the {steps} steps of the input, got {low} to {high}: "
                "count steps, and pad the input to the longest"
            )
    return lengths.to(torch.int64)


def values_known(tensor: Tensor) -> bool:
    """Whether a tensor's numbers can be looked at: not on the meta device, nor in a graph that is being traced or mapped."""
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return not traced and tensor.device.type != "meta"
