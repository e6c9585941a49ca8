"""Reading series: which column is what, and each mistake as one line with its row."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from throughtime.data.readers.time_series import (
    Columns,
    SeriesRows,
    forward_filled,
    read_series,
    yearly_sunspots,
)
from throughtime.data.readers.times import Step
from throughtime.errors import InputError


def table(folder: Path, text: str, name: str = "t.csv") -> list[Path]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return [path]


def test_wide_files_have_a_series_in_each_column(tmp_path: Path) -> None:
    found = read_series(table(tmp_path, "Month,a,b\n1949-01,1,10\n1949-02,2,nan\n1949-03,,30\n"))
    assert [each.name for each in found.series] == ["a", "b"]
    np.testing.assert_array_equal(found.series[0].values, [1, 2, np.nan])
    np.testing.assert_array_equal(found.series[1].values, [10, np.nan, 30])
    assert found.step == Step("month", 1) and found.columns.time == "Month" and found.example == "1949-01"


def test_long_files_name_the_series_in_a_column(tmp_path: Path) -> None:
    text = "unique_id\tds\ty\tpromo\nx\t2024-01-01\t1\t0\nz\t2024-01-05\t7\t1\nx\t2024-01-02\t2\t1\nz\t2024-01-06\t8\t0\n"
    found = read_series(table(tmp_path, text, "t.tsv"), Columns(known=("promo",)))
    assert [(each.name, each.values.tolist(), each.known[:, 0].tolist()) for each in found.series] == [
        ("x", [1, 2], [0, 1]),
        ("z", [7, 8], [1, 0]),
    ]
    lines = '{"time": 3, "series": "x", "value": 1.5}\n{"time": 5, "series": "x", "value": null}\n'
    found = read_series(table(tmp_path, lines, "t.jsonl"))
    assert found.step == Step("number", 2) and np.isnan(found.series[0].values[1])


def test_covariates_are_named_and_other_columns_left_alone(tmp_path: Path) -> None:
    text = "date,y,known,past,note\n2024-01-01,1,5,6,hello\n2024-01-02,2,7,8,world\n"
    asked = Columns(targets=("y",), known=("known",), past=("past",))
    (series,) = read_series(table(tmp_path, text), asked).series
    assert series.known.tolist() == [[5], [7]] and series.past.tolist() == [[6], [8]]


def test_rows_of_a_series_in_several_files_follow_one_another(tmp_path: Path) -> None:
    files = table(tmp_path, "t,y\n1,1\n2,2\n", "a.csv") + table(tmp_path, "t,y\n3,3\n", "b.csv")
    found = read_series(files)
    assert found.series[0].values.tolist() == [1, 2, 3] and len(found.sources) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,y\n2024-01-01,1\n2024-01-03,2\n2024-01-02,3\n", r"t\.csv:4: 2024-01-02 comes after 2024-01-03 \(row 3\)"),
        ("date,y\n2024-01-01,1\n2024-01-02,2\n2024-01-02,3\n", r"t\.csv:4: 2024-01-02 is there twice in series 'y'"),
        ("date,y\n2024-01-01,1\n2024-01-02,2\n2024-01-05,3\n",
         r"t\.csv:4: 2 rows are missing .*: expected 2024-01-03, got 2024-01-05 \(the step is 1 day\); fill gaps .* --gaps fill"),
        ("date,y\n2024-01-01,1\n2024-01-02,2\n2024-01-03 07:00,3\n", r"t\.csv:4: the times .* are 1 day apart, so 2024-01-03"),
        ("date,y\n2024-01-01,1\n2024-01-02,two\n", r"t\.csv:3: expected a number in 'y', or nothing .* got 'two'"),
        ("date,y\n2024-01-01,1\n2024-01-02,inf\n", r"t\.csv:3: expected a number in 'y'"),
        ("date,y\n2024-01-01,1\nlater,2\n", r"t\.csv:3: the time in 'date': expected a number or an ISO date"),
        ("date,y\n2024-01-01,1\n2024-01-02,1,2\n", r"t\.csv:3: expected 2 fields"),
        ("date,y\n1,1\n2024-01-02,2\n", r"t\.csv:3: expected times of one kind"),
        ("date,y\n2024-01-01,1\n", r"t\.csv: expected at least two rows of a series, got one"),
        ("date,y\n", r"expected rows with a time and numbers, got none"),
        ("", r"t\.csv: expected a header and rows .* got an empty file"),
        ("date;y\n1;2\n", r"t\.csv:1: expected columns with commas or tabs between them, got semicolons"),
        ("date\n1\n2\n", r"t\.csv:1: expected a column of values, got none"),
        ("series,t,a,b\nx,1,2,3\n", r"t\.csv:1: expected a column of values beside the one that names the series, got 'a', 'b'"),
        ("series,t,y\n,1,2\n", r"t\.csv:2: expected the name of a series in 'series', got an empty field"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_series(table(tmp_path, text))
    assert "\n" not in str(error.value)


def test_unknown_columns_come_with_the_nearest(tmp_path: Path) -> None:
    file = table(tmp_path, "date,Temperature\n2024-01-01,1\n2024-01-02,2\n")
    for asked in (Columns(targets=("Temprature",)), Columns(known=("Temprature",)), Columns(time="dat")):
        with pytest.raises(
            InputError, match=r"t\.csv:1: expected a column .* Did you mean '(Temperature|date)'"
        ):
            read_series(file, asked)
    with pytest.raises(InputError, match="only one of time, series, target, known and past"):
        read_series(file, Columns(targets=("Temperature",), known=("Temperature",)))


def test_gaps_are_filled_with_missing_values_when_asked(tmp_path: Path) -> None:
    file = table(tmp_path, "date,y\n2024-01-01,1\n2024-01-02,2\n2024-01-05,5\n")
    found = read_series(file, fill=True)
    np.testing.assert_array_equal(found.series[0].values, [1, 2, np.nan, np.nan, 5])
    assert found.remarks == ("series 'y': 2 missing rows filled with missing values",)


def test_bad_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    file = table(tmp_path, "date,y\n2024-01-01,1\n2024-01-02,2\n2024-01-03,x\n2024-01-04,4\nno,5\n1,2,3\n")
    found = read_series(file, skip_bad=True)
    np.testing.assert_array_equal(found.series[0].values, [1, 2, np.nan, 4])
    assert (
        "3 bad rows skipped; the first is" in found.remarks[0] and ":4: expected a number" in found.remarks[0]
    )


def test_rows_are_given_out_as_they_come() -> None:
    """No row is read before the one before it was taken; a typed line needs no header."""

    class Typed(io.BytesIO):
        lines = 0

        def readline(self, *size: int) -> bytes:  # type: ignore[override]
            self.lines += 1
            return super().readline()

    stream = Typed(b"2009,1.5\n2010,2.5\n2011,3.5\n")
    columns = Columns("year", "", ("spots",))
    rows = iter(SeriesRows(stream, columns, name="standard input", headless=True))
    (first,) = next(rows)
    assert (first.line, first.text, first.series, first.value) == (1, "2009", "spots", 1.5)
    assert stream.lines == 1
    assert next(rows)[0].line == 2 and stream.lines == 2


def test_missing_values_are_filled_forward() -> None:
    found = forward_filled(np.array([np.nan, 1, np.nan, np.nan, 2, np.nan]))
    np.testing.assert_array_equal(found, [0, 1, 1, 1, 2, 2])


def test_what_ships_inside() -> None:
    found = yearly_sunspots()
    (series,) = found.series
    assert len(series) == 309 and series.start == 1700 and not np.isnan(series.values).any()
    assert (series.values[0], series.values[257], series.values[-1]) == (5.0, 190.2, 2.9)
    assert float(series.values.sum()) == pytest.approx(15373.4)
