"""Recordings with a label each: a folder for each class, a table of paths, or labels in the files' names."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.data.readers.audio import SUFFIXES, Recording, UnreadableError, mono, read_recording
from throughtime.data.readers.records import Records, find_column, shortened
from throughtime.data.readers.tables import Table
from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError, nearest_file

TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")


class Sound(NamedTuple):
    """A recording, its channels averaged, at its own rate."""

    samples: Tensor  # float32 [n]
    rate: int
    channels: int = 1  # that it had
    name: str = ""


def read_sound(path: str | Path) -> Sound:
    """Read one file.

    Raises: as `throughtime.data.readers.audio.read_recording`.
    """
    return sound_of(read_recording(path), path)


def sound_of(found: Recording, path: str | Path) -> Sound:
    """What was read, its channels averaged."""
    samples = torch.from_numpy(mono(found.samples).copy())
    return Sound(samples, found.rate, found.samples.shape[1], str(path))


def holds_audio(path: str | Path, text: str = "text") -> bool:
    """Whether a file is a recording, a folder holds some, or a table has a column `path` and no text."""
    file = Path(path)
    if file.is_dir():
        return any(each.suffix.lower() in SUFFIXES for each in file.rglob("*"))
    if not file.is_file():
        return False
    suffix = file.suffix.lower()
    if suffix in SUFFIXES:
        return True
    if suffix not in TABLES:
        return False
    with open(file, "rb") as stream:
        try:
            names = Records(stream, (), name=str(file)).fieldnames or tuple(_first_keys(file))
            find_column(names, "path")
        except InputError:
            return False
    try:
        find_column(names, text)
    except InputError:
        return True
    return False


def read_labelled(
    paths: Sequence[str | Path],
    *,
    label: str = "label",
    others: Sequence[str] = (),
    pattern: re.Pattern[str] | None = None,
    skip_bad: bool = False,
) -> Table:
    """Read recordings and their labels: a table with the columns path (of `Sound`), the label, and the others.

    A folder has one sub-folder for each class, with WAV, FLAC or OGG files in it or in folders in it. A table (CSV, TSV, JSON
    lines) has the columns path, from its own folder on, and label. With `pattern`, which must match a file's whole name without
    the suffix, the label is what its group `label` matches, wherever the file lies; its other named groups are the columns that
    `others` may name.
    Raises: InputError for what cannot be read, with its file, and row where it is named by a table; for a name that the pattern
        does not match; where no recording is left.
    Cost: all samples in memory, four bytes each.
    """
    reader = _Reader(label, tuple(others), pattern, skip_bad)
    for path in paths:
        file = Path(path)
        if file.is_dir():
            reader.read_folder(file)
        elif file.suffix.lower() in TABLES:
            reader.read_file_of_paths(file)
        else:
            reader.read_single(file)
    remarks = tuple(reader.remarks)
    if reader.bad:
        remarks += (f"bad recordings skipped: {len(reader.bad)}; the first is {reader.bad[0]}",)
    if not reader.rows:
        raise InputError(
            "; ".join([f"expected labelled recordings, found none in {', '.join(map(str, paths))}", *remarks])
        )
    columns = dict(zip(("path", label, *others), zip(*reader.rows, strict=True), strict=True))
    return Table(columns, tuple(reader.sources), len(reader.bad), remarks)


class _Reader:
    """Collects the recordings of several files."""

    def __init__(
        self, label: str, others: tuple[str, ...], pattern: re.Pattern[str] | None, skip_bad: bool
    ) -> None:
        self.label, self.others, self.pattern, self.skip_bad = label, others, pattern, skip_bad
        self.rows: list[tuple[object, ...]] = []
        self.sources: list[Source] = []
        self.bad: list[str] = []
        self.remarks: list[str] = []

    def read_folder(self, folder: Path) -> None:
        """All its recordings; the folder gets one fingerprint."""
        files = list(_in_folder(folder))
        if not files:
            raise InputError(f"{folder}: expected {', '.join(SUFFIXES)} files in folders, found none")
        lying = [file for file in files if file.parent == folder]
        if lying and self.pattern is None:
            raise InputError(
                f"{folder}: expected one sub-folder with recordings for each class, got {lying[0].name} in the folder itself: "
                "move it, or say with --label-from how the names of files give the labels"
            )
        digest, size = hashlib.sha256(), 0
        for file in files:
            relative = file.relative_to(folder)
            source = self._add(file, str(file), self._columns(file, relative.parts[0]))
            if source is not None:
                digest.update(f"{relative.as_posix()}\0{source.sha256}\n".encode())
                size += source.bytes
        self.sources.append(Source(str(folder.resolve()), digest.hexdigest(), size))

    def read_file_of_paths(self, file: Path) -> None:
        """The recordings that a table names; it and they get one fingerprint."""
        if self.pattern is not None:
            raise InputError(f"{file}: a table has a column of labels: leave label_from out")
        data, source = read_bytes(file)
        digest, size = hashlib.sha256(source.sha256.encode()), source.bytes
        asked = ("path", self.label, *self.others)
        records = Records(io.BytesIO(data), asked, name=str(file), skip_bad=self.skip_bad)
        for record in records:
            path, *columns = records.texts(record)
            found = self._add(path_in(file, path), f"{file}:{records.line}: {path}", columns)
            if found is not None:
                digest.update(found.sha256.encode())
                size += found.bytes
        if records.skipped:
            self.remarks.append(records.remark)
        self.sources.append(Source(source.path, digest.hexdigest(), size))

    def read_single(self, file: Path) -> None:
        """One recording, whose name has its label."""
        if self.pattern is None:
            raise InputError(
                f"{file}: a single recording has no label: name the folder with one sub-folder for each class, a table, or say "
                "with --label-from how the names of files give the labels"
            )
        source = self._add(file, str(file), self._columns(file, ""))
        if source is not None:
            self.sources.append(source)

    def _columns(self, file: Path, folder: str) -> list[str]:
        """The label and the other columns of a file that no table names."""
        if self.pattern is None:
            if self.others:
                raise InputError(
                    f"{file}: a folder of recordings has no column {self.others[0]!r}: use a table, or name a group of label_from"
                )
            return [folder]
        found = self.pattern.fullmatch(file.stem)
        if found is None:
            raise InputError(
                f"{file}: label_from must match the whole name of each file without its suffix, and {self.pattern.pattern!r} "
                f"does not match {file.stem!r}"
            )
        values = found.groupdict(default="")
        if missing := [name for name in self.others if name not in values]:
            raise InputError(
                f"label_from has no group called {missing[0]!r}, its groups are {', '.join(values)}: name one of them"
            )
        if not values["label"]:
            raise InputError(f"{file}: label_from finds an empty label in {file.stem!r}")
        return [values["label"], *(values[name] for name in self.others)]

    def _add(self, file: Path, name: str, columns: Sequence[str]) -> Source | None:
        """Read one recording; None where it is left out."""
        try:
            if not file.is_file():
                raise UnreadableError(f"{name}: no such file.{nearest_file(file)}")
            found = read_recording(file)
        except UnreadableError as error:
            message = str(error) if str(error).startswith(name) else f"{name}: {error}"
            if not self.skip_bad:
                raise InputError(
                    f"{message}; leave such files out, or have them left out with --skip-bad"
                ) from None
            self.bad.append(message)
            return None
        self.rows.append((sound_of(found, file), *columns))
        return found.source


def path_in(table: str | Path, path: str) -> Path:
    """A path as a table names it: from the table's own folder on."""
    return Path(table).parent / path.strip()


def _in_folder(folder: Path) -> Iterator[Path]:
    """Its recordings and those of its folders, in order, hidden ones left out."""
    for file in sorted(each for each in folder.rglob("*") if each.suffix.lower() in SUFFIXES):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def _first_keys(file: Path) -> list[str]:
    """The fields of the first object of JSON lines."""
    with open(file, "rb") as stream:
        first = next(iter(Records(stream, (), name=shortened(str(file)), format="jsonl", skip_bad=True)), {})
    return list(first)
