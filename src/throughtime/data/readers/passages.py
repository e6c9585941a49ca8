"""Passages that can be found: paragraphs of text files, or rows of a table, each with its place."""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from throughtime.data.readers.records import Records, shortened, text_problem
from throughtime.data.text import read_bytes
from throughtime.errors import InputError, nearest_file

LEAST, MOST = (
    60,
    1500,
)  # characters: a shorter paragraph joins the next one, a longer one is cut at a line end
_TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")
_BLANK = re.compile(r"\n(?:[ \t\f]*\n)+")
# Where the parts of an identifier meet: readLine, HTTPServer.
_PARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Passage(NamedTuple):
    """A text that can be found."""

    text: str
    place: str  # "notes/todo.md:12", or a name that a table gives

    @property
    def title(self) -> str:
        """Its first line, shortened."""
        return shortened(next((line for line in self.text.splitlines() if line.strip()), "").strip(), 100)


class _Separators(dict[int, str]):
    """For `str.translate`: punctuation, symbols and control characters become spaces; letters, marks and digits stay."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = " " if unicodedata.category(character)[0] in "PSCZ" else character
        return self[code]


_SEPARATORS = _Separators()


def plain_words(text: str) -> str:
    """The words of a text in lower case with single spaces between: identifiers are split, punctuation is left out.

    "def readLine(self, max_size):" is "def read line self max size".
    """
    split = _PARTS.sub(" ", unicodedata.normalize("NFKC", text))
    return " ".join(split.casefold().translate(_SEPARATORS).split())


def read_passages(where: str | Path, column: str = "passage") -> tuple[list[Passage], list[str]]:
    """The passages of a folder or a file, and what the user should be told: files that were left out.

    A folder: all its text files and those of the folders in it, in the order of their paths; hidden ones, binary ones and those
    that are not UTF-8 are left out, the last two with a remark. A text file: its paragraphs, which blank lines separate; one of
    fewer than LEAST characters, such as a heading, joins the next one, and one of more than MOST is cut at a line end. A CSV, TSV
    or JSON lines file: each row's `column`. The same text more than once is one passage, at its first place.
    Cost: reads every file whole, one after the other.
    Raises: InputError for a path that is missing, a table without that column or with a bad row, or when there is no passage.
    """
    path = Path(where)
    remarks: list[str] = []
    if path.is_dir():
        found: Iterator[Passage] = _of_folder(path, remarks)
    elif path.suffix.lower() in _TABLES:
        found = _of_table(path, column)
    elif path.exists():
        data, _ = read_bytes(path)
        if problem := _not_text(data):
            raise InputError(f"{path} must be UTF-8 text, or a folder of such files: {problem}")
        found = _paragraphs(data.decode().removeprefix("\ufeff"), path.name)
    else:
        raise InputError(f"no such file or folder: {path}.{nearest_file(path) or ' Check its name.'}")
    passages: dict[str, Passage] = {}
    for each in found:
        passages.setdefault(each.text, each)
    if not passages:
        raise InputError(
            f"expected passages to search, found none in {path}{''.join(f'; {r}' for r in remarks)}"
        )
    return list(passages.values()), remarks


def _of_folder(folder: Path, remarks: list[str]) -> Iterator[Passage]:
    left_out: list[str] = []
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = file.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        data, _ = read_bytes(file)
        if problem := _not_text(data):
            left_out.append(f"{name.as_posix()} ({problem})")
        else:
            yield from _paragraphs(data.decode().removeprefix("\ufeff"), name.as_posix())
    if left_out:
        remarks.append(f"{folder}: files left out: {len(left_out)}; the first is {left_out[0]}")


def _of_table(path: Path, column: str) -> Iterator[Passage]:
    data, _ = read_bytes(path)
    records = Records(io.BytesIO(data), (column,), name=str(path))
    for number, record in enumerate(records, 1):
        yield Passage(records.texts(record)[0], f"{path.name} #{number}")


def _not_text(data: bytes) -> str:
    """Why bytes are no UTF-8 text; empty where they are."""
    if b"\0" in data:
        return "it is binary"
    return "" if not text_problem(data.decode("utf-8", "surrogateescape")) else "it is not UTF-8"


def _paragraphs(text: str, name: str) -> Iterator[Passage]:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    start, line, counted = 0, 1, 0
    while start < len(text):
        end = _end(text, start)
        whole = text[start:end]
        if whole.strip():
            first = start + len(whole) - len(whole.lstrip())  # of the first character that shows
            line += text.count("\n", counted, first)
            counted = first
            yield Passage(whole.strip("\n").rstrip(), f"{name}:{line}")
        start = end


def _end(text: str, start: int) -> int:
    """Where the passage that begins at `start` ends, the blank lines behind it included."""
    limit = min(len(text), start + MOST)
    for blank in _BLANK.finditer(text, start, limit):
        if len(text[start : blank.start()].strip()) >= LEAST:
            return blank.end()
    if limit == len(text):
        return limit
    line, space = text.rfind("\n", start, limit), text.rfind(" ", start, limit)
    cut = line if line > start else space
    return cut + 1 if cut > start else limit
