"""The progress display: a line that fits the terminal, plain lines elsewhere, nothing for short work."""

from __future__ import annotations

import io
import re
import sys

import pytest
from tests.clock import set_clock

from throughtime import progress
from throughtime.cli import main
from throughtime.progress import ProgressBar, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        set_clock(monkeypatch, lambda: self.now, progress)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def shown(stream: io.StringIO) -> list[str]:
    """The lines of a terminal without its control sequences."""
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", stream.getvalue())
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_a_line_now_and_then_with_rate_and_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar("measuring") as progress:
        for done in range(1, 11):
            clock.now += 4.0
            progress(done, 10)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "measuring: 10% done, about 36s left: 1 of 10, 0.25/s",
        "measuring: 40% done, about 24s left: 4 of 10, 0.25/s",
        "measuring: 70% done, about 12s left: 7 of 10, 0.25/s",
    ]


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_short_work_shows_nothing(clock: Clock, kind: type[io.StringIO]) -> None:
    stream = kind()
    with ProgressBar("measuring", stream) as progress:
        for done in range(10):
            clock.now += 0.09
            progress(done, 10)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_line_fits_and_keeps_percentage_and_time_left(
    clock: Clock, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    text = (
        "epoch 1.0  loss 1.500, 2.164 bits per character  |g| 0.12  half-life 3.1 steps  12,345 characters/s"
    )
    with ProgressBar("[red]training[/red]", stream, delay=0) as progress:
        progress.update(0.375, text, left=3725)
    lines = [line for line in shown(stream) if "38%" in line]
    assert lines
    for line in lines:
        assert len(line) <= columns and line.rstrip().endswith("1h02m left")
    assert any("[red]training" in line for line in lines)  # not markup
    assert any(text in line for line in lines) == (columns == 200)


def test_the_time_left_is_estimated_and_messages_stay(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with ProgressBar("measuring", stream) as progress:
        progress.message("before the bar")
        clock.now += 30
        progress.update(0.25)
        progress.message("[bold]above[/bold] " + "x" * 100)
    lines = shown(stream)
    assert lines[0] == "before the bar"
    assert any("25%" in line and "1m30s left" in line for line in lines)
    assert "[bold]above[/bold] " + "x" * 100 in stream.getvalue()


@pytest.mark.parametrize("fraction", [-1.0, 0.0, 2.0])
def test_a_fraction_outside_is_an_end(clock: Clock, fraction: float) -> None:
    stream = io.StringIO()
    with ProgressBar("measuring", stream, delay=0) as progress:
        clock.now += 1
        progress.update(fraction, "two\nlines")
    assert stream.getvalue() == ("" if fraction > 1 else "measuring: 0% done: two lines\n")


def test_a_terminal_without_control_sequences_gets_lines(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with ProgressBar("measuring", stream, delay=0) as progress:
        progress.update(0.5, left=5)
    assert stream.getvalue() == "measuring: 50% done, about 5s left\n"


def test_without_stderr_nothing_is_shown(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    with ProgressBar("measuring", delay=0) as progress:
        progress(1, 2)
        progress.message("text")
    assert stdout.getvalue() == ""


def test_durations() -> None:
    seconds = (-1, 0, 59.4, 59.6, 200, 3599.6, 3725, 90000, float("inf"), float("nan"))
    assert [duration(each) for each in seconds] == [
        *("0s", "0s", "59s", "1m00s", "3m20s", "1h00m", "1h02m", "1d01h", "years", "years")
    ]


def test_help_names_the_cost_and_how_to_reduce_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flow", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Cost:" in out and "--no-products" in out
