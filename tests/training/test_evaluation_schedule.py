"""When a training is evaluated."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest

from throughtime.tasks import TextTask
from throughtime.training import TrainingConfig
from throughtime.training import trainer as trainer_module
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import train
from throughtime.training.schedule import EVALUATING, EvaluationSchedule
from throughtime.training.step import Step


def schedule(every: int | None = None, **settings: float) -> EvaluationSchedule:
    return EvaluationSchedule(TrainingConfig(evaluate_every=every, **settings))


def steps_of(found: EvaluationSchedule, total: int) -> list[int]:
    return [step for step in range(1, total + 1) if found.due(step, step / total, 0.0)]


def test_ten_times_in_all() -> None:
    assert steps_of(schedule(), 1000) == list(range(100, 1001, 100))


def test_a_short_training_is_not_evaluated_at_every_step() -> None:
    assert steps_of(schedule(), 3) == [3]
    assert steps_of(schedule(), 12) == [5, 10, 12]
    assert steps_of(schedule(), 20) == [5, 10, 15, 20]


def test_every_so_many_steps_and_at_the_end() -> None:
    assert steps_of(schedule(1), 3) == [1, 2, 3]
    assert steps_of(schedule(4), 10) == [4, 8, 10]


def test_a_restored_schedule_is_the_same_schedule() -> None:
    whole = steps_of(schedule(), 33)
    for stop in range(1, 33):
        first, second = schedule(), schedule()
        found = [step for step in range(1, stop + 1) if first.due(step, step / 33, 0.0)]
        second.load_state_dict(first.state_dict())
        found += [step for step in range(stop + 1, 34) if second.due(step, step / 33, 0.0)]
        assert found == whole


def test_a_resumed_training_is_evaluated_at_the_same_steps(make, Recording, without_times) -> None:
    *others, whole = make("whole", steps=13)
    train(*others, whole)
    *others, run = make(steps=13)
    report = Recording()
    report.evaluation = lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None
    with pytest.raises(Interrupted, match="at step 6"):
        train(*others, run, report=report)
    train(*others, run, resume=True)
    assert without_times(run.history()) == without_times(whole.history())
    assert [r["step"] for r in run.history() if r["kind"] == "evaluation"] == [5, 10, 13]


def seconds_of(found: EvaluationSchedule, cost: float, total: int = 100) -> list[int]:
    """The steps evaluated of a training of one second a step, each evaluation taking `cost` seconds more."""
    steps, seconds, step = [], 0.0, 0
    while seconds < total:
        step, seconds = step + 1, seconds + 1
        if found.due(step, min(1.0, seconds / total), seconds):
            found.took(cost)
            steps.append(step)
            seconds += cost
    return steps


def test_with_a_budget_of_minutes_slow_evaluations_are_left_out() -> None:
    assert seconds_of(schedule(minutes=5.0), cost=0.1) == list(range(10, 101, 10))
    # A first one of 15 s: no second one fits into 0.15 of the time before the end.
    slow = seconds_of(schedule(minutes=5.0), cost=15.0)
    assert slow[0] == 10 and len(slow) <= 2
    assert EVALUATING == 0.15
    # Nothing else depends on the speed of the machine.
    assert seconds_of(schedule(steps=100), cost=15.0) == seconds_of(schedule(epochs=3.0), cost=15.0)
    assert len(seconds_of(schedule(steps=100), cost=15.0)) > 2
    assert len(seconds_of(schedule(10, minutes=5.0), cost=15.0)) > 2  # asked for


def test_a_restored_schedule_remembers_what_evaluations_took() -> None:
    first, second = schedule(minutes=1.0), schedule(minutes=1.0)
    assert first.due(10, 0.1, 10.0)
    first.took(30.0)
    second.load_state_dict(first.state_dict())
    assert not second.due(20, 0.2, 50.0)
    assert not first.due(20, 0.2, 50.0)
    assert schedule(minutes=1.0).due(20, 0.2, 50.0)


def test_the_time_of_evaluations_counts_in_a_training_of_minutes(make, monkeypatch) -> None:
    """On a clock of our own: a step takes 1 s, an evaluation 40 s."""
    now = [0.0]
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    update = Step.update

    def slow_update(self, lr):
        now[0] += 1
        update(self, lr)

    class SlowToEvaluate(TextTask):
        def evaluation_batches(self, *args, **keywords):
            now[0] += 40
            return super().evaluation_batches(*args, **keywords)

    monkeypatch.setattr(Step, "update", slow_update)
    task, config, run = make(minutes=4.0)
    result = train(SlowToEvaluate(**vars(task)), config, run)
    steps = [record["step"] for record in run.history() if record["kind"] == "evaluation"]
    # The first at a tenth of 240 s; 80 s would be more than 0.15 of the time until the end, which always has one.
    assert steps == [24, result.step]
    assert result.step == 200
    assert result.seconds == 240.0
