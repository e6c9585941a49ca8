"""Sessions of items, from logs of events: CSV, TSV or JSON lines with columns session, item, time, or lines `user item`."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from throughtime.data.readers.records import ALIASES, FORMATS, Records, find_column, shortened
from throughtime.data.split import Split
from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError

_TABLES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}


class Event(NamedTuple):
    """One item of one session."""

    session: str
    item: str
    time: float | None  # seconds, or the number that the file has; None where it has no times
    record: dict[str, Any]  # as it was read


@dataclass(frozen=True)
class Sessions:
    """Sequences of items, each with the time of its last event where times are known."""

    items: tuple[tuple[str, ...], ...]
    ends: tuple[float, ...] | None = None
    sources: tuple[Source, ...] = ()
    remarks: tuple[str, ...] = ()  # what a user should be told once: rows skipped, events sorted

    def only(self, numbers: Sequence[int]) -> Sessions:
        """Some of the sessions."""
        ends = None if self.ends is None else tuple(self.ends[number] for number in numbers)
        return replace(self, items=tuple(self.items[number] for number in numbers), ends=ends)


class Events:
    """Iterate over the events of a binary stream, one at a time, in the order of the stream.

    A stream is CSV, TSV or JSON lines with a column for the session, one for the item and perhaps one for the time; or a log
    without a header, lines of `session item` or `session item time` with white space between. Which of them the suffix of `name`
    says, else the first line. Names and items may be numbers in JSON. A time is a number, or an ISO 8601 date or date and time
    (UTC where it names no zone), the same kind in all rows.

    Args: session, item, time: names of the columns; None: the usual ones (`throughtime.data.readers.records.ALIASES`), and no
    time where
    there is no such column. form: "csv", "tsv", "jsonl" or "lines".
    Attributes: records, the `Records` that are read: format, fieldnames, remark.
    Raises: InputError with file and line, here for a header without these columns, while iterating for a bad row.
    """

    def __init__(
        self,
        stream: IO[bytes],
        *,
        session: str | None = None,
        item: str | None = None,
        time: str | None = None,
        form: str | None = None,
        name: str = "standard input",
        skip_bad: bool = False,
    ) -> None:
        asked = (session or "session", item or "item")
        first = stream.readline()
        form = form or _TABLES.get(Path(name).suffix.lower()) or _guess(first, asked)
        self._asked, self._time = asked, time
        self._numbers: bool | None = None  # whether times are numbers, once one was seen
        self._event: Event | None = None
        self._log = form == "lines"
        source: Any = _Again(first, stream)  # has what `Records` reads: lines
        self.records = Records(
            source,
            ("text",) if self._log else asked,
            format=form,
            name=name,
            skip_bad=skip_bad,
            check=self._problem,
            strings=1 if self._log else 0,
        )
        if self.records.fieldnames and not self._log:
            try:
                self._time = self._time_column(self.records.fieldnames)
            except InputError as error:
                raise InputError(f"{name}:1: {error}") from None

    def __iter__(self) -> Iterator[Event]:
        for _ in self.records:
            assert self._event is not None  # `_problem` read it
            yield self._event

    def _problem(self, record: dict[str, Any]) -> str | None:
        """Read an event into `_event`; what is wrong with it, if anything is."""
        if self._log:
            fields = str(record["text"]).split()
            if len(fields) not in (2, 3):
                return (
                    f"expected a session and an item, or these and a time, got {len(fields)} fields: "
                    f"{shortened(record['text'].strip()) or 'none'}"
                )
            session, item, time = fields[0], fields[1], fields[2] if len(fields) == 3 else None
        else:
            if self.records.format == "jsonl" and self._event is None:
                self._time = self._time_column(tuple(record))
            session, item = (str(record[self.records.found[name]]).strip() for name in self._asked)
            if self._time is not None and self._time not in record:
                return f"expected a time in the field {self._time!r}, got none"
            time = None if self._time is None else record[self._time]
        if self._event is not None and (time is None) != (self._event.time is None):
            return (
                f"expected {'no time' if time is not None else 'a time'}, as in the rows before: times must stand in all rows or "
                "in none"
            )
        seconds = None
        if time is not None:
            number = _number(time)
            seconds = _date(time) if number is None else number
            if seconds is None:
                return f"expected a number or an ISO date (2024-05-31, 2024-05-31T10:00:00) as time, got {shortened(repr(time))}"
            if self._numbers not in (None, number is not None):
                kinds = ("a date", "a number") if self._numbers else ("a number", "a date")
                return f"expected {kinds[1]} as time, as in the rows before, got {kinds[0]}: {time!r}"
            self._numbers = number is not None
        self._event = Event(session, item, seconds, record)
        return None

    def _time_column(self, names: tuple[str, ...]) -> str | None:
        if self._time is not None:
            return find_column(names, self._time)
        known = ("time", *ALIASES["time"])
        return find_column(names, "time") if any(each.strip().casefold() in known for each in names) else None


def read_sessions(
    paths: Sequence[str | Path] | str | Path,
    *,
    session: str | None = None,
    item: str | None = None,
    time: str | None = None,
    skip_bad: bool = False,
) -> Sessions:
    """Read the events of one or more files, and group them by session, in the order of each session's first event.

    Within a session events are in the order of their times, events of one time in the order of the files; without times all
    are in the order of the files, and a session may be interleaved with others. Sessions of one event are left out.
    Arguments and formats as for `Events`. Cost: each file is read once, whole, into memory; about 200 bytes for each event.
    Raises: InputError for a bad row (left out and counted with `skip_bad`), a file that cannot be read, times in some files
    only, or no session of two events.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found: dict[str, list[tuple[float, str]]] = {}
    sources, remarks = [], []
    timed: bool | None = None
    late = 0
    for file in files:
        data, source = read_bytes(file)
        sources.append(source)
        if b"\n" not in data:
            data = data.replace(b"\r", b"\n")  # the line ends of Mac OS before version 10
        events = Events(
            io.BytesIO(data), session=session, item=item, time=time, name=str(file), skip_bad=skip_bad
        )
        for event in events:
            if timed is None:
                timed = event.time is not None
            if timed != (event.time is not None):
                raise InputError(
                    f"{file}: expected {'a time' if timed else 'no times'}, as in the files before it: give times in all files "
                    "or in none"
                )
            so_far = found.setdefault(event.session, [])
            when = 0.0 if event.time is None else event.time
            late += bool(so_far) and when < so_far[-1][0]
            so_far.append((when, event.item))
        if events.records.remark:
            remarks.append(events.records.remark)
    for each in found.values():
        each.sort(key=lambda one: one[0])  # stable
    kept = [each for each in found.values() if len(each) > 1]
    if not kept:
        raise InputError(
            f"expected sessions of at least two events, found none in {', '.join(map(str, files))}: is the session's column "
            "the right one?"
        )
    if late:
        remarks.append(f"{_counted(late, 'event')} out of the order of time, sorted")
    if len(kept) < len(found):
        remarks.append(f"{_counted(len(found) - len(kept), 'session')} of one event left out")
    return Sessions(
        tuple(tuple(item for _, item in each) for each in kept),
        tuple(each[-1][0] for each in kept) if timed else None,
        tuple(sources),
        tuple(remarks),
    )


