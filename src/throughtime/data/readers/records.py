"""Records of CSV, TSV, JSON lines or plain lines, read one at a time and written back one at a time.

Formats: "csv" (RFC 4180, with a header), "tsv" (with a header; no quotes, so no tab or line end inside a field), "jsonl" (one
JSON object on each line), "lines" (one text on each line). All are UTF-8; blank lines are skipped.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

from throughtime.data.text import refuse_binary
from throughtime.errors import InputError, nearest, nearest_file, one_of

FORMATS = ("csv", "tsv", "jsonl", "lines")
ALIASES = {  # what a column may be called when the caller asks for it by its usual name
    "text": ("sentence", "message", "query", "utterance"),
    "label": ("category", "class", "intent"),
    "sequence": ("sequence_id", "series", "video"),
    "session": ("session_id", "sessionid", "user", "user_id", "userid", "visitor", "visitorid"),
    "item": ("item_id", "itemid", "product", "product_id", "productid", "article", "article_id", "sku"),
    "time": ("timestamp", "ts", "date", "datetime"),
    "query": ("question",),
    "passage": ("document", "answer", "code"),
    "answer": ("reply", "response"),
    "path": ("file", "filename", "file_name", "audio", "recording", "image"),
    "caption": ("description",),
}
_FORMAT_OF_SUFFIX = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "lines",
}
_SEPARATORS = {"csv": ",", "tsv": "\t"}
_ONE_LINE = str.maketrans("\t\r\n", "   ")


class Records:
    """Iterate over the records of a binary stream (`sys.stdin.buffer`, an open file).

    A record is a dict: {column: text} for csv and tsv, the object itself for jsonl, {"text": line} for lines. No line is read
    before the record before it was taken, but the first, which shows the format and the header. With `skip_bad`, bad rows are
    left out and counted in `skipped`; `remark` says so.
    Args: columns: what a record must have, found as `find_column` says; the first is a text, the others (classes) may also be
    whole numbers in JSON. A number ("1" is the first column) finds a column by position in a csv or tsv without a header.
    format: one of FORMATS, or None to tell from the suffix of `name`, else from the first line: an object is jsonl, a header
    with an asked column is csv or tsv, anything else is lines.
    strings: so many of the asked columns, the first ones, must hold a string in JSON, the others may also hold whole numbers.
    check: says what else is wrong with a record, if anything is; such a row is refused or skipped like any bad row.
    Attributes: format; fieldnames, of the header (empty for jsonl); found, the record's own name of each asked column.
    Raises: InputError with file and line: here for a header without an asked column, while iterating for a bad row.
    """

    def __init__(
        self,
        stream: IO[bytes],
        columns: Sequence[str] = ("text",),
        *,
        format: str | None = None,
        name: str = "standard input",
        skip_bad: bool = False,
        strings: int = 1,
        check: Callable[[dict[str, Any]], str | None] | None = None,
    ) -> None:
        self.name, self.skip_bad = name, skip_bad
        self._strings, self._check = strings, check
        self.skipped = 0
        self.fieldnames: tuple[str, ...] = ()
        self.found: dict[str, str] = {}
        self._asked = tuple(columns)
        self._first_skipped = ""
        self._lines_read = 0
        self._line = 1  # on which the current record begins
        self._stream = stream
        first = self._read_line()
        if format is None:
            format = _FORMAT_OF_SUFFIX.get(Path(name).suffix.lower()) or _guess_format(first, self._asked)
        self.format = one_of("format", format, FORMATS)
        lines = self._lines(first)
        if self.format == "jsonl":
            self._rows = self._objects(lines)
        elif self.format == "lines":
            self.fieldnames = ("text",)
            self.found = dict.fromkeys(self._asked[:1], "text")
            self._rows = self._texts(lines)
        else:
            rows = self._csv_rows(lines) if self.format == "csv" else self._tsv_rows(lines)
            self._rows = self._dicts(rows, self._read_header(rows))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for record in self._rows:
            problem = record if isinstance(record, str) else self._problem(record)
            if problem is None and not isinstance(record, str):
                yield record
                continue
            message = f"{self.name}:{self._line}: {problem}"
            if not self.skip_bad:
                raise InputError(f"{message}; correct the row, or leave bad rows out with --skip-bad")
            self.skipped += 1
            self._first_skipped = self._first_skipped or message

    def texts(self, record: dict[str, Any]) -> tuple[str, ...]:
        """The asked columns of a record as text; white space around a class is removed."""
        values = [as_text(record[self.found[name]]) for name in self.found]
        return (*values[:1], *(value.strip() for value in values[1:]))

    @property
    def line(self) -> int:
        """The line on which the current record begins, from 1."""
        return self._line

    @property
    def remark(self) -> str:
        """What to tell the user about rows that were left out; empty when there are none."""
        rows = "1 bad row" if self.skipped == 1 else f"{self.skipped} bad rows"
        return f"{self.name}: {rows} skipped; the first is {self._first_skipped}" if self.skipped else ""

    def _read_line(self) -> str:
        """One line with its end, "" at the end. A byte that is not UTF-8 becomes a lone surrogate, which `_problem` finds."""
        data = self._stream.readline()
        if self._lines_read == 0:
            refuse_binary(data, self.name)
            data = data.removeprefix(b"\xef\xbb\xbf")
        self._lines_read += 1
        return data.decode("utf-8", "surrogateescape")

    def _lines(self, first: str) -> Iterator[str]:
        line = first
        while line:
            yield line
            line = self._read_line()

    # Each of these yields a record, or a sentence that says what is wrong with it.

    def _objects(self, lines: Iterator[str]) -> Iterator[dict[str, Any] | str]:
        for line in lines:
            self._line = self._lines_read
            if not line.strip():
                continue
            try:
                record = json.loads(line, parse_constant=_refuse_constant)
                if not isinstance(record, dict):
                    raise ValueError("it is no object")
                if not self.found:
                    self.found = {name: find_column(tuple(record), name) for name in self._asked}
                yield record
            except InputError as error:
                yield str(error).rstrip(".")
            except (ValueError, RecursionError) as error:
                yield f"expected one JSON object on a line, got {shortened(ascii(line.strip()))} ({error})"

    def _texts(self, lines: Iterator[str]) -> Iterator[dict[str, Any] | str]:
        for line in lines:
            self._line = self._lines_read
            if line.strip():
                yield {"text": line.rstrip("\r\n")}

    def _tsv_rows(self, lines: Iterator[str]) -> Iterator[list[str] | str]:
        for line in lines:
            self._line = self._lines_read
            if row := line.rstrip("\r\n"):
                yield row.split("\t")

    def _csv_rows(self, lines: Iterator[str]) -> Iterator[list[str] | str]:
        reader = csv.reader(lines, strict=True)
        while True:
            self._line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield _csv_problem(str(error))
                continue
            if row:
                yield row

    def _read_header(self, rows: Iterator[list[str] | str]) -> list[str]:
        """Read the first row; where columns are asked for by number, it is no header and is returned as a row of data."""
        first = next(rows, [])
        if isinstance(first, str):
            raise InputError(f"{self.name}:{self._line}: the header cannot be read: {first}")
        by_number = _by_number(self._asked)
        names = (str(place) for place in range(1, len(first) + 1)) if by_number else map(str.strip, first)
        self.fieldnames = tuple(names)
        twice = {field for field in self.fieldnames if self.fieldnames.count(field) > 1}
        try:
            if twice:
                raise InputError(f"columns must have different names, got {min(twice)!r} more than once")
            self.found = {name: find_column(self.fieldnames, name) for name in self._asked}
        except InputError as error:
            raise InputError(f"{self.name}:{self._line}: {error}") from None
        return first if by_number else []

    def _dicts(self, rows: Iterator[list[str] | str], first: list[str]) -> Iterator[dict[str, Any] | str]:
        names = self.fieldnames
        if first:
            yield dict(zip(names, first, strict=True))
        for row in rows:
            if isinstance(row, str):
                yield row
            elif len(row) == len(names):
                yield dict(zip(names, row, strict=True))
            else:
                yield f"expected {len(names)} fields ({', '.join(names)}), got {len(row)}: {shortened(ascii(row))}"

    def _problem(self, record: dict[str, Any]) -> str | None:
        for value in record.values():
            if isinstance(value, str):
                problem = text_problem(value)
                if problem:
                    return problem
        for place, column in enumerate(self.found.values()):
            if column not in record:
                return f"expected a field {column!r}, got {shortened(', '.join(map(repr, record))) or 'none'}"
            value = record[column]
            if not isinstance(value, str if place < self._strings else (str, int)):
                kind = "a string" if place < self._strings else "a string or a whole number"
                return f"expected {column!r} to be {kind}, got {shortened(repr(value))}"
            if isinstance(value, str) and not value.strip():
                return f"expected {column!r} to hold text, got an empty field"
        if self._check is None:
            return None
        try:
            return self._check(record)
        except InputError as error:
            return str(error).rstrip(".")


def open_source(file: str) -> AbstractContextManager[IO[bytes]]:
    """A binary stream of a file, or of standard input for "-".

    Raises: InputError for a file that cannot be read.
    """
    if file == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return open(file, "rb")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}{nearest_file(Path(file))}") from None


def write_records(
    stream: IO[str], format: str, fieldnames: Sequence[str]
) -> Callable[[dict[str, Any]], None]:
    """Return a function that writes one record and flushes; for csv and tsv the header is written at once.

    csv and tsv write the columns `fieldnames`; lines writes them too, with tabs between and no header; jsonl writes the whole
    record, the columns `fieldnames` first. In tsv and lines a tab or line end inside a value becomes a space.
    Raises: InputError for an unknown format.
    """
    one_of("format", format, FORMATS)

    def write_row(values: Sequence[Any]) -> None:
        cells = [as_text(value) for value in values]
        if format == "csv":
            buffer = io.StringIO(newline="")
            csv.writer(buffer).writerow(
                cells
            )  # its own line end, \r\n: with another it would not quote both characters
            stream.write(buffer.getvalue().removesuffix("\r\n") + "\n")
        else:
            stream.write("\t".join(cell.translate(_ONE_LINE) for cell in cells) + "\n")
        stream.flush()

    def write_object(record: dict[str, Any]) -> None:
        ordered = {name: record[name] for name in fieldnames if name in record} | record
        stream.write(json.dumps(ordered, ensure_ascii=False) + "\n")
        stream.flush()

    if format == "jsonl":
        return write_object
    if format in _SEPARATORS:
        write_row(fieldnames)
    return lambda record: write_row([record.get(name, "") for name in fieldnames])


def find_column(fieldnames: Sequence[str], name: str) -> str:
    """The column that a name asks for: that name, else the name in other case, else the only one of its ALIASES.

    Raises: InputError naming the columns there are.
    """
    if name in fieldnames:
        return name
    for names in ((name.casefold(),), ALIASES.get(name, ())):
        fitting = [field for field in fieldnames if field.casefold() in names]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise InputError(f"the column for {name!r} could be {' or '.join(map(repr, fitting))}: name one")
    also = f" (or {', '.join(ALIASES[name])})" if name in ALIASES else ""
    there = shortened(", ".join(map(repr, fieldnames)), 120) or "none"
    raise InputError(
        f"expected a column {name!r}{also}, the columns are {there}: rename one in the file, or, when training, name the "
        f"one to use (its number from 1 if the file has no header).{nearest(name, fieldnames)}"
    )


def text_problem(text: str) -> str:
    """What is wrong with a text that was decoded with "surrogateescape"; empty when nothing is."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return f"expected UTF-8, got {shortened(ascii(text))}"
    return "expected text, got a NUL byte" if "\0" in text else ""


def as_text(value: Any) -> str:
    """A value as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shortened(text: str, most: int = 60) -> str:
    """At most so many characters of a text, for a message."""
    return text if len(text) <= most else text[:most] + "..."


def _guess_format(first: str, asked: Sequence[str]) -> str:
    """The format that a first line shows."""
    if first.lstrip().startswith("{"):
        return "jsonl"
    known = {each.casefold() for name in asked for each in (name, *ALIASES.get(name, ()))}
    for format in ("tsv", "csv"):
        separator = _SEPARATORS[format]
        fields = {field.strip(' \r\n"').casefold() for field in first.split(separator)}
        if known & fields or (_by_number(asked) and separator in first):
            return format
    return "lines"


def _by_number(asked: Sequence[str]) -> bool:
    return bool(asked) and all(name.isdecimal() for name in asked)


def _csv_problem(error: str) -> str:
    if "unexpected end of data" in error:
        return "expected a closing quote, got the end of the file"
    if "field larger than field limit" in error:
        most = csv.field_size_limit()
        return f"expected fields of at most {most:,} characters, got a longer one: is a quote not closed?"
    return f"expected a row of CSV ({error}): a quote inside a quoted field must be doubled"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
