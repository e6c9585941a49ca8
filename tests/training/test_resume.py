"""An interrupted training, and how it continues."""

from __future__ import annotations

import os
import signal

import pytest

from throughtime.errors import InputError, RunError
from throughtime.runs import Run
from throughtime.tasks.recorded import task_of
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import train
from throughtime.training.reporting import Silent


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_resume(make, number, weights, without_times, Recording):
    reference = make("reference", dropout=0.3)
    train(*reference)
    task, config, run = make("a run", dropout=0.3)
    report = Recording(lambda progress: os.kill(os.getpid(), number) if progress.step == 1 else None)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as error:
        train(task, config, run, report=report)
    assert signal.getsignal(number) is before
    assert error.value.status == 128 + number
    assert report.result is None
    steps = run.load_checkpoint()["steps"]
    assert steps == 2  # the signal came while step 1 was reported
    assert str(error.value) == (
        "training was interrupted at step 2; all of it is saved, continue with: "
        f"throughtime train text --resume --out '{run.path}'"
    )
    with pytest.raises(RunError, match="holds a training; choose another --out, or --resume to continue it"):
        train(task, config, run)
    report = Recording()
    train(task, config, run, resume=True, report=report)
    assert report.started.resumed_at == 2
    assert run.load_model().keys() == reference[2].load_model().keys()
    assert weights(run) == weights(reference[2])
    assert without_times(run.history()) == without_times(reference[2].history())


def test_a_complete_training_resumed_stays_as_it_is(make, Recording):
    task, config, run = make()
    first = train(task, config, run)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    report = Recording()
    again = train(task, config, run, resume=True, report=report)
    assert again.best.values == first.best.values and again.evaluation.values == first.evaluation.values
    assert again._replace(best=first.best, evaluation=first.evaluation) == first
    (message,) = report.messages
    assert message.startswith("the training is complete: 20 steps, 20 steps. ")
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_complete_training_without_its_checkpoint_is_not_begun_again(make, weights):
    task, config, run = make()
    train(task, config, run)
    (run.path / "checkpoint.safetensors").unlink()
    before, history = weights(run), run.history()
    with pytest.raises(RunError, match=r"has lost its checkpoint\.safetensors.*--init-from") as error:
        train(task, config, run, resume=True)
    assert "\n" not in str(error.value)
    assert weights(run) == before and run.history() == history


def test_other_data_than_the_checkpoints_is_refused(make, text):
    task, config, run = make()
    train(task, config, run)
    text.write_text(text.read_text().replace("time", "tame"))
    run = Run.open(run.path)
    with pytest.raises(
        InputError, match=r"text.txt has changed since the run was made \(3,000 bytes then, 3,000 now\)"
    ) as error:
        train(task_of(run), config, run, resume=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings", [{"bidirectional": True}, {"cell": "indrnn"}, {"layers": 2, "cell": "lnlstm"}]
)
def test_models_of_every_state(make, settings, weights, Recording):
    """None, and a tuple of NamedTuples: also through a checkpoint."""
    task, config, run = make(**settings, checkpoint_steps=3)
    reference = make("reference", **settings)
    train(*reference)
    report = Recording(lambda progress: os.kill(os.getpid(), signal.SIGINT) if progress.step == 1 else None)
    with pytest.raises(Interrupted):
        train(task, config, run, report=report)
    assert bool(report.messages) == ("bidirectional" in settings)
    train(task, config, run, resume=True)
    assert weights(run) == weights(reference[2])


@pytest.mark.parametrize("name", ["text", "classify", "adding"])
def test_every_kind_of_task_resumes_to_the_same_bits(name, make_any, weights, without_times, Recording):
    """A stream, ragged sequences with one target each, real targets; interrupted within an epoch and after one."""
    settings = {"dropout": 0.3, "steps": 26, "evaluate_every": 4, "watch": 5}
    reference = make_any[name]("reference", **settings)
    train(*reference)
    for at in (1, 13):
        task, config, run = make_any[name](f"run{at}", **settings)
        report = Recording()
        report.evaluation = lambda step, *_: os.kill(os.getpid(), signal.SIGINT) if step == 12 else None
        if at == 1:
            report = Recording(lambda step: os.kill(os.getpid(), signal.SIGINT) if step.step == 1 else None)
        with pytest.raises(Interrupted):
            train(task, config, run, report=report)
        assert 0 < run.load_checkpoint()["steps"] < 26
        run = Run.open(run.path)
        train(task_of(run), config, run, resume=True)
        assert weights(run) == weights(reference[2])
        assert without_times(run.history()) == without_times(reference[2].history())


def test_a_moved_file_can_be_named(make, text, weights):
    reference, (task, config, run) = make("reference"), make("run", checkpoint_steps=3)
    train(*reference)
    with pytest.raises(Stopped):
        train(task, config, run, report=StopsAfter(10))
    moved = text.with_name("moved.txt")
    text.rename(moved)
    run = Run.open(run.path)
    with pytest.raises(InputError, match=r"no such file: .*text\.txt") as error:
        train(task_of(run), config, run, resume=True)
    assert "\n" not in str(error.value)
    assert run.load_checkpoint()["steps"] == 9
    run = Run.open(run.path)
    train(task_of(run).moved((str(moved),)), config, run, resume=True)
    assert weights(run) == weights(reference[2])

    moved.write_text(moved.read_text().replace("time", "tame"))
    run = Run.open(run.path)
    with pytest.raises(
        InputError, match=r"moved\.txt is not .*text\.txt, which the run was made from: put"
    ) as error:
        train(task_of(run).moved((str(moved),)), config, run, resume=True)
    assert "\n" not in str(error.value)


class Stopped(Exception):
    pass


class StopsAfter(Silent):
    """Fails at an evaluation, as if the process ended there."""

    def __init__(self, step):
        self.at = step

    def evaluation(self, step, evaluation, best):
        if step >= self.at:
            raise Stopped