def split_by_time(ends: Sequence[float] | None, *, validation: float = 0.1, test: float = 0.0) -> Split:
    """The sessions that end last for test, those before them for validation, the others for training.

    Args: ends, the time of each session's last event; validation, test: fractions of the sessions. Sessions that end at one
    time are in one part, the later of the two.
    Raises: InputError without times, or where nothing is left to train on.
    """
    if ends is None:
        raise InputError(
            "split time needs the times of the events: name their column with --time, or use another split"
        )
    order = sorted(range(len(ends)), key=lambda number: ends[number])
    parts: list[tuple[int, ...]] = []
    stop = len(order)
    for fraction in (test, validation):
        start = min(stop, len(order) - round(len(order) * (fraction + (0 if not parts else test))))
        while 0 < start < stop and ends[order[start - 1]] == ends[order[start]]:
            start -= 1
        parts.append(tuple(sorted(order[start:stop])))
        stop = start
    if not stop:
        raise InputError(
            "split time leaves no session to train on, as sessions that end at the same time stay together: hold out less, or "
            "use another split"
        )
    return Split(tuple(sorted(order[:stop])), parts[1], parts[0])


class _Again:
    """A stream whose first line was read already."""

    def __init__(self, first: bytes, stream: IO[bytes]) -> None:
        self._first: bytes | None = first
        self._stream = stream

    def readline(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return self._stream.readline()


def _guess(first: bytes, asked: Sequence[str]) -> str:
    """The format that a first line shows: a header or an object, else a log."""
    line = first.decode("utf-8", "replace").removeprefix("\ufeff")
    if line.lstrip().startswith("{"):
        return "jsonl"
    known = {each.casefold() for name in asked for each in (name, *ALIASES.get(name, ()))}
    for form, separator in (("tsv", "\t"), ("csv", ",")):
        fields = {field.strip(' \r\n"').casefold() for field in line.split(separator)}
        if known & fields or (separator == "," and "," in line and len(line.split()) == 1):
            return form
    return FORMATS[-1]


def _counted(number: int, what: str) -> str:
    """A number with its noun: 1 event, 2,000 events."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _date(value: Any) -> float | None:
    """Seconds since 1970 of an ISO date, or None."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def items_of(value: Any) -> list[str]:
    """The items of one session: a list of names, or a text with names between white space, or with a JSON list of names.

    Raises: InputError for anything else, and for no items.
    """
    items = value
    if isinstance(value, str):
        items = value.split()
        if value.lstrip().startswith("["):
            try:
                items = json.loads(value)
            except (ValueError, RecursionError):
                items = None
    if (
        not isinstance(items, (list, tuple))
        or not items
        or any(not isinstance(item, (str, int)) or isinstance(item, bool) for item in items)
    ):
        raise InputError(
            f"expected the items of a session, names with spaces between or a JSON list of names, got {value!r:.60}"
        )
    return [str(item) for item in items]
