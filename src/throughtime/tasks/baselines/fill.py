"""What a model that fills blanks should beat: the most frequent word, and trigrams of the words around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import InputError
from throughtime.tasks.baselines.texts import Ids, discounts_of

Numbers = NDArray[np.float64]
_TOP = 5


class Trigrams:
    """Trigrams over sentences: interpolated modified Kneser-Ney, with the beginning and the end of each sentence.

        before(t) = P(w | w_{t-2}, w_{t-1})
        both(t)  ~= P(w | w_{t-2}, w_{t-1}) P(w_{t+1} | w_{t-1}, w) P(w_{t+2} | w, w_{t+1})

    The second is what the same model knows of a blank from the whole sentence: by Bayes' rule, of all its factors these three
    hold the blank. Symbol number `size` is both ends of a sentence; two of it stand before the first word.
    Cost: sorts of the training data; then a few operations on `size` numbers for each blank.
    Source: Kneser & Ney 1995, ICASSP; Chen & Goodman 1998, Harvard TR-10-98, section 3.
    """

    def __init__(self, sentences: Sequence[Ids], size: int) -> None:
        if not sentences:
            raise InputError("trigrams need sentences to be counted in, got none")
        self.size, self._n = size, (n := size + 1)
        padded = [np.concatenate([[size, size], each, [size]]).astype(np.int64) for each in sentences]
        a, b, c = (np.concatenate([each[i : len(each) - 2 + i] for each in padded]) for i in range(3))
        keys, counts = np.unique((a * n + b) * n + c, return_counts=True)
        a, b, c = keys // (n * n), keys // n % n, keys % n
        kept, pairs, freed = _interpolated(a * n + b, counts)
        self._third = _Lookup(a * n + b, c, kept)
        self._second = _Lookup(a * n + c, b, kept)
        self._first = _Lookup(b * n + c, a, kept)
        self._freed = dict(zip(pairs.tolist(), freed.tolist(), strict=True))
        self._freed_after = _Lookup(pairs // n, pairs % n, freed)  # of pairs that begin with a symbol
        self._freed_before = _Lookup(pairs % n, pairs // n, freed)  # of pairs that end with it
        # Lower orders count in how many contexts an n-gram occurs, not how often.
        keys, counts = np.unique(b * n + c, return_counts=True)
        b, c = keys // n, keys % n
        kept, contexts, freed = _interpolated(b, counts)
        self._next, self._before = _Lookup(b, c, kept), _Lookup(c, b, kept)
        self._freed_one = np.ones(n)
        self._freed_one[contexts] = freed
        counts = np.bincount(c, minlength=n)
        discounts = discounts_of(counts)[np.minimum(counts, 3)]
        self._one = (counts - discounts + discounts.sum() / n) / counts.sum()

    def before(self, a: int, b: int) -> Numbers:
        """Of every symbol after a, b: [size + 1], the sum is one."""
        p: Numbers = self._freed_one[b] * self._one
        self._next.add(p, b)
        p *= self._freed.get(a * self._n + b, 1.0)
        self._third.add(p, a * self._n + b)
        return p

    def both(self, a: int, b: int, c: int, d: int | None) -> Numbers:
        """Of every symbol between a, b and c, d, up to a factor; d is None where c is the end of the sentence."""
        found = self.before(a, b)
        p = self._freed_one * self._one[c]
        self._before.add(p, c)
        self._freed_after.multiply(p, b)
        self._second.add(p, b * self._n + c)
        found *= p
        if d is not None:
            p = np.full(self._n, self._freed_one[c] * self._one[d] + self._next.value(c, d))
            self._freed_before.multiply(p, c)
            self._first.add(p, c * self._n + d)
            found *= p
        return found


class _Lookup:
    """Symbols and their numbers by key."""

    def __init__(self, keys: Ids, symbols: Ids, values: Numbers) -> None:
        order = np.argsort(keys, kind="stable")
        self._symbols, self._values = symbols[order], values[order]
        found, starts = np.unique(keys[order], return_index=True)
        stops = [*starts[1:].tolist(), len(keys)]
        self._places = {
            key: slice(start, stop)
            for key, start, stop in zip(found.tolist(), starts.tolist(), stops, strict=True)
        }

    def add(self, to: Numbers, key: int) -> None:
        """Add the numbers of a key to those of its symbols; each symbol is there once."""
        if (place := self._places.get(key)) is not None:
            to[self._symbols[place]] += self._values[place]

    def multiply(self, to: Numbers, key: int) -> None:
        """Multiply the numbers of its symbols by those of a key."""
        if (place := self._places.get(key)) is not None:
            to[self._symbols[place]] *= self._values[place]

    def value(self, key: int, symbol: int) -> float:
        """The number of one symbol, 0 where there is none."""
        place = self._places.get(key)
        return 0.0 if place is None else float(self._values[place][self._symbols[place] == symbol].sum())


def _interpolated(contexts: Ids, counts: Ids) -> tuple[Numbers, Ids, Numbers]:
    """Of each n-gram its discounted fraction of its context's count; the contexts, and the fraction left to the lower order."""
    names, at = np.unique(contexts, return_inverse=True)
    discounts = discounts_of(counts)[np.minimum(counts, 3)]
    total = np.bincount(at, counts)
    return (counts - discounts) / total[at], names, np.bincount(at, discounts) / total


