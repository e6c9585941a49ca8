"""Baselines: worked out by hand, against plain counting, and probabilities that sum to one."""

import math
import sys
import time
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from throughtime.data.char import CharVocabulary
from throughtime.data.text import embedded_text
from throughtime.errors import InputError
from throughtime.tasks.baselines import texts as baselines
from throughtime.tasks.baselines.texts import (
    majority,
    ngram_log_probabilities,
    ngram_loss,
    require_scikit_learn,
    tfidf_linear,
    unigram_loss,
)


def test_the_most_frequent_class():
    found = majority(["a", "b", "b"], ["b", "b", "a", "c"])
    # b: 2 TP / (2 TP + FP + FN) = 4 / (4 + 2); a and c: 0.
    assert found == {"accuracy": 0.5, "macro_f1": pytest.approx((4 / 6) / 3)}
    assert majority([1, 0], [2]) == {"accuracy": 0.0, "macro_f1": 0.0}
    with pytest.raises(InputError, match="got 0 and 1"):
        majority([], ["a"])


def test_without_scikit_learn_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for call in (require_scikit_learn, lambda: tfidf_linear(["a"], ["x"], ["b"], ["x"])):
        with pytest.raises(InputError, match=r"pip install 'throughtime\[baselines\]'") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_linear_baseline_tells_two_classes_apart():
    pytest.importorskip(
        "sklearn", reason="scikit-learn is not installed: pip install 'throughtime[baselines]'"
    )
    texts = ["lost my card", "card was lost", "new phone number", "change phone number"] * 3
    labels = ["card", "card", "phone", "phone"] * 3
    found = tfidf_linear(texts, labels, ["my lost cards", "another phone"], ["card", "phone"], seed=1)
    assert found == {"accuracy": 1.0, "macro_f1": 1.0}
    with pytest.raises(InputError, match="two classes"):
        tfidf_linear(["a"], ["x"], ["b"], ["x"])


def test_unigrams_by_hand():
    # Counts + 1 of 0 0 1 over three symbols: 3/6, 2/6, 1/6; the first test symbol is not predicted.
    expected = -(math.log(3 / 6) + math.log(1 / 6)) / 2
    assert unigram_loss([0, 0, 1], torch.tensor([1, 0, 2]), 3) == pytest.approx(expected, rel=1e-12)
    assert unigram_loss([], [0, 0], 4) == pytest.approx(math.log(4))


def plain_kneser_ney(train, test, size, order):
    """The same model by dictionaries, straight from the equations."""
    grams = {k: [tuple(train[i : i + k]) for i in range(len(train) - k + 1)] for k in range(1, order + 1)}
    counts = {order: Counter(grams[order])}
    for k in range(1, order):
        counts[k] = Counter(longer[1:] for longer in set(grams[k + 1]))
    discounts = {}
    for k in counts:
        of_count = Counter(counts[k].values())
        n1, n2, n3, n4 = (of_count[i] for i in (1, 2, 3, 4))
        if not (n1 and n2 and n3):
            discounts[k] = [0, 0.5, 0.5, 0.5]
            continue
        y = n1 / (n1 + 2 * n2)
        raw = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        discounts[k] = [0, *(min(max(d, 0.1), i + 1) for i, d in enumerate(raw))]
    follows = {k: defaultdict(list) for k in counts}
    for k in counts:
        for gram, count in counts[k].items():
            follows[k][gram[:-1]].append(count)

    def p(word, context):
        k = len(context) + 1
        lower = p(word, context[1:]) if context else 1 / size
        after = follows[k][context]
        if not after:
            return lower
        count = counts[k][(*context, word)]
        freed = sum(discounts[k][min(c, 3)] for c in after)
        return (count - discounts[k][min(count, 3)] + freed * lower) / sum(after)

    return [math.log(p(test[i], tuple(test[max(0, i - order + 1) : i]))) for i in range(1, len(test))]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize(("length", "size"), [(3000, 6), (400, 40), (30, 30), (2, 5), (1, 3)])
def test_ngrams_agree_with_plain_counting(order, length, size):
    generator = np.random.default_rng(length)
    train = (generator.integers(0, size, length) * generator.integers(0, 2, length)).tolist()
    test = generator.integers(0, size, 60).tolist()
    found = ngram_log_probabilities(train, test, size, order)
    np.testing.assert_allclose(found, plain_kneser_ney(train, test, size, min(order, length)), rtol=1e-10)
    assert ngram_loss(train, test, size, order) == pytest.approx(-found.mean())


@pytest.mark.parametrize("context", [[0], [3, 1, 2, 0], [6, 6, 6], [1] * 10])
def test_probabilities_sum_to_one(context):
    generator = np.random.default_rng(7)
    train = generator.integers(0, 6, 500)  # symbol 6 never occurs
    for order in (1, 2, 4):
        last = [ngram_log_probabilities(train, [*context, word], 7, order)[-1] for word in range(7)]
        assert math.fsum(np.exp(last)) == pytest.approx(1.0, rel=1e-12)
        assert min(last) > -20


def test_half_a_million_characters_take_less_than_ten_seconds():
    text = embedded_text() * 2
    vocabulary = CharVocabulary.of_text(text, None)
    ids = vocabulary.encode(text)[:550_000]
    cut = 400_000
    begin = time.process_time()
    loss = ngram_loss(ids[:cut], ids[cut:450_000], len(vocabulary), 5)
    assert time.process_time() - begin < 10  # it takes about 1 s on one slow core
    assert 1.0 < loss < 2.0 < unigram_loss(ids[:cut], ids[cut:450_000], len(vocabulary)) < 4.0


def test_only_the_last_symbols_of_long_training_data_count(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_SYMBOLS", 50)
    train = np.random.default_rng(0).integers(0, 5, 200)
    test = [0, 1, 2, 3]
    assert ngram_loss(train, test, 5, 3) == ngram_loss(train[-50:], test, 5, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 5], [0, 1], 5, 2), "ids must be 0 to 4, got 0 to 5"),
        (([0, 1], [0, -1], 5, 2), "ids must be 0 to 4, got -1 to 0"),
        (([0, 1], [0], 5, 2), "at least 2 symbols, got 1"),
        (([], [0, 1], 5, 2), "at least 1 symbols, got 0"),
        (([0], [0, 1], 5, 0), "order must be at least 1"),
        (([0.5], [0, 1], 5, 1), "whole numbers"),
    ],
)
def test_what_cannot_be_counted_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        ngram_loss(*arguments)
