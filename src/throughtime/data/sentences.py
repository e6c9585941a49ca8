"""A text as sentences or lines, and these as words and punctuation marks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from throughtime.errors import one_of

CUTS = ("sentence", "line")
BLANK = re.compile(r"_{3,}")
"""The place of a missing word: three underscores or more."""
_WORD = re.compile(r"_{3,}|[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]|_")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
# A full stop ends no sentence after an initial or a title, nor where a small letter follows.
_END = re.compile(
    r"(?:(?<!\b[A-Z])(?<!\bMr)(?<!\bMrs)(?<!\bDr)(?<!\bSt)\.|[!?…])+['\"”’)\]]*(?=\s+(?![a-z])|\Z)"
    r"|[。！？]+[”’」』）]*"
)
# Line ends between the characters of a script without spaces are no spaces.
_BETWEEN_WIDE = re.compile(r"(?<=[\u2e80-\uffef])\s+(?=[\u2e80-\uffef])")


def cut(text: str, by: str = "sentence") -> Iterator[str]:
    """The sentences or lines of a text, white space at their ends removed, empty ones left out.

    sentence: a paragraph ends at an empty line, and its lines are joined; a sentence ends at . ! ? … and any quotes after
    them, and at 。！？. line: line ends alone.
    Raises: InputError for another `by`.
    """
    one_of("by", by, CUTS)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if by == "line":
        yield from filter(None, map(str.strip, text.split("\n")))
        return
    for paragraph in _PARAGRAPH.split(text):
        whole = _BETWEEN_WIDE.sub("", " ".join(paragraph.split()))
        start = 0
        for end in _END.finditer(whole):
            yield whole[start : end.end()].strip()
            start = end.end()
        if rest := whole[start:].strip():
            yield rest


def words(text: str) -> list[str]:
    """The words of a text, each with its inner apostrophes and hyphens, its punctuation marks, and its blanks (___)."""
    return _WORD.findall(text)
