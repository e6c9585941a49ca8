"""Texts and styles: every form that they come in, and every text that cannot be read named with its place."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from throughtime.data.inside.lines import EACH, LEAST, MOST, STYLES, python_lines
from throughtime.data.readers.styles import read_styles
from throughtime.errors import InputError

BOTH = ("text", "label")
POEM = "one\ntwo\n\n\n \nthree\n"


def rows(table):
    return list(zip(table["text"], table["label"], strict=True))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (None, ["one", "two", "three"]),
        ("line", ["one", "two", "three"]),
        ("paragraph", ["one\ntwo", "three"]),
        ("file", ["one\ntwo\n\n\n \nthree"]),
    ],
)
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_plain_file_is_a_style(tmp_path, by, expected, ends):
    path = write(tmp_path / "tang.txt", b"\xef\xbb\xbf" + POEM.replace("\n", ends).encode())
    other = write(tmp_path / "song.txt", "four")
    table = read_styles([path, other], BOTH, by=by)
    assert rows(table) == [*((text, "tang") for text in expected), ("four", "song")]
    assert [source.path for source in table.sources] == [path, other] and table.remarks == ()


def test_folders_hold_a_file_for_each_text_or_each_style(tmp_path):
    write(tmp_path / "a" / "x" / "1.txt", POEM)
    write(tmp_path / "a" / "y" / "2.md", "five\nsix")
    write(tmp_path / "a" / ".hidden" / "3.txt", "no")
    assert rows(read_styles([tmp_path / "a"], BOTH)) == [(POEM.strip(), "x"), ("five\nsix", "y")]
    assert rows(read_styles([tmp_path / "a"], BOTH, by="line"))[3:] == [("five", "y"), ("six", "y")]
    write(tmp_path / "b" / "x.txt", POEM)
    write(tmp_path / "b" / "y.txt", "five\nsix")
    write(tmp_path / "b" / "README.txt", "no")
    table = read_styles([tmp_path / "b"], BOTH)
    assert rows(table) == [("one", "x"), ("two", "x"), ("three", "x"), ("five", "y"), ("six", "y")]
    assert "not read as a style: README.txt" in table.remarks[0]
    before = table.sources
    write(tmp_path / "b" / "y.txt", "five\nsiy")
    assert read_styles([tmp_path / "b"], BOTH).sources != before


def test_tables_and_lists_of_objects(tmp_path):
    csv = write(tmp_path / "a.csv", 'Text,genre\n"one\ntwo",x\n')
    lines = write(tmp_path / "b.jsonl", '{"text": "three", "genre": 7}\n')
    poems = [
        {"author": "李白", "paragraphs": ["床前明月光，", "疑是地上霜。"], "genre": " x "},
        {"paragraphs": "four", "genre": 3},
    ]
    listed = write(tmp_path / "c.json", b"\xef\xbb\xbf\n" + json.dumps(poems).encode())
    table = read_styles([csv, lines], ("text", "genre"))
    assert list(zip(table["text"], table["genre"], strict=True)) == [("one\ntwo", "x"), ("three", "7")]
    table = read_styles([listed], ("paragraphs", "genre"))
    assert table["paragraphs"] == ("床前明月光，\n疑是地上霜。", "four") and table["genre"] == ("x", "3")
    one = write(tmp_path / "d.json", '{"text": "five", "label": "y"}\n')  # JSON lines under another name
    assert rows(read_styles([one], BOTH)) == [("five", "y")]


LISTS = {
    "7": "object 1: expected an object, got 7",
    '{"label": "x"}': "object 1: expected a column 'text'",
    '{"text": "a"}': "object 1: expected a column 'label'",
    '{"text": ["a", 3], "label": "x"}': "object 1: expected 'text' to be a list of strings, got ['a', 3]",
    '{"text": 3, "label": "x"}': "object 1: expected 'text' to be a string, got 3",
    '{"text": "a", "label": ["x"]}': "object 1: expected 'label' to be a string",
    '{"text": [], "label": "x"}': "object 1: expected 'text' to hold text, got none",
    '{"text": "a", "label": " "}': "object 1: expected 'label' to hold text, got none",
    '{"text": "a\\u0000", "label": "x"}': "object 1: expected text, got a NUL byte",
}


@pytest.mark.parametrize("bad", LISTS)
def test_a_bad_object_is_named_or_left_out(tmp_path, bad):
    path = write(tmp_path / "a.json", f'[{bad}, {{"text": "b", "label": "y"}}]')
    with pytest.raises(InputError) as error:
        read_styles([path], BOTH)
    assert LISTS[bad] in str(error.value) and path in str(error.value) and "\n" not in str(error.value)
    assert "--skip-bad" in str(error.value)
    table = read_styles([path], BOTH, skip_bad=True)
    assert rows(table) == [("b", "y")] and table.skipped == 1
    assert table.remarks[0].startswith("1 bad text skipped; the first is ")


@pytest.mark.parametrize(
    ("name", "content", "by", "message"),
    [
        ("a.json", "[1, ", None, "must be JSON, a list of objects"),
        ("a.txt", b"good\nb\xffd\n", None, "a.txt:2: expected UTF-8, got"),
        ("a.txt", b"good\n\n\nb\xffd\n", "paragraph", "a.txt:4: expected UTF-8, got"),
        ("a.txt", b"\xff\xfea\0", None, "must be UTF-8, got UTF-16"),
        ("a.txt", b"a\0b", None, "must be text, got a binary file"),
        ("a.txt", b" \n", None, "expected texts with a style, found none in"),
        ("a.txt", b" \n", "file", "expected text, got an empty file"),
        ("a.csv", b"text,label\na,b,c\n", None, "a.csv:2: expected 2 fields"),
        ("none.txt", None, None, "no such file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, by, message):
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(InputError) as error:
        read_styles([str(tmp_path / name)], BOTH, by=by)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_bad_line_of_plain_text_can_be_left_out(tmp_path):
    path = write(tmp_path / "a.txt", b"good\nb\xffd\nfine\n")
    table = read_styles([path], BOTH, skip_bad=True)
    assert rows(table) == [("good", "a"), ("fine", "a")] and table.skipped == 1
    with pytest.raises(InputError, match="got more columns to read: text, label, poem"):
        read_styles([path], (*BOTH, "poem"))


def test_what_ships_inside_has_six_styles():
    table = python_lines()
    counts = Counter(table["label"])
    assert set(counts) == set(STYLES) and max(counts.values()) == EACH and min(counts.values()) > 100
    assert len(set(table["text"])) == len(table) and list(table["text"]) == sorted(table["text"])
    assert all(LEAST <= len(text) <= MOST and text.isascii() for text in table["text"])
    starts = {"function": ("def ",), "if": ("if ",), "import": ("import ", "from ")}
    for text, style in rows(table):
        assert text.startswith(starts.get(style, ("",))), (text, style)
    few = python_lines(7)
    assert set(Counter(few["label"]).values()) == {7} and set(rows(few)) <= set(rows(python_lines(10**6)))
