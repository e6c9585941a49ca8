"""Symbols of the native loop, drawn many at a time and handed out one by one."""

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
    """How a symbol is chosen; see `throughtime.runtime.generate`."""

    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    banned: tuple[int, ...]


def drawn_by_engine(session: Session, engine: Engine, length: int, options: Options) -> Iterator[int]:
    """`length` symbols. At each of them the session stands after it, as if it had been fed just that far.

    Where a session stands in the middle of a chunk is computed only when someone looks; generation then goes on from there.
    """
    first, drawn, size = session.position, 0, _FIRST
    while drawn < length:
        position = session.position
        start = engine.state(session, first + drawn)
        began = time.perf_counter()
        ids, end = _chunk(engine, start, min(size, length - drawn), options)
        size = _next_size(len(ids), time.perf_counter() - began)
        for count, number in enumerate(ids, 1):
            drawn += 1
            if count == len(ids):
                session.go_to(engine.session_state(end, position + count))
                yield number
                break
            here = _later(engine, start, ids, count, position)
            session.go_to(here)
            yield number
            if not session.stands_at(here):
                break


def _chunk(
    engine: Engine, start: GeneratorState, size: int, options: Options
) -> tuple[list[int], GeneratorState]:
    """Up to `size` symbols, as many as can be drawn.

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


def _later(
    engine: Engine, start: GeneratorState, ids: list[int], count: int, position: int
) -> Callable[[], State]:
    """The state after the first `count` symbols of a chunk, when it is asked for; `position` is that of `start`."""

    def state() -> State:
        after = engine.generator.feed(torch.tensor(ids[:count]), start)
        return engine.session_state(after, position + count)

    return state


def _next_size(count: int, seconds: float) -> int:
    return max(1, min(_MOST, 4 * count, int(count * _SECONDS / max(seconds, 1e-6))))
