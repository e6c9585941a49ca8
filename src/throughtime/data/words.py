"""Words as whole numbers: of the word, of its pretrained vector, of its shape, and of its characters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime.errors import InputError

COLUMNS = 3  # before the characters: word, vector, shape
SHAPES = 9  # kinds of `shape_of`, 0 for padding
_DIGIT = re.compile(r"\d")
# Links, mentions and words with what is inside them; then one mark, or a run of equal ones.
_TOKEN = re.compile(r"https?://\S+|[@#]\w+|\w+(?:[.'’_-]\w+)*|([^\w\s])\1*")


class Token(NamedTuple):
    """A token and where it is in its text."""

    text: str
    start: int
    end: int


class WordTable:
    """Encodes words as rows [3 + length] of whole numbers: word, vector, shape, characters.

    The number of a word is 0 where it is unknown; digits count as 0 ("2017" is "0000"), and with `lower` capitals as small
    letters. Its characters keep both: character 0 is none, 1 an unknown one. Of a word of more than `length` characters
    the first and the last half are kept.

    Args: words, characters, vectors: what has a number, in order, the first being 1, 2 and 1.
    """

    def __init__(
        self, words: Sequence[str], characters: str, vectors: Sequence[str], *, lower: bool, length: int
    ) -> None:
        self.words, self.characters, self.vectors = tuple(words), characters, tuple(vectors)
        self.lower, self.length = lower, length
        self._words = {word: number for number, word in enumerate(self.words, start=1)}
        self._vectors = {word: number for number, word in enumerate(self.vectors, start=1)}
        self._characters = {character: number for number, character in enumerate(characters, start=2)}
        self._rows: dict[str, NDArray[np.int64]] = {}

    @classmethod
    def build(
        cls,
        sentences: Iterable[Sequence[str]],
        *,
        vectors: Sequence[str] = (),
        lower: bool = True,
        min_count: int = 2,
        length: int = 24,
    ) -> WordTable:
        """Number the words that occur at least `min_count` times, and all characters, the most frequent first."""
        counts: Counter[str] = Counter()
        characters: Counter[str] = Counter()
        for sentence in sentences:
            counts.update(normalized_word(word, lower) for word in sentence)
            for word in sentence:
                characters.update(word)
        words = [word for word, count in _by_frequency(counts) if count >= min_count]
        longest = max(map(len, counts), default=1)
        known = "".join(character for character, _ in _by_frequency(characters))
        return cls(words, known, vectors, lower=lower, length=min(length, longest))

    def encode(self, words: Sequence[str]) -> Tensor:
        """[t, 3 + length] int64."""
        if not words:
            return torch.zeros(0, COLUMNS + self.length, dtype=torch.int64)
        return torch.from_numpy(np.stack([self._row(word) for word in words]))

    def decode(self, row: Tensor) -> str:
        """The word of a row, from its characters; one that has no number is "?"."""
        numbers = [int(number) for number in row[COLUMNS:] if number]
        return "".join(self.characters[number - 2] if number > 1 else "?" for number in numbers)

    def knows(self, word: str) -> bool:
        """Whether it has a number of its own, or a pretrained vector."""
        row = self._row(word)
        return bool(row[0] or row[1])

    def to_values(self) -> dict[str, Any]:
        """As JSON values, for the assets of a run."""
        return {
            "words": list(self.words),
            "characters": self.characters,
            "vectors": list(self.vectors),
            "lower": self.lower,
            "length": self.length,
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> WordTable:
        """Read what `to_values` gave.

        Raises: InputError where it was damaged.
        """
        lists = [values.get(name) for name in ("words", "vectors")]
        length = values.get("length")
        sound = all(isinstance(each, list) and all(isinstance(word, str) for word in each) for each in lists)
        sound = sound and isinstance(values.get("characters"), str) and isinstance(values.get("lower"), bool)
        if not sound or not isinstance(length, int) or not 1 <= length <= 1000:
            raise InputError("the words in assets.json are damaged: train again, or put back a copy of it")
        return cls(
            values["words"], values["characters"], values["vectors"], lower=values["lower"], length=length
        )

    def _row(self, word: str) -> NDArray[np.int64]:
        if word in self._rows:
            return self._rows[word]
        row = np.zeros(COLUMNS + self.length, dtype=np.int64)
        row[0] = self._words.get(normalized_word(word, self.lower), 0)
        row[1] = next((self._vectors[form] for form in vector_forms(word) if form in self._vectors), 0)
        row[2] = shape_of(word)
        kept = word
        if len(word) > self.length:
            half = self.length // 2
            kept = word[: self.length - half] + (word[-half:] if half else "")
        row[COLUMNS : COLUMNS + len(kept)] = [self._characters.get(character, 1) for character in kept]
        self._rows[word] = row
        return row


def normalized_word(word: str, lower: bool) -> str:
    """A word as it is looked up: every digit 0, with `lower` in lower case."""
    word = _DIGIT.sub("0", word)
    return word.lower() if lower else word


def vector_forms(word: str) -> tuple[str, ...]:
    """The forms under which a file of vectors may have a word, the best first: as it is, in lower case, its digits 0."""
    lower = word.lower()
    return tuple(dict.fromkeys((word, lower, _DIGIT.sub("0", word), _DIGIT.sub("0", lower))))


def shape_of(word: str) -> int:
    """1 to 8: lower case, Capitalized, CAPITALS, miXed, digits, digits with letters, letters without case, marks."""
    digits = any(character.isdigit() for character in word)
    letters = [character for character in word if character.isalpha()]
    if digits:
        return 6 if letters else 5
    if not letters:
        return 8
    if word.islower():
        return 1
    if word.isupper():
        return 3 if len(letters) > 1 else 2
    if letters[0].isupper() and not any(character.isupper() for character in letters[1:]):
        return 2
    return 4 if any(character.isupper() for character in letters) else 7


def tokenized(text: str) -> list[Token]:
    """Words, numbers, links, mentions and punctuation marks; white space separates and is left out.

    For languages that put no spaces between words, give the tokens themselves.
    """
    return [Token(match[0], match.start(), match.end()) for match in _TOKEN.finditer(text)]


def _by_frequency(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
