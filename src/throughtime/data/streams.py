"""One long sequence as batches [T, B]: sequential or random windows of it, resumable at any of them."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from throughtime.data.batch import IGNORE, Batch
from throughtime.data.epochs import Epochs
from throughtime.errors import InputError, one_of


class Streams(Epochs):
    """Windows over `ids` [N] for training, epoch after epoch.

    sequential: `ids` is cut into B long streams that are read side by side, T steps at a time; a window
    goes on where the one before it ended, so the state is carried, and only an epoch's first window is
    a `reset`. The last window may be shorter: what remains of the streams is data too. Windows are views of
    `ids`.

    random: `ids` is cut into chunks of T, shuffled again each epoch; every window is a `reset`. Chunks that do
    not fill a batch are left out, others in each epoch.

    With `jitter` each epoch leaves out a random number of symbols, 0 to T-1, at the start, so that the cuts
    move. An epoch always has `len(self)` windows. With `world` processes there are B * world streams (or
    chunks a batch), and process `rank` reads its own B; all draw the same offset and order.

    Every epoch is a function of (seed, epoch), so the position is two numbers: see `state_dict`.
    Raises: InputError when `ids` is not int64 [N], a size is not positive, or N has not one window for each
    stream.
    """

    def __init__(
        self,
        ids: Tensor,
        steps: int,
        batch: int,
        *,
        sampling: str = "sequential",
        seed: int = 0,
        jitter: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        check_sizes(ids, steps, batch)
        super().__init__(rank, world)
        self.ids, self.steps, self.batch = ids, steps, batch
        self.sampling = one_of("sampling", sampling, ("sequential", "random"))
        self.seed, self.jitter = seed, jitter
        rows = batch * world
        usable = len(ids) - (
            steps if jitter else 1
        )  # targets left by the largest offset: epochs are equally long
        self._length = usable // rows  # of a stream, sequential
        self._chunks = usable // steps  # in all, random
        if usable < rows * steps:
            needed = len(ids) - usable + rows * steps
            raise InputError(
                f"{rows} streams of one window of {steps} steps need {needed} symbols, got {len(ids)}; "
                "use more text, a smaller batch or fewer steps"
            )

    def __len__(self) -> int:
        """Windows in an epoch."""
        if self.sampling == "random":
            return self._chunks // (self.batch * self.world)
        return -(-self._length // self.steps)  # rounded up: the last may be shorter

    def _batches(self, epoch: int) -> Callable[[int], Batch]:
        return self._sequential(epoch) if self.sampling == "sequential" else self._random(epoch)

    def _sequential(self, epoch: int) -> Callable[[int], Batch]:
        rows, length = self.batch * self.world, self._length
        offset, _ = self._draw(epoch)
        ours = slice(self.rank * self.batch, (self.rank + 1) * self.batch)
        inputs = self.ids[offset : offset + rows * length].view(rows, length)[ours].t()  # [L, B]
        targets = self.ids[offset + 1 : offset + 1 + rows * length].view(rows, length)[ours].t()

        def window(index: int) -> Batch:
            at = slice(index * self.steps, (index + 1) * self.steps)
            return Batch(inputs[at], targets[at], reset=index == 0, num_targets=targets[at].numel())

        return window

    def _random(self, epoch: int) -> Callable[[int], Batch]:
        offset, order_seed = self._draw(epoch)
        order = torch.randperm(self._chunks, generator=torch.Generator().manual_seed(order_seed))
        chunks = self.ids[offset:].unfold(
            0, self.steps + 1, self.steps
        )  # [chunks, T + 1], each one symbol longer

        def window(index: int) -> Batch:
            first = (index * self.world + self.rank) * self.batch
            both = chunks[order[first : first + self.batch]].t()  # [T + 1, B]
            return Batch(both[:-1], both[1:], num_targets=self.steps * self.batch)

        return window

    def _draw(self, epoch: int) -> tuple[int, int]:
        """The epoch's offset, and the seed of its order."""
        draws = random.Random(f"{self.seed}/{epoch}")
        return draws.randrange(self.steps) if self.jitter else 0, draws.getrandbits(63)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        names = ("sampling", "steps", "batch", "world", "jitter", "seed")
        checksum = zlib.crc32(self.ids.contiguous().numpy().data)
        return {name: getattr(self, name) for name in names} | {
            "symbols": len(self.ids),
            "checksum": checksum,
        }


def evaluation_windows(ids: Tensor, steps: int, batch: int) -> Iterator[Batch]:
    """Windows [T, B] in which each of ids[1:] is a target exactly once, for ids [N].

    The N-1 targets are cut into `batch` streams of equal length, side by side; the state is carried from
    the first window, the only `reset`, to the last, which may be shorter. What the last streams lack is
    filled with targets IGNORE (-100), so that nothing is dropped. Each stream starts from no state: with
    batch=1, every symbol is predicted from all that came before it. Memory: one copy of `ids`.
    Raises: InputError when `ids` is not int64 [N] with N >= 2, or a size is not positive.
    """
    check_sizes(ids, steps, batch)
    if len(ids) < 2:
        raise InputError(
            f"evaluation needs at least 2 symbols, one to read and one to predict, got {len(ids)}"
        )
    return _evaluation_windows(ids, steps, min(batch, len(ids) - 1))


def _evaluation_windows(ids: Tensor, steps: int, batch: int) -> Iterator[Batch]:
    length = -(-(len(ids) - 1) // batch)
    inputs = _streams(ids[:-1], length, batch, fill=0)
    targets = _streams(ids[1:], length, batch, fill=IGNORE)
    for start in range(0, length, steps):
        at = slice(start, start + steps)
        count = int((targets[at] != IGNORE).sum())
        yield Batch(inputs[at], targets[at], reset=start == 0, num_targets=count)


def _streams(symbols: Tensor, length: int, batch: int, fill: int) -> Tensor:
    """[N] -> [L, B], the end filled."""
    padded = torch.full((length * batch,), fill, dtype=symbols.dtype)
    padded[: len(symbols)] = symbols
    return padded.view(batch, length).t()


def check_sizes(ids: Tensor, steps: int, batch: int) -> None:
    """Raise InputError unless `ids` is int64 [N], and `steps` and `batch` are positive."""
    if ids.dim() != 1 or ids.dtype != torch.int64:
        raise InputError(
            f"ids must be an int64 tensor [N], got {ids.dtype} {list(ids.shape)}: use vocabulary.encode"
        )
    for name, value in (("steps", steps), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
