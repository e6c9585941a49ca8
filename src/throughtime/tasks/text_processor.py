"""Text as it arrives: symbols as soon as they are certain; of a language model how likely each was, and what comes next."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from throughtime.data.text import letters_only
from throughtime.data.vocabulary import Vocabulary
from throughtime.errors import InputError
from throughtime.sessions.processor import Carried, Processor, floats_from_text, floats_to_text

_LIKELIEST = 8
_LONGEST = 1 << 16  # characters that are held at most
_NO_LETTERS = re.compile(r"[\W\d_]+\Z")


class TextReader:
    """Symbols of a text that comes in pieces: together those of the whole text, as `vocabulary.encode` has them.

    A character is a symbol as soon as it comes. Words and byte pairs are read when it is certain where they end, which is seen
    from what follows: the rest is carried.
    Args: normalize, as of the task text; strip: without white space at both ends, and with one space before the first character.
    """

    def __init__(self, vocabulary: Vocabulary, normalize: str = "none", strip: bool = False) -> None:
        self.vocabulary, self.normalize, self.strip = vocabulary, normalize, strip

    def read(self, data: Any, carried: Carried, end: bool = False) -> tuple[str, Carried]:
        """The next characters whose symbols are certain; at the end all. Raises: InputError for what is no text."""
        if not isinstance(data, str):
            raise InputError(f"a chunk must be a text, got {type(data).__name__}")
        kept = dict(carried)
        if self.strip:
            data = self._stripped(data, kept, end)
        raw, before = kept.get("raw", "") + data, kept.get("before", "")
        place = len(raw) if end else self._settled(raw, before)
        new, before = self._normalized(raw[:place], before)
        raw, text = _shortened(raw[place:], self.normalize), kept.get("text", "") + new
        place = len(text) if end else self.vocabulary.settled(text)
        if len(raw) + len(text) - place > _LONGEST:
            raise InputError(
                f"the text has no end of a {self.vocabulary.kind} symbol within {_LONGEST} characters"
            )
        return text[:place], {**kept, "raw": raw, "before": before, "text": text[place:]}

    def _settled(self, raw: str, before: str) -> int:
        """How much of a text can be normalized: what follows cannot change it. Args: before, as of `_normalized`."""
        end = len(raw)
        if self.normalize == "letters" and (found := _NO_LETTERS.search(raw)):
            end = found.start()
        if self.normalize != "none" and "Σ" in raw:  # small, it has another form at the end of a word
            inside, ended = ((before + raw + after).lower()[:-1] for after in "a ")
            end = end if inside == ended else min(end, raw.rindex("Σ"))
        return end

    def _normalized(self, raw: str, before: str) -> tuple[str, str]:
        """A piece of a text, normalized as within it; what stands for all that was read, in the same way.

        Args: before, a character that has the same effect on the piece: a letter with a case, one without, or nothing.
        """
        if self.normalize == "none" or not raw:
            return raw, before
        whole = before + raw
        cased = (whole + "Σ").lower()[-1] == "ς"
        if self.normalize == "lower":
            return whole.lower()[len(before) :], "a" if cased else ""
        return letters_only(whole)[len(before) :], "a" if cased else "あ" if whole[-1:].isalpha() else ""

    def _stripped(self, data: str, kept: Carried, end: bool) -> str:
        """What can be read of a text without its ends; white space that may be the end is held. A text of it alone stays."""
        text: str = kept.get("space", "") + data
        if not kept.get("begun"):
            if not text.strip():
                kept["space"] = "" if end else text[:_LONGEST]
                return text if end else ""
            text, kept["begun"] = f" {text.lstrip()}", True
        found = text.rstrip()
        kept["space"] = text[len(found) :]
        if len(kept["space"]) > _LONGEST:
            raise InputError(f"the text has more than {_LONGEST} characters of white space in a row")
        return found


class TextProcessor(Processor):
    """Takes text in pieces of any size, and gives the log-probability of each symbol that was read, and the likeliest next ones.

    Args: normalize, as of the task text.
    """

    def __init__(self, vocabulary: Vocabulary, normalize: str = "none") -> None:
        self.reader = TextReader(vocabulary, normalize)
        self._symbols = [symbol.decode("utf-8", "replace") for symbol in vocabulary.symbols]

    def about(self) -> dict[str, Any]:
        return {
            "kind": "text",
            "takes": "text, in pieces of any size",
            "gives": "symbols: those that were read; logprobs: the log-probability of each before it was read, null for the very "
            f"first; next: the {_LIKELIEST} likeliest next symbols with their probabilities",
            "symbols": self._symbols,
        }

    def read(self, data: Any, carried: Carried) -> tuple[Tensor, Carried]:
        return self._read(data, carried, False)

    def flush(self, carried: Carried) -> tuple[Tensor, Carried]:
        return self._read("", carried, True)

    def _read(self, data: Any, carried: Carried, end: bool) -> tuple[Tensor, Carried]:
        text, kept = self.reader.read(data, carried, end)
        ids = self.reader.vocabulary.encode(text)
        return ids, {**kept, "read": ids.tolist()}

    def write(self, outputs: Tensor, carried: Carried) -> tuple[Any, Carried]:
        kept = dict(carried)
        ids = kept.pop("read")
        last = floats_from_text(kept["next"]) if "next" in kept else None
        scores: list[float | None] = []
        if ids:
            found = outputs.float().cpu().log_softmax(-1)
            scores = [None if last is None else float(last[ids[0]])]
            scores += found[torch.arange(len(ids) - 1), ids[1:]].tolist()
            last = found[-1]
            kept["next"] = floats_to_text(last)
        return {
            "symbols": [self._symbols[number] for number in ids],
            "logprobs": scores,
            "next": None if last is None else self._likeliest(last),
        }, kept

    def _likeliest(self, scores: Tensor) -> list[list[Any]]:
        """The likeliest symbols with their probabilities; of equally likely ones the first."""
        order = scores.argsort(descending=True, stable=True)[:_LIKELIEST]
        return [
            [self._symbols[number], value]
            for number, value in zip(order.tolist(), scores[order].exp().tolist(), strict=True)
        ]


def _shortened(raw: str, normalize: str) -> str:
    """What is held of a text; of a run without letters, which becomes one space or none, only whether a line ends in it."""
    if normalize == "letters" and (found := _NO_LETTERS.match(raw)):
        return "\n" if re.search(r"[\r\n]", found[0]) else " "
    return raw
