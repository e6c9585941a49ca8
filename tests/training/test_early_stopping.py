"""`patience`: training ends after so many evaluations without an improvement, and the best weights are kept."""

from __future__ import annotations

import os
import signal

import pytest

from throughtime.errors import InputError
from throughtime.tasks.recorded import restore_model, task_of
from throughtime.training.evaluation import evaluate
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import train

# A learning rate that ruins the model in the end: the best evaluation is not the last.
WORSE = {
    "lr": 9.0,
    "clip": "none",
    "optimizer": "sgd",
    "schedule": "constant",
    "steps": 60,
    "evaluate_every": 2,
}


def losses_of(run):
    return [record["loss"] for record in run.history() if record["kind"] == "evaluation"]


def stops_after(losses, patience):
    """The number of evaluations after which a training must stop."""
    best = waited = 0
    for number, loss in enumerate(losses):
        better = number == 0 or loss < losses[best]
        best, waited = (number, 0) if better else (best, waited + 1)
        if waited == patience:
            return number + 1
    return None


@pytest.mark.parametrize("patience", [1, 3])
def test_it_stops_and_keeps_the_best_weights(make, patience, Recording):
    task, config, whole = make("whole", **WORSE)
    train(task, config, whole)
    losses = losses_of(whole)
    wanted = stops_after(losses, patience)
    assert wanted is not None and wanted < len(losses)

    task, config, run = make("run", **WORSE, patience=patience)
    report = Recording()
    result = train(task, config, run, report=report)
    assert losses_of(run) == losses[:wanted]
    assert result.step == 2 * wanted
    words = f"step {result.step}: stopped early, {patience} evaluations without an improvement (patience)"
    assert report.messages[-1] == words
    assert run.history()[-1]["step"] == result.step
    batches = task.evaluation_batches(run.assets, "validation", steps=7, batch=4)
    kept = evaluate(restore_model(run, task), batches, task.loss).loss
    assert kept == pytest.approx(min(losses[:wanted]), rel=1e-9) == pytest.approx(result.best.loss, rel=1e-9)
    assert result.results["validation"]["this model"]["loss"] == result.best.loss


def test_with_enough_patience_nothing_changes(make, weights):
    plain, patient = make("plain", **WORSE), make("patient", **WORSE, patience=1000)
    assert train(*plain).step == train(*patient).step == 60
    assert weights(plain[2]) == weights(patient[2])


@pytest.mark.parametrize("before", [2, 4, 6])
def test_the_evaluations_waited_are_remembered_through_an_interruption(
    make, before, weights, without_times, Recording
):
    reference = make("reference", **WORSE, patience=3)
    expected = train(*reference)
    task, config, run = make("run", **WORSE, patience=3)
    report = Recording()
    at = expected.step - before  # of the last evaluation
    report.evaluation = lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == at else None
    with pytest.raises(Interrupted):
        train(task, config, run, report=report)
    assert run.load_checkpoint()["steps"] < expected.step
    result = train(task_of(run), config, run, resume=True)
    assert result.step == expected.step
    assert weights(run) == weights(reference[2])
    assert without_times(run.history()) == without_times(reference[2].history())


def test_a_training_that_was_stopped_early_stays_stopped(make, weights, Recording):
    task, config, run = make(**WORSE, patience=1)
    first = train(task, config, run)
    before, history = weights(run), run.history()
    report = Recording()
    again = train(task, config, run, resume=True, report=report)
    assert again.step == first.step < 60
    assert report.messages[0].startswith("the training is complete")
    assert weights(run) == before and run.history() == history


def test_without_validation_data_there_is_nothing_to_wait_for(make):
    with pytest.raises(
        InputError, match="patience counts evaluations on the validation part, and validation is 0"
    ):
        make(steps=12, validation=0, patience=1, evaluate_every=2)
