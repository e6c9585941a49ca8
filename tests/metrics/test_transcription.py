"""Error rates beside a definition by recursion, and beside jiwer; totals that add up."""

from __future__ import annotations

import math
import random
from functools import cache

import pytest
import torch

from throughtime.data.batch import Batch
from throughtime.metrics.transcription import (
    Breakdown,
    CharacterErrorRate,
    WordErrorRate,
    edit_distance,
    references,
)


def by_recursion(first, second):
    @cache
    def distance(a, b):
        if not a or not b:
            return len(a) + len(b)
        same = distance(a[1:], b[1:]) + (a[0] != b[0])
        return min(same, distance(a[1:], b) + 1, distance(a, b[1:]) + 1)

    return distance(tuple(first), tuple(second))


def pairs(count, seed=0, letters="ab c", longest=9):
    draws = random.Random(seed)
    return [
        tuple("".join(draws.choices(letters, k=draws.randint(0, longest))) for _ in range(2))
        for _ in range(count)
    ]


def test_the_edit_distance_is_the_recursion():
    for first, second in [*pairs(300), ("", ""), ("a", ""), ("kitten", "sitting")]:
        assert edit_distance(first, second) == by_recursion(first, second), (first, second)
    assert edit_distance(["one", "two"], ["two"]) == 1
    assert edit_distance([1, 2, 3], [3, 2, 1]) == 2


def texts_of(pairs_):
    words = [(" ".join(a.split()), " ".join(b.split())) for a, b in pairs_]
    return [(a, b) for a, b in words if a]


def rate(kind, chosen):
    metric = kind(decode=None, text=None)
    for reference, hypothesis in chosen:
        metric.add(reference, hypothesis)
    return metric


def test_rates_are_those_of_jiwer():
    jiwer = pytest.importorskip("jiwer", reason="jiwer is not installed: pip install 'throughtime[audio]'")
    chosen = texts_of(pairs(200, 1, "abcd  ", 30))
    sides = [list(side) for side in zip(*chosen, strict=True)]
    assert rate(CharacterErrorRate, chosen).value() == pytest.approx(jiwer.cer(*sides), abs=1e-12)
    assert rate(WordErrorRate, chosen).value() == pytest.approx(jiwer.wer(*sides), abs=1e-12)


@pytest.mark.parametrize("kind", [CharacterErrorRate, WordErrorRate])
def test_totals_add_up_over_batches_and_are_no_mean_of_means(kind):
    chosen = texts_of(pairs(60, 2))
    whole = rate(kind, chosen)
    parts = [rate(kind, chosen[start : start + 7]) for start in range(0, len(chosen), 7)]
    together = rate(kind, [])
    for part in parts:
        together.totals += part.totals
    assert together.value() == whole.value()
    assert whole.value() != pytest.approx(sum(part.value() for part in parts) / len(parts))
    assert math.isnan(rate(kind, []).value())
    assert whole.better(0.1, 0.2) and not whole.better(math.nan, 0.2)


def test_a_batch_is_decoded_and_compared_as_text():
    targets = torch.tensor([[1, 2, -100], [3, -100, -100]])
    batch = Batch.of(torch.zeros(5, 2, 1), targets, [5, 4], per_sequence=True)
    assert references(batch) == [[1, 2], [3]]
    metric = CharacterErrorRate(
        lambda outputs: outputs, lambda symbols: "".join(" ab"[n - 1] for n in symbols)
    )
    metric.update([[1, 2, 2], [2]], batch, torch.zeros(()))
    assert metric.totals.tolist() == [[2.0, 3.0]]


def test_a_breakdown_adds_up_to_the_whole_and_stands_beside_others():
    levels = Breakdown("noise", ("low", "high"), {"ab": 0, "cd": 1, "cde": 1})
    sizes = Breakdown("size", ("two", "three", "four"), {"ab": 0, "cd": 0, "cde": 1})

    def metric(beside=dict):
        return CharacterErrorRate(None, None, [levels, sizes], beside)

    other = metric()
    for text in ("ab", "cd", "cde"):
        other.add(text, "")
    found = metric(lambda: {"nothing": other.totals})
    for reference, hypothesis in (("ab", "ab"), ("cd", "c"), ("cde", "cdef"), ("unknown", "unknow")):
        found.add(reference, hypothesis)
    assert found.value() == 3 / 14  # of all, those of no class included
    assert found.details().splitlines() == [
        "| cer by noise | low | high |",
        "| --- | --- | --- |",
        "| this model | 0.0% | 40.0% |",
        "| nothing | 100.0% | 100.0% |",
        "",
        "| cer by size | two | three | four |",
        "| --- | --- | --- | --- |",
        "| this model | 25.0% | 33.3% |  |",
        "| nothing | 100.0% | 100.0% |  |",
    ]
    assert rate(CharacterErrorRate, []).details() == ""
