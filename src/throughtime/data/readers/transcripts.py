"""Recordings with their texts: a table with a row for each recording, or folders as LibriSpeech has them."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from throughtime.data.readers.audio import SUFFIXES
from throughtime.data.readers.records import Records, find_column, text_problem
from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError, nearest_file

TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson")
GROUPS = ("speaker", "speaker_id", "group", "client_id")  # columns that say who speaks
_TRANS = ".trans.txt"  # of LibriSpeech: "ID TEXT" on each line, the recording is ID.flac beside it
_LIMIT = 5  # such files that are looked for before a folder is taken for another kind


@dataclass
class Transcripts:
    """Recordings that were not read yet, with their texts: lists, all of one length."""

    files: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)  # file and row, for messages
    columns: dict[str, list[str]] = field(default_factory=dict)  # others that were asked for, and "speaker"
    sources: list[Source] = field(default_factory=list)  # of the tables, not of the recordings
    remarks: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files)


def read_transcripts(
    paths: Sequence[str | Path],
    *,
    text: str = "text",
    speaker: str | None = None,
    others: Sequence[str] = (),
    skip_bad: bool = False,
) -> Transcripts:
    """What is recorded where, and what is said in it.

    A path is a table (CSV, TSV or JSON lines) with the columns path and text, paths being relative to its folder; a folder with
    one such table in it; or a folder in the layout of LibriSpeech, with .trans.txt files anywhere below it, where the speaker is
    what stands before the first "-" of a recording's name.

    Args: text, the column of the text; speaker, the column of who speaks, None: one of GROUPS if there is one; others, more
    columns to read. skip_bad: leave out rows that cannot be read, and count them.
    Raises: InputError for a table without these columns, a row that cannot be read, a recording that is not there (its row is
    named), or where nothing is found.
    """
    found = Transcripts(columns={name: [] for name in others})
    for path in map(Path, paths):
        if path.is_dir():
            table, trans = _in_folder(path)
            if table is not None:
                _read_table(table, found, text, speaker, others, skip_bad)
            else:
                _read_trans(path, trans, found, others)
        else:
            _read_table(path, found, text, speaker, others, skip_bad)
    if not found.files:
        raise InputError(
            f"expected recordings with texts, found none in {', '.join(map(str, paths))}"
            + "".join(f"; {remark}" for remark in found.remarks)
        )
    if "speaker" in found.columns and len(found.columns["speaker"]) != len(found):
        raise InputError(
            f"some of {', '.join(map(str, paths))} say who speaks and some do not: name the column in all, or leave it out of all"
        )
    return found


def _in_folder(folder: Path) -> tuple[Path | None, list[Path]]:
    """The one table of a folder, or the .trans.txt files below it."""
    tables = sorted(each for each in folder.iterdir() if each.suffix.lower() in TABLES)
    if len(tables) == 1:
        return tables[0], []
    if tables:
        names = ", ".join(each.name for each in tables[:_LIMIT])
        raise InputError(
            f"{folder} holds {len(tables)} tables ({names}): name the one to read, as in --data {tables[0]}"
        )
    trans = sorted(folder.rglob(f"*{_TRANS}"))
    if not trans:
        raise InputError(
            f"{folder}: expected a table (CSV, TSV or JSON lines with the columns path and text), or the layout of LibriSpeech "
            f"(*{_TRANS} files beside the recordings), found neither"
        )
    return None, trans


def _read_table(
    path: Path, found: Transcripts, text: str, speaker: str | None, others: Sequence[str], skip_bad: bool
) -> None:
    data, source = read_bytes(path)
    found.sources.append(source)
    folder = path.parent

    def missing(record: dict[str, object]) -> str | None:
        name = str(record[records.found["path"]])
        return (
            None if (folder / name).is_file() else f"no such recording: {name}{nearest_file(folder / name)}"
        )

    columns = ("path", text, *others, *([speaker] if speaker and speaker not in others else []))
    records = Records(io.BytesIO(data), columns, name=str(path), skip_bad=skip_bad, strings=2, check=missing)
    if records.format == "lines":
        raise InputError(
            f"{path}: expected a table with the columns 'path' and {text!r}: CSV, TSV or JSON lines"
        )
    for record in records:
        who = speaker or next((name for name in GROUPS if name in record), None)
        found.files.append(str(folder / record[records.found["path"]]))
        found.texts.append(record[records.found[text]])
        found.places.append(f"{path}:{records.line}")
        for name in others:
            found.columns[name].append(str(record[records.found[name]]))
        if who is not None and "speaker" not in others:
            found.columns.setdefault("speaker", []).append(str(record[find_column(tuple(record), who)]))
    if records.remark:
        found.remarks.append(records.remark)


def _read_trans(folder: Path, files: list[Path], found: Transcripts, others: Sequence[str]) -> None:
    if unknown := [name for name in others if name != "speaker"]:
        raise InputError(
            f"{folder} is in the layout of LibriSpeech, which has the column speaker alone, got {unknown[0]!r}"
        )
    for file in files:
        data, source = read_bytes(file)
        found.sources.append(source)
        for number, name, words in _trans_lines(file, data):
            recording = next(
                (
                    file.parent / f"{name}{suffix}"
                    for suffix in (".flac", ".wav", ".ogg")
                    if (file.parent / f"{name}{suffix}").is_file()
                ),
                None,
            )
            if recording is None:
                raise InputError(f"{file}:{number}: no such recording: {name}.flac, nor .wav or .ogg")
            found.files.append(str(recording))
            found.texts.append(words)
            found.places.append(f"{file}:{number}")
            found.columns.setdefault("speaker", []).append(name.partition("-")[0])


def _trans_lines(file: Path, data: bytes) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").splitlines(), 1):
        if not line.strip():
            continue
        name, _, words = line.strip().partition(" ")
        problem = text_problem(line) or ("" if words.strip() else "expected a name and a text, got no text")
        if problem or Path(name).name != name:
            raise InputError(
                f"{file}:{number}: {problem or f'expected the name of a recording, got {name!r}'}"
            )
        yield number, name, words


def recordings_in(folder: str | Path) -> list[Path]:
    """All recordings in a folder and the folders in it, in order."""
    return sorted(each for each in Path(folder).rglob("*") if each.suffix.lower() in SUFFIXES)


def plain_text(text: str) -> str:
    """A text as it is spoken: NFKC, lower case, ’ as ', and all but letters, marks, digits and apostrophes as single spaces."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("ʼ", "'")
    kept = (each if each == "'" or unicodedata.category(each)[0] in "LMN" else " " for each in text)
    return " ".join("".join(kept).split())


def spaced_text(text: str) -> str:
    """A text with all its characters: NFC, and single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())
