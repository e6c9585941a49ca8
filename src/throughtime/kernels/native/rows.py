"""A batch of sequences as rows packed step by step: the real steps and nothing else.

Step t has rows offsets[t] .. offsets[t+1]; its r-th row belongs to the r-th longest sequence. Work and memory are those of the
real steps, and padding is never read. A full batch is the same with equal steps, and needs no copy.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.kernels.native.mapped import is_mapped
from throughtime.kernels.native.memory import pool


class Piece(NamedTuple):
    """Some steps in running order, and their rows."""

    begin: int
    end: int
    first: int
    last: int


class Rows(NamedTuple):
    """Where the rows lie."""

    steps: int
    batch: int
    total: int  # N, the real steps of all sequences
    offsets: Tensor  # int64 [T+1]
    source: Tensor | None  # int64 [N]: row of x.reshape(T*B, ...); None for a full batch
    place: Tensor | None  # int64 [T*B], the way back: row among the N, and N in the padding
    order: Tensor | None  # int64 [B]: sequences from long to short
    restore: Tensor | None  # the way back

    def pack(self, x: Tensor) -> Tensor:
        """[T, B, D] -> [N, D]."""
        flat = x.reshape(-1, x.shape[-1])
        if self.source is None:
            return flat
        return _Moved.apply(flat, self.source, self.place)  # type: ignore[no-any-return,no-untyped-call]

    def unpack(self, rows: Tensor) -> Tensor:
        """[N, H] -> [T, B, H], zero in the padding."""
        if self.source is not None:
            rows = _Moved.apply(rows, self.place, self.source)  # type: ignore[no-untyped-call]
        return rows.view(self.steps, self.batch, rows.shape[-1])

    def in_order(self) -> Rows:
        """The same rows, for sequences that lie from long to short already."""
        if self.source is None:
            return self
        real = self.offsets.diff()[:, None] > _count(self.batch)  # [T, B]
        source = real.flatten().nonzero().squeeze(1)
        return self._replace(source=source, place=_place(source, real.numel()), order=None, restore=None)

    def pieces(self, most: int, reverse: bool) -> list[Piece]:
        """The steps in running order in pieces of at most `most` rows (or one step)."""
        if self.total <= most:
            return [Piece(0, self.steps, 0, self.total)]
        offsets: list[int] = self.offsets.tolist()
        pieces, begin = [], 0
        while begin < self.steps:
            end = begin + 1
            while end < self.steps and _span(offsets, begin, end + 1, reverse)[1] <= most:
                end += 1
            first, count = _span(offsets, begin, end, reverse)
            pieces.append(Piece(begin, end, first, first + count))
            begin = end
        return pieces

    @staticmethod
    def longest(pieces: list[Piece]) -> int:
        """Rows of the largest piece."""
        return max(piece.last - piece.first for piece in pieces)

    def before(self, y: Tensor, h0: Tensor, reverse: bool) -> Tensor:
        """The recurrent input of each row: the output of the step before in running order, or the initial state. [N, H]."""
        counts, row = self.offsets.diff(), _count(self.total)
        if reverse:
            sequence = row - torch.repeat_interleave(self.offsets[:-1], counts)
            after = torch.cat([counts[1:], counts.new_zeros(1)])
            exists = sequence < torch.repeat_interleave(after, counts)
            index = torch.where(exists, row + torch.repeat_interleave(counts, counts), self.total + sequence)
            return _read(y, h0, index)
        # Rows of the longest sequences come first in every step, so the step before lies as many rows back as it has.
        before = torch.cat([counts.new_full((1,), self.batch), counts[:-1]])
        index = row + (self.batch - torch.repeat_interleave(before, counts))
        return _read(h0, y, index)

    def sequences(self) -> Tensor:
        """The sequence that each row belongs to, int64 [N]."""
        return _count(self.total) - torch.repeat_interleave(self.offsets[:-1], self.offsets.diff())


def rows_of(x: Tensor, lengths: Tensor | None) -> Rows:
    """The rows of x [T, B, D] with lengths [B], or of a full batch."""
    steps, batch = x.shape[:2]
    if lengths is None:
        return full_rows(steps, batch)
    sorted_lengths, order = lengths.sort(descending=True, stable=True)
    real = _count(steps)[:, None] < sorted_lengths  # [T, B]
    offsets = torch.zeros(steps + 1, dtype=torch.int64, device="cpu")
    offsets[1:] = real.sum(1).cumsum(0)
    source = (_count(steps)[:, None] * batch + order)[real]
    place = _place(source, real.numel())
    return Rows(steps, batch, len(source), offsets, source, place, order, order.argsort())


@functools.lru_cache(maxsize=64)
def full_rows(steps: int, batch: int) -> Rows:
    """The rows of a full batch."""
    return Rows(steps, batch, steps * batch, _count(steps + 1) * batch, None, None, None, None)


def _span(offsets: list[int], begin: int, end: int, reverse: bool) -> tuple[int, int]:
    """The first row of the steps [begin, end) in running order, and how many rows they have."""
    steps = len(offsets) - 1
    first, last = (steps - end, steps - begin) if reverse else (begin, end)
    return offsets[first], offsets[last] - offsets[first]


def _count(numbers: int) -> Tensor:
    """0, 1, 2, ..., on the CPU whatever torch's default device is: the kernel reads them, and full batches share them."""
    return torch.arange(numbers, device="cpu")


def _place(source: Tensor, padded: int) -> Tensor:
    """For each of the padded rows its number in `source`, or how many there are."""
    place = source.new_full((padded,), len(source))
    place[source] = _count(len(source))
    return place


def _read(rows: Tensor, more: Tensor, index: Tensor) -> Tensor:
    """The rows of both, one behind the other, that `index` names."""
    if is_mapped(rows):
        return torch.cat([rows, more]).index_select(0, index)
    if len(more):
        both = pool.empty(len(rows) + len(more), rows.shape[1], dtype=rows.dtype)
        rows = torch.cat([rows, more], out=both)
    return torch.index_select(rows, 0, index, out=pool.empty(len(index), rows.shape[1], dtype=rows.dtype))


class _Moved(torch.autograd.Function):
    """Rows there[i] of a matrix, where a row behind its last is zero; `back` is the same for the gradient.

    Reading rows is several times cheaper than adding to them, which is what the derivative of an index is in general.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return _read(rows, rows.new_zeros(int(len(there) > len(rows)), rows.shape[1]), there)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return _Moved.apply(gradient, back, there), None, None  # type: ignore[no-untyped-call]
