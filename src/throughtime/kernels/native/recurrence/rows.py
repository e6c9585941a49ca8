"""A batch of sequences as packed rows, one step after another without the padding, and the reused memory for such rows.

Step t has rows offsets[t] .. offsets[t+1]; its r-th row belongs to the r-th longest sequence. Work and memory are proportional to
the real steps, and padding is never read. A full batch has equally many rows in each step and needs no copy.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """The index of every packed row."""

    steps: int
    batch: int
    total: int  # N, the real steps of all sequences
    offsets: Tensor | None = None  # int64 [T+1]; None for a full batch
    source: Tensor | None = None  # int64 [N]: row of x.reshape(T*B, ...); None for a full batch
    place: Tensor | None = None  # int64 [T*B], the inverse: row among the N, and N in the padding
    order: Tensor | None = None  # int64 [B]: sequences from long to short
    restore: Tensor | None = None  # int64 [B], the inverse

    def pack(self, x: Tensor) -> Tensor:
        """[T, B, D] -> [N, D]."""
        flat = x.reshape(-1, x.shape[-1])
        if self.source is None:
            return flat
        return _GatherRows.apply(flat, self.source, self.place)  # type: ignore[no-any-return,no-untyped-call]

    def unpack(self, rows: Tensor) -> Tensor:
        """[N, H] -> [T, B, H], zero in the padding."""
        if self.source is not None:
            rows = _GatherRows.apply(rows, self.place, self.source)  # type: ignore[no-untyped-call]
        return rows.view(self.steps, self.batch, rows.shape[-1])

    @property
    def lengths(self) -> Tensor | None:
        """Of the sequences from long to short, int64 [B]; None for a full batch."""
        if self.offsets is None:
            return None
        return (self.offsets.diff()[:, None] > _arange(self.batch)).sum(0)

    def sorted_rows(self) -> Rows:
        """The same rows, for a batch whose sequences are sorted from long to short already."""
        if self.offsets is None:
            return self
        real = self.offsets.diff()[:, None] > _arange(self.batch)  # [T, B]
        source = real.flatten().nonzero().squeeze(1)
        return self._replace(source=source, place=_place(source, real.numel()), order=None, restore=None)


def rows_of(x: Tensor, lengths: Tensor | None) -> Rows:
    """The rows of x [T, B, D] with lengths [B], or of a full batch."""
    steps, batch = x.shape[:2]
    if lengths is None:
        return Rows(steps, batch, steps * batch)
    sorted_lengths, order = lengths.sort(descending=True, stable=True)
    real = _arange(steps)[:, None] < sorted_lengths  # [T, B]
    offsets = torch.zeros(steps + 1, dtype=torch.int64, device="cpu")
    offsets[1:] = real.sum(1).cumsum(0)
    source = (_arange(steps)[:, None] * batch + order)[real]
    place = _place(source, real.numel())
    return Rows(steps, batch, len(source), offsets, source, place, order, order.argsort())


def _arange(numbers: int) -> Tensor:
    """0, 1, 2, ..., on the CPU whatever torch's default device is: the library reads them."""
    return torch.arange(numbers, device="cpu")


def _place(source: Tensor, padded: int) -> Tensor:
    """For each of the padded rows its index in `source`; len(source) for padding."""
    place = source.new_full((padded,), len(source))
    place[source] = _arange(len(source))
    return place


def _gather(rows: Tensor, more: Tensor, index: Tensor) -> Tensor:
    """Rows `index` of the concatenation of both."""
    if is_batched(rows) or type(rows) is not Tensor:
        return torch.cat([rows, more]).index_select(0, index)
    if len(more):
        both = pool.empty(len(rows) + len(more), rows.shape[1], dtype=rows.dtype)
        rows = torch.cat([rows, more], out=both)
    return torch.index_select(rows, 0, index, out=pool.empty(len(index), rows.shape[1], dtype=rows.dtype))


_functorch = torch._C._functorch
_is_legacy_batched = getattr(_functorch, "is_legacy_batchedtensor", lambda value: False)


def is_batched(value: Tensor) -> bool:
    """Whether it is a functorch batched tensor (`is_grads_batched`, vectorized Jacobians): a kernel cannot read its memory."""
    return bool(_functorch.is_batchedtensor(value) or _is_legacy_batched(value))


