"""Texts and their styles: what `throughtime.data.readers.tables` reads, plain text cut as asked, and lists of objects in JSON."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from throughtime.data.readers.records import as_text, find_column, shortened, text_problem
from throughtime.data.readers.tables import Table, class_files, read_table
from throughtime.data.text import Source, read_bytes, refuse_binary
from throughtime.errors import InputError

_CUTS = {
    "line": re.compile(r"\n"), "paragraph": re.compile(r"\n(?:[ \t\f]*\n)+"), "file": re.compile(r"(?!)"),
}  # fmt: skip


def read_styles(
    files: Sequence[str | Path], columns: Sequence[str], *, by: str | None = None, skip_bad: bool = False
) -> Table:
    """Read the asked columns of files and folders, one after the other.

    Tables (CSV, TSV, JSON lines) are read as `read_table` does, which says what the columns may be called. Plain text (.txt)
    holds texts of one style, the name of the file; in a folder each .txt file is a style, or each folder in it, whose files hold
    texts. `by` says what of a file is a text: each line, each paragraph (between blank lines), or all of it; None: all of a file
    that lies in a folder for its style, the lines of another one. A .json file that is a list of objects has a text in each
    object: a string, or a list of strings, its lines.
    Raises: InputError with file, and line or number, as `read_table`; `skip_bad` leaves such texts out and counts them.
    Cost: each file is read once, whole, into memory.
    """
    if not files:
        raise InputError("expected at least one file of texts, got none: name one")
    reader = _Reader(tuple(columns), by, skip_bad)
    for file in map(Path, files):
        if file.is_dir():
            reader.read_folder(file)
        elif file.suffix.lower() == ".txt":
            data, source = read_bytes(file)
            reader.sources.append(source)
            reader.read_text(data, file, file.stem, by or "line")
        elif file.suffix.lower() == ".json" and _is_list(file):
            reader.read_list(file)
        else:
            reader.add(read_table(file, columns, skip_bad=skip_bad))
    if not reader.rows:
        remarks = "".join(f"; {remark}" for remark in reader.remarks())
        raise InputError(f"expected texts with a style, found none in {', '.join(map(str, files))}{remarks}")
    values = dict(zip(columns, zip(*reader.rows, strict=True), strict=True))
    return Table(values, tuple(reader.sources), reader.skipped, tuple(reader.remarks()))


@dataclass
class _Reader:
    """Collects the texts of several files."""

    columns: tuple[str, ...]
    by: str | None
    skip_bad: bool
    rows: list[tuple[str, ...]] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    skipped: int = 0
    bad: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def remarks(self) -> list[str]:
        """What the user should be told once."""
        if not self.bad:
            return self.told
        count = "1 bad text" if len(self.bad) == 1 else f"{len(self.bad)} bad texts"
        return [*self.told, f"{count} skipped; the first is {self.bad[0]}"]

    def add(self, table: Table) -> None:
        """Take in what another reader read."""
        self.rows += zip(*(table[name] for name in self.columns), strict=True)
        self.sources += table.sources
        self.skipped += table.skipped
        self.told += table.remarks

    def read_folder(self, folder: Path) -> None:
        """Each .txt file, or each folder, is a style; the folder gets one fingerprint."""
        digest, size = hashlib.sha256(), 0
        styles, ignored = class_files(folder)
        for style, files in styles.items():
            for file in files:
                data, source = read_bytes(file)
                digest.update(f"{file.relative_to(folder).as_posix()}\0{source.sha256}\n".encode())
                size += source.bytes
                self.read_text(data, file, style, self.by or ("line" if file.parent == folder else "file"))
        if ignored:
            self.told.append(f"{folder}: not read as a style: {shortened(', '.join(ignored), 120)}")
        self.sources.append(Source(str(folder.resolve()), digest.hexdigest(), size))

    def read_text(self, data: bytes, file: Path, style: str, by: str) -> None:
        """The texts of a plain file."""
        if len(self.columns) > 2:
            raise InputError(
                f"plain text holds a text and its style, got more columns to read: {', '.join(self.columns)}"
            )
        refuse_binary(data, file)
        text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        for line, part in _parts(text, by):
            if problem := text_problem(part):
                self._leave_out(f"{file}:{line}: {problem}")
            else:
                self.rows.append((part, style)[: len(self.columns)])
        if by == "file" and not text.strip():
            self._leave_out(f"{file}: expected text, got an empty file")

    def read_list(self, file: Path) -> None:
        """The objects of a list in JSON."""
        data, source = read_bytes(file)
        self.sources.append(source)
        try:
            objects = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file} must be JSON, a list of objects: {error}") from None
        for number, each in enumerate(objects, 1):
            try:
                self.rows.append(self._values(each))
            except InputError as error:
                self._leave_out(f"{file}, object {number}: {error}")

    def _values(self, record: Any) -> tuple[str, ...]:
        if not isinstance(record, dict):
            raise InputError(f"expected an object, got {shortened(repr(record))}")
        values = []
        for place, name in enumerate(self.columns):
            value = record[find_column(tuple(record), name)]
            if place == 0 and isinstance(value, list):
                if not all(isinstance(line, str) for line in value):
                    raise InputError(
                        f"expected {name!r} to be a list of strings, got {shortened(repr(value))}"
                    )
                value = "\n".join(value)
            if not isinstance(value, str if place == 0 else (str, int)):
                raise InputError(f"expected {name!r} to be a string, got {shortened(repr(value))}")
            text = as_text(value) if place == 0 else as_text(value).strip()
            if problem := text_problem(text) or (
                "" if text.strip() else f"expected {name!r} to hold text, got none"
            ):
                raise InputError(problem)
            values.append(text)
        return tuple(values)

    def _leave_out(self, problem: str) -> None:
        if not self.skip_bad:
            raise InputError(f"{problem.rstrip('.')}; correct it, or leave bad texts out with --skip-bad")
        self.skipped += 1
        self.bad.append(problem)


def _parts(text: str, by: str) -> Iterator[tuple[int, str]]:
    """(line on which it begins, text) of each part that is not blank."""
    start, line = 0, 1
    for cut in [*_CUTS[by].finditer(text), None]:
        part = text[start : cut.start() if cut else len(text)]
        if part.strip():
            yield line + len(part) - len(part.lstrip("\n")), part.strip("\n")
        if cut:
            line += text.count("\n", start, cut.end())
            start = cut.end()


def _is_list(file: Path) -> bool:
    """Whether a file of JSON is one list, and not an object on each line."""
    data, _ = read_bytes(file)
    return data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
