"""The forms in which torch.nn takes a batch of sequences, brought to one, [T, B, D] with lengths, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from throughtime.layers.checks import check_input, check_lengths


class Sequence(NamedTuple):
    """A batch with time first, and the way back to the form it came in."""

    x: Tensor  # [T, B, D]
    lengths: Tensor | None  # int64 [B]; None when every row has T steps
    output: Callable[[Tensor], Any]  # [T, B, H] to the caller's form
    batched: bool
    order: Tensor | None = (
        None  # int64 [B]: which of the caller's rows each row of x is; None for the same order
    )
    restore: Tensor | None = None  # int64 [B]: the way back


def unpack(
    name: str,
    input: Tensor | PackedSequence,
    lengths: Tensor | None,
    input_size: int,
    dtype: torch.dtype,
    batch_first: bool,
) -> Sequence:
    """Read a layer's input: 2-D, 3-D (batch first or not), or packed."""
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
        return Sequence(x, None, lambda y: y.squeeze(1), False)
    check_input(input, 3, input_size, dtype)
    x = input.transpose(0, 1) if batch_first else input
    steps, batch = x.shape[:2]
    if lengths is not None:
        lengths = check_lengths(lengths, steps, batch)
    return Sequence(x, lengths, _batch_first if batch_first else _same, True)


def _unpack_packed(
    packed: PackedSequence, lengths: Tensor | None, input_size: int, dtype: torch.dtype
) -> Sequence:
    if lengths is not None:
        raise ValueError("a PackedSequence carries its lengths: leave lengths= out")
    check_input(packed.data, 2, input_size, dtype)
    # The rows stay in the packed order inside; only the states are given back in the caller's.
    if torch.compiler.is_compiling():
        return _unpack_in_a_graph(packed)
    x, row_lengths = torch._VF._pad_packed_sequence(
        packed.data, packed.batch_sizes, False, 0.0, len(packed.batch_sizes)
    )

    def output(y: Tensor) -> PackedSequence:
        data, _ = torch._VF._pack_padded_sequence(y, row_lengths, False)
        return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)

    return Sequence(x, row_lengths, output, True, packed.sorted_indices, packed.unsorted_indices)


def _unpack_in_a_graph(packed: PackedSequence) -> Sequence:
    """The same by indices: torch's own operation has no shape before its numbers are known."""
    if packed.sorted_indices is None:
        raise ValueError(
            "a PackedSequence in a compiled graph must know its order: pack it with enforce_sorted=False, "
            "or give the padded batch and lengths="
        )
    counts = packed.batch_sizes  # [T], on the CPU
    steps, batch, device = len(counts), len(packed.sorted_indices), packed.data.device
    first = counts.cumsum(0) - counts  # [T] where each step's rows begin
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

    return Sequence(x, real.sum(0), output, True, packed.sorted_indices, packed.unsorted_indices)


def _batch_first(value: Tensor) -> Tensor:
    return value.transpose(0, 1)


def _same(value: Tensor) -> Tensor:
    return value
