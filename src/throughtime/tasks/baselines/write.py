"""What a model that writes in styles should beat, n-grams of each style, and what judges the style of what it writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import InputError
from throughtime.tasks.baselines.texts import Ids, ngram_log_probabilities, require_scikit_learn

_PIECES = re.compile(r"\w+|[^\w ]")
_ROUNDS = 50  # of EM; the log-likelihood of one weight has no other maxima


class Texts(NamedTuple):
    """The symbols of some texts, each with its end, and the number of each text's style."""

    ids: Sequence[Ids]
    styles: Sequence[int]

    def of(self, style: int) -> list[Ids]:
        """Those of a style."""
        return [ids for ids, other in zip(self.ids, self.styles, strict=True) if other == style]


def style_baselines(
    train: Texts, validation: Texts, test: Texts, size: int, end: int, order: int
) -> dict[str, float]:
    """Nats for all symbols of the test texts together, by baseline.

    symbol frequencies: of the style's training texts, each symbol counted once more. n-gram: interpolated modified Kneser-Ney
    over all training texts, the style unknown; and its probabilities mixed with those of an n-gram model of the style alone, the
    weight being that which is best on the validation texts (EM), one half without any. Each text begins after order-1 ends.
    Args: size, of the vocabulary; end, the symbol that ends a text.
    Raises: InputError for no texts.
    Cost: for each style an n-gram model of its texts, and one of all of them; seconds for a million symbols.
    """
    if not train.ids or not test.ids:
        raise InputError(
            f"a baseline needs texts to train on and to test with, got {len(train.ids)} and {len(test.ids)}"
        )

    def log_probabilities(texts: Sequence[Ids], of: list[Ids]) -> NDArray[np.float64]:
        return _log_probabilities(texts, of, size, end, order) if of else np.zeros(0)

    def both(held: Texts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each symbol, under the n-gram model of its style, and under that of all."""
        styles = sorted(set(held.styles))
        own = [log_probabilities(train.of(style) or train.ids, held.of(style)) for style in styles]
        everything = log_probabilities(train.ids, [ids for style in styles for ids in held.of(style)])
        return np.concatenate([np.zeros(0), *own]), everything

    unigram = 0.0
    for style in set(test.styles):
        counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *train.of(style)]), minlength=size) + 1.0
        unigram -= float(np.log(counts / counts.sum())[np.concatenate(test.of(style))].sum())
    own_test, all_test = both(test)
    weight = _weight(*both(validation))
    mixed = np.logaddexp(own_test + np.log(weight), all_test + np.log1p(-weight))
    return {
        "symbol frequencies of the style": unigram,
        f"{order}-gram, Kneser-Ney, all styles": float(-all_test.sum()),
        f"{order}-gram, Kneser-Ney, its style and all": float(-mixed.sum()),
    }


def _log_probabilities(
    texts: Sequence[Ids], of: Sequence[Ids], size: int, end: int, order: int
) -> NDArray[np.float64]:
    """Log-probability of each symbol of the texts `of` under an n-gram model of `texts`; order - 1 ends stand before each."""
    start = np.full(max(order - 1, 1), end, np.int64)
    joined, test = (np.concatenate([part for ids in each for part in (start, ids)]) for each in (texts, of))
    counted = np.concatenate([np.arange(len(start) + len(ids)) >= len(start) for ids in of])
    found: NDArray[np.float64] = ngram_log_probabilities(joined, test, size, order)[counted[1:]]
    return found


def _weight(own: NDArray[np.float64], everything: NDArray[np.float64]) -> float:
    """The weight of the first of two models whose mixture gives the largest likelihood; inside 0.001 to 0.999."""
    weight = 0.5
    if not len(own):
        return weight
    for _ in range(_ROUNDS):
        first = own + np.log(weight)
        weight = float(np.exp(first - np.logaddexp(first, everything + np.log1p(-weight))).mean())
        weight = min(max(weight, 0.001), 0.999)
    return weight


def style_judge(
    texts: Sequence[str], styles: Sequence[str], seed: int = 0
) -> Callable[[Sequence[str], Sequence[str]], float]:
    """A classifier of styles, trained on texts: a function of other texts and their styles, the fraction that it judges right,
    the mean over the styles.

    Features: TF-IDF of 1 to 4 characters, and of 1 to 4 pieces of a text's shape, where a word is its number of letters. Linear
    support vector machine, each style weighted by the inverse of its frequency.
    Raises: InputError without scikit-learn, or for fewer than two styles.
    Cost: seconds for 10,000 short texts.
    """
    require_scikit_learn()
    if len(set(styles)) < 2:
        raise InputError("style_accuracy needs at least two styles to tell apart, got one")
    vectorizer: Any = import_module("sklearn.feature_extraction.text").TfidfVectorizer
    characters = vectorizer(analyzer="char", lowercase=False, ngram_range=(1, 4), sublinear_tf=True)
    shapes = vectorizer(analyzer=shape, sublinear_tf=True)
    features = import_module("sklearn.pipeline").FeatureUnion(
        [("characters", characters), ("shapes", shapes)]
    )
    classifier = import_module("sklearn.svm").LinearSVC(dual=True, class_weight="balanced", random_state=seed)
    classifier.fit(features.fit_transform(texts), list(styles))

    def judge(written: Sequence[str], asked: Sequence[str]) -> float:
        if not written:
            raise InputError("expected at least one text to judge, got none")
        found = classifier.predict(features.transform(written)).tolist()
        shares = [
            np.mean([a == b for a, b in zip(found, asked, strict=True) if b == style]) for style in set(asked)
        ]
        return float(np.mean(shares))

    return judge


def shape(text: str) -> list[str]:
    """The n-grams, 1 to 4, of a text's words and marks: each word is its number of letters, each line end and mark itself."""
    pieces = [
        str(len(piece)) if piece[0].isalnum() or piece[0] == "_" else piece for piece in _PIECES.findall(text)
    ]
    pieces = ["^", *pieces, "$"]
    return [" ".join(pieces[at : at + n]) for n in range(1, 5) for at in range(len(pieces) - n + 1)]
