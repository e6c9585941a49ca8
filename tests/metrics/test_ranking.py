"""Ranks, MRR and recall@k against a definition by sorting, with ties, NaN and masked targets."""

from __future__ import annotations

import math

import pytest
import torch

from throughtime.data import Batch
from throughtime.errors import InputError
from throughtime.metrics.ranking import MRR, Recall, ranks, recall_at, reciprocal_rank

N, M = 7, 13


def rank_by_sorting(scores: list[float], correct: int) -> int:
    """The last place that the correct candidate can have in a list sorted from the best score to the worst."""
    ordered = sorted(scores, reverse=True)
    return max(place for place, score in enumerate(ordered, 1) if score == scores[correct])


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of five different values, so that most rows have ties, and correct candidates."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(5, (N, M), generator=generator).double() / 3
    return scores, torch.randint(M, (N,), generator=generator)


def test_ranks_are_those_of_sorting_with_ties_against_the_correct_one(
    drawn: tuple[torch.Tensor, torch.Tensor],
) -> None:
    scores, correct = drawn
    expected = [
        rank_by_sorting(row, place) for row, place in zip(scores.tolist(), correct.tolist(), strict=True)
    ]
    found = ranks(scores, correct)
    assert found.tolist() == expected
    assert found.dtype == torch.int64
    optimistic = [
        1 + sum(s > row[place] for s in row)
        for row, place in zip(scores.tolist(), correct.tolist(), strict=True)
    ]
    assert optimistic != expected  # so the ties of this test matter
    assert ranks(torch.zeros(2, M), torch.tensor([0, M - 1])).tolist() == [M, M]


def test_a_score_that_is_nan_never_helps() -> None:
    nan = math.nan
    scores = torch.tensor([[1.0, 2.0, nan], [nan, 2.0, 1.0]])
    assert ranks(scores, torch.tensor([1, 0])).tolist() == [2, 3]


def test_refusals() -> None:
    with pytest.raises(InputError, match="0 to 12, got 0 to 13"):
        ranks(torch.zeros(2, M), torch.tensor([0, M]))
    with pytest.raises(InputError, match=r"expected scores \[N, M\]"):
        ranks(torch.zeros(2, M), torch.tensor([0]))
    with pytest.raises(InputError, match="k must be at least 1"):
        Recall(0)
    with pytest.raises(InputError, match="same leading shape"):
        MRR().update(
            torch.zeros(3, M),
            Batch.of(torch.zeros(1, 2), torch.tensor([0, 1]), per_sequence=True),
            torch.zeros(()),
        )


def test_values_of_ranks() -> None:
    found = torch.tensor([1, 2, 4, 11])
    assert reciprocal_rank(found).tolist() == [1, 1 / 2, 1 / 4, 1 / 11]
    assert reciprocal_rank(found, 4).tolist() == [1, 1 / 2, 1 / 4, 0]
    assert recall_at(found, 4).tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("per_sequence", [True, False])
def test_metrics_add_up_over_batches_and_leave_masked_targets_out(
    drawn: tuple[torch.Tensor, torch.Tensor], per_sequence: bool
) -> None:
    scores, correct = drawn
    expected = [
        rank_by_sorting(row, place) for row, place in zip(scores.tolist(), correct.tolist(), strict=True)
    ]
    del expected[2]
    targets = correct.clone()
    targets[2] = -100
    whole = [MRR(), MRR(3), Recall(1), Recall(10)]
    parts = [[type(each)(each.k) for each in whole] for _ in range(2)]  # type: ignore[call-arg]
    for start, stop, metrics in ((0, N, whole), (0, 3, parts[0]), (3, N, parts[1])):
        outputs, asked = scores[start:stop], targets[start:stop]
        if not per_sequence:
            outputs, asked = outputs[:, None], asked[:, None]  # [T, B, M] with B = 1
        batch = Batch.of(torch.zeros(stop - start, 1), asked) if not per_sequence else None
        batch = batch or Batch.of(torch.zeros(1, stop - start), asked, per_sequence=True)
        for metric in metrics:
            metric.update(outputs, batch, torch.zeros(()))
    values = [each.value() for each in whole]
    n = len(expected)
    assert values == pytest.approx(
        [
            sum(1 / rank for rank in expected) / n,
            sum(1 / rank for rank in expected if rank <= 3) / n,
            sum(rank <= 1 for rank in expected) / n,
            sum(rank <= 10 for rank in expected) / n,
        ]
    )
    for mine, theirs in zip(*parts, strict=True):
        mine.totals += theirs.totals
    assert [each.value() for each in parts[0]] == pytest.approx(values)
    assert [each.name for each in whole] == ["mrr", "mrr@3", "recall@1", "recall@10"]
    assert MRR.name == "mrr"


def test_a_batch_that_only_holds_candidates_counts_nothing() -> None:
    metric = Recall(1)
    batch = Batch.of(torch.zeros(1, 3), torch.full((3,), -100), per_sequence=True)
    metric.update(torch.zeros(0, M), batch, torch.zeros(()))
    assert math.isnan(metric.value())
