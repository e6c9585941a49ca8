"""Times: what is read as one, the step between them, and going on from the last."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest

from throughtime.data.readers.times import (
    Step,
    calendar,
    later,
    parse_time,
    season_of,
    step_of,
    steps_between,
    time_text,
)
from throughtime.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1949", 1949.0),
        ("-3.5", -3.5),
        ("1949-01", datetime(1949, 1, 1)),
        ("1949/12", datetime(1949, 12, 1)),
        ("2024-Q3", datetime(2024, 7, 1)),
        ("1981-01-31", datetime(1981, 1, 31)),
        ("20160701", datetime(2016, 7, 1)),
        ("2016-07-01 05:00:00", datetime(2016, 7, 1, 5)),
        ("2016-07-01T05:30", datetime(2016, 7, 1, 5, 30)),
        ("2016-07-01T05:00:00+02:00", datetime(2016, 7, 1, 3)),
    ],
)
def test_what_is_a_time(text: str, expected: object) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "2024-13", "2024-02-30", "nan", "inf"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(InputError, match="expected a number or an ISO date") as error:
        parse_time(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("texts", "step", "season", "following"),
    [
        (("1949-01", "1949-02", "1949-03"), Step("month", 1), 12, "1949-04"),
        (("2024-Q3", "2024-Q4", "2025-Q1"), Step("month", 3), 4, "2025-Q2"),
        (("2023-12-31", "2024-01-31", "2024-02-29"), Step("month", 1), 12, "2024-03-31"),
        (("2024-02-27", "2024-02-28", "2024-02-29"), Step("second", 86400), 7, "2024-03-01"),
        (("2024-12-23", "2024-12-30", "2025-01-06"), Step("second", 604800), 52, "2025-01-13"),
        (
            ("2016-07-01 22:00:00", "2016-07-01 23:00:00", "2016-07-02 00:00:00"),
            Step("second", 3600),
            24,
            "2016-07-02 01:00:00",
        ),
        (("1700", "1701", "1702"), Step("number", 1), 1, "1703"),
        (("0.5", "0.75", "1"), Step("number", 0.25), 1, "1.25"),
        (("2000-05-01", "2001-05-01", "2002-05-01"), Step("month", 12), 1, "2003-05-01"),
    ],
)
def test_step_season_and_the_next_time(
    texts: tuple[str, ...], step: Step, season: int, following: str
) -> None:
    times = [parse_time(text) for text in texts]
    assert step_of(times) == step
    assert season_of(step) == season
    assert time_text(later(times[-1], 1, step), texts[0]) == following
    assert later(times[-1], -2, step) == times[0]
    assert [steps_between(times[0], each, step) for each in times] == [0, 1, 2]


def test_a_day_that_no_month_of_the_grid_has_is_between_two_steps() -> None:
    step = Step("month", 1)
    assert steps_between(datetime(2024, 1, 1), datetime(2024, 2, 15), step) % 1 > 0.01
    with pytest.raises(InputError, match="all numbers or all dates"):
        steps_between(3.0, datetime(2024, 1, 1), step)


def test_the_calendar_has_the_cycles_that_the_step_can_show() -> None:
    hours = [datetime(2024, 1, 1) + timedelta(hours=n) for n in range(24 * 7 + 1)]
    found = calendar(hours, Step("second", 3600))
    assert found.shape == (169, 12) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], found[-1], atol=1e-5)  # a week later all is alike
    np.testing.assert_allclose(found[:24, :6], found[24:48, :6], atol=1e-5)  # a day later only the day
    assert not np.allclose(found[:24, 6:], found[24:48, 6:], atol=1e-2)
    months = [datetime(2024 + n // 12, n % 12 + 1, 1) for n in range(13)]
    found = calendar(months, Step("month", 1))
    np.testing.assert_allclose(found[:, 0], np.sin(2 * np.pi * np.arange(13) / 12), atol=1e-6)
    np.testing.assert_allclose(found[:, 5], np.cos(6 * np.pi * np.arange(13) / 12), atol=1e-6)
    assert calendar(months[::3], Step("month", 3)).shape == (5, 4)  # no third harmonic of four quarters
    assert calendar([1.0, 2.0], Step("number", 1)).shape == (2, 0)
