"""Pairs of a text and its translation: tab-separated lines, CSV, JSON lines, or two files aligned by line."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from throughtime.data.readers.records import Records, find_column, shortened, text_problem
from throughtime.data.text import Source, read_bytes, refuse_binary
from throughtime.errors import InputError

_NAMED = (
    ".csv",
    ".jsonl",
    ".ndjson",
    ".json",
)  # their columns have names; other files are lines with tabs, or aligned


class Pairs(NamedTuple):
    """Sentences and their translations, in the order of the files."""

    sources: list[str]
    targets: list[str]
    files: tuple[Source, ...]
    remarks: list[str]


def read_pairs(
    files: Sequence[str], source: str | None = None, target: str | None = None, *, skip_bad: bool = False
) -> Pairs:
    """Read pairs of sentences, one file after the other; two files without tabs are aligned by line.

    Formats, by suffix or by the first line: CSV and JSON lines with the columns `source` and `target`; lines SOURCE TAB TARGET,
    with or without a header; two files of which line n of one is the translation of line n of the other. Further columns are
    ignored, and a remark says so.
    Args: source, target: columns by name, or by number from 1 in lines with tabs, so that ("2", "1") turns the direction.
    skip_bad: pairs that cannot be read are left out and counted; else the first of them is an error.
    Raises: InputError, on one line with file and row, for a pair with a missing or an empty side, with another number of tabs
    than the first line, or that is not UTF-8; for aligned files of different numbers of lines; where no pair is left.
    """
    read = [(file, *read_bytes(file)) for file in files]
    found = Pairs([], [], tuple(each for _, _, each in read), [])
    bare = [_is_lines(file, data) and b"\t" not in _first_line(data) for file, data, _ in read]
    if any(bare):
        if bare != [True, True]:
            file, data, _ = read[bare.index(True)]
            raise InputError(
                f"{file}: expected lines SOURCE TAB TARGET, got no tab in {shortened(ascii(_shown(data)))}; or name two files "
                "that are aligned by line, source and target"
            )
        if source is not None or target is not None:
            raise InputError(
                "source and target name columns, and two aligned files have none: leave them out"
            )
        _read_aligned(found, *((file, data) for file, data, _ in read), skip_bad=skip_bad)
    else:
        for file, data, _ in read:
            _read_rows(found, file, data, (source, target), skip_bad)
    if not found.sources:
        remarks = "".join(f"; {remark}" for remark in found.remarks)
        raise InputError(f"expected pairs of sentences, found none in {', '.join(files)}{remarks}")
    return found


def _read_rows(
    found: Pairs, file: str, data: bytes, names: tuple[str | None, str | None], skip_bad: bool
) -> None:
    """Rows with a column for each side."""
    columns = (names[0] or "source", names[1] or "target")
    lines = _is_lines(file, data)
    if lines and names == (None, None) and not _has_columns(_shown(data).split("\t"), columns):
        columns = ("1", "2")
    records = Records(
        io.BytesIO(data), columns, format="tsv" if lines else None, name=file, skip_bad=skip_bad, strings=2
    )
    for record in records:
        for side, name in zip((found.sources, found.targets), columns, strict=True):
            side.append(record[records.found[name]])
    if records.skipped:
        found.remarks.append(records.remark)
    if more := [name for name in records.fieldnames if name not in records.found.values()]:
        which = f"{'column' if len(more) == 1 else 'columns'} {', '.join(more)}"
        found.remarks.append(f"{file}: {shortened(which)} not read")


def _read_aligned(
    found: Pairs, first: tuple[str, bytes], second: tuple[str, bytes], *, skip_bad: bool
) -> None:
    """Line n of one file is the translation of line n of the other; a line that is blank in both is none."""
    sides = []
    for file, data in (first, second):
        refuse_binary(data, file)
        text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        lines = text.split("\n")
        sides.append(lines[:-1] if lines[-1] == "" else lines)
    if len(sides[0]) != len(sides[1]):
        raise InputError(
            f"two aligned files must have equally many lines, got {len(sides[0]):,} in {first[0]} and {len(sides[1]):,} in "
            f"{second[0]}"
        )
    skipped, example = 0, ""
    for number, (source, target) in enumerate(zip(*sides, strict=True), start=1):
        problem = ""
        for (file, _), text in zip((first, second), (source, target), strict=True):
            wrong = text_problem(text) or ("" if text.strip() else "expected a sentence, got an empty line")
            problem = problem or (f"{file}:{number}: {wrong}" if wrong else "")
        if not problem:
            found.sources.append(source)
            found.targets.append(target)
        elif source.strip() or target.strip():
            if not skip_bad:
                raise InputError(f"{problem}; correct the line, or leave bad pairs out with --skip-bad")
            skipped, example = skipped + 1, example or problem
    if skipped:
        found.remarks.append(
            f"{skipped} bad {'pair' if skipped == 1 else 'pairs'} skipped; the first is {example}"
        )


def _is_lines(file: str, data: bytes) -> bool:
    """Whether a file holds lines with tabs or plain ones: neither CSV nor JSON."""
    return Path(file).suffix.lower() not in _NAMED and not _first_line(data).lstrip().startswith(b"{")


def _has_columns(fields: Sequence[str], names: Sequence[str]) -> bool:
    try:
        for name in names:
            find_column([field.strip() for field in fields], name)
    except InputError:
        return False
    return True


def _first_line(data: bytes) -> bytes:
    """The first line that is not blank."""
    start = 0
    while 0 <= start < len(data):
        end = data.find(b"\n", start)
        line = data[start : end if end >= 0 else None]
        if line.strip():
            return line
        start = end + 1 if end >= 0 else -1
    return b""


def _shown(data: bytes) -> str:
    return _first_line(data).decode("utf-8", "surrogateescape").removeprefix("\ufeff").rstrip("\r\n")
