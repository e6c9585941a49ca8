"""Top-k against sorting; ties, unknown words, masks, and totals that add up."""

from __future__ import annotations

import math

import pytest
import torch

from throughtime.data.batch import IGNORE, Batch
from throughtime.errors import InputError
from throughtime.metrics.top_k import Top1, Top5

ZERO = torch.tensor(0.0)


def test_against_sorting():
    torch.manual_seed(1)
    outputs, targets = torch.randn(7, 7, 11), torch.randint(11, (7, 7))  # T == B
    targets[2, 3] = targets[5] = IGNORE
    batch = Batch.of(torch.zeros(7, 7), targets)
    for metric in (Top1([0]), Top5([0])):
        assert math.isnan(metric.value())
        metric.update(outputs, batch, ZERO)
        hits, count = 0, 0
        for t in range(7):
            for b in range(7):
                if targets[t, b] != IGNORE:
                    order = [n for n in outputs[t, b].argsort(descending=True).tolist() if n != 0]
                    hits += int(targets[t, b]) in order[: metric.k]
                    count += 1
        assert metric.totals.tolist() == [hits, count] and count < 49 and 0 < hits < count
    assert Top1.name == "top_1" and Top5.name == "top_5"


def test_equal_outputs_rank_by_number_and_unknown_words_are_missed():
    outputs = torch.zeros(1, 8, 8)
    targets = torch.arange(8)[None]
    for kind, expected in ((Top1, 1), (Top5, 5)):
        metric = kind()
        metric.update(outputs, Batch.of(torch.zeros(1, 8), targets), ZERO)
        assert metric.totals.tolist() == [expected, 8]
        metric = kind([0])  # takes no place, and is never right
        metric.update(outputs, Batch.of(torch.zeros(1, 8), targets), ZERO)
        assert metric.totals.tolist() == [expected, 8]
        metric.update(outputs * math.nan, Batch.of(torch.zeros(1, 8), targets), ZERO)
        assert metric.totals.tolist() == [expected, 16]  # NaN is no hit


def test_outputs_of_another_shape_are_refused():
    batch = Batch.of(torch.zeros(3, 2), torch.zeros(3, 2).long())
    for outputs in (torch.zeros(2, 3, 5), None):
        with pytest.raises(InputError, match=r"expected outputs \[\.\.\., V\] for targets \[3, 2\]"):
            Top1().update(outputs, batch, ZERO)
