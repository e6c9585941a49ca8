"""When a training is evaluated."""

from __future__ import annotations

import os
import signal

import pytest

from throughtime.training import Interrupted, train
from throughtime.training.looks import Looks


def steps_of(looks: Looks, total: int) -> list[int]:
    return [step for step in range(1, total + 1) if looks.due(step, step / total)]


def test_ten_times_in_all() -> None:
    assert steps_of(Looks(None), 1000) == list(range(100, 1001, 100))


def test_a_short_training_is_not_evaluated_at_every_step() -> None:
    assert steps_of(Looks(None), 3) == [3]
    assert steps_of(Looks(None), 12) == [5, 10, 12]
    assert steps_of(Looks(None), 20) == [5, 10, 15, 20]


def test_as_often_as_is_said_and_at_the_end() -> None:
    assert steps_of(Looks(1), 3) == [1, 2, 3]
    assert steps_of(Looks(4), 10) == [4, 8, 10]


def test_it_goes_on_as_if_it_had_never_stopped() -> None:
    whole = steps_of(Looks(None), 33)
    for stop in range(1, 33):
        first, second = Looks(None), Looks(None)
        found = [step for step in range(1, stop + 1) if first.due(step, step / 33)]
        second.load_state_dict(first.state_dict())
        found += [step for step in range(stop + 1, 34) if second.due(step, step / 33)]
        assert found == whole


def test_a_resumed_training_is_evaluated_at_the_same_steps(make, Told, without_times) -> None:
    *others, whole = make("whole", steps=13)
    train(*others, whole)
    *others, run = make(steps=13)
    told = Told()
    told.evaluation = lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None
    with pytest.raises(Interrupted, match="at step 6"):
        train(*others, run, report=told)
    train(*others, run, resume=True)
    assert without_times(run.history()) == without_times(whole.history())
    assert [r["step"] for r in run.history() if r["kind"] == "evaluation"] == [5, 10, 13]
