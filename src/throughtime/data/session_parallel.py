"""Session-parallel batches: many sessions side by side, a few steps at a time, the state carried until each of them ends."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from throughtime.data.batch import Batch
from throughtime.data.epochs import Epochs
from throughtime.data.examples import check_examples, checksum
from throughtime.errors import InputError


class SessionParallel(Epochs):
    """Windows of up to `steps` steps of `batch` sessions for training; where a session ends, the next one takes its row.

    Each epoch the sessions are shuffled and cut into windows, and the windows, in order, are divided over the rows: equally
    many for each row, so a session may be cut between two rows, and its second part starts without a state.
    `inputs` of a batch are a pair: ids [T, B], and bool [T, B], true at the first step of a session (see `NextItem`). A row's
    length is the steps that its session still has, at most `steps`; only an epoch's first batch is a `reset`.

    Args: inputs, targets: ids [t] and a target for each step [t] of each session. With `world` processes there are
    batch * world rows, and process `rank` reads its own.
    Every epoch is a function of (seed, epoch), so the position is two numbers: see `state_dict`.
    Raises: InputError as `throughtime.data.examples.Examples`, for steps below 1, or fewer windows than rows.
    Source: Hidasi et al. 2016, arXiv 1511.06939, section 3.1.1, where `steps` is 1.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        targets: Sequence[Tensor],
        batch: int,
        steps: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(rank, world)
        if steps < 1:
            raise InputError(f"steps must be at least 1, got {steps}")
        self._windows = -(-check_examples(inputs, targets, batch) // steps)  # of each session
        self.inputs, self.targets, self.batch, self.steps, self.seed = inputs, targets, batch, steps, seed
        self._count, rows = int(self._windows.sum()), batch * world
        if self._count < rows:
            raise InputError(
                f"{rows} sessions side by side need at least {rows} windows of {steps} steps, got {self._count}: use a smaller "
                "batch"
            )
        self._length = -(-self._count // rows)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._length

    def _batches(self, epoch: int) -> Callable[[int], Batch]:
        seed = random.Random(f"{self.seed}/{epoch}").getrandbits(63)
        order = torch.randperm(len(self.inputs), generator=torch.Generator().manual_seed(seed))
        counts = self._windows[order]
        session = order.repeat_interleave(counts)  # of each window
        place = (
            torch.arange(self._count) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        ) * self.steps
        rows, first = self.batch * self.world, self.rank * self.batch
        bounds = [(first + row) * self._count // rows for row in range(self.batch + 1)]

        def batch(index: int) -> Batch:
            ids, targets, starts = [], [], []
            for row in range(self.batch):
                at = bounds[row] + index
                if at >= bounds[row + 1]:  # this row is one window shorter than others
                    ids.append(torch.zeros(0, dtype=torch.int64))
                    targets.append(torch.zeros(0, dtype=torch.int64))
                    starts.append(False)
                    continue
                number, start = int(session[at]), int(place[at])
                ids.append(self.inputs[number][start : start + self.steps])
                targets.append(self.targets[number][start : start + self.steps])
                starts.append(start == 0)
            lengths = torch.tensor([len(each) for each in ids])
            if not int(lengths.max()):  # a batch has a step, also where it has nothing to read
                ids[0] = targets[0] = torch.zeros(1, dtype=torch.int64)
            padded = pad_sequence(ids)
            marks = torch.zeros(padded.shape, dtype=torch.bool)
            marks[0] = torch.tensor(starts)
            return Batch.of((padded, marks), pad_sequence(targets), lengths, reset=index == 0)

        return batch

    @cached_property
    def _identity(self) -> dict[str, Any]:
        names = ("batch", "steps", "world", "seed")
        return {name: getattr(self, name) for name in names} | {
            "sequences": len(self.inputs),
            "checksum": checksum(self.inputs, self.targets),
        }
