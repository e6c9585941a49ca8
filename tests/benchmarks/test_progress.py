"""The progress lines of a benchmark."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from tests.clock import set_clock

sys.path.insert(0, str(Path(__file__).parents[2]))  # `benchmarks` is not installed: it is run from a checkout

from benchmarks import progress


def test_every_case_has_a_line_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    set_clock(monkeypatch, lambda: now, progress)
    stream = io.StringIO()
    seen = []
    for case in progress.with_progress(
        "ragged", [("LSTM", 1), ("LSTM", 9), ("GRU", 90)], lambda case: case[1], stream
    ):
        seen.append(case)
        now += 2.0 * case[1]  # as long as its weight says
    assert seen == [("LSTM", 1), ("LSTM", 9), ("GRU", 90)]
    assert stream.getvalue().splitlines() == [
        "ragged 1/3, starting: LSTM 1",
        "ragged 2/3, about 3m18s left: LSTM 9",  # 99 times as long as the first
        "ragged 3/3, about 3m00s left: GRU 90",
    ]
