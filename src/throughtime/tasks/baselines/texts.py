"""What a trained model should beat: trivial and strong baselines for text classification and for language models."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from throughtime.errors import InputError

Ids = NDArray[np.int64]
MOST_SYMBOLS = 10_000_000  # of training data that an n-gram model counts


def majority(train_labels: Sequence[Hashable], test_labels: Sequence[Hashable]) -> dict[str, float]:
    """Accuracy and macro-F1 on the test labels of always predicting the most frequent training label.

    Raises: InputError when there are no labels.
    """
    _refuse_empty(train_labels, test_labels)
    most_frequent = Counter(train_labels).most_common(1)[0][0]
    return _scores(test_labels, [most_frequent] * len(test_labels))


def require_scikit_learn() -> None:
    """Raise InputError, saying what to install, unless scikit-learn can be imported."""
    try:
        import_module("sklearn")
    except ImportError:
        raise InputError(
            "the linear baseline needs scikit-learn, which is not installed: pip install 'throughtime[baselines]'"
        ) from None


def tfidf_linear(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    test_texts: Sequence[str],
    test_labels: Sequence[str],
    seed: int = 0,
) -> dict[str, float]:
    """Accuracy and macro-F1 of a linear support vector machine over TF-IDF features, nothing tuned.

    Features: words and pairs of words, and 1 to 4 characters inside words, each with 1 + log(count) and scaled to length 1.
    scikit-learn's LinearSVC with C = 1. Cost: seconds for 10,000 short texts; sparse features.
    Raises: InputError without scikit-learn (see `require_scikit_learn`), for no texts, or fewer than two classes.
    """
    _refuse_empty(train_labels, test_labels)
    features, classifier = _tfidf_svm(train_texts, train_labels, seed)
    return _scores(test_labels, classifier.predict(features.transform(test_texts)).tolist())


def tfidf_selective(
    train: tuple[Sequence[str], Sequence[str]],
    validation: tuple[Sequence[str], Sequence[str]],
    test: tuple[Sequence[str], Sequence[str]],
    *,
    precision: float,
    certainty: float | None = None,
    answerable: Mapping[str, bool] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """`tfidf_linear` that answers only where it is sure: also its coverage, and the precision of what it answers.

    Its confidence is the margin, the largest decision value minus the second. The threshold is chosen on the validation part as
    that of a model is: see `throughtime.metrics.calibration.choose_threshold`.
    Args: texts and labels of each part; answerable, whether a label has an answer, all of them by default.
    Raises: as `tfidf_linear`.
    """
    import torch

    from throughtime.metrics.calibration import choose_threshold

    _refuse_empty(train[1], test[1])
    features, classifier = _tfidf_svm(*train, seed)

    def judge(
        texts: Sequence[str], labels: Sequence[str]
    ) -> tuple[list[str], NDArray[Any], NDArray[Any], NDArray[Any]]:
        found = features.transform(texts)
        predicted, values = classifier.predict(found).tolist(), classifier.decision_function(found)
        if values.ndim == 2:
            values = np.sort(values, axis=1)
            values = values[:, -1] - values[:, -2]
        right = np.array([a == b for a, b in zip(predicted, labels, strict=True)])
        can = np.array([answerable is None or answerable[label] for label in predicted])
        return predicted, np.abs(values), right, can

    _, margin, right, can = judge(*validation)
    threshold = choose_threshold(
        torch.from_numpy(margin[can]), torch.from_numpy(right[can]), precision, certainty
    )
    predicted, margin, right, can = judge(*test)
    answered = can & (margin >= threshold)
    scores = _scores(test[1], predicted) | {"coverage": float(answered.mean())}
    return scores | ({"precision": float(right[answered].mean())} if answered.any() else {})


def _tfidf_svm(texts: Sequence[str], labels: Sequence[str], seed: int) -> tuple[Any, Any]:
    """The features and the classifier of `tfidf_linear`, fitted."""
    require_scikit_learn()
    if len(set(labels)) < 2:
        raise InputError("the linear baseline needs at least two classes to tell apart, got one")
    vectorizer: Any = import_module("sklearn.feature_extraction.text").TfidfVectorizer
    words = vectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    characters = vectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    features = import_module("sklearn.pipeline").FeatureUnion([("words", words), ("characters", characters)])
    # The dual problem: more features than texts; named, as the default differs between versions of scikit-learn.
    classifier = import_module("sklearn.svm").LinearSVC(dual=True, random_state=seed)
    classifier.fit(features.fit_transform(texts), list(labels))
    return features, classifier


def unigram_loss(train_ids: ArrayLike, test_ids: ArrayLike, vocab_size: int) -> float:
    """Nats for each of test_ids[1:] when symbols are predicted by their frequency in training, each counted once more.

    As everywhere in language modeling here the first test symbol is read and not predicted.
    Raises: InputError for ids outside 0 .. vocab_size-1, or fewer than two test symbols.
    """
    train, test = _checked(train_ids, vocab_size, 0), _checked(test_ids, vocab_size, 2)
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    return float(-np.log(counts / counts.sum())[test[1:]].mean())


def ngram_loss(train_ids: ArrayLike, test_ids: ArrayLike, vocab_size: int, order: int) -> float:
    """Nats for each of test_ids[1:] under an n-gram model; see `ngram_log_probabilities`."""
    return float(-ngram_log_probabilities(train_ids, test_ids, vocab_size, order).mean())


def ngram_log_probabilities(
    train_ids: ArrayLike, test_ids: ArrayLike, vocab_size: int, order: int
) -> NDArray[np.float64]:
    """Log-probability of each of test_ids[1:] given the up to order-1 test symbols before it: interpolated modified Kneser-Ney.

    Three discounts for each order, estimated from the training data; the lowest order is interpolated with 1 / vocab_size, so
    the probabilities of all symbols sum to one after any context. Of longer training data the last MOST_SYMBOLS are counted.
    Cost: `order` sorts of the training data; about 100 bytes for each training symbol.
    Source: Kneser & Ney 1995, ICASSP; Chen & Goodman 1998, Harvard TR-10-98, section 3.
    Raises: InputError for ids outside 0 .. vocab_size-1, order < 1, no training symbols or fewer than two test symbols.
    """
    if order < 1:
        raise InputError(f"order must be at least 1, got {order}")
    train = _checked(train_ids, vocab_size, 1)[-MOST_SYMBOLS:]
    test = _checked(test_ids, vocab_size, 2)
    order = min(order, len(train))
    probability = np.full(len(test), 1.0 / vocab_size)
    # The number of the k-gram that ends at each position from k-1 on; of the test symbols' too, where -1 is not in training.
    grams, seen, seen_contexts = train, test, np.zeros(len(test), np.int64)
    context_of, counts = np.zeros(vocab_size, np.int64), np.bincount(train, minlength=vocab_size)
    for k in range(1, order + 1):
        if k < order:
            longer = grams[:-1] * vocab_size + train[k:]
            keys, first, numbers, repeats = np.unique(
                longer, return_index=True, return_inverse=True, return_counts=True
            )
            # Lower orders count in how many contexts an n-gram occurs, not how often.
            counts = np.bincount(grams[first + 1], minlength=len(context_of))
        _interpolate(probability[k - 1 :], context_of, counts, seen, seen_contexts)
        if k == order or len(seen) == 1:
            break
        seen_contexts = seen[:-1]
        seen = _find(keys, np.where(seen_contexts < 0, -1, seen_contexts * vocab_size + test[k:]))
        grams, context_of, counts = numbers.reshape(-1), keys // vocab_size, repeats
    log_probabilities: NDArray[np.float64] = np.log(probability[1:])
    return log_probabilities


def _interpolate(
    probability: NDArray[np.float64], context_of: Ids, counts: Ids, seen: Ids, seen_contexts: Ids
) -> None:
    """From the probabilities of the next lower order to those of this one, in place, where the context was seen.

    Args: probability [n]; context_of, counts: of each n-gram in training; seen, seen_contexts: numbers of the n-gram and the
    context of each position [n], -1 where not in training.
    """
    discounts = discounts_of(counts)[np.minimum(counts, 3)]
    contexts = int(context_of.max()) + 1
    total = np.bincount(context_of, counts, contexts)
    freed = np.bincount(context_of, discounts, contexts)  # what discounting leaves for the lower order
    known = (seen_contexts >= 0) & (seen_contexts < contexts)
    known[known] = total[seen_contexts[known]] > 0
    at, gram = seen_contexts[known], seen[known]
    kept = np.where(gram >= 0, (counts - discounts)[gram], 0.0)
    probability[known] = (kept + freed[at] * probability[known]) / total[at]


def discounts_of(counts: Ids) -> NDArray[np.float64]:
    """What to subtract from counts of 0, 1, 2, and 3 or more."""
    n = [0, *(int((counts == number).sum()) for number in range(1, 5))]
    if min(n[1:4]) == 0:  # too little data, or too regular, to estimate from
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n[1] / (n[1] + 2 * n[2])
    estimates = [number - (number + 1) * y * n[number + 1] / n[number] for number in (1, 2, 3)]
    return np.array([0.0, *(min(max(estimate, 0.1), number) for number, estimate in enumerate(estimates, 1))])


def _find(keys: Ids, wanted: Ids) -> Ids:
    """Where each wanted number is in the sorted `keys`; -1 where it is not."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def _checked(ids: ArrayLike, vocab_size: int, least: int) -> Ids:
    found = np.asarray(ids)
    if found.ndim != 1 or (len(found) and not np.issubdtype(found.dtype, np.integer)):
        raise InputError(f"ids must be whole numbers [N], got {found.dtype} {list(found.shape)}")
    if len(found) < least:
        raise InputError(f"expected at least {least} symbols, got {len(found)}: use more text")
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < vocab_size:
        raise InputError(f"ids must be 0 to {vocab_size - 1}, got {int(found.min())} to {int(found.max())}")
    return found.astype(np.int64)


def _refuse_empty(train: Sequence[Any], test: Sequence[Any]) -> None:
    if not len(train) or not len(test):
        raise InputError(
            f"a baseline needs examples to train on and to test with, got {len(train)} and {len(test)}"
        )


def _scores(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Accuracy, and macro-F1 over the classes among targets or predictions, as `throughtime.metrics.MacroF1` counts them."""
    correct = Counter(target for target, found in zip(targets, predictions, strict=True) if target == found)
    occurrences = Counter(targets) + Counter(predictions)
    f1 = math.fsum(2 * correct[label] / count for label, count in occurrences.items()) / len(occurrences)
    return {"accuracy": correct.total() / len(targets), "macro_f1": f1}
