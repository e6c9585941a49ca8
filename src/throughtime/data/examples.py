"""Many sequences of different lengths as padded batches [T, B], epoch after epoch."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from throughtime.data.batch import Batch, Source
from throughtime.data.epochs import Epochs
from throughtime.errors import InputError

POOL = 50  # batches that are sorted by length together: padding is small, and order is still random

Targets = Tensor | Sequence[Tensor]
Context = Tensor | Sequence[Tensor]


class Examples(Epochs):
    """Batches of whole sequences for training: each sequence once an epoch, those of similar length together.

    Each epoch the sequences are shuffled, sorted by length inside pools of POOL batches, cut into batches, and the batches
    are shuffled. A batch is padded with 0 to its longest sequence; its `lengths` say where the padding begins.

    Args: inputs: a tensor [t] or [t, D] for each sequence, t >= 1. targets: one tensor [N, ...], a target for each sequence, or
    a tensor [t, ...] for each sequence, a target for each step. batch: sequences of one process in one batch. context: what a
    sequence is written from: one tensor [N, ...], a row for each sequence, or a tensor [s, ...] for each, which a batch holds as
    `Source`.
    With `world` processes a batch is batch * world sequences and process `rank` takes every world-th of them; one batch of the
    epoch may be smaller, or larger by less than `world` where a smaller one would leave a process without any.

    Every epoch is a function of (seed, epoch), so the position is two numbers: see `state_dict`.
    Raises: InputError for shapes that do not belong together, no sequences, an empty one, or fewer than `world`.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        targets: Targets,
        batch: int,
        *,
        context: Context | None = None,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(rank, world)
        self._lengths = check_examples(inputs, targets, batch, context)
        if len(inputs) < world:
            raise InputError(
                f"{world} processes need at least {world} sequences, got {len(inputs)}: use fewer processes"
            )
        self.inputs, self.targets, self.context = inputs, targets, context
        self.batch, self.seed = batch, seed
        rows, n = batch * world, len(inputs)
        self._starts = list(range(0, n, rows))
        if (
            len(self._starts) > 1 and n - self._starts[-1] < world
        ):  # too few for every process: into the batch before
            self._starts.pop()

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._starts)

    def _batches(self, epoch: int) -> Callable[[int], Batch]:
        draws = random.Random(f"{self.seed}/{epoch}")
        generator = torch.Generator().manual_seed(draws.getrandbits(63))
        shuffled = torch.randperm(len(self.inputs), generator=generator)
        pools = _cut(shuffled, POOL * self.batch * self.world)
        order = torch.cat([pool[self._lengths[pool].argsort(stable=True)] for pool in pools])
        batches = torch.randperm(len(self), generator=generator).tolist()
        stops = [*self._starts[1:], len(order)]

        def batch(index: int) -> Batch:
            at = batches[index]
            rows = order[self._starts[at] : stops[at]][self.rank :: self.world]
            return _padded(self.inputs, self.targets, self.context, rows)

        return batch

    @cached_property
    def _identity(self) -> dict[str, Any]:
        names = ("batch", "world", "seed")
        return {name: getattr(self, name) for name in names} | {
            "sequences": len(self.inputs),
            "checksum": checksum(self.inputs, self.targets, self.context),
        }


def evaluation_batches(
    inputs: Sequence[Tensor], targets: Targets | None, batch: int, context: Context | None = None
) -> Iterator[tuple[Batch, Tensor]]:
    """Every sequence once, the longest first, `batch` at a time: (padded batch, row numbers int64 [B]).

    Row b of a batch is sequence `numbers[b]` of `inputs`: `result[numbers] = outputs` puts results in the original order. The
    first batch needs most memory, so if one fits all do. Arguments and errors as for `Examples`; targets may be None.
    """
    lengths = check_examples(inputs, targets, batch, context)
    order = lengths.argsort(descending=True, stable=True)
    return ((_padded(inputs, targets, context, rows), rows) for rows in _cut(order, batch))


