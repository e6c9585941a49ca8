"""One long sequence as windows that score every symbol once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from throughtime.data.streams import IGNORE, Window, check_sizes
from throughtime.errors import InputError


def evaluation_windows(ids: Tensor, steps: int, batch: int) -> Iterator[Window]:
    """Windows [T, B] in which each of ids[1:] is a target exactly once, for ids [N].

    The N-1 targets are cut into `batch` streams of equal length, side by side; the state is carried from
    the first window, the only `fresh` one, to the last, which may be shorter. What the last streams lack is
    filled with targets IGNORE (-100), so that nothing is dropped. Each stream starts knowing nothing: with
    batch=1, every symbol is predicted from all that came before it. Memory: one copy of `ids`.
    Raises: InputError when `ids` is not int64 [N] with N >= 2, or a size is not positive.
    """
    check_sizes(ids, steps, batch)
    if len(ids) < 2:
        raise InputError(
            f"evaluation needs at least 2 symbols, one to read and one to predict, got {len(ids)}"
        )
    return _windows(ids, steps, min(batch, len(ids) - 1))


def _windows(ids: Tensor, steps: int, batch: int) -> Iterator[Window]:
    length = -(-(len(ids) - 1) // batch)
    inputs = _streams(ids[:-1], length, batch, fill=0)
    targets = _streams(ids[1:], length, batch, fill=IGNORE)
    for start in range(0, length, steps):
        at = slice(start, start + steps)
        count = int((targets[at] != IGNORE).sum())
        yield Window(inputs[at], targets[at], fresh=start == 0, count=count)


def _streams(symbols: Tensor, length: int, batch: int, fill: int) -> Tensor:
    """[N] -> [L, B], the end filled."""
    padded = torch.full((length * batch,), fill, dtype=symbols.dtype)
    padded[: len(symbols)] = symbols
    return padded.view(batch, length).t()
