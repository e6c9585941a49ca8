"""Which weights a run keeps: the best, or the last."""

from __future__ import annotations

import os
import signal

import pytest

from throughtime.training import Interrupted, evaluate, train


def test_the_best_weights_are_kept_or_the_last(make, Told):
    # A learning rate that ruins the model in the end: the best is not the last.
    settings = {
        "lr": 9.0,
        "clip": "none",
        "optimizer": "sgd",
        "schedule": "constant",
        "steps": 24,
        "evaluate_every": 4,
    }
    told = Told()
    task, config, run = make("best", **settings)
    summary = train(task, config, run, report=told)
    losses = [evaluation.loss for _, evaluation, _ in told.evaluations]
    assert losses[-1] > min(losses)
    assert (summary.best.loss, summary.evaluation.loss) == (min(losses), losses[-1])
    assert [best for *_, best in told.evaluations] == [
        x == min(losses[: n + 1]) for n, x in enumerate(losses)
    ]
    assert told.summary == summary

    def loss_of(run):
        model = task.build()
        model.load_state_dict(run.load_model())
        return evaluate(model, task.validation(7, 4), task.loss).loss

    assert loss_of(run) == pytest.approx(min(losses), rel=1e-9)
    *others, last = make("last", keep="last", **settings)
    train(*others, last)
    assert loss_of(last) == pytest.approx(losses[-1], rel=1e-9)
    kinds = [(record["step"], record["kind"]) for record in run.history() if record["kind"] == "evaluation"]
    assert kinds == [(step, "evaluation") for step in range(4, 25, 4)]


def test_the_best_so_far_is_remembered_through_an_interruption(make, weights, Told):
    # The last evaluation is worse than the best before the interruption: it must not pass for the best.
    settings = {"lr": 9.0, "clip": "none", "optimizer": "sgd", "schedule": "constant", "steps": 24}
    *others, whole = make("whole", **settings, evaluate_every=4)
    summary = train(*others, whole)
    assert summary.evaluation.loss > summary.best.loss
    *others, run = make("run", **settings, evaluate_every=4)
    told = Told()
    told.evaluation = lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == 20 else None
    with pytest.raises(Interrupted, match="at step 21"):
        train(*others, run, report=told)
    assert train(*others, run, resume=True).best == summary.best
    assert weights(run) == weights(whole)
