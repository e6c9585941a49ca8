"""Symbols sampled one after another: many in each call of the native loop, or one by one through the session.

At each of them the session's state is the one after it. What is fed or restored in between is what the next symbol follows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import torch

from throughtime.kernels.native.generation.generator import Generator, SamplingError, State
from throughtime.runtime import sampling
from throughtime.runtime.session import Chunk, Session

# The first symbols come at once; later chunks last about this long, too short to be seen.
_FIRST, _SECONDS, _MOST = 16, 0.02, 4096


class Options(NamedTuple):
    """How a symbol is sampled; see `throughtime.runtime.generate`."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    banned: tuple[int, ...]


def native_ids(session: Session, generator: Generator, length: int, options: Options) -> Iterator[int]:
    """Yield `length` symbols. The rest of a chunk is dropped when the session's state is read or set inside it."""
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


def _chunk(generator: Generator, start: State, size: int, options: Options) -> Chunk:
    """Up to `size` symbols, as many as can be sampled.

    Raises: SamplingError if that is none.
    """
    try:
        ids, end = generator.run(size, start, **options._asdict())
    except SamplingError as error:
        if not error.num_sampled:
            raise
        ids, end = generator.run(error.num_sampled, start, **options._asdict())
    return Chunk(generator, start, ids[:, 0].tolist(), end)


def _next_size(count: int, seconds: float) -> int:
    return max(1, min(_MOST, 4 * count, int(count * _SECONDS / max(seconds, 1e-6))))


def reference_ids(session: Session, length: int, options: Options) -> Iterator[int]:
    """Yield `length` symbols, each fed to the session."""
    random = torch.Generator().manual_seed(options.seed)
    for _ in range(length):
        logits = session.logits
        assert logits is not None  # something was fed before
        if options.banned:
            banned = torch.tensor(options.banned, device=logits.device)
            logits = logits.index_fill(0, banned, float("-inf"))
        choice = sampling.draw(
            logits,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            generator=random,
        )
        session.feed(choice.reshape(1))
        yield int(choice)
