"""BLEU-4 against sacrebleu, exact match against counting; both add up over parts."""

from __future__ import annotations

import math
import random

import pytest
import torch

from throughtime.data import Batch
from throughtime.metrics.captions import CaptionBLEU, ExactMatch, bleu, bleu_counts


def texts(seed, count=13):
    """(what was written, one to three references), references of different lengths, some equal to what was written."""
    draws = random.Random(seed)
    rows = []
    for number in range(count):
        references = [draws.choices("abcd", k=draws.randint(1, 9)) for _ in range(draws.randint(1, 3))]
        written = list(draws.choice(references))
        if number % 3 and len(written) > 2:
            written[draws.randrange(len(written))] = draws.choice("abcd")
            written = written[: draws.randint(1, len(written))] + draws.choices("abcd", k=draws.randint(0, 3))
        rows.append((written, references))
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_bleu_is_that_of_sacrebleu(seed):
    metrics = pytest.importorskip(
        "sacrebleu.metrics", reason="sacrebleu is not installed: pip install 'throughtime[translate]'"
    )
    rows = texts(seed)
    widest = max(len(references) for _, references in rows)
    columns = [[" ".join(r[n]) if n < len(r) else None for _, r in rows] for n in range(widest)]
    theirs = metrics.BLEU(tokenize="none", smooth_method="none", lowercase=False)
    expected = theirs.corpus_score([" ".join(written) for written, _ in rows], columns).score
    ours = sum(bleu_counts(written, references) for written, references in rows)
    assert expected > 5
    assert bleu(ours) == pytest.approx(expected, abs=1e-9)


def test_what_cannot_match():
    assert (
        bleu(bleu_counts("abcd", ["efgh"])) == 0 and bleu(bleu_counts("ab", ["ab"])) == 0
    )  # there are no four words
    assert bleu(bleu_counts("abcd", ["abcd"])) == pytest.approx(100)
    assert bleu(bleu_counts("abcd", ["abcdabcd"])) == pytest.approx(
        100 * math.exp(-1)
    )  # half as long as the reference
    assert bleu(bleu_counts([], ["abcd"])) == 0
    assert math.isnan(bleu([0] * 10))


def test_metrics_add_up_over_batches():
    rows = texts(1, 12)
    metrics = {size: [] for size in (12, 5)}
    for size, found in metrics.items():
        parts = [iter(rows)]
        for kind in (CaptionBLEU, ExactMatch):
            at = iter(range(0, len(rows), size))

            def written(model, batch, at=at, size=size):
                assert model == "the model"
                start = next(at)
                return rows[start : start + size]

            metric = kind(written)
            metric.begin("the model")
            for _ in range(0, len(rows), size):
                metric.update(None, Batch.of(torch.zeros(1, 1)), torch.zeros(()))
            found.append(metric.value())
        assert parts
    assert metrics[12] == metrics[5]
    assert metrics[12][1] == sum(written in references for written, references in rows) / 12 > 0
    assert math.isnan(ExactMatch(None).value())
