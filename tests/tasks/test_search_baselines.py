"""BM25 against its formula, TF-IDF, and the expectation of a random order."""

from __future__ import annotations

import math
import random
import sys

import pytest

from throughtime.errors import InputError
from throughtime.tasks.baselines.search import BM25, bm25, random_order, tfidf_cosine

PASSAGES = ["the cat sat on the mat", "a dog and a cat", "def readFile(path): return path", "", "the the the"]


def test_bm25_is_its_formula() -> None:
    lines = ("the cat sat on the mat", "a dog and a cat", "def read file path return path", "", "the the the")
    texts = [line.split() for line in lines]
    mean = sum(map(len, texts)) / 5
    query = ["the", "cat", "path", "the", "unknown"]
    expected = []
    for words in texts:
        score = 0.0
        for word in query:
            holding = sum(word in each for each in texts)
            f = words.count(word)
            rarity = math.log(1 + (5 - holding + 0.5) / (holding + 0.5))
            score += rarity * f * 2.5 / (f + 1.5 * (1 - 0.75 + 0.75 * len(words) / mean))
        expected.append(score)
    found = BM25(PASSAGES).scores("The cat, path: the UNKNOWN")
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) == 5 and expected[3] == 0


def test_ties_count_against_a_baseline() -> None:
    """No word is shared: all scores are 0, and the correct passage is last."""
    found = bm25(["nothing"], PASSAGES, [1])
    assert found == {"mrr": 1 / 5, "recall@1": 0, "recall@10": 1, "recall@100": 1}
    found = bm25(["dog", "cat sat"], PASSAGES, [1, 1])
    assert found["mrr"] == pytest.approx((1 + 1 / 2) / 2) and found["recall@1"] == 0.5


def test_tfidf_finds_parts_of_words() -> None:
    assert tfidf_cosine(["readers of filenames"], PASSAGES, [2])["mrr"] == 1
    assert bm25(["readers of filenames"], PASSAGES, [2])["mrr"] < 1


def test_a_random_order_in_expectation() -> None:
    draws, n = random.Random(1), 13
    drawn = [draws.randint(1, n) for _ in range(40_000)]
    found = random_order(n)
    assert found["mrr"] == pytest.approx(sum(1 / rank for rank in drawn) / len(drawn), abs=0.01)
    assert found["recall@10"] == pytest.approx(10 / 13) and found["recall@100"] == 1


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"pip install 'throughtime\[baselines\]'"):
        tfidf_cosine(["a"], PASSAGES, [0])
