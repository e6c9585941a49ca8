"""Large blocks of memory that are used again: fresh pages cost more than the arithmetic on long sequences.

The operating system hands out big blocks as pages that it clears one by one at their first use, and takes them back when they are
freed. So blocks stay in a small pool, and a block is free again when no tensor outside shares its storage any more.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading

import torch
from torch import Tensor

SMALLEST = 1 << 20  # bytes; the allocator keeps smaller ones by itself
MOST_FREE = 1 << 29  # bytes that may lie unused, checked when a new block is made
MOST_BLOCKS = 32
HUGE = 2 << 20  # bytes of a huge page: one entry of the processor's address tables in place of 512
_MADV_HUGEPAGE = 14

_use_count = getattr(torch._C, "_storage_Use_Count", None)  # torch's own; without it nothing is pooled


class _Block:
    """A storage, and how it is held when nobody but the pool does."""

    def __init__(self, size: int) -> None:
        self.storage = torch.UntypedStorage(size, device="cpu")  # type: ignore[no-untyped-call]
        self._alone = self._holders()

    @property
    def size(self) -> int:
        return self.storage.nbytes()

    @property
    def free(self) -> bool:
        # Memory that another process may see is never used again, whoever holds it here.
        return self._holders() == self._alone and not self.storage.is_shared()

    def _holders(self) -> tuple[int, int]:
        """Tensors that share it, and names of the very object, which `tensor.untyped_storage()` gives away."""
        count = 0 if _use_count is None else _use_count(self.storage._cdata)
        return count, sys.getrefcount(self.storage)


class Pool:
    """Blocks in the order in which they were last used. Any thread may ask for one."""

    def __init__(self, most_free: int = MOST_FREE) -> None:
        self.most_free = most_free
        self._blocks: list[_Block] = []
        self._lock = threading.Lock()

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised CPU tensor. Cost: a look at each block of the pool, 32 at most."""
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST or _use_count is None:
            return torch.empty(shape, dtype=dtype, device="cpu")
        tensor = torch.empty(0, dtype=dtype, device="cpu")
        with self._lock:  # until the tensor holds it, the block looks free to other threads
            return tensor.set_(self._take(size).storage, 0, shape)  # type: ignore[call-overload,no-any-return]

    @property
    def free_bytes(self) -> int:
        """Bytes of the blocks that no tensor uses."""
        return sum(block.size for block in self._blocks if block.free)

    def _take(self, size: int) -> _Block:
        for index, block in enumerate(self._blocks):
            # Not a block of twice the size: it would hide the rest from those who need it.
            if size <= block.size <= 2 * size and block.free:
                self._blocks.append(self._blocks.pop(index))
                return block
        block = _Block(size)
        _ask_for_huge_pages(block.storage.data_ptr(), size)
        # Blocks that somebody holds on to are forgotten in time: they are freed as any tensor is.
        self._blocks = [*self._blocks[1 - MOST_BLOCKS :], block]
        unused = self.free_bytes - size
        for old in self._blocks[:-1]:
            if unused <= self.most_free:
                break
            if old.free:
                unused -= old.size
                self._blocks = [kept for kept in self._blocks if kept is not old]
        return block


def _ask_for_huge_pages(address: int, size: int) -> None:
    """Those that lie whole in the block; a system that gives none, or is not Linux, changes nothing."""
    first, last = -(-address // HUGE) * HUGE, (address + size) // HUGE * HUGE
    if sys.platform == "linux" and last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_HUGEPAGE)


pool = Pool()