def fill_baselines(
    train: Sequence[Ids], test: Sequence[Ids], asked: NDArray[np.bool_], unknown: int
) -> dict[str, dict[str, float]]:
    """Perplexity, top-1 and top-5 of the three baselines on the blanks of `test`, each symbol that is asked for one blank.

    Args: sentences as ids; asked, bool [V]: probabilities are over these symbols, as others are never missing; unknown, the
    symbol that is no answer.
    """
    size = len(asked)
    counts = np.bincount(np.concatenate(train), minlength=size).astype(np.float64) + 1
    model = Trigrams(train, size)
    names = ("most frequent word", "trigrams, words before", "trigrams, both sides")
    totals = {name: np.zeros(4) for name in names}  # loss, top 1, top 5, blanks
    for sentence in test:
        for target, a, b, c, d in _blanks(sentence, asked, size):
            both = model.both(a, b, c, d)
            for name, p in zip(names, (counts, model.before(a, b)[:size], both[:size]), strict=True):
                totals[name] += _score(p, target, asked, unknown)
    found = {}
    for name, (loss, first, five, blanks) in totals.items():
        mean = loss / blanks
        found[name] = {
            "perplexity": math.exp(min(mean, 700)),
            "top_1": first / blanks,
            "top_5": five / blanks,
            "loss": mean,
        }
    return found


def _blanks(
    sentence: Ids, asked: NDArray[np.bool_], end: int
) -> Iterator[tuple[int, int, int, int, int | None]]:
    """Each blank: what stands there, the two symbols before it and the two after it."""
    padded = [end, end, *sentence.tolist(), end]
    for place in range(2, len(padded) - 1):
        if asked[padded[place]]:
            a, b, target, c = padded[place - 2 : place + 2]
            yield target, a, b, c, padded[place + 2] if place + 2 < len(padded) else None


def _score(
    p: Numbers, target: int, asked: NDArray[np.bool_], unknown: int
) -> tuple[float, float, float, float]:
    """Loss, top 1, top 5 and one blank; equal probabilities rank by number, as in `throughtime.metrics.top_k`."""
    p = np.where(asked, p, 0.0)
    loss = -math.log(p[target] / p.sum())
    p[unknown] = -1.0
    rank = int((p > p[target]).sum() + (p[:target] == p[target]).sum())
    known = target != unknown
    return loss, float(known and rank < 1), float(known and rank < _TOP), 1.0
