"""Where a text is cut into sentences, and sentences into words."""

from __future__ import annotations

import pytest

from throughtime.data.sentences import BLANK, cut, words
from throughtime.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two. Three four! Five?", ["One two.", "Three four!", "Five?"]),
        ("A line\nthat goes on. The\nnext.\n\nA paragraph\n", ["A line that goes on.", "The next.", "A paragraph"]),
        ("'Come,' he said. 'Look!' said Filby. 'Why?'", ["'Come,' he said.", "'Look!' said Filby.", "'Why?'"]),
        ("By H. G. Wells. Mr. Hill and Mrs. Hill came.", ["By H. G. Wells.", "Mr. Hill and Mrs. Hill came."]),
        ("Wait... what? No… Yes.", ["Wait... what?", "No…", "Yes."]),
        ("It is 3.5 cm, e.g. here. End", ["It is 3.5 cm, e.g. here.", "End"]),
        ("西陸蟬聲唱，南冠客思侵。\n那堪玄鬢影，來對白頭吟。", ["西陸蟬聲唱，南冠客思侵。", "那堪玄鬢影，來對白頭吟。"]),
        ("子曰：“不亦說乎？”有朋。", ["子曰：“不亦說乎？”", "有朋。"]),
        ("一行\n兩行。", ["一行兩行。"]),
        ("a\r\n\r\nb\rc", ["a", "b c"]),
        ("", []), (" \n \n ", []),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert list(cut(text)) == expected


def test_lines() -> None:
    assert list(cut(" One. Two.\n\n three \r\nfour", "line")) == ["One. Two.", "three", "four"]
    with pytest.raises(
        InputError, match=r"by must be one of sentence, line, got 'lines'. Did you mean 'line'"
    ):
        list(cut("a", "lines"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm here--as he's, um, well-known.", ["I'm", "here", "-", "-", "as", "he's", ",", "um", ",", "well-known", "."]),
        ("I am ___ hungry, _nil_.", ["I", "am", "___", "hungry", ",", "_", "nil", "_", "."]),
        ("no_name 3.5", ["no", "_", "name", "3", ".", "5"]),
        ("Größe über alles", ["Größe", "über", "alles"]),
        ("", []),
    ],
)  # fmt: skip
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_a_blank_is_three_underscores_or_more() -> None:
    assert BLANK.split("a ___ b _____ c __ d") == ["a ", " b ", " c __ d"]
