"""Metrics over segments against brute force; masked frames never count; totals add up."""

from __future__ import annotations

import math
import random
from functools import cache
from itertools import groupby

import pytest
import torch

from throughtime.data.batch import IGNORE, Batch
from throughtime.errors import InputError
from throughtime.metrics.segments import EditScore, OverlapF1, edit_score, overlap_counts, segments

NO_LOSS = torch.tensor(0.0)


def plain_edit(first, second):
    a, b = ([key for key, _ in groupby(each)] for each in (first, second))

    @cache
    def distance(i, j):
        if not i or not j:
            return i + j
        return min(
            distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        )

    return 1 - distance(len(a), len(b)) / max(len(a), len(b))


def plain_counts(targets, predictions, overlap):
    """Sets of frames, straight from the definition."""

    def sets(labels):
        place, found = 0, []
        for key, run in groupby(labels):
            count = len(list(run))
            found.append((key, set(range(place, place + count))))
            place += count
        return found

    wanted, taken, tp, fp = sets(targets), set(), 0, 0
    for label, frames in sets(predictions):
        ratios = [len(frames & other) / len(frames | other) if key == label else 0.0 for key, other in wanted]
        best = max(range(len(ratios)), key=ratios.__getitem__)
        if ratios[best] >= overlap and best not in taken:
            taken.add(best)
            tp += 1
        else:
            fp += 1
    return tp, fp, len(wanted) - tp


def draw(draws, steps, classes):
    labels = []
    while len(labels) < steps:
        labels += [draws.randrange(classes)] * draws.randint(1, 6)
    return labels[:steps]


@pytest.mark.parametrize("seed", range(20))
def test_against_brute_force(seed):
    draws = random.Random(seed)
    steps, classes = draws.randint(1, 40), draws.randint(1, 4)
    targets = draw(draws, steps, classes)
    noisy = [label if draws.random() < 0.8 else draws.randrange(classes) for label in targets]
    for predictions in (draw(draws, steps, classes), noisy, targets):
        assert edit_score(targets, predictions) == pytest.approx(plain_edit(targets, predictions), abs=1e-12)
        for overlap in (0.1, 0.25, 0.5, 1.0):
            assert overlap_counts(targets, predictions, overlap) == plain_counts(
                targets, predictions, overlap
            )


def test_by_hand():
    targets, predictions = [0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 0, 1, 1, 1, 2]
    assert segments(targets) == [(0, 0, 4), (1, 4, 6), (2, 6, 8)] and segments([]) == []
    # 0 1 2 against 0 1 0 1 2: two too many of five.
    assert edit_score(targets, predictions) == pytest.approx(1 - 2 / 5)
    # Overlaps: 0 is 2/4, then 1 nothing, 0 1/4 of one that is taken at 50 %, 1 is 2/3, 2 is 1/2.
    assert overlap_counts(targets, predictions, 0.5) == (3, 2, 0)
    assert overlap_counts(targets, predictions, 0.6) == (1, 4, 2)
    # Cut into many: every frame but one is right, and F1 falls.
    assert overlap_counts([0] * 9, [0] * 4 + [1] + [0] * 4, 0.5) == (0, 3, 1)
    assert edit_score([], []) == 1.0
    with pytest.raises(InputError, match=r"labels must be \[t\]"):
        segments([[1]])


def batch_of(rows, steps):
    padded = torch.full((steps, len(rows)), 7)
    for b, row in enumerate(rows):
        padded[: len(row), b] = torch.tensor(row)
    return Batch.of(torch.zeros(steps, len(rows)), padded, [len(row) for row in rows])


def scores(rows, steps, classes):
    outputs = torch.full((steps, len(rows), classes), float("nan"))
    for b, row in enumerate(rows):
        outputs[: len(row), b] = torch.nn.functional.one_hot(torch.tensor(row), classes).float()
    return outputs


def test_ragged_batches_with_nan_in_the_padding_and_t_equal_to_b():
    draws = random.Random(4)
    lengths = [7, 1, 5, 3, 7, 2, 6]
    targets = [draw(draws, length, 3) for length in lengths]
    predictions = [draw(draws, length, 3) for length in lengths]
    batch, outputs = batch_of(targets, 7), scores(predictions, 7, 3)
    edit, overlap = EditScore(), OverlapF1(25)
    assert math.isnan(edit.value()) and math.isnan(overlap.value()) and overlap.name == "f1@25"
    for metric in (edit, overlap):
        metric.update(outputs, batch, NO_LOSS)
    pairs = list(zip(targets, predictions, strict=True))
    assert edit.value() == pytest.approx(sum(plain_edit(*pair) for pair in pairs) / 7, rel=1e-12)
    tp, fp, fn = (sum(each) for each in zip(*(plain_counts(*pair, 0.25) for pair in pairs), strict=True))
    assert overlap.value() == pytest.approx(2 * tp / (2 * tp + fp + fn), rel=1e-12)
    # In parts the totals are the same.
    parts = [EditScore(), EditScore()]
    for part, rows in zip(parts, (slice(0, 3), slice(3, 7)), strict=True):
        part.update(outputs[:, rows], batch.rows(rows), NO_LOSS)
    assert (parts[0].totals + parts[1].totals).tolist() == pytest.approx(edit.totals.tolist())


def test_masked_frames_inside_are_left_out():
    targets = torch.tensor([[0], [IGNORE], [0], [1]])
    batch = Batch.of(torch.zeros(4, 1), targets)
    outputs = torch.nn.functional.one_hot(torch.tensor([[0], [1], [0], [1]]), 2).float()
    for metric in (EditScore(), OverlapF1(50)):
        metric.update(outputs, batch, NO_LOSS)
        assert metric.value() == 1.0
    with pytest.raises(InputError, match=r"expected outputs \[T, B, C\]"):
        EditScore().update(outputs[0], batch, NO_LOSS)
    with pytest.raises(InputError, match="percent must be"):
        OverlapF1(0)
