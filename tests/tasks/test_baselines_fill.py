"""Trigrams of both sides against the equations by dictionaries, and against the probability of whole sentences."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from throughtime.errors import InputError
from throughtime.tasks.baselines.fill import Trigrams, fill_baselines
from throughtime.tasks.baselines.texts import discounts_of

SIZE = 7


def sentences(number, seed):
    draws = np.random.default_rng(seed)
    return [np.minimum(draws.geometric(0.3, draws.integers(1, 9)), SIZE) - 1 for _ in range(number)]


class Plain:
    """The same model straight from the equations: a dictionary for each order."""

    def __init__(self, train):
        grams = Counter()
        for ids in train:
            padded = [SIZE, SIZE, *ids.tolist(), SIZE]
            grams.update(zip(padded, padded[1:], padded[2:], strict=False))
        two = Counter(gram[1:] for gram in grams)
        one = Counter(gram[1:] for gram in two)
        self.counts = [{(): 0}, one, two, grams]

    def __call__(self, symbol, context):
        """P(symbol | context), context of 0 to 2 symbols."""
        order = len(context) + 1
        counts = self.counts[order]
        discount = discounts_of(np.array(list(counts.values())))
        lower = 1 / (SIZE + 1) if order == 1 else self(symbol, context[1:])
        follow = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
        if not follow:
            return lower
        total = sum(follow.values())
        freed = sum(discount[min(count, 3)] for count in follow.values())
        count = follow.get(symbol, 0)
        return (count - discount[min(count, 3)] + freed * lower) / total

    def sentence(self, ids):
        padded = [SIZE, SIZE, *ids, SIZE]
        return math.prod(self(padded[i], tuple(padded[i - 2 : i])) for i in range(2, len(padded)))


@pytest.fixture(scope="module")
def models():
    train = sentences(60, 1)
    return Trigrams(train, SIZE), Plain(train)


def test_before_is_kneser_ney(models):
    mine, plain = models
    for a in range(SIZE + 1):
        for b in range(SIZE + 1):
            p = mine.before(a, b)
            assert p.sum() == pytest.approx(1, rel=1e-12)
            for symbol in range(SIZE + 1):
                assert p[symbol] == pytest.approx(plain(symbol, (a, b)), rel=1e-12)


def test_both_sides_is_bayes_rule_over_whole_sentences(models):
    mine, plain = models
    for ids in sentences(25, 2):
        ids = ids.tolist()
        for place in range(len(ids)):
            padded = [SIZE, SIZE, *ids, SIZE]
            a, b, _, c = padded[place : place + 4]
            d = padded[place + 4] if place + 4 < len(padded) else None
            p = mine.both(a, b, c, d)[:SIZE]
            whole = [plain.sentence([*ids[:place], w, *ids[place + 1 :]]) for w in range(SIZE)]
            np.testing.assert_allclose(p / p.sum(), np.array(whole) / sum(whole), rtol=1e-10)


def test_scores_against_sorting(models):
    _, plain = models
    train, test = sentences(60, 1), sentences(9, 3)
    asked = np.array([True, True, False, True, True, True, True])
    found = fill_baselines(train, test, asked, unknown=1)
    counts = Counter(np.concatenate(train).tolist())
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0])
    for ids in (each.tolist() for each in test):
        for place, target in enumerate(ids):
            if not asked[target]:
                continue
            padded = [SIZE, SIZE, *ids]
            whole = [plain.sentence([*ids[:place], w, *ids[place + 1 :]]) for w in range(SIZE)]
            left = [plain(w, tuple(padded[place : place + 2])) for w in range(SIZE)]
            frequent = [counts[w] + 1 for w in range(SIZE)]
            for name, p in zip(found, (frequent, left, whole), strict=True):
                order = sorted((w for w in range(SIZE) if asked[w] and w != 1), key=lambda w: (-p[w], w))
                sums[name][0] -= math.log(p[target] / sum(p[w] for w in range(SIZE) if asked[w]))
                sums[name][1] += order[0] == target
                sums[name][2] += target in order[:5]
                sums[name][3] += 1
    for name, (loss, first, five, count) in sums.items():
        assert found[name]["loss"] == pytest.approx(loss / count, rel=1e-10)
        assert found[name]["perplexity"] == pytest.approx(math.exp(loss / count), rel=1e-10)
        assert (found[name]["top_1"], found[name]["top_5"]) == (first / count, five / count)
    losses = [values["loss"] for values in found.values()]
    assert len(set(losses)) == 3


def test_no_sentences():
    with pytest.raises(InputError, match="trigrams need sentences"):
        Trigrams([], 3)
