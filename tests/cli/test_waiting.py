"""Long work says how far it is where there is no terminal to draw a bar on."""

from __future__ import annotations

import time

import pytest

from throughtime.cli import main
from throughtime.cli.progress import Waiting


def test_a_line_now_and_then_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Waiting("measuring") as told:
        for done in range(1, 11):
            now += 4.0
            told(done, 10)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "measuring: 30% done, about 28 s left",
        "measuring: 60% done, about 16 s left",
        "measuring: 90% done, about 4 s left",
    ]


def test_help_names_the_cost_and_how_to_have_less_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flow", "--help"]) == 0
    said = capsys.readouterr().out
    assert "Cost:" in said and "--no-products" in said
