"""Large blocks of memory that are used again: fresh pages cost more than the arithmetic on long sequences.

The operating system hands out big blocks as pages that it clears one by one at their first use, and takes them back when they are
freed. So blocks stay in a small pool, and a block is free again when no tensor outside shares its storage any more.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

SMALLEST = 1 << 20  # bytes; the allocator keeps smaller ones by itself
MOST_FREE = 1 << 29  # bytes that may lie unused, checked when a new block is made
MOST_BLOCKS = 32

_use_count = getattr(torch._C, "_storage_Use_Count", None)  # torch's own; without it nothing is pooled


class Pool:
    """Blocks in the order in which they were last used."""

    def __init__(self, most_free: int = MOST_FREE) -> None:
        self.most_free = most_free
        self._blocks: list[torch.UntypedStorage] = []
        self._lock = threading.Lock()

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """An uninitialised CPU tensor. Cost: a look at each block of the pool, 32 at most."""
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST or _use_count is None:
            return torch.empty(shape, dtype=dtype)
        with self._lock:
            block = self._take(size)
        return torch.empty(0, dtype=dtype).set_(block, 0, shape)  # type: ignore[call-overload,no-any-return]

    @property
    def free_bytes(self) -> int:
        """Bytes of the blocks that no tensor uses."""
        return sum(block.nbytes() for block in self._blocks if self._is_free(block))

    def _take(self, size: int) -> torch.UntypedStorage:
        for index, block in enumerate(self._blocks):
            # Not a block of twice the size: it would hide the rest from those who need it.
            if size <= block.nbytes() <= 2 * size and self._is_free(block):
                self._blocks.append(self._blocks.pop(index))
                return block
        block = torch.UntypedStorage(size)  # type: ignore[no-untyped-call]
        # Blocks that somebody holds on to are forgotten in time: they are freed as any tensor is.
        self._blocks = [*self._blocks[1 - MOST_BLOCKS :], block]
        unused = self.free_bytes - size
        for old in self._blocks[:-1]:
            if unused <= self.most_free:
                break
            if self._is_free(old):
                unused -= old.nbytes()
                self._blocks = [kept for kept in self._blocks if kept is not old]
        return block

    @staticmethod
    def _is_free(block: torch.UntypedStorage) -> bool:
        return _use_count is not None and _use_count(block._cdata) == 1


pool = Pool()
