"""A batch of sequences as rows packed step by step: the real steps and nothing else.

Step t has rows offsets[t] .. offsets[t+1]; its r-th row belongs to the r-th longest sequence. Work and memory are those of the
real steps, and padding is never read. A full batch is the same with equal steps, and needs no copy.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor


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
    order: Tensor | None  # int64 [B]: sequences from long to short
    restore: Tensor | None  # the way back

    def pack(self, x: Tensor) -> Tensor:
        """[T, B, D] -> [N, D]."""
        flat = x.reshape(-1, x.shape[-1])
        return flat if self.source is None else flat.index_select(0, self.source)

    def unpack(self, rows: Tensor) -> Tensor:
        """[N, H] -> [T, B, H], zero in the padding."""
        if self.source is not None:
            rows = rows.new_zeros(self.steps * self.batch, rows.shape[-1]).index_copy(0, self.source, rows)
        return rows.view(self.steps, self.batch, rows.shape[-1])

    def in_order(self) -> Rows:
        """The same rows, for sequences that lie from long to short already."""
        if self.source is None:
            return self
        there = self.offsets.diff()[:, None] > torch.arange(self.batch)  # [T, B]
        return self._replace(source=there.flatten().nonzero().squeeze(1), order=None, restore=None)

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
        counts = self.offsets.diff()
        step = torch.repeat_interleave(torch.arange(self.steps), counts)  # [N]
        sequence = self.sequences()
        other = step + 1 if reverse else step - 1
        there = other.clamp(0, self.steps - 1)
        exists = (other == there) & (sequence < counts[there])
        index = torch.where(exists, self.offsets[there] + sequence, self.total + sequence)
        return torch.cat([y, h0]).index_select(0, index)

    def sequences(self) -> Tensor:
        """The sequence that each row belongs to, int64 [N]."""
        return torch.arange(self.total) - torch.repeat_interleave(self.offsets[:-1], self.offsets.diff())


def rows_of(x: Tensor, lengths: Tensor | None) -> Rows:
    """The rows of x [T, B, D] with lengths [B], or of a full batch."""
    steps, batch = x.shape[:2]
    if lengths is None:
        return full_rows(steps, batch)
    sorted_lengths, order = lengths.sort(descending=True, stable=True)
    real = torch.arange(steps)[:, None] < sorted_lengths  # [T, B]
    offsets = torch.zeros(steps + 1, dtype=torch.int64)
    offsets[1:] = real.sum(1).cumsum(0)
    index = (torch.arange(steps)[:, None] * batch + order)[real]
    return Rows(steps, batch, len(index), offsets, index, order, order.argsort())


@functools.lru_cache(maxsize=64)
def full_rows(steps: int, batch: int) -> Rows:
    """The rows of a full batch."""
    return Rows(steps, batch, steps * batch, torch.arange(steps + 1) * batch, None, None, None)


def _span(offsets: list[int], begin: int, end: int, reverse: bool) -> tuple[int, int]:
    """The first row of the steps [begin, end) in running order, and how many rows they have."""
    steps = len(offsets) - 1
    first, last = (steps - end, steps - begin) if reverse else (begin, end)
    return offsets[first], offsets[last] - offsets[first]
