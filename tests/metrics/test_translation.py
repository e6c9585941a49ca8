"""chrF, BLEU and exact matches: sacrebleu's own numbers, however the texts are divided into batches."""

from __future__ import annotations

import copy
import math
import random
import sys

import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF
from torch import nn

from throughtime.data.batch import Batch
from throughtime.metrics import translation
from throughtime.metrics.translation import Bleu, ChrF, ExactMatch, Translations, translation_metrics

WORDS = [
    "the",
    "a",
    "cat,",
    "dogs",
    "(ate)",
    "Fish.",
    "l'eau",
    "n'est",
    "1,234.50",
    "Straße",
    "水",
    "!",
    "&",
    "x",
]


def texts(draws: random.Random) -> list[tuple[str, list[str]]]:
    """Translations that are near to one of their 1 to 3 references, far from all, empty, or very short."""
    found = []
    for number in range(60):
        references = [
            " ".join(draws.choices(WORDS, k=draws.randint(1, 9))) for _ in range(draws.randint(1, 3))
        ]
        words = draws.choice(references).split()
        if draws.random() < 0.7:
            words[draws.randrange(len(words))] = draws.choice(WORDS)
        found.append((("", "  ", "a")[number % 3] if number < 6 else " ".join(words), references))
    return found


def columns(pairs: list[tuple[str, list[str]]]) -> list[list[str | None]]:
    most = max(len(references) for _, references in pairs)
    return [[r[n] if n < len(r) else None for _, r in pairs] for n in range(most)]


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_of_sacrebleu(seed: int, lower: bool) -> None:
    pairs = texts(random.Random(seed))
    for tokens in ("13a", "char"):
        metric = Bleu(lower=lower, tokens=tokens, several=True)
        metric.add(pairs)
        bleu = BLEU(lowercase=lower, tokenize=tokens, force=True)
        expected = bleu.corpus_score([text for text, _ in pairs], columns(pairs))
        assert 5 < expected.score < 95
        assert metric.value() == pytest.approx(expected.score, abs=1e-9)
        assert metric.convention == f"sacrebleu, {bleu.get_signature()}"
    metric = ChrF(lower=lower)
    metric.add(pairs)
    chrf = CHRF(lowercase=lower)
    expected = chrf.corpus_score([text for text, _ in pairs], columns(pairs))
    assert 5 < expected.score < 95
    assert metric.value() == pytest.approx(expected.score, abs=1e-9)
    for part in str(chrf.get_signature()).split("|"):
        if not part.startswith(("nrefs", "version")):
            assert part in metric.convention
    # One sentence, one reference: also where nothing fits.
    for text, references in pairs[:20]:
        metric = ChrF(lower=lower)
        metric.add([(text, references[:1])])
        expected = CHRF(lowercase=lower).corpus_score([text], [references[:1]])
        assert metric.value() == pytest.approx(expected.score, abs=1e-9)


def test_case_counts_unless_said_otherwise() -> None:
    pairs = [("The Cat sat on the mat", ["the cat sat on the mat"])]
    for kind in (ChrF, Bleu, ExactMatch):
        as_is, lower = kind(), kind(lower=True)
        as_is.add(pairs)
        lower.add(pairs)
        assert as_is.value() < lower.value()
    assert "case:lc" in Bleu(lower=True).convention
    assert "nrefs:1|" in Bleu().convention and "nrefs:var|" in Bleu(several=True).convention


def test_exact_matches_do_not_see_white_space() -> None:
    metric = ExactMatch()
    metric.add([("il y  a", ["x", "il y a "]), ("ilya", ["il y a"]), ("", ["a"]), ("a", ["b", "a"])])
    assert metric.value() == 0.5
    assert math.isnan(ExactMatch().value()) and math.isnan(ChrF().value()) and math.isnan(Bleu().value())


def test_totals_add_up_over_batches_and_processes() -> None:
    pairs = texts(random.Random(5))
    for make in (ChrF, lambda: Bleu(several=True), ExactMatch):
        whole = make()
        whole.add(pairs)
        parts = [make() for _ in range(3)]
        for number, part in enumerate(parts):
            for start in range(number, len(pairs), 9):  # batches of 2 or 3, some of one
                part.add(pairs[start : start + 3][: 3 if number else 2])
        total = parts[0]
        for part in parts[1:]:
            total.totals += part.totals
        again = make()
        kept = [
            pair
            for number in range(3)
            for start in range(number, len(pairs), 9)
            for pair in pairs[start : start + 3][: 3 if number else 2]
        ]
        again.add(kept)
        assert torch.equal(total.totals, again.totals)
        one_by_one = make()
        for pair in pairs:
            one_by_one.add([pair])
        assert torch.equal(one_by_one.totals, whole.totals)
        mean = sum(_alone(make, pair) for pair in pairs) / len(pairs)
        if make is not ExactMatch:
            assert abs(mean - whole.value()) > 1  # the score of a corpus is not the mean over its sentences


def _alone(make, pair) -> float:
    metric = make()
    metric.add([pair])
    return metric.value()


def test_a_batch_is_translated_once_for_all_metrics() -> None:
    calls = []

    def write(model: nn.Module, batch: Batch):
        calls.append(batch)
        return [("a b", ["a b"])] * batch.size

    batches = [Batch.of(torch.zeros(3, size), torch.zeros(3, size)) for size in (2, 1)]
    metrics = translation_metrics(Translations(write))
    assert [metric.name for metric in metrics] == ["chrf", "bleu", "exact"]
    for metric in metrics:
        metric.begin(nn.Identity())
    for batch in batches:
        for metric in metrics:
            metric.update(None, batch, torch.zeros(()))
    assert [each.size for each in calls] == [2, 1]
    assert metrics[2].totals.tolist() == [3, 3]
    assert copy.deepcopy(metrics[0]).translations is metrics[0].translations  # which holds the model
    with pytest.raises(RuntimeError, match="begin"):
        Translations(write).of(batches[0])


def test_without_sacrebleu_the_other_metrics_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert translation.bleu_missing().endswith("pip install 'throughtime[translate]'")
    assert [metric.name for metric in translation_metrics()] == ["chrf", "exact"]
