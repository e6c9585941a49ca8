"""What a tagger should beat: the most frequent tag, the most frequent tag of each word, and a CRF over features."""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from throughtime.data.readers.spans import spans_of
from throughtime.data.readers.tagged import Sentence
from throughtime.data.words import shape_of
from throughtime.errors import InputError

_REGULARIZATION = {"c1": 0.1, "c2": 0.01, "max_iterations": 100, "feature.possible_transitions": True}
Tags = list[list[str]]


def require_crfsuite() -> Any:
    """The library python-crfsuite.

    Raises: InputError saying what to install.
    """
    try:
        return import_module("pycrfsuite")
    except ImportError:
        raise InputError(
            "the CRF baseline needs python-crfsuite, which is not installed: pip install 'throughtime[baselines]'"
        ) from None


def most_frequent_tag(train: Sequence[Sentence], test: Sequence[Sentence], masked: str = "") -> Tags:
    """The most frequent training tag for every token."""
    counts = Counter(tag for sentence in train for tag in sentence.tags if tag != masked)
    tag = _first(counts)
    return [[tag] * len(sentence.tokens) for sentence in test]


def most_frequent_by_word(train: Sequence[Sentence], test: Sequence[Sentence], masked: str = "") -> Tags:
    """The most frequent training tag of each word; of a word that is not there, the most frequent one of all."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sentence in train:
        for token, tag in zip(*sentence, strict=True):
            if tag != masked:
                counts[token][tag] += 1
    others = _first(sum(counts.values(), Counter()))
    known = {token: _first(tags) for token, tags in counts.items()}
    return [[known.get(token, others) for token in sentence.tokens] for sentence in test]


def feature_crf(train: Sequence[Sentence], test: Sequence[Sentence]) -> Tags:
    """A linear-chain CRF over features of words, python-crfsuite's, trained by L-BFGS with L1 and L2 regularization.

    Features: the word in lower case, its first and last 1 to 4 characters, its shape, and of two words before and
    after it the word and the shape. Nothing is tuned. Masked tokens have a label of their own.
    Raises: InputError without python-crfsuite. Cost: 10 to 60 seconds for 60,000 tokens, by the number of tags.
    """
    crfsuite = require_crfsuite()
    trainer = crfsuite.Trainer(verbose=False)
    for sentence in train:
        trainer.append(features_of(sentence.tokens), [f"={tag}" for tag in sentence.tags])
    trainer.set_params(_REGULARIZATION)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "crf")
        trainer.train(path)
        tagger = crfsuite.Tagger()
        tagger.open(path)
        found = [
            [tag.removeprefix("=") for tag in tagger.tag(features_of(sentence.tokens))] for sentence in test
        ]
        tagger.close()
    return found


def features_of(tokens: Sequence[str]) -> list[list[str]]:
    """The features of each token of a sentence."""
    lower = [token.lower() for token in tokens]
    shapes = [str(shape_of(token)) for token in tokens]
    found = []
    for place, word in enumerate(lower):
        features = ["bias", f"w={word}", f"shape={shapes[place]}", f"length={min(len(word), 8)}"]
        for length in range(1, 5):
            features += [f"start={word[:length]}", f"end={word[-length:]}"]
        for step in (-2, -1, 1, 2):
            other = place + step
            if 0 <= other < len(lower):
                features += [f"{step}:w={lower[other]}", f"{step}:shape={shapes[other]}"]
            else:
                features.append(f"{step}:none")
        found.append(features)
    return found


def span_scores(expected: Sequence[Sequence[str]], predicted: Tags) -> dict[str, float]:
    """F1, precision and recall of exact spans, as `throughtime.metrics.tagging.SpanF1` counts them."""
    correct = found = wanted = 0
    for tags, others in zip(expected, predicted, strict=True):
        spans, ours = set(spans_of(tags)), set(spans_of(others))
        correct, found, wanted = correct + len(spans & ours), found + len(ours), wanted + len(spans)
    return {
        "f1": 2 * correct / max(1, found + wanted),
        "precision": correct / max(1, found),
        "recall": correct / max(1, wanted),
    }


def tag_scores(expected: Sequence[Sequence[str]], predicted: Tags, masked: str = "") -> dict[str, float]:
    """The fraction of tokens with the right tag, masked ones left out."""
    pairs = [
        (tag, other)
        for tags, others in zip(expected, predicted, strict=True)
        for tag, other in zip(tags, others, strict=True)
        if tag != masked
    ]
    return {"accuracy": sum(tag == other for tag, other in pairs) / max(1, len(pairs))}


def tagging_baselines(
    train: Sequence[Sentence],
    test: Sequence[Sentence],
    score: Callable[[Sequence[Sequence[str]], Tags], dict[str, float]],
) -> dict[str, dict[str, float] | str]:
    """The scores of all three, by name; text where one could not be computed."""
    expected = [sentence.tags for sentence in test]
    found: dict[str, dict[str, float] | str] = {
        "most frequent tag": score(expected, most_frequent_tag(train, test)),
        "most frequent tag of the word": score(expected, most_frequent_by_word(train, test)),
    }
    try:
        found["CRF over features"] = score(expected, feature_crf(train, test))
    except InputError as error:  # python-crfsuite is not installed
        found["CRF over features"] = str(error)
    return found


def _first(counts: Counter[str]) -> str:
    return min(counts, key=lambda tag: (-counts[tag], tag)) if counts else ""
