"""Vocabularies of words and of byte pairs, through the `tokenizers` library.

Both first cut text into the same pre-tokens: a word or a punctuation mark together with the one space before
it, a newline, or other white space. The pre-tokens of a text, joined, are the text, so both decode to exactly
what was encoded. No pre-token reaches past a newline, a space after a word, or most punctuation, so a text can be cut there
and its parts encoded one after the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from throughtime.data.text import text_chunks
from throughtime.data.vocabulary import Vocabulary
from throughtime.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A word keeps its inner apostrophes; of a run of spaces the last goes with the word that follows.
PRE_TOKEN = r" ?<unk>| ?\w+(?:['’]\w+)*| ?[^\w\s]|[^\S\n]+(?=[^\S\n])|\s"
UNKNOWN = " <unk>"  # a word, and words carry the space before them
CHUNK = 1 << 16  # characters given to `tokenizers` as one string: its cost grows faster than the text
LONGEST = 1 << 18  # characters more that are searched for a boundary; longer words are cut
_TOGETHER = 16  # chunks encoded in parallel; the library's result takes about 200 bytes for each symbol
# Where a pre-token ends for certain: after a newline or closing punctuation, before a space that follows a word.
_BOUNDARY = re.compile(r"\n|(?<=\w)(?= )|(?<=[.,;:!?)\]}。，、！？；：）】」』])")


class _TokenizerVocabulary(Vocabulary):
    """What words and byte pairs share. The JSON holds the tokenizer in the library's own format."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        numbers = tokenizer.get_vocab(with_added_tokens=False)
        super().__init__([self.to_bytes(symbol) for symbol in sorted(numbers, key=numbers.__getitem__)])
        self._tokenizer = tokenizer

    @staticmethod
    def empty() -> Tokenizer:
        """The tokenizer before it has seen any text."""
        raise NotImplementedError

    @staticmethod
    def to_bytes(symbol: str) -> bytes:
        """What a symbol of the tokenizer stands for."""
        raise NotImplementedError

    @classmethod
    def check(cls, numbers: dict[str, int]) -> None:
        """Raise InputError when a vocabulary that was read cannot be one of ours."""
        if sorted(numbers.values()) != list(range(len(numbers))):
            raise InputError(f"the ids of a {cls.kind} vocabulary must be 0 to {len(numbers) - 1}, each once")

    @classmethod
    def of_data(cls, data: dict[str, Any]) -> Vocabulary:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_str(json.dumps(data["tokenizer"]))
        except Exception as error:  # the library raises nothing narrower
            raise InputError(f"the 'tokenizer' of a {cls.kind} vocabulary is damaged: {error}") from None
        if set(data) != {"kind", "tokenizer"} or _settings(tokenizer) != _settings(cls.empty()):
            raise InputError(
                f"not a {cls.kind} vocabulary of throughtime: its tokenizer cuts text in another way"
            )
        cls.check(tokenizer.get_vocab(with_added_tokens=False))
        return cls(tokenizer)

    def settled(self, text: str) -> int:
        return max((found.end() for found in _BOUNDARY.finditer(text)), default=0)

    def encode_chunks(self, text: str) -> Iterator[Tensor]:
        for chunks in _batched(_chunks(text), _TOGETHER):
            encodings = self._tokenizer.encode_batch_fast(chunks, add_special_tokens=False)
            yield torch.cat([torch.tensor(each.ids, dtype=torch.int64) for each in encodings])

    def pieces(self, text: str) -> list[str]:
        """The part of the text behind each id of `encode(text)`, also where the id is that of unknown symbols."""
        encodings = (self._tokenizer.encode(chunk, add_special_tokens=False) for chunk in _chunks(text))
        return [
            chunk[a:b]
            for chunk, encoding in zip(_chunks(text), encodings, strict=True)
            for a, b in encoding.offsets
        ]

    def to_json(self) -> str:
        return json.dumps(
            {"kind": self.kind, "tokenizer": json.loads(self._tokenizer.to_str())}, ensure_ascii=False
        )


