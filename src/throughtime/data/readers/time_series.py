"""Time series from CSV, TSV or JSON lines: rows as they arrive, and whole series on a regular grid.

Wide files have a column for each series, long ones a column that names the series and one with its values.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.data.readers.records import Records, as_text, shortened
from throughtime.data.readers.times import (
    NEAR,
    Step,
    Time,
    later,
    parse_time,
    step_of,
    steps_between,
    time_text,
)
from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError, nearest

TIMES = ("time", "date", "ds", "datetime", "timestamp", "month", "day", "week", "quarter", "year", "hour")
NAMES = ("series", "unique_id", "series_id", "item_id")
VALUES = ("y", "value", "target")
MISSING = ("", "nan", "na", "n/a", "null", "none", "-")  # how a missing value may be written, in any case
MOST_FILLED = 1_000_000  # missing steps in one gap: more is a mistake in a time

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Which column is what. As a request, "" and () leave it to `resolve`."""

    time: str = ""
    series: str = ""  # of the series' name; "" of a wide file
    targets: tuple[str, ...] = ()  # one series each; in a long file one column
    known: tuple[str, ...] = ()  # numbers that are known in the future too
    past: tuple[str, ...] = ()  # numbers that are known up to now

    def resolve(self, fields: Sequence[str]) -> Columns:
        """The columns of a file with this header.

        Raises: InputError for a column that is not there, with the nearest one, or no column of values.
        """
        if len(fields) == 1 and ";" in fields[0]:
            raise InputError(
                "expected columns with commas or tabs between them, got semicolons: convert the file"
            )
        for name in (*filter(None, (self.time, self.series)), *self.targets, *self.known, *self.past):
            if name not in fields:
                there = shortened(", ".join(map(repr, fields)), 120) or "none"
                raise InputError(
                    f"expected a column {name!r}, the columns are {there}.{nearest(name, fields)}"
                )
        asked = {*self.targets, *self.known, *self.past}
        free = [name for name in fields if name not in asked]
        time = self.time or next((name for name in free if name.casefold() in TIMES), "")
        time = time or next(
            (name for name in free if name != self.series and name.casefold() not in NAMES), ""
        )
        series = self.series or next((name for name in free if name.casefold() in NAMES and name != time), "")
        free = [name for name in free if name not in (time, series)]
        targets = self.targets or tuple(free)
        if series and not self.targets:
            usual = [name for name in free if name.casefold() in VALUES]
            targets = tuple(usual[:1] or free)
        if not targets or (series and len(targets) > 1):
            raise InputError(
                f"expected a column of values{' beside the one that names the series' if series else ''}, got "
                f"{', '.join(map(repr, targets)) or 'none'}: name the one to forecast with --target"
            )
        twice = [name for name in (time, series, *targets, *self.known, *self.past) if name]
        if len(set(twice)) < len(twice):
            raise InputError(f"a column can be only one of time, series, target, known and past, got {twice}")
        return replace(self, time=time, series=series, targets=targets)


class Row(NamedTuple):
    """What a row says of one series."""

    line: int
    time: Time
    text: str  # of the time
    series: str
    value: float  # NaN: missing
    known: tuple[float, ...]
    past: tuple[float, ...]


class SeriesRows:
    """Iterate over the rows of a binary stream, each as soon as it was read: a list with a `Row` for each series in it.

    Args: columns, a request; form, "csv", "tsv" or "jsonl", None to tell by the suffix of `name`, else by the first line.
    headless: take a first line that starts with a time and numbers for a row of the columns in their order (time, targets, known,
    past), not for a header. With `skip_bad` bad rows are left out and counted.
    Attributes: columns, resolved once the header was read; format.
    Raises: InputError with file and line, here for the header, while iterating for a row.
    """

    def __init__(
        self,
        stream: IO[bytes],
        columns: Columns,
        *,
        name: str,
        form: str | None = None,
        skip_bad: bool = False,
        headless: bool = False,
    ) -> None:
        self.name, self.skip_bad, self.skipped, self._first_skipped = name, skip_bad, 0, ""
        first = stream.readline()
        form = form or _form(first, name)
        if not first:
            raise InputError(f"{name}: expected a header and rows with a time and numbers, got an empty file")
        before = [first]
        self._headless = headless and form != "jsonl" and _is_data(first, form)
        if self._headless:
            separator = "\t" if form == "tsv" else ","
            names = [columns.time, columns.series, *columns.targets, *columns.known, *columns.past]
            header = separator.join(_quoted(each) for each in names if each)
            before.insert(0, f"{header}\n".encode())
        rest: Any = _Rest(before, stream)  # has what is read of a stream
        self._records = Records(rest, (), format=form, name=name, skip_bad=skip_bad)
        self.format = self._records.format
        self._asked: Columns = columns
        self.columns: Columns | None = None
        if self._records.fieldnames:
            self._resolve(self._records.fieldnames)

    def __iter__(self) -> Iterator[list[Row]]:
        for record in self._records:
            line = self._records.line - self._headless
            try:
                columns = self.columns or self._resolve(tuple(record))
                yield row_of(record, columns, line)
            except InputError as error:
                message = f"{self.name}:{line}: {error}"
                if not self.skip_bad:
                    raise InputError(message) from None
                self.skipped += 1
                self._first_skipped = self._first_skipped or message

    @property
    def remark(self) -> str:
        """What to tell the user about rows that were left out; often nothing."""
        if not self.skipped:
            return self._records.remark
        rows = self.skipped + self._records.skipped
        return f"{self.name}: {rows} bad row{'s' * (rows > 1)} skipped; the first is {self._first_skipped}"

    def _resolve(self, fields: tuple[str, ...]) -> Columns:
        try:
            self.columns = self._asked.resolve(fields)
        except InputError as error:
            raise InputError(f"{self.name}:1: {error}") from None
        return self.columns


