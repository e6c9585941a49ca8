"""Training batches of music, each piece moved by some semitones: another key each time it is read."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from throughtime.data.batch import Batch, unmasked
from throughtime.data.examples import Examples

Change = Callable[[Batch, random.Random], Batch]


class ChangedExamples(Examples):
    """`Examples` whose batches pass through `change(batch, draws)`; the draws follow from seed, epoch, batch and process."""

    def __init__(self, *arguments: Any, change: Change, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.change = change

    def _batches(self, epoch: int) -> Callable[[int], Batch]:
        batches = super()._batches(epoch)

        def batch(index: int) -> Batch:
            draws = random.Random(f"change/{self.seed}/{epoch}/{index}/{self.rank}")
            return self.change(batches(index), draws)

        return batch


def one_target_a_step(batch: Batch) -> Batch:
    """The batch with targets [T, B, N] counted as one for each step: a mean is then over notes or frames."""
    return batch._replace(num_targets=int(unmasked(batch.targets[..., 0]).sum()))


def move_frames(batch: Batch, shifts: list[int]) -> Batch:
    """Sets of notes [T, B, N], inputs and targets, moved up by so many notes in each row; none leaves the range."""

    def moved(frames: Tensor) -> Tensor:
        return torch.stack([frames[:, b].roll(shift, -1) for b, shift in enumerate(shifts)], dim=1)

    return batch._replace(inputs=moved(batch.inputs), targets=moved(batch.targets))


def frames_range(batch: Batch) -> list[tuple[int, int]]:
    """The lowest and the highest note of each row; (0, N - 1) of a row without any."""
    notes = batch.targets.shape[-1]
    found = []
    for b in range(batch.size):
        sounding = (batch.targets[:, b] == 1).any(0).nonzero()
        found.append((int(sounding.min()), int(sounding.max())) if len(sounding) else (0, notes - 1))
    return found


def move_notes(batch: Batch, shifts: list[int], played: int) -> Batch:
    """Melodies moved up: of inputs [T, B, C] and targets [T, B, 2] the first column is a pitch where it is below `played`."""
    by = torch.tensor(shifts)

    def moved(ids: Tensor) -> Tensor:
        pitch = ids[..., 0]
        # What lies in the padding must stay a number of the embedding's, too.
        up = torch.where((pitch >= 0) & (pitch < played), (pitch + by).clamp(0, played - 1), pitch)
        return torch.cat([up.unsqueeze(-1), ids[..., 1:]], dim=-1)

    return batch._replace(inputs=moved(batch.inputs), targets=moved(batch.targets))


def notes_range(batch: Batch, played: int) -> list[tuple[int, int]]:
    """The lowest and the highest pitch of each row; (0, played - 1) of a row without any."""
    found = []
    for b in range(batch.size):
        pitch = batch.targets[:, b, 0]
        pitch = pitch[(pitch >= 0) & (pitch < played)]
        found.append((int(pitch.min()), int(pitch.max())) if len(pitch) else (0, played - 1))
    return found
