"""The weights of some stacked layers as the library takes them: checked once, then read where they lie."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from throughtime.cells.contract import HiddenState
from throughtime.cells.gru import GRURecurrence
from throughtime.cells.lstm import LSTMRecurrence, LSTMState
from throughtime.cells.recurrence import Recurrence
from throughtime.cells.rnn import RNNRecurrence
from throughtime.kernels.native.library import GATES, Library
from throughtime.kernels.stack import Stack

# In the order of an operator's arguments.
NAMES = (
    "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole", "weight_hr", "gain_ih", "gain_hh", "gain_c", "bias_c",
)  # fmt: skip
KINDS: dict[str, tuple[type[Recurrence], type[Any]]] = {
    "rnn": (RNNRecurrence, HiddenState),
    "gru": (GRURecurrence, HiddenState),
    "lstm": (LSTMRecurrence, LSTMState),
}


# A loop in Python over a layer's tensors would take as long as the arithmetic of a short call.
_pointer, _shape = torch._C.TensorBase.data_ptr, operator.attrgetter("shape")
_is_contiguous, _is_neg = torch._C.TensorBase.is_contiguous, torch._C.TensorBase.is_neg


class Weights:
    """All weights of a stack, and the C structs that point to them. Values are read at each call; nothing is copied.

    Args:
        bf16: float32 calls: how the factors of products are rounded, a number of `precision.NAMES`.

    Attributes: `tensors` in the order of `stack.weights`; `hidden`, `columns`: for each layer and direction the sizes of the cell
    state and of h; `outputs`: features of an output; `saved_row`: numbers that forward keeps for each row of a batch.
    Raises: RuntimeError naming a tensor that does not fit the others.
    """

    def __init__(self, stack: Stack, library: Library, bf16: int = 0) -> None:
        self.library, self.stack, self.bf16 = library, stack, bf16
        self.tensors = tuple(value for each in stack.weights for value in each.values())
        first = stack.weights[0]["weight_hh"]
        self.dtype, self.lstm = first.dtype, stack.recurrence.kind == "lstm"
        self.features = stack.weights[0]["weight_ih"].shape[-1]
        gates, inputs, directions = GATES[stack.recurrence.kind], self.features, stack.directions
        sizes = []
        for number, named in enumerate(stack.weights):
            sizes.append(check(named, gates, inputs, self.dtype, self.lstm))
            if number % directions == directions - 1:
                inputs = sizes[-1][2] * directions
        self.hidden = [units for _, units, _ in sizes]
        self.columns = [columns for _, _, columns in sizes]
        self.outputs = self.columns[-1] * directions
        # As memory has them: contiguous, without a lazy negative.
        self._memory = [
            {name: value.resolve_neg().contiguous() for name, value in named.items()}
            for named in stack.weights
        ]
        fields = [name for name, _ in library.structs["weights"]._fields_]
        self._fields = [0] * (len(fields) * len(sizes))
        self._slots = []  # of each tensor among the fields of all structs, which are 8 bytes each
        for number, (named, each) in enumerate(zip(stack.weights, sizes, strict=True)):
            first_field = number * len(fields)
            for name, size in zip(("inputs", "units", "columns"), each, strict=True):
                self._fields[first_field + fields.index(name)] = size
            self._slots += [first_field + fields.index(name) for name in named]
        self._array_type = ctypes.c_int64 * len(self._fields)
        self._array = self.structs([value for named in self._memory for value in named.values()])
        self._struct = library.structs["stack"](
            wide=self.dtype == torch.float64,
            cell=library.cells[stack.recurrence.kind],
            activation=library.activations[stack.options.get("nonlinearity", "tanh")],
            reset_before=stack.options.get("reset_after", True) is False,
            layers=stack.num_layers,
            directions=directions,
            bf16=bf16,
            weights=ctypes.addressof(self._array),
        )
        self.address = ctypes.addressof(self._struct)
        self.saved_row = int(library.handle.tt_saved_row(ctypes.byref(self._struct)))
        read = [value for named in self._memory for value in named.values()]
        # Where each of `tensors` lies, and None for one that had to be copied: the copy stays where it is.
        self._places = tuple(
            (value.data_ptr(), value.shape) if value is memory else None
            for value, memory in zip(self.tensors, read, strict=True)
        )
        # Only parameters can be current: other tensors, of `torch.func.functional_call`, are not the layer's own.
        self.can_be_current = all(
            place is not None and type(value) is Parameter
            for value, place in zip(self.tensors, self._places, strict=True)
        )
        self._pointers = [value.data_ptr() for value in self.tensors]
        self._shapes = [value.shape for value in self.tensors]
        self._call = bytes(library.call(stack=self.address))
        self.one_size = len(set(self.columns)) == len(set(self.hidden)) == 1

    def structs(self, tensors: Sequence[Tensor | None]) -> Any:
        """The C structs of these tensors, in the order of `tensors`: the weights or their gradients."""
        fields = self._fields.copy()
        for slot, value in zip(self._slots, tensors, strict=True):
            if value is not None:
                fields[slot] = value.data_ptr()
        return self._array_type(*fields)

    def call_for(self, steps: int, batch: int, total: int, x: Tensor, y: Tensor) -> Any:
        """The C struct of a call with these weights; the other fields are zero."""
        call = self.library.call.from_buffer_copy(self._call)
        call.steps, call.batch, call.total = steps, batch, total
        call.threads = torch.get_num_threads()
        call.x, call.y = x.data_ptr(), y.data_ptr()
        return call

    def current(self, parameters: Sequence[Tensor]) -> bool:
        """Whether these, in the order of `tensors`, are still the tensors and the memory that the structs point to."""
        return (
            all(map(operator.is_, parameters, self.tensors))
            and list(map(_pointer, parameters)) == self._pointers
            and list(map(_shape, parameters)) == self._shapes
            and all(map(_is_contiguous, parameters))
            and not any(map(_is_neg, parameters))
        )

    def for_backward(self, tensors: Sequence[Tensor]) -> Weights:
        """These, or weights that point to where `tensors` of the same shapes lie by now: a `.data` may have been replaced.

        Raises: RuntimeError for a tensor that is of another shape or dtype than in forward, or whose memory was freed.
        """
        moved = False
        for value, place in zip(tensors, self._places, strict=True):
            if place is None:
                continue
            if value.dtype is not self.dtype or value.shape != place[1]:
                raise RuntimeError(
                    f"a weight must be {self.dtype} {list(place[1])} in backward as it was in forward, got {value.dtype} "
                    f"{list(value.shape)}: call backward before the layer is converted"
                )
            moved = moved or value.data_ptr() != place[0]
        if not moved:
            return self
        return Weights(self.stack._replace(weights=self.split(tensors)), self.library, self.bf16)

    def split(self, flat: Sequence[Any]) -> tuple[dict[str, Any], ...]:
        """Values in the order of `tensors`, by name for each layer and direction."""
        each = iter(flat)
        return tuple({name: next(each) for name in named} for named in self.stack.weights)


def check(
    named: Mapping[str, Tensor], gates: int, inputs: int, dtype: torch.dtype, lstm: bool
) -> tuple[int, int, int]:
    """The library trusts its pointers: every tensor must be dense on the CPU, of one dtype, and of its shape.

    Returns: D, H and the size of h.
    Raises: RuntimeError naming the one that is not, or what of layer norm is missing.
    """
    for name, value in named.items():
        check_memory(name, value, dtype)
    gains = [name for name in ("gain_ih", "gain_hh", "gain_c")[: 2 + lstm] if name not in named]
    if gains and len(gains) < 2 + lstm:
        raise RuntimeError(
            f"layer norm must have gain_ih, gain_hh and in an LSTM gain_c, got no {' and no '.join(gains)}: give all of them "
            "or none"
        )
    if named["weight_hh"].dim() != 2:
        raise RuntimeError(f"weight_hh must have 2 dimensions, got {list(named['weight_hh'].shape)}")
    rows, columns = named["weight_hh"].shape
    hidden = rows // gates
    rows = gates * hidden
    if columns != hidden and "weight_hr" not in named:
        raise RuntimeError(f"weight_hh must have {hidden} columns, one for each unit, got {columns}")
    shapes: tuple[tuple[int, ...], ...] = (
        (rows, inputs), (rows, columns), (rows,), (rows,), (3 * hidden,), (columns, hidden), (rows,), (rows,), (hidden,),
        (hidden,),
    )  # fmt: skip
    for name, shape in zip(NAMES, shapes, strict=True):
        if name in named and named[name].shape != shape:
            raise RuntimeError(f"{name} must be of shape {list(shape)}, got {list(named[name].shape)}")
    if ("bias_ih" in named) != ("bias_hh" in named):
        raise RuntimeError("bias_ih and bias_hh must both be there, or neither, got one of them")
    return inputs, hidden, columns


def check_memory(name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Raises: RuntimeError unless it is a dense tensor of this dtype in the CPU's memory."""
    if value.dtype != dtype or not value.is_cpu or value.layout is not torch.strided:
        raise RuntimeError(
            f"{name} must be {dtype} on the CPU, as the other tensors are, got {value.dtype} on {value.device}: "
            "convert it with .to()"
        )
    if value.numel() and value.data_ptr() == 0:
        raise RuntimeError(f"{name} must have memory, got a tensor whose storage is empty: was it freed?")
