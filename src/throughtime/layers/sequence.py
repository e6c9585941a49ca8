"""torch.nn's forms of input and state converted to one form, and back.

Input (batched or not, batch first, packed) becomes [T, B, D] with lengths. A state has components inside (h, or h and c). Each is
one tensor [layers * directions, B, size], or a tuple of [B, size] where the layers differ in size; both are indexed by the
number of the layer and direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from throughtime.kernels.stack import Stacked

_WHOLE_NUMBERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class PaddedBatch(NamedTuple):
    """A batch with time first, and the function that converts outputs to the caller's form."""

    x: Tensor  # [T, B, D]
    lengths: Tensor | None  # int64 [B]; None when every row has T steps
    output: Callable[[Tensor], Any]  # [T, B, H] to the caller's form
    batched: bool
    # int64 [B]: which of the caller's rows each row of x is; None for the same order
    order: Tensor | None = None
    restore: Tensor | None = None  # int64 [B], the inverse


def unpack(
    name: str,
    input: Tensor | PackedSequence,
    lengths: Tensor | None,
    input_size: int,
    dtype: torch.dtype,
    batch_first: bool,
) -> PaddedBatch:
    """Convert a layer's input: 2-D, 3-D (batch first or not), or packed."""
    if isinstance(input, PackedSequence):
        return _unpack_packed(input, lengths, input_size, dtype)
    if input.dim() not in (2, 3):
        word = " tensor" if name == "RNN" else ""
        raise ValueError(f"{name}: Expected input to be 2D or 3D, got {input.dim()}D{word} instead")
    batched = input.dim() == 3
    if input.shape[1 if batched and batch_first else 0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if not batched:
        if lengths is not None:
            raise ValueError(
                "lengths= needs a batch [T, B, D], got one sequence [T, D]: give only its real steps"
            )
        x = input.unsqueeze(1)
        check_input(x, 3, input_size, dtype)
        return PaddedBatch(x, None, lambda y: y.squeeze(1), False)
    check_input(input, 3, input_size, dtype)
    x = input.transpose(0, 1) if batch_first else input
    steps, batch = x.shape[:2]
    if lengths is not None:
        lengths = check_lengths(lengths, steps, batch, x.device)
    return PaddedBatch(x, lengths, _batch_first if batch_first else _same, True)


def _unpack_packed(
    packed: PackedSequence, lengths: Tensor | None, input_size: int, dtype: torch.dtype
) -> PaddedBatch:
    if lengths is not None:
        raise ValueError("a PackedSequence carries its lengths: leave lengths= out")
    check_input(packed.data, 2, input_size, dtype)
    # Inside the rows stay in the packed order; only states are returned in the caller's.
    if torch.compiler.is_compiling():
        return _unpack_by_index(packed)
    x, row_lengths = torch._VF._pad_packed_sequence(
        packed.data, packed.batch_sizes, False, 0.0, len(packed.batch_sizes)
    )

    def output(y: Tensor) -> PackedSequence:
        data, _ = torch._VF._pack_padded_sequence(y, row_lengths, False)
        return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)

    return PaddedBatch(x, row_lengths, output, True, packed.sorted_indices, packed.unsorted_indices)


def _unpack_by_index(packed: PackedSequence) -> PaddedBatch:
    """The same by indices, for compiled graphs: the shape of torch's own operation depends on its values."""
    if packed.sorted_indices is None:
        raise ValueError(
            "a PackedSequence in a compiled graph must know its order: pack it with enforce_sorted=False, "
            "or give the padded batch and lengths="
        )
    counts = packed.batch_sizes  # [T], on the CPU
    steps, batch, device = len(counts), len(packed.sorted_indices), packed.data.device
    first = counts.cumsum(0) - counts  # [T] first row of each step
    rows = torch.arange(batch)
    real = rows < counts[:, None]  # [T, B]
    index = torch.where(real, first[:, None] + rows, 0).flatten().to(device)
    x = packed.data.index_select(0, index).view(steps, batch, packed.data.shape[-1])

    def output(y: Tensor) -> PackedSequence:
        total = packed.data.shape[0]
        step = torch.repeat_interleave(torch.arange(steps), counts, output_size=total)
        index = step * batch + torch.arange(total) - first[step]
        data = y.reshape(steps * batch, y.shape[-1]).index_select(0, index.to(device))
        return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)

    return PaddedBatch(x, real.sum(0), output, True, packed.sorted_indices, packed.unsorted_indices)


def _batch_first(value: Tensor) -> Tensor:
    return value.transpose(0, 1)


def _same(value: Tensor) -> Tensor:
    return value


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


def check_lengths(lengths: Tensor, steps: int, batch: int, device: torch.device) -> Tensor:
    """Return lengths as int64 [B], each between 0 and T; on the CPU for an input that is there."""
    if not isinstance(lengths, Tensor):
        lengths = torch.as_tensor(lengths)
    if lengths.dtype not in _WHOLE_NUMBERS or lengths.dim() != 1:
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
    return lengths.to("cpu" if device.type == "cpu" else lengths.device, torch.int64)


def values_known(tensor: Tensor) -> bool:
    """Whether a tensor's values can be read: not on the meta device, nor while compiling or under torch.func."""
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return not traced and tensor.device.type != "meta"


