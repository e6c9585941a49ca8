"""Blocks are used again when, and only when, nobody shares them any more."""

from __future__ import annotations

import threading
import time

import torch

from throughtime.kernels.native.recurrence import rows
from throughtime.kernels.native.recurrence.rows import MAX_BLOCKS, Pool

FLOATS = 1 << 20


def test_a_block_is_free_when_its_last_view_is_gone():
    pool = Pool()
    first = pool.empty(FLOATS, dtype=torch.float32)
    address, view = first.data_ptr(), first[3:5]
    del first
    second = pool.empty(FLOATS, dtype=torch.float32)
    assert second.data_ptr() != address
    del view
    assert pool.empty(16, FLOATS // 16, dtype=torch.float32).data_ptr() == address


def test_the_numbers_of_a_held_tensor_stay():
    pool = Pool()
    held = pool.empty(FLOATS, dtype=torch.float32).fill_(3)
    for _ in range(50):
        pool.empty(FLOATS, dtype=torch.float32).fill_(7)
    assert (held == 3).all()


def test_small_tensors_are_left_to_the_allocator_and_half_full_blocks_to_others():
    pool = Pool()
    pool.empty(10, dtype=torch.float32)
    assert pool.free_bytes == 0
    pool.empty(4 * FLOATS, dtype=torch.float32)
    pool.empty(FLOATS, dtype=torch.float32)
    assert pool.free_bytes == 5 * FLOATS * 4


def test_the_pool_does_not_grow():
    pool = Pool(max_free=8 * FLOATS)
    for size in range(1, 40):
        pool.empty(size * FLOATS // 2, dtype=torch.float32)
        assert pool.free_bytes <= 8 * FLOATS + size * FLOATS * 2
    held = [pool.empty(FLOATS, dtype=torch.float32) for _ in range(3 * MAX_BLOCKS)]
    assert len(pool._blocks) <= MAX_BLOCKS
    assert len({tensor.data_ptr() for tensor in held}) == len(held)


def test_a_torch_without_the_count_pools_nothing(monkeypatch):
    monkeypatch.setattr(rows, "_use_count", None)
    pool = Pool()
    pool.empty(FLOATS, dtype=torch.float32)
    assert pool.free_bytes == 0


def test_two_threads_never_get_one_block(monkeypatch):
    pool, take = Pool(), Pool._take
    pool.empty(FLOATS, dtype=torch.float32)

    def slow(self, size):
        block = take(self, size)
        time.sleep(0.02)  # another thread runs before the tensor holds the block
        return block

    monkeypatch.setattr(Pool, "_take", slow)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(pool.empty(FLOATS, dtype=torch.float32)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tensor.data_ptr() for tensor in found}) == 4


def test_a_block_whose_storage_is_held_is_not_free():
    pool = Pool()
    first = pool.empty(FLOATS, dtype=torch.float32)
    address, storage = first.data_ptr(), first.untyped_storage()
    del first
    assert pool.empty(FLOATS, dtype=torch.float32).data_ptr() != address
    del storage
    assert address in [pool.empty(FLOATS, dtype=torch.float32).data_ptr() for _ in range(2)]


def test_memory_that_other_processes_see_is_never_used_again():
    pool = Pool()
    pool.empty(FLOATS, dtype=torch.float32).share_memory_()
    assert not any(pool.empty(FLOATS, dtype=torch.float32).is_shared() for _ in range(3))
