"""torch.nn's forms of input (batched or not, batch first, packed) converted to one, [T, B, D] with lengths, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

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
        lengths = check_lengths(lengths, steps, batch)
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


def check_lengths(lengths: Tensor, steps: int, batch: int) -> Tensor:
    """Return lengths as int64 [B], each between 0 and T."""
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
    return lengths.to(torch.int64)


def values_known(tensor: Tensor) -> bool:
    """Whether a tensor's values can be read: not on the meta device, nor while compiling or under torch.func."""
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return not traced and tensor.device.type != "meta"
