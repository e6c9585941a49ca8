"""What a trained translator should beat: the source itself, and the translation of the most similar training sentence."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from throughtime.metrics.translation import TranslationMetric
from throughtime.tasks.baselines.texts import require_scikit_learn

_ROWS = 256  # sentences compared at a time


def nearest_translations(sources: Sequence[str], targets: Sequence[str], asked: Sequence[str]) -> list[str]:
    """For each sentence the translation of the training sentence whose TF-IDF vector is nearest, the first of equally near ones.

    Vectors of 1 to 4 characters inside words, in lower case, 1 + log(count), scaled to length 1; the cosine. Nothing tuned.
    Raises: InputError without scikit-learn.
    Cost: a sparse product of the sentences with the training part, `_ROWS` sentences at a time.
    """
    require_scikit_learn()
    vectorizer: Any = import_module("sklearn.feature_extraction.text").TfidfVectorizer
    features = vectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, dtype=np.float32)
    known = features.fit_transform(sources).T.tocsr()
    vectors = features.transform(asked)
    found: list[int] = []
    for start in range(0, len(asked), _ROWS):
        scores = (vectors[start : start + _ROWS] @ known).toarray()
        found += scores.argmax(1).tolist()
    return [targets[number] for number in found]


def scores(
    metrics: Sequence[TranslationMetric], texts: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """The metrics of some texts."""
    pairs = list(zip(texts, references, strict=True))
    for metric in metrics:
        metric.add(pairs)
    return {metric.name: metric.value() for metric in metrics}
