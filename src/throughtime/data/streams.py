"""One long sequence as windows [T, B]: the two samplings of the course, resumable at any window."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.errors import InputError, one_of

IGNORE = -100  # the target that torch's losses leave out


class Window(NamedTuple):
    """T steps of B streams."""

    inputs: Tensor  # [T, B] int64
    targets: Tensor  # [T, B] int64, the symbol after each input; IGNORE where there is none
    fresh: bool  # the streams start here: forget the state
    count: int  # type: ignore[assignment]  # tuple.count gives way; targets that are not IGNORE


class Streams:
    """Windows over `ids` [N] for training, epoch after epoch.

    sequential: `ids` is cut into B long streams that are read side by side, T steps at a time; a window
    goes on where the one before it ended, so the state is carried, and only an epoch's first window is
    `fresh`. The last window may be shorter: what remains of the streams is data too. Windows are views of
    `ids`.

    random: `ids` is cut into pieces of T, shuffled anew each epoch; every window is `fresh`. Pieces that do
    not fill a batch are left out, others in each epoch.

    With `jitter` each epoch leaves out a random number of symbols, 0 to T-1, at the start, so that the cuts
    move. An epoch always has `len(self)` windows. With `world` processes there are B * world streams (or
    pieces a batch), and process `rank` reads its own B; all draw the same offset and order.

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
        if not 0 <= rank < world:
            raise InputError(f"rank must be from 0 to world - 1 = {world - 1}, got {rank}")
        self.ids, self.steps, self.batch = ids, steps, batch
        self.sampling = one_of("sampling", sampling, ("sequential", "random"))
        self.seed, self.jitter, self.rank, self.world = seed, jitter, rank, world
        self.epochs_done = 0
        self.windows_done = 0
        """Windows given in the epoch that is under way; 0 again when its last has been given."""
        rows = batch * world
        usable = len(ids) - (
            steps if jitter else 1
        )  # targets left by the largest offset: epochs are equally long
        self._length = usable // rows  # of a stream, sequential
        self._pieces = usable // steps  # in all, random
        if usable < rows * steps:
            needed = len(ids) - usable + rows * steps
            raise InputError(
                f"{rows} streams of one window of {steps} steps need {needed} symbols, got {len(ids)}; "
                "use more text, a smaller batch or fewer steps"
            )

    def __len__(self) -> int:
        """Windows in an epoch."""
        if self.sampling == "random":
            return self._pieces // (self.batch * self.world)
        return -(-self._length // self.steps)  # rounded up: the last may be shorter

    def epoch(self) -> Iterator[Window]:
        """The windows that remain of this epoch: all, unless a state was loaded or a loop was left early.

        The position moves on before a window is given: saved while a window is in use, it names the next one.
        """
        epoch, first = self.epochs_done, self.windows_done
        windows = self._sequential(epoch) if self.sampling == "sequential" else self._random(epoch)
        for index in range(first, len(self)):
            last = index == len(self) - 1
            self.epochs_done, self.windows_done = (epoch + 1, 0) if last else (epoch, index + 1)
            yield windows(index)

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in. The same on every rank."""
        return {"epochs_done": self.epochs_done, "windows_done": self.windows_done, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken: the windows are those of a run that never stopped.

        Raises: InputError when the state was taken from other data or other settings.
        """
        for name, ours in self._identity.items():
            if state.get(name) != ours:
                raise InputError(
                    f"the saved position is one with {name} = {state.get(name)}, this one has {ours}: "
                    "go on with the same data and settings, or start anew"
                )
        epochs, windows = state.get("epochs_done"), state.get("windows_done")
        if (
            not isinstance(epochs, int)
            or epochs < 0
            or not isinstance(windows, int)
            or not 0 <= windows < len(self)
        ):
            raise InputError(
                f"the saved position is damaged: epoch {epochs}, window {windows} of {len(self)}"
            )
        self.epochs_done, self.windows_done = epochs, windows

    def _sequential(self, epoch: int) -> Callable[[int], Window]:
        rows, length = self.batch * self.world, self._length
        offset, _ = self._draw(epoch)
        ours = slice(self.rank * self.batch, (self.rank + 1) * self.batch)
        inputs = self.ids[offset : offset + rows * length].view(rows, length)[ours].t()  # [L, B]
        targets = self.ids[offset + 1 : offset + 1 + rows * length].view(rows, length)[ours].t()

        def window(index: int) -> Window:
            at = slice(index * self.steps, (index + 1) * self.steps)
            return Window(inputs[at], targets[at], fresh=index == 0, count=targets[at].numel())

        return window

    def _random(self, epoch: int) -> Callable[[int], Window]:
        offset, order_seed = self._draw(epoch)
        order = torch.randperm(self._pieces, generator=torch.Generator().manual_seed(order_seed))
        pieces = self.ids[offset:].unfold(
            0, self.steps + 1, self.steps
        )  # [pieces, T + 1], each one symbol longer

        def window(index: int) -> Window:
            first = (index * self.world + self.rank) * self.batch
            both = pieces[order[first : first + self.batch]].t()  # [T + 1, B]
            return Window(both[:-1], both[1:], fresh=True, count=self.steps * self.batch)

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


def check_sizes(ids: Tensor, steps: int, batch: int) -> None:
    """Raise InputError unless `ids` is int64 [N], and `steps` and `batch` are positive."""
    if ids.dim() != 1 or ids.dtype != torch.int64:
        raise InputError(
            f"ids must be an int64 tensor [N], got {ids.dtype} {list(ids.shape)}: use vocabulary.encode"
        )
    for name, value in (("steps", steps), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