def row_of(record: dict[str, Any], columns: Columns, line: int) -> list[Row]:
    """What a record says of each series, its values text or numbers.

    Raises: InputError for a time or a number that cannot be read.
    """
    for name in (columns.time, *columns.targets, *columns.known, *columns.past):
        if name not in record:
            there = shortened(", ".join(map(repr, record)), 120) or "none"
            raise InputError(f"expected a column {name!r}, got {there}.{nearest(name, record)}")
    text = as_text(record[columns.time])
    try:
        time = parse_time(text)
    except InputError as error:
        raise InputError(f"the time in {columns.time!r}: {error}") from None
    known, past = (
        tuple(_number(record[name], name) for name in names) for names in (columns.known, columns.past)
    )
    if columns.series:
        name = as_text(record.get(columns.series, "")).strip()
        if not name:
            raise InputError(f"expected the name of a series in {columns.series!r}, got an empty field")
        names = [(name, columns.targets[0])]
    else:
        names = [(target, target) for target in columns.targets]
    return [
        Row(line, time, text, name, _number(record[column], column), known, past) for name, column in names
    ]


@dataclass(frozen=True)
class Series:
    """One series on a regular grid."""

    name: str
    start: Time
    values: Values  # [T], NaN where missing
    known: Values  # [T, K]
    past: Values  # [T, P]

    def __len__(self) -> int:
        """Steps."""
        return len(self.values)


@dataclass(frozen=True)
class SeriesTable:
    """Series of one step, and where they are from."""

    series: tuple[Series, ...]
    step: Step
    columns: Columns
    example: str  # a time as the file writes it
    sources: tuple[Source, ...] = ()
    remarks: tuple[str, ...] = ()


def read_series(
    files: Sequence[str | Path],
    columns: Columns = Columns(),
    *,
    step: Step | None = None,
    fill: bool = False,
    skip_bad: bool = False,
) -> SeriesTable:
    """Read the series of some files; rows of the same series in several files follow one another.

    Args: columns, a request; step, the distance of times, None to find it; fill, put missing values where rows are missing.
    A missing value (empty, nan, NA, null, -) is NaN; so is a missing row with `fill`, else it is an error.
    Raises: InputError with file and line for what cannot be read, times out of order, twice, or not on a regular grid.
    Cost: each file is read once, whole.
    """
    rows: dict[str, list[tuple[str, Row]]] = {}
    sources, remarks = [], []
    for file in files:
        data, source = read_bytes(file)
        sources.append(source)
        reader = SeriesRows(io.BytesIO(data), columns, name=str(file), skip_bad=skip_bad)
        for row in reader:
            for each in row:
                rows.setdefault(each.series, []).append((str(file), each))
        if reader.columns is not None:
            columns = reader.columns  # the other files must have the same
        if reader.remark:
            remarks.append(reader.remark)
    if not rows:
        raise InputError(f"expected rows with a time and numbers, got none in {', '.join(map(str, files))}")
    for found in rows.values():
        _check_order(found)
    if step is None:
        longest = max(rows.values(), key=len)
        if len(longest) < 2:
            raise InputError(
                f"{longest[0][0]}: expected at least two rows of a series, got one: the distance of times is not known"
            )
        step = step_of([row.time for _, row in longest])
    fill = fill or skip_bad
    series = tuple(_on_grid(name, found, step, fill, remarks) for name, found in rows.items())
    example = next(iter(rows.values()))[0][1].text
    return SeriesTable(series, step, columns, example, tuple(sources), tuple(remarks))


def yearly_sunspots() -> SeriesTable:
    """The mean number of sunspots in each year from 1700 to 2008, 309 values: what the task forecasts without data of the user's.

    Source: WDC-SILSO, Royal Observatory of Belgium, Brussels (version 1 of the series), as published by NOAA's National
    Geophysical Data Center.
    """
    path = resources.files("throughtime.data.inside").joinpath("sunspots.csv")
    with resources.as_file(path) as file:
        return read_series([file])


