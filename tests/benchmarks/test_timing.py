"""Timing: sides in turn, waiting seen, figures as promised."""

from __future__ import annotations

import time

import pytest

from throughtime.bench import interleave
from throughtime.bench import timing as timing_module


def busy(seconds):
    """Runs for so long, all of it on a core."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_sides_take_turns_and_the_slower_is_seen():
    order = []

    def side(name, seconds):
        order.append(name)
        busy(seconds)

    timings = interleave({"a": lambda: side("a", 0.002), "b": lambda: side("b", 0.006)}, seconds=0, least=3)
    assert order[4:10] == ["a", "b"] * 3  # after two calls of each to warm up
    assert timings["a"].median >= 0.002
    assert timings["b"].median >= 0.006
    for timing in timings.values():
        assert timing.best <= timing.low <= timing.median <= timing.high
        assert timing.kept + timing.rejected >= 3


def test_short_calls_are_repeated_and_the_time_is_that_of_one():
    calls = []
    timing = interleave({"a": lambda: (calls.append(1), busy(1e-4))}, seconds=0, least=2)["a"]
    samples = timing.kept + timing.rejected
    assert len(calls) > 3 * samples
    assert 1e-4 <= timing.best < 1e-3


def test_waiting_is_rejected_and_said():
    timing = interleave({"a": lambda: time.sleep(0.005)}, seconds=0, least=3)["a"]
    assert timing.kept == 0
    assert timing.rejected >= 3
    assert timing.disturbed
    assert timing.median >= 0.005  # from the rejected samples, there being no others


def test_a_few_that_waited_are_left_out():
    calls = iter([0.0] * 2 + [0.0, 0.05] * 50)

    def side():
        pause = next(calls)
        time.sleep(pause) if pause else busy(0.002)

    timing = interleave({"a": side}, seconds=0, least=3)["a"]
    assert timing.rejected >= 2
    if not timing.disturbed:  # other work on the machine may disturb the rest as well
        assert timing.high < 0.05


def test_it_ends_when_there_are_enough():
    calls = []
    interleave({"a": lambda: (calls.append(1), busy(0.002))}, seconds=60, least=2, most=4)
    assert len(calls) <= 2 + 3 * 4


@pytest.mark.parametrize(("least", "most"), [(0, 5), (5, 4)])
def test_counts_that_make_no_sense_are_refused(least, most):
    with pytest.raises(ValueError, match=f"expected 1 <= least <= most, got least={least}, most={most}"):
        interleave({"a": lambda: None}, least=least, most=most)


def test_a_side_that_takes_long_gets_two_samples_and_the_others_go_on(monkeypatch):
    calls = {"slow": 0, "quick": 0}

    def side(name, seconds):
        calls[name] += 1
        busy(seconds)

    sides = {"slow": lambda: side("slow", 0.2), "quick": lambda: side("quick", 0.002)}
    timings = interleave(sides, seconds=0, least=9, patience=0.3)
    assert timings["slow"].kept + timings["slow"].rejected == 2
    assert calls["slow"] in (3, 4)  # one or two calls to warm up
    assert timings["slow"].median >= 0.2
    assert timings["slow"].disturbed == (timings["slow"].kept < 2)
    assert timings["quick"].kept >= 9 or timings["quick"].disturbed
    # So long that its first call is a sample already.
    monkeypatch.setattr(timing_module, "LONG", 0.1)
    calls["slow"] = 0
    timings = interleave(sides, seconds=0, least=9, patience=0.3)
    assert timings["slow"].kept + timings["slow"].rejected == calls["slow"] == 2


def test_it_ends_when_all_sides_have_had_their_time():
    timings = interleave({"a": lambda: time.sleep(0.02)}, seconds=60, least=9, patience=0.05)
    assert timings["a"].kept + timings["a"].rejected in (2, 3)


def test_under_load_samples_that_waited_count_and_are_longer():
    calls_made = []
    side = {"a": lambda: (calls_made.append(1), time.sleep(0.002))}
    timing = interleave(side, seconds=0, least=3, sample=0.01, loaded=True)["a"]
    assert timing.kept == 3
    assert timing.rejected == 0
    assert not timing.disturbed
    assert len(calls_made) >= 2 + 3 * 3  # two to warm up; a sleep may last longer than asked for
    assert interleave(side, seconds=0, least=3)["a"].disturbed
