"""Pairs in batches, the candidates of an evaluation, and which pairs must stay together."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from throughtime.data import IGNORE
from throughtime.data.readers.query_pairs import QueryPairs, candidate_batches, group_pairs
from throughtime.errors import InputError

N = 23


def ids(number: int, kind: int) -> torch.Tensor:
    """A text that tells which it is: `number` of 1 to 5 steps."""
    return torch.tensor([100 * kind + number] * (1 + number % 5))


@pytest.fixture
def made() -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    return [ids(n, 0) for n in range(N)], [ids(n, 1) for n in range(N)], torch.arange(N) // 2


def test_each_pair_once_an_epoch_in_another_order(made) -> None:
    data = QueryPairs(*made, batch=5, seed=3)
    epochs = []
    for _ in range(2):
        order, sizes = [], []
        for batch in data.epoch():
            assert batch.per_sequence and batch.num_targets == batch.size
            assert batch.context.tolist() == [False, True] * (batch.size // 2)
            sizes.append(batch.size // 2)
            for query in range(0, batch.size, 2):
                number = int(batch.inputs[0, query])
                order.append(number)
                assert batch.inputs[: batch.lengths[query + 1], query + 1].tolist() == ids(number, 1).tolist()
                assert batch.lengths[query] == len(ids(number, 0))
                assert batch.targets[query : query + 2].tolist() == [number // 2] * 2
        assert sorted(order) == list(range(N)) and max(sizes) - min(sizes) <= 1 and max(sizes) <= 5
        epochs.append(order)
    assert epochs[0] != epochs[1]


def test_a_position_is_resumed(made) -> None:
    data, again = QueryPairs(*made, batch=4, seed=1), QueryPairs(*made, batch=4, seed=1)
    batches = data.epoch()
    for _ in range(2):
        next(batches)
    again.load_state_dict(data.state_dict())
    rest = [batch.inputs.tolist() for batch in again.epoch()]
    assert rest == [batch.inputs.tolist() for batch in batches] and len(rest) == 4
    other = QueryPairs(made[0], [*made[1][:-1], ids(3, 1)], made[2], batch=4, seed=1)
    with pytest.raises(InputError, match="checksum"):
        other.load_state_dict(data.state_dict())


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_an_epoch(made, world: int) -> None:
    parts = [QueryPairs(*made, batch=3, seed=1, rank=rank, world=world) for rank in range(world)]
    seen = Counter()
    for batches in zip(*(part.epoch() for part in parts), strict=True):
        for batch in batches:
            assert batch.size >= 4  # two pairs, so that there is a wrong answer
            seen.update(batch.inputs[0, ::2].tolist())
    assert seen == Counter(range(N))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 1}, "batch must be at least 2 pairs"),
        ({"world": 12, "batch": 2}, "at least 24 pairs to train on, got 23"),
    ],
)
def test_refusals(made, change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        QueryPairs(*made, **{"batch": 4, **change})


def test_candidates_come_first_and_targets_are_their_places() -> None:
    passages = [ids(n, 1) for n in range(7)]
    queries, correct = [ids(n, 0) for n in range(4)], torch.tensor([5, 0, 0, 6])
    order, asked, seen_queries = [], {}, False
    for number, batch in enumerate(candidate_batches(passages, queries, correct, 3)):
        assert batch.reset is (number == 0)
        assert bool(batch.context.all()) or not bool(batch.context.any())
        if bool(batch.context[0]):
            assert not seen_queries and batch.num_targets == 0 and set(batch.targets.tolist()) == {IGNORE}
            order += (batch.inputs[0] - 100).tolist()
        else:
            seen_queries = True
            asked |= dict(zip(batch.inputs[0].tolist(), batch.targets.tolist(), strict=True))
    assert sorted(order) == list(range(7))
    assert {query: order[place] for query, place in asked.items()} == {0: 5, 1: 0, 2: 0, 3: 6}


def test_groups_of_equal_queries_and_of_nearly_equal_passages() -> None:
    draws = random.Random(4)
    words = [f"w{number}" for number in range(400)]
    long = [draws.choices(words, k=60) for _ in range(6)]
    nearly = [*long[0][:58], "other", "words"]
    passages = [" ".join(each) for each in (*long, nearly)]
    queries = [f"query {number}" for number in range(7)]
    found = group_pairs(queries, passages)
    assert found[0] == found[6] and len(set(found)) == 6
    queries[2] = "QUERY   1"
    found = group_pairs(queries, passages)
    assert found[1] == found[2] and found[0] == found[6] and len(set(found)) == 5
    passages[3] = (
        passages[6].upper().replace(" ", ", ")
    )  # case and punctuation do not count; and groups are transitive
    assert group_pairs(queries, passages)[3] == found[0]
    half = [" ".join(long[0]), " ".join(long[0][:30] + long[1][30:])]
    assert len(set(group_pairs(["a", "b"], half))) == 2
    assert group_pairs(["a", "b"], ["", "??"]) == [0, 1]