class _GatherRows(torch.autograd.Function):
    """Rows there[i] of a matrix, where the row after its last is zero; `back` is the inverse index, for the gradient.

    Gathering rows is several times cheaper than index_add, the derivative of an index in general.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(there, back)
        return _gather(rows, rows.new_zeros(int(len(there) > len(rows)), rows.shape[1]), there)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        there, back = ctx.saved_tensors
        return _GatherRows.apply(gradient, back, there), None, None  # type: ignore[no-untyped-call]


# Fresh pages cost more than the arithmetic on long sequences: the operating system clears each at its first use and takes
# large blocks back when they are freed. So large blocks are kept in a small pool and reused once no tensor shares their storage.
MIN_POOLED = 1 << 20  # bytes; the allocator caches smaller blocks by itself
MAX_FREE = 1 << 29  # bytes that may be unused, checked when a new block is allocated
MAX_BLOCKS = 32
HUGE_PAGE = 2 << 20  # bytes
_MADV_HUGEPAGE = 14

_use_count = getattr(torch._C, "_storage_Use_Count", None)  # torch's own; without it nothing is pooled


class _Block:
    """A storage, and its reference counts when only the pool holds it."""

    def __init__(self, size: int) -> None:
        self.storage = torch.UntypedStorage(size, device="cpu")  # type: ignore[no-untyped-call]
        self._alone = self._holders()

    @property
    def size(self) -> int:
        return self.storage.nbytes()

    @property
    def free(self) -> bool:
        # Memory shared with another process is never reused.
        return self._holders() == self._alone and not self.storage.is_shared()

    def _holders(self) -> tuple[int, int]:
        """How many tensors share it, and how many references there are to the Python object (`tensor.untyped_storage()`)."""
        count = 0 if _use_count is None else _use_count(self.storage._cdata)
        return count, sys.getrefcount(self.storage)


class Pool:
    """Blocks in the order in which they were last used. Thread-safe."""

    def __init__(self, max_free: int = MAX_FREE) -> None:
        self.max_free = max_free
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()

    def empty_like(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Of this shape, on the CPU, with the dtype of another tensor."""
        if math.prod(shape) * like.itemsize < MIN_POOLED:
            return like.new_empty(shape)
        return self.empty(*shape, dtype=like.dtype)

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """An uninitialized CPU tensor. Cost: a check of each block of the pool, 32 at most."""
        size = math.prod(shape) * dtype.itemsize
        if size < MIN_POOLED or _use_count is None:
            return torch.empty(shape, dtype=dtype, device="cpu")
        tensor = torch.empty(0, dtype=dtype, device="cpu")
        with self._lock:  # until the tensor holds it, the block counts as free for other threads
            return tensor.set_(self._take(size).storage, 0, shape)  # type: ignore[call-overload,no-any-return]

    def release(self) -> None:
        """Free the blocks that no tensor uses."""
        with self._lock:
            self._blocks = [block for block in self._blocks if not block.free]

    @property
    def free_bytes(self) -> int:
        """Bytes of the blocks that no tensor uses."""
        return sum(block.size for block in self._blocks if block.free)

    def _take(self, size: int) -> _Block:
        for index, block in enumerate(self._blocks):
            # Not a block of more than twice the size: the rest of it would be wasted.
            if size <= block.size <= 2 * size and block.free:
                self._blocks.append(self._blocks.pop(index))
                return block
        block = _Block(size)
        _ask_for_huge_pages(block.storage.data_ptr(), size)
        # The oldest blocks leave the pool; those still in use are freed with their last tensor.
        self._blocks = [*self._blocks[1 - MAX_BLOCKS :], block]
        unused = self.free_bytes - size
        for old in self._blocks[:-1]:
            if unused <= self.max_free:
                break
            if old.free:
                unused -= old.size
                self._blocks = [kept for kept in self._blocks if kept is not old]
        return block


def _ask_for_huge_pages(address: int, size: int) -> None:
    """For the huge pages that lie entirely in the block; no effect where the system has none, or is not Linux."""
    first, last = -(-address // HUGE_PAGE) * HUGE_PAGE, (address + size) // HUGE_PAGE * HUGE_PAGE
    if sys.platform == "linux" and last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_HUGEPAGE)


pool = Pool()
