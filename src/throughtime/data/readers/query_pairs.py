"""Pairs of a query and the passage that answers it, as batches in which every other passage is a wrong answer."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from throughtime.data.batch import IGNORE, Batch
from throughtime.data.epochs import Epochs
from throughtime.data.examples import evaluation_batches
from throughtime.data.readers.passages import plain_words
from throughtime.data.split import group_keys
from throughtime.errors import InputError

_SHINGLE = 4  # words that follow each other, of which passages are compared
_BANDS, _ROWS = 8, 8  # of MinHash: 99% of passages that share 0.9 of them are found, 77% at 0.8, 3% at 0.5
_PRIME = 2**31 - 1


class QueryPairs(Epochs):
    """Batches of pairs for training, in random order: each pair once an epoch.

    Row 2k of a batch is a query, row 2k+1 its passage; `context` is bool [B], true of passages; the target of both rows is the
    pair's group. Pairs of one group are not wrong answers to each other. The batches of an epoch have the same size, or differ
    by one pair, as wrong answers come from the same batch.

    Args: queries, passages: ids [t] of each pair; groups: int64 [N]; batch: pairs of one process in one batch.
    With `world` processes, process `rank` takes every world-th pair, and its wrong answers are its own.
    Raises: InputError for a batch of fewer than 2, or for fewer than 2 pairs for each process.
    """

    def __init__(
        self,
        queries: Sequence[Tensor],
        passages: Sequence[Tensor],
        groups: Tensor,
        batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(rank, world)
        if not len(queries) == len(passages) == len(groups):
            raise InputError(
                f"expected as many queries as passages and groups, got {len(queries)}, {len(passages)}, {len(groups)}"
            )
        if batch < 2:
            raise InputError(
                f"batch must be at least 2 pairs, as the wrong answers to a query are the batch's other passages, got {batch}"
            )
        if len(queries) < 2 * world:
            raise InputError(f"expected at least {2 * world} pairs to train on, got {len(queries)}")
        self.queries, self.passages, self.groups = queries, passages, groups
        self.batch, self.seed = batch, seed
        count = -(-len(queries) // (batch * world))
        while len(queries) // count < 2 * world:  # one batch less, and those a little larger
            count -= 1
        self._starts = [number * len(queries) // count for number in range(count + 1)]

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._starts) - 1

    def _batches(self, epoch: int) -> Callable[[int], Batch]:
        draws = random.Random(f"{self.seed}/{epoch}")
        generator = torch.Generator().manual_seed(draws.getrandbits(63))
        order = torch.randperm(len(self.queries), generator=generator)

        def batch(index: int) -> Batch:
            numbers = order[self._starts[index] : self._starts[index + 1]][self.rank :: self.world].tolist()
            return pair_batch(
                [self.queries[n] for n in numbers], [self.passages[n] for n in numbers], self.groups[numbers]
            )

        return batch

    @cached_property
    def _identity(self) -> dict[str, Any]:
        checksum = 0
        for each in (*self.queries, *self.passages, self.groups):
            checksum = zlib.crc32(f"{each.dtype}{list(each.shape)}".encode(), checksum)
            checksum = zlib.crc32(each.contiguous().numpy().tobytes(), checksum)
        names = ("batch", "world", "seed")
        return {name: getattr(self, name) for name in names} | {
            "pairs": len(self.queries),
            "checksum": checksum,
        }


def pair_batch(queries: Sequence[Tensor], passages: Sequence[Tensor], groups: Tensor) -> Batch:
    """One batch [T, 2N] of N pairs; see `QueryPairs`."""
    rows = [ids for pair in zip(queries, passages, strict=True) for ids in pair]
    return Batch.of(
        pad_sequence(rows),
        groups.repeat_interleave(2),
        [len(ids) for ids in rows],
        context=torch.tensor([False, True]).repeat(len(queries)),
        per_sequence=True,
    )


def candidate_batches(
    passages: Sequence[Tensor], queries: Sequence[Tensor], correct: Tensor, batch: int
) -> Iterator[Batch]:
    """First all passages, which a model keeps as its state, then the queries, scored against all of them.

    The target of a query is the place of its passage in the order in which the passages were read; those of passages are masked.
    Args: passages, queries: ids [t] of each; correct: int64 [Q], the number of each query's passage.
    """
    order: list[Tensor] = []
    masked = torch.full((len(passages),), IGNORE)
    for each, numbers in evaluation_batches(passages, masked, batch):
        yield each._replace(context=torch.ones(len(numbers), dtype=torch.bool), reset=not order)
        order.append(numbers)
    places = torch.cat(order).argsort()
    for each, numbers in evaluation_batches(queries, places[correct], batch):
        yield each._replace(context=torch.zeros(len(numbers), dtype=torch.bool), reset=False)


def group_pairs(queries: Sequence[str], passages: Sequence[str]) -> list[int]:
    """A group number for each pair: pairs with the same query, or with the same or nearly the same passage, are one group.

    Queries are compared as `group_keys` does. Passages are nearly the same if they share most of their sequences of four words
    (identifiers split, case and punctuation left out), as MinHash estimates it: 64 hashes in 8 bands, so that 99% of pairs of
    passages that share 0.9 of their sequences are found, 77% at 0.8, 3% at 0.5. Groups are transitive. The same on every machine.
    Cost: O(n log n); about 0.1 ms for each passage.
    Source: Broder 1997, SEQUENCES; banding as in Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, section 3.4.
    """
    parent = list(range(len(queries)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    draws = random.Random("minhash")
    factors = np.array([[draws.randrange(1, _PRIME), draws.randrange(_PRIME)] for _ in range(_BANDS * _ROWS)])
    known: dict[Any, int] = {}
    sketches: dict[str, list[bytes]] = {}
    for number, (query, passage) in enumerate(zip(group_keys(queries), passages, strict=True)):
        if passage not in sketches:
            sketches[passage] = _sketch(passage, factors)
        for key in (query, *enumerate(sketches[passage])):
            first = known.setdefault(key, number)
            parent[root(number)] = root(first)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(number), len(numbers)) for number in range(len(queries))]


def _sketch(text: str, factors: Any) -> list[bytes]:
    """The bands of a passage's MinHash."""
    words = plain_words(text).split() or [text]
    count = max(1, len(words) - _SHINGLE + 1)
    hashes = {
        zlib.crc32(" ".join(words[start : start + _SHINGLE]).encode()) % _PRIME for start in range(count)
    }
    values = np.fromiter(hashes, np.int64, len(hashes))
    least = ((values[:, None] * factors[:, 0] + factors[:, 1]) % _PRIME).min(0)
    return [band.tobytes() for band in np.split(least, _BANDS)]