class WordVocabulary(_TokenizerVocabulary):
    """Words and punctuation marks, the most frequent first; 0 stands for every other word.

    "time" and " time" are two symbols: that is the price of decoding to the very same text without a symbol for
    each space; one can be known and the other not. An unknown word decodes to " <unk>".
    """

    kind: ClassVar[str] = "word"
    unknown: ClassVar[int | None] = 0

    @staticmethod
    def empty() -> Tokenizer:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers

        tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PRE_TOKEN), "isolated")
        return tokenizer

    @staticmethod
    def to_bytes(symbol: str) -> bytes:
        return symbol.encode()

    def with_symbols(self, symbols: Iterable[str]) -> WordVocabulary:
        """The same with more symbols behind its own."""
        from tokenizers import models

        numbers = self._tokenizer.get_vocab(with_added_tokens=False)
        for symbol in symbols:
            numbers.setdefault(symbol, len(numbers))
        tokenizer = self.empty()
        tokenizer.model = models.WordLevel(numbers, unk_token=UNKNOWN)
        return type(self)(tokenizer)

    @classmethod
    def of_text(cls, text: str, size: int | None) -> Vocabulary:
        from tokenizers import models, trainers

        size = 10_000 if size is None else size
        if size < 2:
            raise InputError(
                f"a word vocabulary must have at least 2 symbols, one of them{UNKNOWN}, got {size}"
            )
        tokenizer = cls.empty()
        trainer = trainers.WordLevelTrainer(vocab_size=size, special_tokens=[], show_progress=False)
        tokenizer.train_from_iterator(_chunks(text), trainer)
        ranks = tokenizer.get_vocab(with_added_tokens=False)
        words = sorted(ranks.keys() - {UNKNOWN}, key=ranks.__getitem__)[: size - 1]
        numbers = {word: number for number, word in enumerate([UNKNOWN, *words])}
        tokenizer.model = models.WordLevel(numbers, unk_token=UNKNOWN)
        return cls(tokenizer)

    @classmethod
    def check(cls, numbers: dict[str, int]) -> None:
        super().check(numbers)
        if numbers.get(UNKNOWN) != 0:
            raise InputError(f"id 0 of a word vocabulary must be {UNKNOWN!r}")

    def unknown_symbols(self, text: str) -> list[str]:
        words: dict[str, None] = {}
        for chunk in _chunks(text):
            encoding = self._tokenizer.encode(chunk, add_special_tokens=False)
            pairs = zip(encoding.ids, encoding.offsets, strict=True)
            words.update((chunk[a:b], None) for number, (a, b) in pairs if number == self.unknown)
        return [word for word in words if word != UNKNOWN]  # there the text itself says that it is unknown


class BPEVocabulary(_TokenizerVocabulary):
    """Byte-level pair encoding: 256 bytes, then the merges; encodes every text, decodes it exactly.

    Source: Sennrich, Haddow & Birch 2016, ACL; over bytes as in Radford et al. 2019.
    """

    kind: ClassVar[str] = "bpe"
    unknown: ClassVar[int | None] = None

    @staticmethod
    def empty() -> Tokenizer:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers

        tokenizer = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(PRE_TOKEN), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
        return tokenizer

    @staticmethod
    def to_bytes(symbol: str) -> bytes:
        return bytes(_BYTE_OF[character] for character in symbol)

    @classmethod
    def of_text(cls, text: str, size: int | None) -> Vocabulary:
        from tokenizers import trainers

        size = 2_000 if size is None else size
        if size < 256:
            raise InputError(
                f"a bpe vocabulary must have at least 256 symbols, one for each byte, got {size}"
            )
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(_BYTE_OF), show_progress=False)
        tokenizer = cls.empty()
        tokenizer.train_from_iterator(_chunks(text), trainer)
        return cls(tokenizer)

    @classmethod
    def check(cls, numbers: dict[str, int]) -> None:
        super().check(numbers)
        if not set(_BYTE_OF) <= set(numbers):
            raise InputError("a bpe vocabulary must have a symbol for each of the 256 bytes")
        for symbol in numbers:
            if not set(symbol) <= set(_BYTE_OF):
                raise InputError(
                    f"symbol {symbol!r} of a bpe vocabulary must be written in the byte alphabet"
                )

    def unknown_symbols(self, text: str) -> list[str]:
        return []


def _chunks(text: str) -> Iterator[str]:
    """The text in chunks of about CHUNK characters that pre-tokens do not cross; words longer than LONGEST are cut."""
    return text_chunks(text, _BOUNDARY, CHUNK, LONGEST)


def _batched(chunks: Iterator[str], size: int) -> Iterator[list[str]]:
    while together := list(islice(chunks, size)):
        yield together


def _settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """All of a tokenizer but what it learned."""
    settings: dict[str, Any] = json.loads(tokenizer.to_str())
    settings["model"] = {key: v for key, v in settings["model"].items() if key not in ("vocab", "merges")}
    return settings


def _byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level encoding writes for each byte.

    A byte that Latin-1 prints is its own character; the others, in order, are U+0100 and up.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in sorted(printable)} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }


_BYTE_OF = _byte_alphabet()
