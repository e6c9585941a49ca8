"""The gradient by lag as text, with and without Unicode."""

from __future__ import annotations

import math

import pytest
import torch

from throughtime.cli.chart import reach_chart, reach_sentence
from throughtime.flow import Reach
from throughtime.flow.measurement.reach import _lag


def made(values: list[float], fraction: float = 0.01) -> Reach:
    norms = torch.tensor(values, dtype=torch.float64)
    lags = torch.arange(1, len(values) + 1)
    return Reach(lags, norms, norms, norms, _lag(norms, fraction), _lag(norms, 0.5), fraction)


def bars(chart: str) -> dict[int, int]:
    """The length of each lag's bar, in whole characters."""
    rows = [line.split() for line in chart.splitlines()[1:]]
    return {int(row[0]): len(row[1]) if len(row) == 3 else 0 for row in rows}


def test_bars_are_the_logarithm() -> None:
    chart = reach_chart(made([10.0**-k for k in range(5)]), width=40, encoding="utf-8")
    assert "1e-4 to 1" in chart.splitlines()[0]
    assert bars(chart) == {1: 40, 2: 30, 3: 20, 4: 10, 5: 0}
    assert [line.split()[-1] for line in chart.splitlines()[1:]] == ["1", "0.1", "0.01", "0.001", "0.0001"]


def test_values_are_relative_to_the_first_lag() -> None:
    values = [3.0, 1.0, 0.2]
    assert reach_chart(made(values), encoding="utf-8") == reach_chart(
        made([7 * v for v in values]), encoding="utf-8"
    )


def test_lags_shown_are_even_on_a_log_scale_and_include_the_last() -> None:
    assert list(bars(reach_chart(made([1.0] * 70)))) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 70]
    assert list(bars(reach_chart(made([1.0])))) == [1]


def test_a_stream_that_has_no_block_characters_gets_plain_ones() -> None:
    chart = reach_chart(made([1.0, 0.1]), encoding="ascii")
    assert chart.isascii()
    assert "####" in chart
    assert "█" in reach_chart(made([1.0, 0.1]), encoding="utf-8")


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 0.0, 0.0],
        [1.0, math.nan, math.nan],
        [1.0, 1e200, math.inf],
        [1.0, 1e-300, 1e-308],
        [0.0, 0.0],
        [math.nan, math.nan],
    ],
)
def test_vanished_overflowed_and_undefined_values_have_a_row_and_no_line_is_too_wide(
    values: list[float],
) -> None:
    lines = reach_chart(made(values), width=40, encoding="utf-8").splitlines()
    assert len(lines) == len(values) + 1
    assert max(map(len, lines[1:])) <= 60
    assert reach_sentence(made(values))


def test_the_sentence_says_how_far() -> None:
    fades = reach_sentence(made([0.5**k for k in range(20)]), "character")
    assert fades.startswith(
        "The gradient falls to half of its size 3 characters back, and to 1% of its size 8 characters back"
    )
    assert "about the last 8 characters" in fades
    assert "Even 3 steps back, 81.0% of the gradient is left" in reach_sentence(made([1.0, 0.9, 0.81]))
    assert "grows" in reach_sentence(made([1.0, 2.0, 4.0]))
    assert "diverged" in reach_sentence(made([1.0, math.nan]))