def forward_filled(values: Values) -> Values:
    """[T] with each missing value replaced by the last one before it; those before the first by 0."""
    known = ~np.isnan(values)
    index = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    return np.where(index >= 0, np.where(known, values, 0.0)[np.maximum(index, 0)], 0.0)


def check_kind(row: Row, step: Step) -> None:
    """Refuse a number where the step is one of dates, and a date where it is one of numbers.

    Raises: InputError saying so.
    """
    if isinstance(row.time, float) != (step.unit == "number"):
        kind = "numbers" if step.unit == "number" else "dates"
        raise InputError(f"expected times that are {kind} (the step is {step}), got {row.text!r}")


def missing_steps(before: Time, row: Row, step: Step, fill: bool) -> int:
    """How many steps are missing between a time and the next row of the series; 0 where it is the next one.

    Raises: InputError for a time that is not later, not on the grid, or, without `fill`, not the next one.
    """
    distance = steps_between(before, row.time, step)
    expected = time_text(later(before, 1, step), row.text)
    if distance < NEAR:
        what = "is there twice" if distance > -NEAR else "comes after a later time"
        raise InputError(f"{row.text} {what} in series {row.series!r}: times must ascend, each once")
    if abs(distance - round(distance)) > NEAR * max(1.0, distance):
        raise InputError(
            f"the times of series {row.series!r} are {step} apart, so {expected} was expected, got {row.text}: "
            "bring the times on a regular grid first"
        )
    missing = round(distance) - 1
    if missing and not fill:
        rows = "1 row is" if missing == 1 else f"{missing:,} rows are"
        raise InputError(
            f"{rows} missing in series {row.series!r}: expected {expected}, got {row.text} (the step is {step}); "
            "fill gaps with missing values with --gaps fill, or complete the file"
        )
    if missing > MOST_FILLED:
        raise InputError(f"{missing:,} rows are missing before {row.text}: is the time right?")
    return missing


def _check_order(rows: list[tuple[str, Row]]) -> None:
    """Times ascend, each once."""
    for (_, before), (file, row) in pairwise(rows):
        if isinstance(before.time, float) != isinstance(row.time, float):
            raise InputError(
                f"{file}:{row.line}: expected times of one kind, numbers or dates, got {row.text!r} after {before.text!r}"
            )
        if row.time <= before.time:  # type: ignore[operator]
            what = (
                "is there twice"
                if row.time == before.time
                else f"comes after {before.text} (row {before.line})"
            )
            raise InputError(
                f"{file}:{row.line}: {row.text} {what} in series {row.series!r}: times must ascend, each once; sort the file, "
                "or name the column of the series' names with --series"
            )


def _on_grid(name: str, rows: list[tuple[str, Row]], step: Step, fill: bool, remarks: list[str]) -> Series:
    places, last = [0], 0
    file, first = rows[0]
    try:
        check_kind(first, step)  # the others are of its kind
    except InputError as error:
        raise InputError(f"{file}:{first.line}: {error}") from None
    for (_, before), (file, row) in pairwise(rows):
        try:
            last += 1 + missing_steps(before.time, row, step, fill)
        except InputError as error:
            raise InputError(f"{file}:{row.line}: {error}") from None
        places.append(last)
    columns = [[row.value, *row.known, *row.past] for _, row in rows]
    table = np.full((last + 1, len(columns[0])), np.nan)
    table[places] = columns
    known = len(rows[0][1].known)
    if last + 1 > len(rows):
        remarks.append(f"series {name!r}: {last + 1 - len(rows):,} missing rows filled with missing values")
    return Series(name, rows[0][1].time, table[:, 0], table[:, 1 : 1 + known], table[:, 1 + known :])


def _number(value: Any, column: str) -> float:
    if value is None or (isinstance(value, str) and value.strip().casefold() in MISSING):
        return np.nan
    try:
        number = np.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = np.nan
    if not np.isfinite(number):
        raise InputError(
            f"expected a number in {column!r}, or nothing where it is missing, got {shortened(repr(value))}; name the columns to "
            "forecast with --target"
        )
    return number


class _Rest:
    """A stream from which some lines were read already."""

    def __init__(self, lines: list[bytes], stream: IO[bytes]) -> None:
        self._lines, self._stream = lines, stream

    def readline(self) -> bytes:
        return self._lines.pop(0) if self._lines else self._stream.readline()


def _form(first: bytes, name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix in (".jsonl", ".ndjson", ".json") or first.lstrip().startswith(b"{"):
        return "jsonl"
    return "tsv" if suffix in (".tsv", ".tab") or (b"\t" in first and suffix != ".csv") else "csv"


def _is_data(first: bytes, form: str) -> bool:
    """Whether a first line is a time and numbers, not a header."""
    fields = first.decode("utf-8", "replace").strip().split("\t" if form == "tsv" else ",")
    try:
        parse_time(fields[0].strip('" '))
    except InputError:
        return False
    return True


def _quoted(name: str) -> str:
    return f'"{name}"' if "," in name else name