class StateForm(NamedTuple):
    """The form of a layer's hx: its components and their shapes."""

    fields: tuple[str, ...]  # ("h",) or ("h", "c")
    sizes: tuple[tuple[int, ...], ...]  # for each field, the size of each layer
    one_tensor: tuple[bool, ...]  # for each field, whether its component is one tensor for all layers
    directions: int
    rows: int  # layers times directions

    @staticmethod
    def of(
        state_type: type[Any], outputs: tuple[int, ...], hidden: tuple[int, ...], directions: int
    ) -> StateForm:
        """From the state of one layer and the sizes of h and c in each of them."""
        fields = state_type._fields
        sizes = tuple({"h": outputs, "c": hidden}[field] for field in fields)
        one_tensor = tuple(len(set(each)) == 1 for each in sizes)
        return StateForm(fields, sizes, one_tensor, directions, len(outputs) * directions)

    def read(self, hx: Any, batch: PaddedBatch) -> list[Stacked]:
        """The components of the caller's hx, checked, batched, and with the rows in the order of `batch.x`; zeros for None."""
        if hx is None:
            return [self._zeros(index, batch.x) for index in range(len(self.fields))]
        parts = list(hx) if len(self.fields) > 1 else [hx]
        if len(parts) != len(self.fields):
            raise ValueError(
                f"hx must be ({', '.join(self.fields)}), got {len(parts)} tensors: give both, or None for zeros"
            )
        if all(isinstance(value, Tensor) for value in parts):
            _check_dims(parts, batch.batched)
        components: list[Stacked] = []
        for index, value in enumerate(parts):
            name = "hidden" if len(self.fields) == 1 else f"hidden[{index}]"
            if not self.one_tensor[index]:
                components.append(self._read_each(name, index, value, batch))
                continue
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"{name} must be one tensor [{self.rows}, B, {self.sizes[index][0]}], got {type(value).__name__}"
                )
            _check_state_dtype(value, batch.x, name)
            value = value if batch.batched else value.unsqueeze(1)
            _check_state_size(value, (self.rows, batch.x.shape[1], self.sizes[index][0]), name)
            components.append(value if batch.order is None else value.index_select(1, batch.order))
        return components

    def give(self, components: Sequence[Stacked], batch: PaddedBatch) -> Any:
        """The caller's form: rows in the caller's order, no batch dimension if there was none, a pair for two components."""
        parts: list[Stacked] = []
        for value in components:
            if isinstance(value, Tensor):
                value = value if batch.restore is None else value.index_select(1, batch.restore)
                parts.append(value if batch.batched else value.squeeze(1))
            else:
                each = [v if batch.restore is None else v.index_select(0, batch.restore) for v in value]
                parts.append(tuple(v if batch.batched else v.squeeze(0) for v in each))
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _zeros(self, index: int, x: Tensor) -> Stacked:
        sizes, batch = self.sizes[index], x.shape[1]
        if self.one_tensor[index]:
            return torch.zeros(self.rows, batch, sizes[0], dtype=x.dtype, device=x.device)
        return tuple(
            torch.zeros(batch, sizes[row // self.directions], dtype=x.dtype, device=x.device)
            for row in range(self.rows)
        )

    def _read_each(self, name: str, index: int, value: Any, batch: PaddedBatch) -> Stacked:
        if isinstance(value, Tensor) or len(value) != self.rows:
            raise RuntimeError(
                f"{name} must be a tuple of {self.rows} tensors, one for each layer and direction, "
                "because the layers differ in size"
            )
        states = [v if batch.batched else v.unsqueeze(0) for v in value]
        for row, state in enumerate(states):
            _check_state_dtype(state, batch.x, f"{name}[{row}]")
            expected = (batch.x.shape[1], self.sizes[index][row // self.directions])
            _check_state_size(state, expected, f"{name}[{row}]")
        return tuple(s if batch.order is None else s.index_select(0, batch.order) for s in states)


def _check_dims(parts: list[Tensor], batched: bool) -> None:
    wanted = 3 if batched else 2
    if all(value.dim() == wanted for value in parts):
        return
    form = "batched 3-D" if batched else "unbatched 2-D"
    if len(parts) == 1:
        what = f"hx should also be {wanted}-D but got {parts[0].dim()}-D tensor"
    else:
        what = f"hx and cx should also be {wanted}-D but got ({parts[0].dim()}-D, {parts[1].dim()}-D) tensors"
    raise RuntimeError(f"For {form} input, {what}")


def _check_state_size(value: Tensor, expected: tuple[int, ...], name: str) -> None:
    """One tensor of hx, [layers * directions, batch, size]."""
    if value.shape != expected:
        raise RuntimeError(f"Expected {name} size {expected}, got {list(value.shape)}")


def _check_state_dtype(value: Tensor, x: Tensor, name: str) -> None:
    """One tensor of hx must be of the input's dtype and on its device; under autocast the dtypes may differ."""
    if value.device != x.device:
        raise RuntimeError(
            f"{name} must be on the input's device, {x.device}, got {value.device}: move it with .to()"
        )
    if value.dtype != x.dtype and not torch._C._is_any_autocast_enabled():
        raise RuntimeError(
            f"{name} must have the input's dtype, {x.dtype}, got {value.dtype}: convert it with .to()"
        )
