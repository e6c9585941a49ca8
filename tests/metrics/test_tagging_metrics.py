"""Exact spans against brute force and nervaluate; totals that add up; token accuracy."""

from __future__ import annotations

import math
import random

import pytest
import torch

from throughtime.data import IGNORE, Batch
from throughtime.data.readers.spans import span_labels
from throughtime.metrics.tagging import SpanF1, SpanPrecision, SpanRecall, TagAccuracy

TAGS = span_labels(["per", "loc"], "bio")
SIZE, STEPS = 40, 9


def best(outputs, lengths):
    return outputs


def drawn(seed=2):
    """A batch whose predictions share about half of their tags with the targets; NaN-like garbage in the padding."""
    draws = random.Random(seed)
    lengths = [draws.randint(1, STEPS) for _ in range(SIZE)]
    targets = torch.tensor([[draws.randrange(len(TAGS)) for _ in range(SIZE)] for _ in range(STEPS)])
    keep = torch.tensor([[draws.random() < 0.7 for _ in range(SIZE)] for _ in range(STEPS)])
    others = torch.tensor([[draws.randrange(len(TAGS)) for _ in range(SIZE)] for _ in range(STEPS)])
    batch = Batch.of(torch.zeros(STEPS, SIZE), targets, lengths)
    return batch, torch.where(keep, targets, others)


def rows_of(batch, predicted):
    for b, length in enumerate(batch.lengths.tolist()):
        yield tuple(
            [TAGS[label] for label in side[:length, b].tolist()] for side in (batch.targets, predicted)
        )


def brute_spans(tags):
    """Every (start, end, type) that is a span: from a beginning to just before the next beginning or O."""

    def begins(t):
        return tags[t] != "O" and (
            tags[t][0] == "B" or t == 0 or tags[t - 1] == "O" or tags[t - 1][2:] != tags[t][2:]
        )

    found = set()
    for start in (t for t in range(len(tags)) if begins(t)):
        end = start + 1
        while end < len(tags) and tags[end] != "O" and not begins(end):
            end += 1
        found.add((start, end, tags[start][2:]))
    return found


def test_spans_are_counted_as_by_hand():
    batch, predicted = drawn()
    metrics = [SpanF1(TAGS, best), SpanPrecision(TAGS, best), SpanRecall(TAGS, best)]
    for metric in metrics:
        metric.update(predicted, batch, torch.zeros(()))
    pairs = [(brute_spans(a), brute_spans(b)) for a, b in rows_of(batch, predicted)]
    correct = sum(len(a & b) for a, b in pairs)
    expected, found = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    assert 0 < correct < min(expected, found)
    assert [metric.value() for metric in metrics] == [
        pytest.approx(2 * correct / (expected + found)),
        pytest.approx(correct / found),
        pytest.approx(correct / expected),
    ]
    assert "| per |" in metrics[0].details() and not metrics[1].details()


def test_spans_are_counted_as_nervaluate_counts_them():
    nervaluate = pytest.importorskip(
        "nervaluate", reason="nervaluate is not installed: pip install 'throughtime[tagging]'"
    )
    batch, predicted = drawn(5)
    rows = list(rows_of(batch, predicted))
    # nervaluate takes spans as they are given: the brute force ones, as its own reader has other rules for broken tags.
    sides = [
        [
            [
                {"label": label, "start": start, "end": end - 1}
                for start, end, label in sorted(brute_spans(row[side]))
            ]
            for row in rows
        ]
        for side in (0, 1)
    ]
    found = nervaluate.Evaluator(sides[0], sides[1], tags=["per", "loc"], loader="dict").evaluate()
    strict = found["overall"]["strict"]
    metric = SpanF1(TAGS, best)
    metric.update(predicted, batch, torch.zeros(()))
    assert metric.value() == pytest.approx(strict.f1)
    correct, guessed, expected = metric.totals.sum(0).tolist()
    assert (correct, guessed, expected) == (strict.correct, strict.actual, strict.possible)


@pytest.mark.parametrize("kind", [SpanF1, TagAccuracy])
def test_totals_add_up_over_batches(kind):
    batch, predicted = drawn()
    whole, parts = kind(TAGS, best), [kind(TAGS, best), kind(TAGS, best)]
    whole.update(predicted, batch, torch.zeros(()))
    for part, rows in zip(parts, (slice(0, 13), slice(13, SIZE)), strict=True):
        part.update(predicted[:, rows], batch.rows(rows), torch.zeros(()))
    parts[0].totals += parts[1].totals
    assert torch.equal(parts[0].totals, whole.totals)
    assert math.isnan(kind(TAGS, best).value())


def test_accuracy_leaves_masked_tokens_out():
    targets = torch.tensor([[0, 1], [2, IGNORE], [1, 1]])
    predicted = torch.tensor([[0, 0], [2, 2], [1, 1]])
    batch = Batch.of(torch.zeros(3, 2), targets, [3, 2])
    metric = TagAccuracy(["a", "b", "c"], best)
    metric.update(predicted, batch, torch.zeros(()))
    assert metric.value() == pytest.approx(3 / 4)
    assert "| c | 1.000 | 1.000 | 1.000 | 1 |" in metric.details()


def test_predictions_for_masked_targets_are_no_spans():
    targets = torch.tensor([[1], [IGNORE], [0]])  # B-loc, unknown, O
    batch = Batch.of(torch.zeros(3, 1), targets)
    metric = SpanF1(TAGS, best)
    metric.update(torch.tensor([[1], [2], [0]]), batch, torch.zeros(()))
    assert metric.value() == 1.0
