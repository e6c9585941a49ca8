"""A vocabulary of what white space separates, as published word perplexities on PTB and WikiText are computed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from throughtime.data.text import text_chunks
from throughtime.data.vocabulary import Decoder, Vocabulary
from throughtime.errors import InputError

UNKNOWN, END = "<unk>", "<eos>"
_CHUNK = 1 << 18  # characters encoded at once
_BOUNDARY = re.compile(r"\n|(?= )")


class SpaceVocabulary(Vocabulary):
    """Symbols are separated by white space; each line end is one symbol `<eos>`, also that of a blank line.

    0 is `<unk>`: an unknown symbol, and the `<unk>` in the text itself. 1 is `<eos>`, also where the text spells it out. Then
    come the others, the most frequent first, equally frequent ones by code point. Text without a line end at its end has no
    `<eos>` there.
    Decoding joins symbols with single spaces and lines with newlines, so other white space is not given back.
    So read, WikiText-2 has the published 217,646 validation and 245,569 test symbols.
    Source: Mikolov et al. 2010, Interspeech (PTB); Merity et al. 2017, ICLR (WikiText).
    """

    kind: ClassVar[str] = "space"
    unknown: ClassVar[int | None] = 0

    def __init__(self, words: list[str]) -> None:
        super().__init__([f" {UNKNOWN}".encode(), b"\n", *(f" {word}".encode() for word in words)])
        self._words = [UNKNOWN, END, *words]
        self._numbers = {word: number for number, word in enumerate(self._words)}

    @classmethod
    def of_text(cls, text: str, size: int | None) -> SpaceVocabulary:
        if size is not None and size < 3:
            raise InputError(
                f"a space vocabulary must have at least 3 symbols, {UNKNOWN}, {END} and one more, got {size}"
            )
        counts: Counter[str] = Counter()
        for words in _words(text):
            counts.update(words)
        words = sorted(counts.keys() - {UNKNOWN, END}, key=lambda word: (-counts[word], word))
        return cls(words[: None if size is None else size - 2])

    @classmethod
    def of_data(cls, data: dict[str, Any]) -> SpaceVocabulary:
        symbols = data.get("symbols")
        if set(data) != {"kind", "symbols"} or not isinstance(symbols, list) or symbols[:2] != [UNKNOWN, END]:
            raise InputError(
                "a space vocabulary must have 'kind' and 'symbols', a list that starts with "
                f"{UNKNOWN!r} and {END!r}"
            )
        for number, symbol in enumerate(symbols):
            if not isinstance(symbol, str) or symbol.split() != [symbol] or not _is_unicode(symbol):
                raise InputError(
                    f"symbol {number} of a space vocabulary must be text without white space, got {symbol!r}"
                )
        if len(set(symbols)) != len(symbols):
            twice = Counter(symbols).most_common(1)[0][0]
            raise InputError(f"the symbols of a space vocabulary must differ, got {twice!r} more than once")
        return cls(symbols[2:])

    def settled(self, text: str) -> int:
        return max((found.end() for found in _BOUNDARY.finditer(text)), default=0)

    def encode_chunks(self, text: str) -> Iterator[Tensor]:
        numbers = self._numbers
        for words in _words(text):
            yield torch.tensor([numbers.get(word, 0) for word in words], dtype=torch.int64)

    def unknown_symbols(self, text: str) -> list[str]:
        words: dict[str, None] = {}
        for part in _words(text):
            words.update((word, None) for word in part if word not in self._numbers)
        return list(words)

    def to_json(self) -> str:
        return json.dumps({"kind": self.kind, "symbols": self._words}, ensure_ascii=False)

    def decode(self, ids: Tensor | Any) -> str:
        decoder = self.decoder()
        return "".join(decoder.feed(number) for number in (ids.tolist() if isinstance(ids, Tensor) else ids))

    def decoder(self, *, new_line: bool = True) -> Decoder:
        return _SpaceDecoder(self, new_line)


class _SpaceDecoder(Decoder):
    """Leaves out the space before the first symbol of a line."""

    def __init__(self, vocabulary: SpaceVocabulary, new_line: bool) -> None:
        super().__init__(vocabulary)
        self._new_line = new_line

    def feed(self, number: int) -> str:
        text = super().feed(number)
        shown = text.removeprefix(" ") if self._new_line else text
        self._new_line = text == "\n"
        return shown


def _words(text: str) -> Iterator[list[str]]:
    """The symbols of a text, a chunk at a time."""
    for chunk in text_chunks(text, _BOUNDARY, _CHUNK):
        lines = chunk.replace("\r\n", "\n").replace("\r", "\n")
        yield lines.replace("\n", f" {END} ").split()


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
