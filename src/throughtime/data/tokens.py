"""Sentences as symbols and back, and texts that travel in a batch beside what the model reads."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from throughtime.data.vocabulary import Vocabulary

_MARKED = ("word", "bpe")  # their symbols carry the space before them, which a first word lacks
_RESERVED = {"char": 1, "word": 1, "space": 2}  # symbols before the counted ones


def normalized(text: str, lower: bool = False) -> str:
    """Unicode form NFC, single spaces, none at the ends; with `lower` in lower case."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return text.lower() if lower else text


@dataclass(frozen=True)
class Tokens:
    """Sentences as the symbols of a vocabulary, and two more: `start` and `end`.

    Sentences are `normalized`, so what `decode` gives back is natural text with single spaces; a first word is the same symbol as
    elsewhere. With the kind "space", tokens are what spaces separate.
    """

    vocabulary: Vocabulary
    lower: bool = False

    @classmethod
    def build(
        cls,
        kind: str,
        sentences: Iterable[str],
        *,
        size: int | None = None,
        min_count: int = 1,
        lower: bool = False,
    ) -> Tokens:
        """The symbols of some sentences, at most `size` as of `Vocabulary.build`.

        min_count: what occurs less often is unknown; of bpe, to which nothing is unknown, it changes nothing.
        Raises: InputError as `Vocabulary.build`.
        """
        between = " " if kind == "space" else ""
        text = between.join(_marked(kind, normalized(each, lower)) for each in sentences)
        if kind in _RESERVED and min_count > 1:
            most = Vocabulary.build(kind, text, size)
            counts = most.encode(text).bincount(minlength=len(most))[_RESERVED[kind] :]
            size = max(_RESERVED[kind] + 1, _RESERVED[kind] + int((counts >= min_count).sum()))
        return cls(Vocabulary.build(kind, text, size), lower)

    @property
    def start(self) -> int:
        """The symbol before the first."""
        return len(self.vocabulary)

    @property
    def end(self) -> int:
        """The symbol after the last."""
        return len(self.vocabulary) + 1

    def __len__(self) -> int:
        """Symbols, `start` and `end` included."""
        return len(self.vocabulary) + 2

    def encode(self, sentence: str) -> list[int]:
        """The symbols of a sentence, without `start` and `end`."""
        text = normalized(sentence, self.lower)
        found: list[int] = self.vocabulary.encode(_marked(self.vocabulary.kind, text)).tolist()
        return found

    def pieces(self, sentence: str) -> list[str]:
        """The part of the sentence behind each symbol of `encode`, also of an unknown one."""
        text, kind = normalized(sentence, self.lower), self.vocabulary.kind
        if kind == "bpe":
            return [self.name(number).strip() or " " for number in self.encode(sentence)]
        if kind == "word":
            return [each.strip() or " " for each in self.vocabulary.pieces(_marked(kind, text))]  # type: ignore[attr-defined]
        return text.split() if kind == "space" else list(text)

    def decode(self, symbols: Sequence[int], copied: Mapping[int, str] | None = None) -> str:
        """The text of some symbols. Args: copied: by place, what stands there instead of the symbol."""
        texts, copied = [], copied or {}
        marked = self.vocabulary.kind != "char"
        for place, symbol in enumerate(symbols):
            text = self.vocabulary.symbol(symbol)
            if place in copied:
                text = f"{' ' if marked else ''}{copied[place]}".encode()
            texts.append(text)
        return normalized(b"".join(texts).decode("utf-8", "replace"))

    def name(self, symbol: int) -> str:
        """What a symbol stands for, as it is shown to a reader."""
        if symbol >= len(self.vocabulary):
            return "<start>" if symbol == self.start else "<end>"
        return self.vocabulary.symbol(symbol).decode("utf-8", "replace")


class Texts(NamedTuple):
    """A `Source` with texts: what a metric needs of a sequence and the model does not read."""

    values: Tensor  # [B, S, ...], as of `Source`
    lengths: Tensor  # int64 [B]
    texts: Tensor  # int32 [B, L], see `pack`

    def unpack(self) -> list[list[str]]:
        """The texts of each row."""
        rows = self.texts.cpu()
        return ["".join(map(chr, row[row > 0].tolist())).split("\n") if bool(row[0]) else [] for row in rows]


def pack(texts: Sequence[Sequence[str]]) -> Tensor:
    """Texts of each row as one tensor of code points, int32 [B, L], each after a line end, 0 behind the last.

    A row may have none. Line ends inside a text become spaces.
    """
    lines = ["".join("\n" + each.replace("\n", " ") for each in row)[1:] if row else "" for row in texts]
    rows = [torch.tensor([*map(ord, line), 0], dtype=torch.int32) for line in lines]
    return pad_sequence(rows, batch_first=True)


def _marked(kind: str, text: str) -> str:
    return f" {text}" if kind in _MARKED else text
