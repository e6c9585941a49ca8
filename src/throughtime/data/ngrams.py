"""Character n-grams of words as numbers, so that a word that was never seen is made of parts that were."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

SIZES = (3, 4)
MOST = 24  # n-grams of one word that are kept: those of 11 letters


def ngram_ids(words: Sequence[str], buckets: int) -> Tensor:
    """The n-grams of each word, int64 [N, MOST]: 1 to `buckets`, then 0 where a word has no more.

    A word is lower-cased and stripped of white space, and its ends are marked: "Card" has <ca, car, ard, rd>, <car, card, ard>.
    Punctuation has none. An n-gram's number is its CRC-32 modulo `buckets`, so some share one, and no list of them is kept.
    """
    table = torch.zeros(len(words), MOST, dtype=torch.int64)
    for row, word in enumerate(words):
        found = _numbers(word, buckets)
        table[row, : len(found)] = torch.tensor(found, dtype=torch.int64)
    return table


@lru_cache(maxsize=100_000)
def _numbers(word: str, buckets: int) -> tuple[int, ...]:
    if not any(map(str.isalnum, word)):
        return ()
    marked = f"<{word.strip().lower()}>"
    grams = (marked[at : at + size] for size in SIZES for at in range(len(marked) - size + 1))
    kept = list(dict.fromkeys(grams))[:MOST]
    return tuple(zlib.crc32(gram.encode("utf-8", "replace")) % buckets + 1 for gram in kept)
