"""Paragraphs of files with their places, rows of tables, and the words that are compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from throughtime.data.readers import passages
from throughtime.data.readers.passages import Passage, plain_words, read_passages
from throughtime.errors import InputError

LONG = "This paragraph is long enough to stand alone, with a number: {}."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def readLine(self, max_size):", "def read line self max size"),
        ("HTTPServer2.getURL", "http server2 get url"),
        ("  Straße, ÉCOLE! ", "strasse école"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),  # vowel signs are part of a word
        ("?!", ""),
    ],
)
def test_plain_words(text: str, words: str) -> None:
    assert plain_words(text) == words


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two text files in folders, a binary one, one that is Latin-1, a hidden one."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a.md").write_text(
        f"\n# Title\n\n{LONG.format(1)}\nsecond line\n \n\n\n    {LONG.format(2)}\n\nend\n"
    )
    (tmp_path / "b" / "c.txt").write_text(LONG.format(3) + "\r\n\r\n" + LONG.format(1) + "\nsecond line")
    (tmp_path / "b" / "image.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin1"))
    (tmp_path / ".hidden").write_text(LONG)
    return tmp_path


def test_paragraphs_of_a_folder(folder: Path) -> None:
    found, remarks = read_passages(folder)
    assert found == [
        Passage(f"# Title\n\n{LONG.format(1)}\nsecond line", "a.md:2"),  # a heading joins what follows
        Passage(f"    {LONG.format(2)}", "a.md:9"),
        Passage("end", "a.md:11"),
        Passage(LONG.format(3), "b/c.txt:1"),
        Passage(f"{LONG.format(1)}\nsecond line", "b/c.txt:3"),
    ]
    assert remarks == [f"{folder}: files left out: 2; the first is b/image.png (it is binary)"]
    assert read_passages(folder / "b" / "c.txt")[0] == [
        each._replace(place=each.place.removeprefix("b/")) for each in found[3:]
    ]
    assert found[0].title == "# Title"


def test_the_same_text_is_one_passage_at_its_first_place(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"{LONG}\n\n{LONG}")
    assert [each.place for each in read_passages(tmp_path)[0]] == ["a.txt:1"]


def test_long_texts_are_cut_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "MOST", 100)
    lines = [f"line {number} of many" for number in range(40)]
    words = " ".join(f"word{number}" for number in range(60))
    digits = "".join(map(str, range(120)))  # 250 characters without a space
    (tmp_path / "t.txt").write_text("\n".join(lines) + "\n\n" + words + "\n\n" + digits)
    found, _ = read_passages(tmp_path)
    assert all(len(each.text) <= 100 for each in found)
    assert " ".join(each.text for each in found[:-3]).split() == [*" ".join(lines).split(), *words.split()]
    assert "".join(each.text for each in found[-3:]) == digits
    for each in found:
        line = int(each.place.partition(":")[2])
        whole = (tmp_path / "t.txt").read_text().split("\n")
        assert each.text.split("\n")[0] in whole[line - 1]


def test_tables(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,answer\n1,first one\n2,second one\n")
    found, remarks = read_passages(tmp_path / "t.csv")
    assert found == [Passage("first one", "t.csv #1"), Passage("second one", "t.csv #2")] and not remarks
    with pytest.raises(InputError, match="expected a column 'reply'"):
        read_passages(tmp_path / "t.csv", "reply")


@pytest.mark.parametrize(("name", "message"), [
    ("none", "no such file or folder"),
    ("empty", "expected passages to search, found none"),
    ("image.bin", "must be UTF-8 text, or a folder of such files: it is binary"),
])  # fmt: skip
def test_refusals(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "image.bin").write_bytes(b"a\0b")
    with pytest.raises(InputError, match=message) as error:
        read_passages(tmp_path / name)
    assert "\n" not in str(error.value)
