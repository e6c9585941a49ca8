"""Times of observations: numbers or ISO dates at a regular distance, and what the calendar says of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import InputError

Time = float | datetime

_MONTH = re.compile(r"(\d{4})[-/](\d{1,2})")
_QUARTER = re.compile(r"(\d{4})[-/ ]?[Qq]([1-4])")
_DAY, _WEEK = 86_400, 604_800
_SEASONS = {"month": {1: 12, 3: 4}, "second": {_DAY: 7, _WEEK: 52}}
_NAMES = {("month", 1): "month", ("month", 3): "quarter", ("month", 12): "year", ("second", _WEEK): "week",
          ("second", _DAY): "day", ("second", 3600): "hour", ("second", 60): "minute", ("second", 1): "second"}  # fmt: skip
_HARMONICS = 3
NEAR = 1e-4  # of a step: two numbers that are closer are the same time


class Step(NamedTuple):
    """The distance between neighbouring observations."""

    unit: str  # "month" (of the calendar), "second" or "number"
    size: float  # how many of them; whole for months

    def __str__(self) -> str:
        name = _NAMES.get((self.unit, int(self.size)))
        if self.unit == "number":
            return f"{self.size:g}"
        return f"1 {name}" if name else f"{self.size:g} {self.unit}s"


def parse_time(text: str) -> Time:
    """A number, or a date: 2024-01-31, 2024-01-31 18:00, 20240131, 2024-01, 2024-Q1. With a time zone it is converted to UTC.

    Raises: InputError for anything else.
    """
    text = text.strip()
    for pattern, months in ((_MONTH, 1), (_QUARTER, 3)):
        found = pattern.fullmatch(text)
        if found and 1 <= int(found[2]) <= 12:
            return datetime(int(found[1]), months * (int(found[2]) - 1) + 1, 1)
    if not (len(text) == 8 and text[:2] in ("18", "19", "20")):
        try:
            number = float(text)
        except ValueError:
            pass
        else:
            if np.isfinite(number):
                return number
    try:
        date = datetime.fromisoformat(text.replace("/", "-"))
    except ValueError:
        raise InputError(
            f"expected a number or an ISO date such as 2024-01-31 or 2024-01-31 18:00, got {text[:40]!r}"
        ) from None
    return date.astimezone(UTC).replace(tzinfo=None) if date.tzinfo else date


def step_of(times: Sequence[Time]) -> Step:
    """The most frequent distance between neighbouring times, the smaller one of two; calendar months where all days are alike.

    Args: times, at least two, ascending, all numbers or all dates.
    """
    if not isinstance(times[0], datetime):
        numbers = [float(each) for each in times if not isinstance(each, datetime)]
        return Step("number", _most_frequent([round(b - a, 9) for a, b in pairwise(numbers)]))
    dates = [each for each in times if isinstance(each, datetime)]
    if len({(each.day, each.time()) for each in dates}) == 1 or all(map(_ends_month, dates)):
        return Step("month", _most_frequent([_months(b) - _months(a) for a, b in pairwise(dates)]))
    return Step("second", _most_frequent([(b - a).total_seconds() for a, b in pairwise(dates)]))


def steps_between(first: Time, second: Time, step: Step) -> float:
    """How many steps the second time lies after the first; whole where both are on one grid."""
    if isinstance(first, datetime) != isinstance(second, datetime):
        raise InputError("times must be all numbers or all dates, got both")
    if isinstance(first, datetime) and isinstance(second, datetime):
        if step.unit == "second":
            return (second - first).total_seconds() / step.size
        alike = (first.day, first.time()) == (second.day, second.time())
        if alike or (_ends_month(first) and _ends_month(second)):
            return (_months(second) - _months(first)) / step.size
        return (second - first).total_seconds() / (step.size * 30.4375 * _DAY)  # on no grid of months
    return (float(second) - float(first)) / step.size  # type: ignore[arg-type]


def later(time: Time, steps: int, step: Step) -> Time:
    """The time so many steps later. The last day of a month stays the last one."""
    if not isinstance(time, datetime):
        return time + steps * step.size
    if step.unit == "second":
        return time + timedelta(seconds=steps * step.size)
    months = _months(time) + steps * int(step.size)
    year, month = divmod(months, 12)
    first = time.replace(year=year, month=month + 1, day=1)
    end = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    return end if _ends_month(time) and time.day > 27 else first.replace(day=min(time.day, end.day))


def time_text(time: Time, like: str) -> str:
    """A time as text, in the form of an example from the user's file."""
    if not isinstance(time, datetime):
        return f"{round(time, 9):g}" if abs(time) >= 1e15 or time != round(time) else str(round(time))
    like = like.strip()
    if _QUARTER.fullmatch(like):
        return f"{time.year:04}-Q{(time.month - 1) // 3 + 1}"
    if found := _MONTH.fullmatch(like):
        return f"{time.year:04}{like[4]}{time.month:0{len(found[2])}}"
    if time.time() == datetime.min.time() and ":" not in like:
        return f"{time:%Y%m%d}" if len(like) == 8 else time.date().isoformat()
    return time.isoformat("T" if "T" in like else " ")


def season_of(step: Step) -> int:
    """Steps of the usual cycle of such data: 12 months, 4 quarters, 7 days, 52 weeks, a day of hours or minutes; else 1."""
    if step.unit == "second" and step.size < _DAY and _DAY % step.size == 0:
        return int(_DAY / step.size)
    return _SEASONS.get(step.unit, {}).get(int(step.size), 1)


def calendar(times: Sequence[Time], step: Step) -> NDArray[np.float32]:
    """Sines and cosines [T, C] of the day, the week and the year, as many of these cycles as the step can show; C may be 0."""
    cycles: list[list[float]] = []
    shortest: list[float] = []  # steps of each cycle
    dates = [each for each in times if isinstance(each, datetime)]
    if dates and step.unit == "second" and step.size < _DAY:
        cycles.append([(each.hour + each.minute / 60 + each.second / 3600) / 24 for each in dates])
        shortest.append(_DAY / step.size)
    if dates and step.unit == "second" and step.size <= _DAY:
        cycles.append([(each.weekday() + each.hour / 24) / 7 for each in dates])
        shortest.append(_WEEK / step.size)
    if dates and step.unit == "second" and _DAY <= step.size <= 5 * _WEEK:
        cycles.append([each.timetuple().tm_yday / 365.25 for each in dates])
        shortest.append(365.25 * _DAY / step.size)
    if dates and step.unit == "month" and step.size < 12:
        cycles.append([(each.month - 1) / 12 for each in dates])
        shortest.append(12 / step.size)
    columns = [
        wave(2 * np.pi * harmonic * np.asarray(fractions))
        for fractions, steps in zip(cycles, shortest, strict=True)
        for harmonic in range(1, _HARMONICS + 1)
        if 2 * harmonic <= steps
        for wave in (np.sin, np.cos)
    ]
    found = np.stack(columns, axis=1) if columns else np.zeros((len(times), 0))
    return found.astype(np.float32)


def _months(date: datetime) -> int:
    return 12 * date.year + date.month - 1


def _ends_month(date: datetime) -> bool:
    return (date + timedelta(days=1)).day == 1


def _most_frequent(distances: Sequence[float]) -> float:
    counts = Counter(distances)
    return min(counts, key=lambda distance: (-counts[distance], distance))
