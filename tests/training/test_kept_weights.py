"""Which weights a run keeps: the best, or the last."""

from __future__ import annotations

import os
import signal

import pytest

from throughtime.tasks.recorded import restore_model
from throughtime.training.evaluation import evaluate
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import train


def test_the_best_weights_are_kept_or_the_last(make, Recording):
    # A learning rate that ruins the model in the end: the best is not the last.
    settings = {
        "lr": 9.0,
        "clip": "none",
        "optimizer": "sgd",
        "schedule": "constant",
        "steps": 24,
        "evaluate_every": 4,
    }
    report = Recording()
    task, config, run = make("best", **settings)
    result = train(task, config, run, report=report)
    losses = [evaluation.loss for _, evaluation, _ in report.evaluations]
    assert losses[-1] > min(losses)
    assert (result.best.loss, result.evaluation.loss) == (min(losses), losses[-1])
    assert [best for *_, best in report.evaluations] == [
        x == min(losses[: n + 1]) for n, x in enumerate(losses)
    ]
    assert report.result == result._replace(results={})  # the final table comes after the last report

    def loss_of(run):
        batches = task.evaluation_batches(run.assets, "validation", steps=7, batch=4)
        return evaluate(restore_model(run, task), batches, task.loss).loss

    assert loss_of(run) == pytest.approx(min(losses), rel=1e-9)
    *others, last = make("last", keep="last", **settings)
    train(*others, last)
    assert loss_of(last) == pytest.approx(losses[-1], rel=1e-9)
    kinds = [(record["step"], record["kind"]) for record in run.history() if record["kind"] == "evaluation"]
    assert kinds == [(step, "evaluation") for step in range(4, 25, 4)]


def test_the_best_so_far_is_remembered_through_an_interruption(make, weights, Recording):
    # The last evaluation is worse than the best before the interruption: it must not pass for the best.
    settings = {"lr": 9.0, "clip": "none", "optimizer": "sgd", "schedule": "constant", "steps": 24}
    *others, whole = make("whole", **settings, evaluate_every=4)
    result = train(*others, whole)
    assert result.evaluation.loss > result.best.loss
    *others, run = make("run", **settings, evaluate_every=4)
    report = Recording()
    report.evaluation = lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == 20 else None
    with pytest.raises(Interrupted, match="at step 21"):
        train(*others, run, report=report)
    assert train(*others, run, resume=True).best.values == result.best.values
    assert weights(run) == weights(whole)
