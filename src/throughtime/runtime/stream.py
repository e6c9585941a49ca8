"""Symbols sampled one after another: many in each call of the native loop, or one by one through the session.

At each of them the session's state is the one after it. What is fed or restored in between is what the next symbol follows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from throughtime.decoding import sampling
from throughtime.kernels.native.generation.generator import Generator, SamplingError, State
from throughtime.runtime.session import Chunk, Session

# The first symbols come at once; later chunks last about this long, too short to be seen.
_FIRST, _SECONDS, _MOST = 16, 0.02, 4096


def native_ids(session: Session, generator: Generator, length: int, **options: Any) -> Iterator[int]:
    """Yield `length` symbols, sampled with options of `Generator.run`.

    When the session's state is read or set inside a chunk, the rest of the chunk is dropped.
    """
    size = _FIRST
    while length > 0:
        began = time.perf_counter()
        chunk = _chunk(generator, session.state, min(size, length), options)
        size = _next_size(len(chunk.ids), time.perf_counter() - began)
        session.set_state(chunk)
        for chunk.count, number in enumerate(chunk.ids, 1):  # noqa: B020
            length -= 1
            yield number
            if not session.follows(chunk):
                break


def _chunk(generator: Generator, start: State, size: int, options: dict[str, Any]) -> Chunk:
    """Up to `size` symbols, as many as can be sampled.

    Raises: SamplingError if that is none.
    """
    try:
        ids, end = generator.run(size, start, **options)
    except SamplingError as error:
        if not error.num_sampled:
            raise
        ids, end = generator.run(error.num_sampled, start, **options)
    return Chunk(generator, start, ids[:, 0].tolist(), end)


def _next_size(count: int, seconds: float) -> int:
    return max(1, min(_MOST, 4 * count, int(count * _SECONDS / max(seconds, 1e-6))))


def reference_ids(
    session: Session, length: int, *, seed: int, banned: Sequence[int], **options: Any
) -> Iterator[int]:
    """Yield `length` symbols, sampled with options of `sampling.draw` and fed one by one."""
    random = torch.Generator().manual_seed(seed)
    for _ in range(length):
        logits = session.logits
        assert logits is not None  # something was fed before
        excluded = torch.tensor(banned, dtype=torch.int64, device=logits.device)
        logits = logits.index_fill(0, excluded, float("-inf"))
        choice = sampling.draw(logits, generator=random, **options)
        session.feed(choice.reshape(1))
        yield int(choice)
