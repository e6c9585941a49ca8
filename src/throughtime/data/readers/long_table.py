"""Long tables: CSV or TSV in which a row is one step of a sequence, and a sequence is the rows with the same name.

    sequence,time,x,y,label
    1,0.0,0.13,-1.20,walk
    1,0.1,0.15,-1.11,walk
    2,0.0,0.90,0.31,run

The rows of a sequence stand together, in their order in time. Numbers are the features; every other column is left alone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import IO, NamedTuple

from throughtime.data.readers.records import ALIASES, Records, find_column, shortened
from throughtime.errors import InputError

TIMES = (
    "time",
    "timestamp",
    "date",
    "t",
    "step",
    "frame",
)  # columns that order the rows, and are no features
GROUPS = ("group", "subject", "user", "person", "fold", "split", "path")  # numbers there are names
_LOOKED_AT = 100  # rows, to find the columns that hold numbers


class Row(NamedTuple):
    """One step of a sequence."""

    line: int  # of the file, from 1
    sequence: str
    values: list[float]  # [D]
    label: str | None  # None where the table has no labels
    record: dict[str, str]  # all cells by column


class LongTable:
    """The rows of a long table, read one at a time: no row is read before the one before it was taken.

    Args: stream, binary; name, for messages; sequence and label, the columns asked for, found as
    `throughtime.data.readers.records.find_column` says; features, the columns of numbers, or none to find them: all columns
    that hold a
    number in any of the first 100 rows, but those of sequence, label, time and group, and `others`. others: more columns that
    must be there. per_step: each row has a label of its own; else a sequence has one. labelled: False where the label may be
    missing. skip_bad: leave bad rows out.
    Attributes: format; fieldnames; features; ignored, columns that hold no feature; label, the column, or None; bad, what is
    wrong with rows that were left out.
    Raises: InputError with file and line: here for a missing column (with the nearest), while iterating for a bad row.
    """

    def __init__(
        self,
        stream: IO[bytes],
        *,
        name: str,
        sequence: str = "sequence",
        label: str = "label",
        features: Sequence[str] = (),
        others: Sequence[str] = (),
        per_step: bool = False,
        labelled: bool = True,
        skip_bad: bool = False,
        format: str | None = None,
    ) -> None:
        self.name, self.per_step, self.skip_bad = name, per_step, skip_bad
        self.records = Records(stream, (sequence,), name=name, format=format)
        self.format, self.fieldnames = self.records.format, self.records.fieldnames
        if self.format not in ("csv", "tsv"):
            raise InputError(
                f"{name}: expected a long table, CSV or TSV with a header and a column {sequence!r}, got {self.format}"
            )
        self.sequence = self.records.found[sequence]
        try:
            self.others = {other: find_column(self.fieldnames, other) for other in others}
            there = {label.casefold(), *ALIASES.get(label, ())} & set(map(str.casefold, self.fieldnames))
            self.label = find_column(self.fieldnames, label) if labelled or there else None
            named = tuple(find_column(self.fieldnames, feature) for feature in features)
        except InputError as error:
            raise InputError(f"{name}:1: {error}") from None
        self.time = next((each for each in self.fieldnames if each.casefold() in TIMES), None)
        self._ahead: deque[tuple[int, dict[str, str]] | str] = deque()  # or what is wrong with a row
        self.bad: list[str] = []
        self.features = named or self._found_features()
        self.ignored = tuple(
            each
            for each in self.fieldnames
            if each not in (self.sequence, self.label, self.time, *self.features, *self.others.values())
        )
        self._ended: dict[str, int] = {}  # sequences, with the line after their last row
        self._last: Row | None = None
        self._first_line = 0

    def __iter__(self) -> Iterator[Row]:
        while True:
            try:
                while self._ahead:
                    ahead = self._ahead.popleft()
                    if isinstance(ahead, str):
                        raise InputError(ahead)
                    yield self._row(*ahead)
                for record in self.records:
                    yield self._row(self.records.line, record)
            except InputError as error:
                if not self.skip_bad:
                    raise
                self.bad.append(str(error))
            else:
                return

    def sequences(self) -> Iterator[list[Row]]:
        """Whole sequences; one that has, or may have, a bad row is left out as a whole, where bad rows are left out."""
        rows: list[Row] = []
        bad, spoiled = 0, False
        for row in self:
            new = len(self.bad) > bad
            bad = len(self.bad)
            if rows and row.sequence != rows[0].sequence:
                if not spoiled and not new:
                    yield rows
                rows, spoiled = [], False
            spoiled = spoiled or new
            rows.append(row)
        if rows and not spoiled and len(self.bad) == bad:
            yield rows

    def _found_features(self) -> tuple[str, ...]:
        while len(self._ahead) < _LOOKED_AT:
            try:
                more = [(self.records.line, each) for each in islice(self.records, 1)]
            except InputError as error:
                self._ahead.append(str(error))
                continue
            if not more:
                break
            self._ahead.extend(more)
        records = [each[1] for each in self._ahead if not isinstance(each, str)]
        taken = {self.sequence, self.label, self.time, *self.others.values()}
        taken |= {each for each in self.fieldnames if each.casefold() in (*TIMES, *GROUPS)}
        found = tuple(
            each
            for each in self.fieldnames
            if each not in taken and any(_number(record[each]) is not None for record in records)
        )
        if not found and records:
            raise InputError(
                f"{self.name}:1: expected columns of numbers beside {', '.join(sorted(filter(None, taken)))}, found none: "
                "name them with --features"
            )
        return found

    def _row(self, line: int, record: dict[str, str]) -> Row:
        """A checked row.

        Raises: InputError saying what is wrong with it.
        """
        where = f"{self.name}:{line}"
        sequence = record[self.sequence].strip()
        values = [self._value(where, name, record[name]) for name in self.features]
        label = record[self.label].strip() if self.label is not None else None
        if label == "":
            raise InputError(f"{where}: expected {self.label!r} to hold a label, got an empty field")
        if self.time is not None:
            _moment(where, self.time, record[self.time])
        row, last = Row(line, sequence, values, label, record), self._last
        if last is None or last.sequence != sequence:
            if sequence in self._ended:
                raise InputError(
                    f"{where}: sequence {sequence!r} had ended before line {self._ended[sequence]}: the rows of a sequence must "
                    f"stand together; sort the file by {self.sequence!r}"
                )
            if last is not None:
                self._ended[last.sequence] = line
            self._first_line = line
        else:
            self._check_constant(where, row, last)
        self._last = row
        return row

    def _check_constant(self, where: str, row: Row, last: Row) -> None:
        """What must not change, or go back, inside a sequence."""
        if not self.per_step and row.label != last.label:
            raise InputError(
                f"{where}: sequence {row.sequence!r} has the label {row.label!r} here and {last.label!r} from line "
                f"{self._first_line}: a sequence has one label; for a label on every row use 'throughtime train frames'"
            )
        for column in self.others.values():
            if row.record[column] != last.record[column]:
                raise InputError(
                    f"{where}: sequence {row.sequence!r} has {column} = {row.record[column]!r} here and "
                    f"{last.record[column]!r} from line {self._first_line}: it must be one for all its rows"
                )
        if self.time is not None:
            before, now = (_moment(where, self.time, each.record[self.time]) for each in (last, row))
            if type(before) is type(now) and now < before:  # type: ignore[operator]
                raise InputError(
                    f"{where}: {self.time} goes back from {last.record[self.time]} to {row.record[self.time]} inside sequence "
                    f"{row.sequence!r}: sort its rows by time"
                )

    def _value(self, where: str, column: str, cell: str) -> float:
        number = _number(cell)
        if number is None or not math.isfinite(number):
            what = "an empty field" if not cell.strip() else f"{shortened(cell.strip())!r}"
            raise InputError(f"{where}: expected {column!r} to be a finite number, got {what}")
        return number


def _number(cell: str) -> float | None:
    """A cell as a number, None where it is none; "1_000", which Python reads, is none."""
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        return None


def _moment(where: str, column: str, cell: str) -> float | datetime:
    number = _number(cell)
    if number is not None and math.isfinite(number):
        return number
    try:
        return datetime.fromisoformat(cell.strip()).replace(tzinfo=None)
    except ValueError:
        raise InputError(
            f"{where}: expected {column!r} to be a number or a date such as 2024-05-31T12:00:00, got {shortened(cell)!r}"
        ) from None
