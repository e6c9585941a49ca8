"""Ranks of next items: against brute force, with ties, unknown targets, and candidates that are the same for everybody."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from throughtime.data import IGNORE, Batch
from throughtime.metrics.next_item import (
    MISS,
    NextItemMetric,
    draw_candidates,
    ndcg_at,
    ranks_of,
    session_keys,
)
from throughtime.metrics.ranking import recall_at, reciprocal_rank

ITEMS = 40


class Table:
    """Scores [T, B, V + 1] that are there already, given out two at a time."""

    def __init__(self, scores):
        self.scores, self.found = scores, {}

    def rows(self, kept):
        yield from self.scores[kept].split(2)


def case(steps=5, rows=5, items=ITEMS):
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randint(items + 1, (steps, rows), generator=generator)
    targets = torch.randint(items + 1, (steps, rows), generator=generator)
    targets[2, 1] = IGNORE
    scores = torch.randint(6, (steps, rows, items + 1), generator=generator).double()  # many ties
    lengths = torch.tensor([steps, 2, 3, 1, steps])[:rows]
    return Batch.of(inputs, targets, lengths), Table(scores)


def test_ranks_over_all_items_against_brute_force():
    batch, table = case()
    expected = []
    for t, b in (batch.targets != IGNORE).nonzero().tolist():
        target, row = int(batch.targets[t, b]), table.scores[t, b, :ITEMS].tolist()
        if target == ITEMS:
            expected.append(MISS)
            continue
        expected.append(1 + sum(s >= row[target] for item, s in enumerate(row) if item != target))
    assert MISS in expected  # an unknown target: a miss, although its column has a score
    assert ranks_of(table, batch).tolist() == expected
    metric = NextItemMetric("mrr@20", partial(reciprocal_rank, k=20))
    metric.update(table, batch, torch.zeros(()))
    by_hand = sum(1 / rank for rank in expected if rank <= 20) / len(expected)
    assert metric.value() == pytest.approx(by_hand, rel=1e-12)


def test_candidates_are_no_items_of_the_session_and_the_rank_is_among_them():
    batch, table = case()
    kept = batch.targets != IGNORE
    places, targets = kept.nonzero(), batch.targets[kept]
    others, usable = draw_candidates(batch.inputs, session_keys(batch.inputs, 0), places, targets, ITEMS, 15)
    assert bool(usable.all()) and others.shape == (len(targets), 15)
    found = ranks_of(table, batch, 15)
    for row, (t, b) in enumerate(places.tolist()):
        held = {*batch.inputs[: t + 1, b].tolist(), int(targets[row])}
        drawn = others[row].tolist()
        assert not held & set(drawn) and all(0 <= item < ITEMS for item in drawn)
        scores, target = table.scores[t, b], int(targets[row])
        rank = 1 + sum(float(scores[item]) >= float(scores[target]) for item in drawn)
        assert int(found[row]) == (rank if target < ITEMS else MISS)


def test_candidates_depend_on_the_session_alone():
    """Not on the batch, its order or its padding; another seed, another target or another past draws others."""
    batch, _ = case()
    kept = batch.targets != IGNORE
    places, targets = kept.nonzero(), batch.targets[kept]
    draw = partial(draw_candidates, items=ITEMS, number=15)
    whole, _ = draw(batch.inputs, session_keys(batch.inputs, 0), places, targets)
    for row, (t, b) in enumerate(places.tolist()):
        alone = batch.inputs[: t + 1, b : b + 1]
        at = torch.tensor([[t, 0]])
        found, _ = draw(alone, session_keys(alone, 0), at, targets[row : row + 1])
        assert torch.equal(found[0], whole[row])
        other, _ = draw(alone, session_keys(alone, 1), at, targets[row : row + 1])
        another, _ = draw(alone, session_keys(alone, 0), at, (targets[row : row + 1] + 1) % ITEMS)
        assert not torch.equal(other[0], whole[row]) and not torch.equal(another[0], whole[row])


def test_candidates_are_uniform():
    rows = 3000
    inputs = torch.randint(ITEMS, (4, rows))  # hardly two sessions are equal
    places = torch.stack([torch.full((rows,), 3), torch.arange(rows)], 1)
    targets = torch.arange(rows) % ITEMS
    draws, _ = draw_candidates(inputs, session_keys(inputs, 0), places, targets, ITEMS, 20)
    counts = draws.flatten().bincount(minlength=ITEMS).double()
    mean = counts.mean()
    assert float(((counts - mean) ** 2 / mean).sum()) < 80  # chi-square of 39 degrees of freedom: 1 in 8,000


def test_a_session_of_nearly_all_items_has_fewer_candidates():
    inputs = torch.arange(4)[:, None]  # of five items the last is free, and it is the target
    places, targets = torch.tensor([[3, 0]]), torch.tensor([4])
    _, usable = draw_candidates(inputs, session_keys(inputs, 0), places, targets, 5, 3)
    assert not bool(usable.any())
    for score in (0.0, -math.inf):
        table = Table(torch.full((4, 1, 6), score))
        batch = Batch.of(inputs, torch.tensor([[IGNORE], [IGNORE], [IGNORE], [4]]))
        assert ranks_of(table, batch, 3).tolist() == [1]


def test_totals_add_up_over_batches():
    batch, table = case()
    whole, parts = (NextItemMetric("hit@3", partial(recall_at, k=3), candidates=10) for _ in range(2))
    whole.update(table, batch, torch.zeros(()))
    for rows in (slice(0, 2), slice(2, 5)):
        parts.update(Table(table.scores[:, rows]), batch.rows(rows), torch.zeros(()))
    assert torch.equal(whole.totals, parts.totals) and 0 < whole.value() < 1
    assert math.isnan(NextItemMetric("x", partial(recall_at, k=3)).value())


def test_ndcg():
    ranks = torch.tensor([1, 2, 3, 10, 11])
    expected = [1.0, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0.0]
    torch.testing.assert_close(ndcg_at(ranks, 10), torch.tensor(expected, dtype=torch.float64))


def test_items_that_the_session_holds_can_be_left_out():
    batch, table = case()
    expected = []
    for t, b in (batch.targets != IGNORE).nonzero().tolist():
        target, row = int(batch.targets[t, b]), table.scores[t, b, :ITEMS].tolist()
        held = set(batch.inputs[: t + 1, b].tolist())
        left = [item for item in range(ITEMS) if item not in held and item != target]
        miss = target == ITEMS or target in held
        expected.append(MISS if miss else 1 + sum(row[item] >= row[target] for item in left))
    assert ranks_of(table, batch, unseen=True).tolist() == expected != ranks_of(table, batch).tolist()
