"""Spans of tokens as one tag for each token: IOB1, BIO, BIOES; read as conlleval reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from throughtime.errors import InputError

SCHEMES = ("bio", "bioes")
_TAG = re.compile(r"([BIESLU])-(\S+)")
_SAME = {"L": "E", "U": "S"}  # BILOU's names of the same


class Span(NamedTuple):
    """Tokens start .. end-1, and what they are."""

    start: int
    end: int
    label: str


def scheme_of(sentences: Iterable[Sequence[str]]) -> str:
    """What tags are: "iob1", "bio", "bioes", or "plain" where they are no tags of spans (parts of speech).

    Tags of spans are O, or a letter, a hyphen and a type: B (begins), I (inside), E or L (ends), S or U (single). In BIO every
    span begins with B; in IOB1 (CoNLL-2003 as published) only one that directly follows another of its type. Where both occur,
    what is more frequent decides.
    """
    begun = inside = 0  # spans that begin with B, and with I, where no span of their type is before them
    letters: set[str] = set()
    for tags in sentences:
        before = ""
        for tag in tags:
            letter, label = split_tag(tag) or ("?", "")
            if letter == "?":
                return "plain"
            letters.add(letter)
            if letter != "O" and label != before:
                begun += letter in "BS"
                inside += letter in "IE"
            before = label
    if not letters - {"O"}:
        return "plain"
    if letters & {"E", "S"}:
        return "bioes"
    return "iob1" if inside > begun else "bio"


def split_tag(tag: str) -> tuple[str, str] | None:
    """The letter (B, I, E, S, O) and the type of a tag; None for what is no tag of a span."""
    if tag == "O":
        return "O", ""
    match = _TAG.fullmatch(tag)
    return (_SAME.get(match[1], match[1]), match[2]) if match else None


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The spans that tags of any scheme mean, as conlleval counts them.

    A span begins at B or S, and at I or E after O, after E or S, or after another type; it ends before the next begins, at O, and
    after E or S.
    Raises: InputError for a tag of no span.
    """
    found: list[Span] = []
    start, open_label, ended = 0, "", True
    for place, tag in enumerate(tags):
        parts = split_tag(tag)
        if parts is None:
            raise InputError(f"tags of spans must be O or such as B-TYPE and I-TYPE, got {tag!r}")
        letter, label = parts
        begins = letter in "BS" or (letter in "IE" and (ended or label != open_label))
        if open_label and (letter == "O" or begins or ended):
            found.append(Span(start, place, open_label))
            open_label = ""
        if begins:
            start, open_label = place, label
        ended = letter in "ESO"
    if open_label:
        found.append(Span(start, len(tags), open_label))
    return found


def tags_of(spans: Iterable[Span], length: int, scheme: str = "bio") -> list[str]:
    """The tags of some spans, none of which overlap, in a sequence of `length` tokens."""
    tags = ["O"] * length
    for start, end, label in spans:
        tags[start:end] = [f"I-{label}"] * (end - start)
        tags[start] = f"B-{label}"
        if scheme == "bioes":
            tags[end - 1] = f"{'S' if end - start == 1 else 'E'}-{label}"
    return tags


def as_scheme(tags: Sequence[str], scheme: str) -> list[str]:
    """The same spans in another scheme; tags that break the rules of their own are read as conlleval reads them."""
    return tags_of(spans_of(tags), len(tags), scheme)


def broken_tags(tags: Sequence[str], scheme: str) -> int:
    """How many tags do not follow the rules of "bio", "bioes" or "iob1"; `spans_of` reads them all the same."""
    if scheme == "iob1":
        return 0  # B where I would do means the same
    return sum(not may_follow(before, after, scheme) for before, after in pairwise(["", *tags, ""]))


def may_follow(before: str, after: str, scheme: str) -> bool:
    """Whether a tag may follow another one; "" is the beginning as `before`, the end as `after`."""
    first, first_label = split_tag(before) or ("O", "") if before else ("O", "")
    second, second_label = split_tag(after) or ("O", "") if after else ("O", "")
    goes_on = second in "IE"
    if scheme == "bioes":
        is_open = first in "BI"
        return (goes_on and first_label == second_label) if is_open else not goes_on
    return not goes_on or (first in "BI" and first_label == second_label)


def span_labels(labels: Iterable[str], scheme: str) -> tuple[str, ...]:
    """The tags for some types of spans: O, then those of each type."""
    letters = "BI" if scheme == "bio" else "BIES"
    return ("O", *(f"{letter}-{label}" for label in sorted(labels) for letter in letters))