def _cut(rows: Tensor, size: int) -> list[Tensor]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _padded(
    inputs: Sequence[Tensor], targets: Targets | None, context: Context | None, rows: Tensor
) -> Batch:
    numbers = rows.tolist()
    chosen = [inputs[number] for number in numbers]
    lengths = torch.tensor([len(each) for each in chosen])
    of_batch = targets[rows] if isinstance(targets, Tensor) else targets
    if of_batch is not None and not isinstance(of_batch, Tensor):
        of_batch = pad_sequence([of_batch[number] for number in numbers])
    return Batch.of(
        pad_sequence(chosen),
        of_batch,
        lengths,
        context=None if context is None else context_of(context, rows),
        per_sequence=isinstance(targets, Tensor),
    )


def context_of(context: Context, rows: Tensor) -> Tensor | Source:
    """The context of some sequences, as a batch holds it: [B, ...], or a `Source`."""
    if isinstance(context, Tensor):
        return context[rows]
    chosen = [context[number] for number in rows.tolist()]
    return Source(pad_sequence(chosen, batch_first=True), torch.tensor([len(each) for each in chosen]))


def check_examples(
    inputs: Sequence[Tensor], targets: Targets | None, batch: int, context: Context | None = None
) -> Tensor:
    """The length of each sequence, int64 [N]."""
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    if not len(inputs):
        raise InputError("expected at least one sequence, got none")
    if targets is not None:
        count = 0 if isinstance(targets, Tensor) and targets.dim() == 0 else len(targets)
        if count != len(inputs):
            raise InputError(f"targets must be one for each of the {len(inputs)} sequences, got {count}")
    if context is not None:
        if len(context) != len(inputs):
            raise InputError(
                f"context must be one for each of the {len(inputs)} sequences, got {len(context)}"
            )
        if not isinstance(context, Tensor) and any(each.dim() == 0 or len(each) == 0 for each in context):
            raise InputError("each context must be a tensor [s, ...] with s >= 1, got an empty one")
    kinds = {(each.dtype, tuple(each.shape[1:])) for each in inputs if each.dim()}
    if len(kinds) > 1 or any(each.dim() == 0 or len(each) == 0 for each in inputs):
        number = next((i for i, each in enumerate(inputs) if each.dim() == 0 or len(each) == 0), None)
        problem = f"sequence {number} has no steps" if number is not None else f"they differ: {_kinds(kinds)}"
        raise InputError(
            f"inputs must be tensors [t] or [t, D] with t >= 1, all of one dtype and D; {problem}"
        )
    if targets is not None and not isinstance(targets, Tensor):
        for number, (one, target) in enumerate(zip(inputs, targets, strict=True)):
            if target.dim() == 0 or len(target) != len(one):
                raise InputError(
                    f"targets must be one for each step: sequence {number} has {len(one)} steps, its targets are "
                    f"{list(target.shape)}"
                )
    return torch.tensor([len(each) for each in inputs])


def _kinds(kinds: set[tuple[torch.dtype, tuple[int, ...]]]) -> str:
    return " and ".join(
        sorted(f"{dtype} [t{''.join(f', {size}' for size in more)}]" for dtype, more in kinds)
    )


def checksum(inputs: Sequence[Tensor], targets: Targets, context: Context | None = None) -> int:
    """CRC-32 over the contents and lengths of all sequences. Cost: one pass over the data."""
    checksum = 0
    rest = [[part] if isinstance(part, Tensor) else part for part in (targets, context) if part is not None]
    for each in (*inputs, *(tensor for part in rest for tensor in part)):
        checksum = zlib.crc32(f"{each.dtype}{list(each.shape)}".encode(), checksum)
        data = each.detach().cpu().contiguous().view(-1).view(torch.uint8)
        checksum = zlib.crc32(data.numpy().data, checksum)
    return checksum
