"""Symbols of the native loop, sampled many at a time and yielded one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from throughtime.kernels.native.generation.generator import GeneratorState, SamplingError
from throughtime.runtime.engine import Engine
from throughtime.runtime.session import Session, State

# The first symbols come at once; later chunks last about this long, too short to be seen.
_FIRST, _SECONDS, _MOST = 16, 0.02, 4096


class Options(NamedTuple):
    """How a symbol is sampled; see `throughtime.runtime.generate`."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    banned: tuple[int, ...]


def sample_ids(session: Session, engine: Engine, length: int, options: Options) -> Iterator[int]:
    """Yield `length` symbols. At each of them the session's state is the one after it, as if it had been fed one by one.

    The loop gives only the state at the end of a chunk. The state after a symbol inside it is recomputed, when it is read, from
    the start of the chunk; the rest of the chunk is then dropped, and sampling continues from the session's state, which may have
    changed.
    """
    first, done, size = session.position, 0, _FIRST
    while done < length:
        position = session.position
        start = engine.state(session, first + done)
        began = time.perf_counter()
        ids, end = _chunk(engine, start, min(size, length - done), options)
        size = _next_size(len(ids), time.perf_counter() - began)
        for count, number in enumerate(ids, 1):
            done += 1
            if count == len(ids):
                session.set_state(engine.session_state(end, position + count))
                yield number
                break
            state = _state_inside(engine, start, ids, count, position)
            session.set_state(state)
            yield number
            if not session.unread_since(state):
                break


def _chunk(
    engine: Engine, start: GeneratorState, size: int, options: Options
) -> tuple[list[int], GeneratorState]:
    """Up to `size` symbols, as many as can be sampled, and the state after them.

    Raises: SamplingError if that is none.
    """

    def run(count: int) -> tuple[list[int], GeneratorState]:
        ids, end = engine.generator.run(
            count,
            start,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            banned=options.banned,
        )
        return ids[:, 0].tolist(), end

    try:
        return run(size)
    except SamplingError as error:
        if not error.num_sampled:
            raise
        return run(error.num_sampled)


def _state_inside(
    engine: Engine, start: GeneratorState, ids: list[int], count: int, position: int
) -> Callable[[], State]:
    """Computes the state after the first `count` symbols of a chunk; `position` is that of `start`."""

    def state() -> State:
        after = engine.generator.feed(torch.tensor(ids[:count]), start)
        return engine.session_state(after, position + count)

    return state


def _next_size(count: int, seconds: float) -> int:
    return max(1, min(_MOST, 4 * count, int(count * _SECONDS / max(seconds, 1e-6))))
