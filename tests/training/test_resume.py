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


def test_other_data_than_the_checkpoints_is_refused(make, text):
    task, config, run = make()
    train(task, config, run)
    text.write_text(text.read_text().replace("time", "tame"))
    run = Run.open(run.path)
    with pytest.raises(InputError, match=r"text.txt has changed since the run was made \(3,000 bytes then, 3,000 now\)") as error:
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
