"""How many threads torch uses in a measurement.

A measurement runs a recurrence step by step: thousands of operations, each of which ends only when its last thread does. Where an
operation is small, waiting for the threads takes longer than what they save; where other processes use the cores, many times
longer, as a thread that waits for a core holds up all the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from throughtime.flow.measurement.model_copy import Layer

# Multiplications in the recurrent matrix product of a step. An LSTM of 512 units on 8 examples (2^23) takes less time with one
# thread than with two also on idle cores, one of 1024 units (2^25) where other processes use them.
SMALL = 2**26


@contextmanager
def threads_for(rows: int, weights: int) -> Iterator[None]:
    """One thread in this block if `rows` times `weights` is below `SMALL`, else as many as the caller set.

    rows: examples, which go through a step at once. weights: numbers in the largest recurrent matrix.
    The number of before is restored at the end, also by an exception. torch.set_num_threads is not for the calling Python thread
    alone: one that uses torch for the first time meanwhile starts with one thread, too.
    """
    before = torch.get_num_threads()
    if rows * weights >= SMALL or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def recurrent_weights(layers: Iterable[Layer]) -> int:
    """Numbers in the largest recurrent matrix of some layers: weight_hh, in a cell without that name any matrix."""
    found = [0]
    for layer in layers:
        named = [(name, p.numel()) for name, p in layer.named_parameters() if p.dim() > 1]
        found += [size for name, size in named if "weight_hh" in name] or [size for _, size in named]
    return max(found)
