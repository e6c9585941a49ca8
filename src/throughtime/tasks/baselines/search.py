"""What a trained search should beat: random order, TF-IDF and BM25, over the same passages."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.data.readers.passages import plain_words
from throughtime.tasks.baselines.texts import require_scikit_learn

RECALLS = (1, 10, 100)
_ROWS = 256  # queries scored at a time


class BM25:
    """Okapi BM25 over the words of `plain_words`.

        score of a passage = sum over the query's words w that are in it of
        ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) * f (k1 + 1) / (f + k1 (1 - b + b length / mean length))

    with n_w of N passages that contain w and f its count in this one. A word that the query repeats counts as often.
    Cost: one pass over the passages; for a query, the passages that contain each of its words.
    Source: Robertson & Zaragoza 2009, Foundations and Trends in Information Retrieval 3(4); the logarithm is Lucene's.
    """

    def __init__(self, passages: Sequence[str], k1: float = 1.5, b: float = 0.75) -> None:
        self.size = len(passages)
        counts = [Counter(plain_words(text).split()) for text in passages]
        lengths = [each.total() for each in counts]
        mean = max(1.0, sum(lengths) / max(1, len(lengths)))
        postings: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, (each, length) in enumerate(zip(counts, lengths, strict=True)):
            for word, count in each.items():
                weight = count * (k1 + 1) / (count + k1 * (1 - b + b * length / mean))
                postings[word].append((number, weight))
        self._postings: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for word, found in postings.items():
            rarity = math.log(1 + (self.size - len(found) + 0.5) / (len(found) + 0.5))
            numbers, weights = zip(*found, strict=True)
            self._postings[word] = np.array(numbers), rarity * np.array(weights)

    def scores(self, query: str) -> NDArray[np.float64]:
        """The score of every passage, [N]; 0 where no word is shared."""
        scores = np.zeros(self.size)
        for word in plain_words(query).split():
            if word in self._postings:
                numbers, weights = self._postings[word]
                scores[numbers] += weights
        return scores


def random_order(passages: int) -> dict[str, float]:
    """What a random order of so many passages gives in expectation: MRR H_N / N, recall k / N."""
    mrr = math.fsum(1 / rank for rank in range(1, passages + 1)) / passages
    return {"mrr": mrr, **{f"recall@{k}": min(1.0, k / passages) for k in RECALLS}}


def bm25(queries: Sequence[str], passages: Sequence[str], correct: Sequence[int]) -> dict[str, float]:
    """MRR and recall of BM25, k1 = 1.5, b = 0.75, nothing tuned."""
    index = BM25(passages)
    return _scores(queries, correct, lambda some: np.stack([index.scores(query) for query in some]))


def tfidf_cosine(queries: Sequence[str], passages: Sequence[str], correct: Sequence[int]) -> dict[str, float]:
    """MRR and recall of the cosine of TF-IDF vectors, over the words of `plain_words` and 2 to 4 characters inside them.

    1 + log(count) of words and of characters, each scaled to length 1; the sum of both cosines. Nothing tuned.
    Raises: InputError without scikit-learn.
    """
    require_scikit_learn()
    vectorizer: Any = import_module("sklearn.feature_extraction.text").TfidfVectorizer
    words = vectorizer(sublinear_tf=True, token_pattern=r"\S+")
    characters = vectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    union = import_module("sklearn.pipeline").FeatureUnion([("words", words), ("characters", characters)])
    matrix = union.fit_transform(_plain(passages)).T.tocsr()
    return _scores(queries, correct, lambda some: (union.transform(_plain(some)) @ matrix).toarray())


def _plain(texts: Sequence[str]) -> list[str]:
    return [plain_words(text) for text in texts]


def _scores(
    queries: Sequence[str], correct: Sequence[int], score: Callable[[Sequence[str]], Any]
) -> dict[str, float]:
    """MRR and recall from a function that scores all passages for some queries, [n, N]."""
    import torch

    from throughtime.metrics.ranking import ranks, recall_at, reciprocal_rank

    found = torch.cat(
        [
            ranks(
                torch.from_numpy(score(queries[start : start + _ROWS])),
                torch.tensor(correct[start : start + _ROWS]),
            )
            for start in range(0, len(queries), _ROWS)
        ]
    )
    return {
        "mrr": float(reciprocal_rank(found).mean()),
        **{f"recall@{k}": float(recall_at(found, k).mean()) for k in RECALLS},
    }
