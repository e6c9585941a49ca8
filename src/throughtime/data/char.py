"""A vocabulary of characters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from throughtime.data.vocabulary import Vocabulary
from throughtime.errors import InputError

UNKNOWN = "<unk>"
_CHUNK = 1 << 20  # characters encoded at once


class CharVocabulary(Vocabulary):
    """One symbol per Unicode code point; `<unk>` is 0, then by falling frequency, then by code point.

    Encoding is one table look-up per character: O(N), with 4 bytes for each code point up to the largest.
    """

    kind: ClassVar[str] = "char"
    unknown: ClassVar[int | None] = 0

    def __init__(self, characters: str) -> None:
        super().__init__([UNKNOWN.encode(), *(character.encode() for character in characters)])
        codes = _code_points(characters).long()
        # One entry past the largest known code point stays 0, unknown: all larger code points are clamped to it.
        self._table = torch.zeros(int(codes.max()) + 2 if characters else 1, dtype=torch.int32)
        self._table[codes] = torch.arange(1, len(characters) + 1, dtype=torch.int32)
        self._characters = characters

    @classmethod
    def of_text(cls, text: str, size: int | None) -> CharVocabulary:
        if size is not None and size < 2:
            raise InputError(
                f"a char vocabulary must have at least 2 symbols, {UNKNOWN} and one more, got {size}"
            )
        counts = torch.zeros(0x110000, dtype=torch.int64)
        for start in range(0, len(text), _CHUNK):
            part = torch.bincount(_code_points(text[start : start + _CHUNK]))
            counts[: len(part)] += part
        counts[0xD800:0xE000] = 0  # a lone surrogate is no character, and cannot be written as UTF-8
        present = counts.nonzero().squeeze(1)
        order = counts[present].argsort(descending=True, stable=True)
        kept = present[order][: None if size is None else size - 1]
        return cls("".join(map(chr, kept.tolist())))

    @classmethod
    def of_data(cls, data: dict[str, Any]) -> CharVocabulary:
        symbols = data.get("symbols")
        if set(data) != {"kind", "symbols"} or not isinstance(symbols, list) or symbols[:1] != [UNKNOWN]:
            raise InputError(
                f"a char vocabulary must have 'kind' and 'symbols', a list that starts with {UNKNOWN!r}"
            )
        for number, symbol in enumerate(symbols[1:], start=1):
            if not isinstance(symbol, str) or len(symbol) != 1 or 0xD800 <= ord(symbol) < 0xE000:
                raise InputError(
                    f"symbol {number} of a char vocabulary must be one character, got {symbol!r}"
                )
        if len(set(symbols)) != len(symbols):
            twice = next(symbol for symbol in symbols if symbols.count(symbol) > 1)
            raise InputError(f"the symbols of a char vocabulary must differ, got {twice!r} more than once")
        return cls("".join(symbols[1:]))

    def encode_chunks(self, text: str) -> Iterator[Tensor]:
        for start in range(0, len(text), _CHUNK):
            codes = _code_points(text[start : start + _CHUNK]).clamp_(max=self._table.numel() - 1)
            yield self._table.index_select(0, codes).long()

    def characters(self) -> Tensor:
        return torch.ones(len(self), dtype=torch.int64)  # <unk> too stands for one

    def unknown_symbols(self, text: str) -> list[str]:
        known = set(self._characters)
        return [character for character in dict.fromkeys(text) if character not in known]

    def to_json(self) -> str:
        return json.dumps({"kind": self.kind, "symbols": [UNKNOWN, *self._characters]}, ensure_ascii=False)


def _code_points(text: str) -> Tensor:
    """The code points of a text, int32 [N]."""
    if not text:
        return torch.zeros(0, dtype=torch.int32)
    return torch.frombuffer(bytearray(text, "utf-32-le", "surrogatepass"), dtype=torch.int32)
