"""From text to ids and back: what every vocabulary offers."""

from __future__ import annotations

import codecs
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from throughtime.errors import InputError, one_of

KINDS = ("char", "word", "space", "bpe")


class Vocabulary(ABC):
    """A numbering of symbols; each symbol is the UTF-8 bytes that it stands for.

    Text is the concatenation of its symbols, so `decode(encode(text)) == text` whenever nothing is unknown; only the kind
    "space" gives back single spaces whatever white space there was. A vocabulary never changes once built. Build one with
    `Vocabulary.build`, read one with `from_json`.
    """

    kind: ClassVar[str]
    unknown: ClassVar[int | None]
    """The id of what is not in the vocabulary; None when everything is."""

    def __init__(self, symbols: Sequence[bytes]) -> None:
        self.symbols: tuple[bytes, ...] = tuple(symbols)

    @staticmethod
    def build(kind: str, text: str, size: int | None = None) -> Vocabulary:
        """The vocabulary of `text`, the same for the same text, with at most `size` symbols.

        char: every character, most frequent first (`size=None`: all). word: words and punctuation marks, each with the space
        before it (`size=None`: 10,000). space: what white space separates, as PTB and WikiText are read (`size=None`: all).
        bpe: byte-level pair encoding (`size=None`: 2,000; at least 256).
        Raises: InputError for an unknown kind, an empty text, a size too small.
        """
        one_of("tokens", kind, KINDS)
        if not text:
            raise InputError("expected text to build a vocabulary from, got none")
        return _of_kind(kind).of_text(text, size)

    @staticmethod
    def from_json(text: str) -> Vocabulary:
        """Read what `to_json` wrote. Everything is checked; nothing in it can execute.

        Raises: InputError saying what is wrong with it.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"a vocabulary must be JSON: {error}") from None
        if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
            raise InputError("a vocabulary must be a JSON object with a 'kind': this is something else")
        return _of_kind(one_of("kind of the vocabulary", data["kind"], KINDS)).of_data(data)

    @classmethod
    @abstractmethod
    def of_text(cls, text: str, size: int | None) -> Vocabulary:
        """Build from text; see `build`."""

    @classmethod
    @abstractmethod
    def of_data(cls, data: dict[str, Any]) -> Vocabulary:
        """Read from parsed JSON, checking all of it; see `from_json`."""

    def encode(self, text: str) -> Tensor:
        """The ids of a text, int64 [N]; unknown symbols become `unknown`."""
        return torch.cat([torch.zeros(0, dtype=torch.int64), *self.encode_chunks(text)])

    @abstractmethod
    def encode_chunks(self, text: str) -> Iterator[Tensor]:
        """The ids of a text, int64, a part at a time, where only the first are needed, or memory is short."""

    def settled(self, text: str) -> int:
        """How many of the first characters of a text are whole symbols for certain, whatever text follows."""
        return len(text)

    @abstractmethod
    def unknown_symbols(self, text: str) -> list[str]:
        """The symbols of a text that are not in the vocabulary, each once, in order of appearance."""

    @abstractmethod
    def to_json(self) -> str:
        """The vocabulary as JSON text, the same for equal vocabularies."""

    def decode(self, ids: Tensor | Iterable[int]) -> str:
        """The text of some ids, [N]. Bytes that are not UTF-8 (bpe only) show as U+FFFD.

        Raises: InputError for an id outside the vocabulary.
        """
        numbers = ids.tolist() if isinstance(ids, Tensor) else ids
        return b"".join(self.symbol(number) for number in numbers).decode("utf-8", "replace")

    def decoder(self, *, new_line: bool = True) -> Decoder:
        """A decoder to be fed one id at a time.

        With `new_line=False` the text goes on within a line, as after a prompt: the kind "space" then begins with a space.
        """
        return Decoder(self)

    def characters(self) -> Tensor:
        """How many characters each symbol stands for, int64 [V]; one of several symbols' bytes counts with the first of them."""
        counts = [
            sum(byte & 0xC0 != 0x80 for byte in symbol) for symbol in self.symbols
        ]  # no continuation bytes
        return torch.tensor(counts, dtype=torch.int64)

    def symbol(self, number: int) -> bytes:
        """The bytes that an id stands for.

        Raises: InputError for an id outside the vocabulary.
        """
        if not 0 <= number < len(self.symbols):
            raise InputError(f"ids of this vocabulary are 0 to {len(self.symbols) - 1}, got {number}")
        return self.symbols[number]

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.symbols)

    def __repr__(self) -> str:
        return f"<{self.kind} vocabulary of {len(self)} symbols>"


class Decoder:
    """Ids in, text out, one at a time; a character whose bytes are still coming is held back.

    The concatenation of all that `feed` and `finish` return is `decode` of the same ids.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, number: int) -> str:
        """The text that this id completes; empty while a character is incomplete."""
        return self._utf8.decode(self._vocabulary.symbol(int(number)))

    def finish(self) -> str:
        """U+FFFD for a character that never became whole, else nothing."""
        return self._utf8.decode(b"", final=True)


def _of_kind(kind: str) -> type[Vocabulary]:
    if kind == "char":
        from throughtime.data.char import CharVocabulary

        return CharVocabulary
    if kind == "space":
        from throughtime.data.space import SpaceVocabulary

        return SpaceVocabulary
    from throughtime.data import subword  # only these two need `tokenizers`

    return subword.WordVocabulary if kind == "word" else subword.BPEVocabulary
