"""Labelled examples from CSV, TSV, JSON lines, or folders with one sub-folder or one text file for each class."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughtime.data.readers.records import Records, shortened, text_problem
from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError, nearest

_NOT_CLASSES = ("README", "LICENSE", "LICENCE", "COPYING", "NOTICE", "SOURCE", "CHANGELOG")


@dataclass(frozen=True)
class Table:
    """Rows of labelled examples: columns, all of one length."""

    columns: dict[
        str, tuple[Any, ...]
    ]  # by the names that were asked for; the first may hold sequences, the others text
    sources: tuple[Source, ...] = ()  # fingerprints of what was read
    skipped: int = 0  # bad rows left out
    remarks: tuple[str, ...] = ()  # what a user should be told once: rows skipped, files not read

    def __len__(self) -> int:
        """Rows."""
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, name: str) -> tuple[Any, ...]:
        return self.columns[name]

    def rows(self, numbers: Iterable[int]) -> list[tuple[Any, Any]]:
        """The first two columns of some rows: an example and its label."""
        first, second, *_ = self.columns.values()
        return [(first[number], second[number]) for number in numbers]

    def matching(self, column: str, values: Sequence[str], option: str) -> list[int]:
        """The numbers of the rows with one of the values in a column.

        Raises: InputError, under the option's name, where a value is in no row.
        """
        cells = self.columns[column]
        there = set(cells)
        for value in values:
            if value not in there:
                known = shortened(", ".join(sorted(there)))
                raise InputError(
                    f"{option}: no example has {column} = {value!r}, the values are {known}.{nearest(value, there)}"
                )
        return [number for number, cell in enumerate(cells) if cell in values]


def read_table(
    paths: Sequence[str | Path] | str | Path,
    columns: Sequence[str] = ("text", "label"),
    *,
    skip_bad: bool = False,
) -> Table:
    """Read the asked columns of one or more files or folders, one after the other.

    The first column asked for is the text, the second, if any, the class. In CSV, TSV and JSON lines they are found by name,
    upper and lower case alike; "text" and "label" also find their usual other names, a number finds a column by position where
    there is no header: see `throughtime.data.readers.records`. A folder holds one sub-folder for each class, each file in it one
    example; or one .txt file for each class, each line one example. The class is then the name of the sub-folder or file.

    A row with a wrong number of fields, an empty field, invalid JSON or invalid UTF-8 is refused with its file and line; with
    `skip_bad` such rows are left out and counted. Cost: each file is read once, whole, into memory.
    Raises: InputError for a bad row, a missing column, a file that cannot be read, or when no row is left.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not files:
        raise InputError("expected at least one file of labelled examples, got none: name one")
    if not 1 <= len(columns) == len(set(columns)):
        raise InputError(f"columns must be one name or more, all different, got {list(columns)}")
    reader = _TableReader(tuple(columns), skip_bad)
    for file in files:
        if Path(file).is_dir():
            reader.read_folder(Path(file))
        else:
            reader.read_file(file)
    if not reader.rows:
        remarks = "".join(f"; {remark}" for remark in reader.remarks)
        raise InputError(f"expected labelled examples, found none in {', '.join(map(str, files))}{remarks}")
    values = dict(zip(columns, zip(*reader.rows, strict=True), strict=True))
    return Table(values, tuple(reader.sources), reader.skipped, tuple(reader.remarks))


class _TableReader:
    """Collects the rows of several files."""

    def __init__(self, columns: tuple[str, ...], skip_bad: bool) -> None:
        self.columns, self.skip_bad = columns, skip_bad
        self.rows: list[tuple[str, ...]] = []
        self.sources: list[Source] = []
        self.skipped = 0
        self.remarks: list[str] = []

    def read_file(self, file: str | Path) -> None:
        data, source = read_bytes(file)
        self.sources.append(source)
        is_class = Path(file).suffix.lower() == ".txt"
        self._read_data(data, str(file), Path(file).stem if is_class else None)

    def read_folder(self, folder: Path) -> None:
        """One sub-folder for each class, or one .txt file for each class; the folder gets one fingerprint."""
        classes, ignored = class_files(folder)
        if len(classes) < 2:
            raise InputError(
                "a folder of examples must hold one sub-folder or one .txt file for each class, at least two: "
                f"{folder} holds {len(classes)}"
            )
        if ignored:
            self.remarks.append(f"{folder}: not read as a class: {shortened(', '.join(ignored), 120)}")
        digest, size = hashlib.sha256(), 0
        bad: list[str] = []
        for label, files in classes.items():
            for file in files:
                data, source = read_bytes(file)
                digest.update(f"{file.relative_to(folder).as_posix()}\0{source.sha256}\n".encode())
                size += source.bytes
                if file.parent == folder:
                    self._read_data(data, str(file), label)
                else:
                    bad.extend(self._add_example(data, file, label))
        if bad:
            self.skipped += len(bad)
            self.remarks.append(f"{folder}: bad files skipped: {len(bad)}; the first is {bad[0]}")
        self.sources.append(Source(str(folder.resolve()), digest.hexdigest(), size))

    def _read_data(self, data: bytes, name: str, label: str | None) -> None:
        if b"\n" not in data:
            data = data.replace(b"\r", b"\n")  # the line ends of Mac OS before version 10
        records = Records(io.BytesIO(data), self.columns, name=name, skip_bad=self.skip_bad)
        labels: tuple[str, ...] = ()
        if records.format == "lines" and len(self.columns) > 1:
            if label is None:
                names = " and ".join(map(repr, self.columns))
                raise InputError(
                    f"{name}: expected a header with the columns {names}, or JSON lines, but its first line is neither: name "
                    "the columns to use, or give their numbers (from 1) if the file has no header"
                )
            labels = self._labels(label)
        self.rows.extend(records.texts(record) + labels for record in records)
        self.skipped += records.skipped
        if records.skipped:
            self.remarks.append(records.remark)

    def _add_example(self, data: bytes, file: Path, label: str) -> list[str]:
        """Take in a file that is one example; returns what is wrong with it, where bad files are left out."""
        text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        problem = text_problem(text) or ("" if text.strip() else "expected text, got an empty file")
        if not problem:
            self.rows.append((text, *self._labels(label)))
            return []
        if self.skip_bad:
            return [f"{file}: {problem}"]
        raise InputError(f"{file}: {problem}; correct the file, or leave bad ones out with --skip-bad")

    def _labels(self, label: str) -> tuple[str, ...]:
        if len(self.columns) > 2:
            raise InputError(
                "folders and .txt files hold a text and its class, got more columns to read: "
                f"{', '.join(self.columns)}"
            )
        return (label,) if len(self.columns) == 2 else ()


def class_files(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The files of each class by its name: those of a sub-folder, or one .txt file; and the names of what is no class."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    folders = {entry.name: _examples(entry) for entry in entries if entry.is_dir()}
    classes = folders or {
        entry.stem: [entry]
        for entry in entries
        if entry.suffix.lower() == ".txt" and entry.stem.upper() not in _NOT_CLASSES
    }
    return classes, [
        entry.name for entry in entries if entry.name not in folders and [entry] not in classes.values()
    ]


def _examples(folder: Path) -> list[Path]:
    """The files of a folder and the folders in it, hidden ones left out."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts))
