"""What a training does when its loss jumps: warn, stop, or roll back and continue after the batch."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

import pytest

from throughtime.runs import Run
from throughtime.tasks import TextTask
from throughtime.training import TrainingConfig
from throughtime.training.guard import Guard
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import train
from throughtime.training.spikes import Diverged, Spikes


def spikes_of(run):
    return [record for record in run.history() if record["kind"] == "spike"]


@dataclass(frozen=True)
class Hard(TextTask):
    """Windows with a # in them have 30 times the loss: a batch that is not like the others."""

    symbol: int = 0

    def loss(self, outputs, batch):
        return super().loss(outputs, batch) * (30 if bool((batch.targets == self.symbol).any()) else 1)


@pytest.fixture
def hard(make, tmp_path):
    """A training whose loss jumps in windows of its first epoch, 42 and 70 unless `at` says otherwise."""

    def made(name="run", at=(42, 70), **settings):
        text = list(("the time traveller said nothing for a moment " * 80)[:2860])
        for window in at:
            text[7 * (window - 1) + 7] = "#"  # of the first stream, where no offset leaves it out
        path = tmp_path / "hard.txt"
        path.write_text("".join(text))
        defaults = {"validation": 0, "steps": 90, "dropout": 0.3, "checkpoint_steps": 10**6, "clip": "none"}
        task, config, run = make(name, data=(str(path),), **{**defaults, **settings})
        return Hard(**vars(task), symbol=int(run.assets.vocabulary.encode("#")[0])), config, run

    return made


def test_by_default_it_warns_and_continues(hard, Recording, weights, monkeypatch):
    task, config, run = hard(log_every=1)
    report = Recording()
    result = train(task, config, run, report=report)
    assert result.step == 90
    first, second = spikes_of(run)
    training = {record["step"]: record for record in run.history() if record["kind"] == "training"}
    for spike, message in zip((first, second), report.messages, strict=True):
        at = spike["step"]
        assert (spike["action"], spike["what"], spike["batch"]) == ("warn", "loss", at)
        assert (spike["loss"], spike["gradient_norm"], spike["lr"]) == tuple(
            training[at][name] for name in ("loss", "gradient_norm", "lr")
        )
        assert (spike["epoch"], spike["targets"]) == (training[at]["epoch"], training[at]["targets"])
        before = [training[at - back] for back in range(10, 0, -1)]
        assert spike["norms_before"] == [record["gradient_norm"] for record in before]
        assert spike["losses_before"] == [record["loss"] for record in before]
        assert spike["text"] == message
        assert message.startswith(f"Step {at}: the loss jumped to {spike['loss']:.4g}, from a median of ")
        assert f"epoch 1, batch {at} of {spike['batches']}, learning rate {spike['lr']:.3g}" in message
        norms = ", ".join(f"{norm:.3g}" for norm in spike["norms_before"])
        assert f"gradient norms of the steps before: {norms};" in message
        assert "\n" not in message
    assert (first["step"], second["step"]) == (42, 70)
    # Noticing changes nothing.
    monkeypatch.setattr(Spikes, "judge", lambda self, step: None)
    blind = hard("blind", log_every=1)
    train(*blind)
    assert spikes_of(blind[2]) == []
    assert weights(run) == weights(blind[2])


def test_read_late_it_reports_the_same(hard, monkeypatch, without_times):
    """As on an accelerator, where readings wait until somebody needs them."""
    at_once, late = hard("at once", log_every=25), hard("late", log_every=25)
    train(*at_once)

    class Late(Guard):
        def __init__(self, *args):
            super().__init__(*args)
            self.at_once = False

    monkeypatch.setattr("throughtime.training.trainer.Guard", Late)
    train(*late)
    assert len(spikes_of(late[2])) == 2
    assert without_times(late[2].history()) == without_times(at_once[2].history())


def test_it_stops_if_asked_and_can_be_resumed_with_rollbacks(hard):
    task, config, run = hard(on_spike="stop", checkpoint_steps=20)
    with pytest.raises(Diverged) as error:
        train(task, config, run)
    assert str(error.value).startswith("training stopped at step 42: the loss jumped to ")
    assert "gradient norms of the steps before: " in str(error.value)
    assert "\n" not in str(error.value)
    assert run.load_checkpoint()["steps"] == 40
    assert spikes_of(run)[-1]["action"] == "stop"
    config = TrainingConfig(**{**vars(config), "on_spike": "rollback"})
    assert train(task, config, run, resume=True).step == 90
    assert [(spike["step"], spike["action"], spike["to_step"]) for spike in spikes_of(run)] == [
        (42, "rollback", 40),  # nothing older is known
        (70, "rollback", 50),
    ]


def test_after_a_rollback_it_continues_after_the_batch_with_a_smaller_learning_rate(hard, Recording):
    task, config, run = hard(on_spike="rollback", log_every=1, schedule="constant", warmup=0.0)
    report = Recording()
    result = train(task, config, run, report=report)
    found = spikes_of(run)
    assert [(s["step"], s["to_step"], s["lr_factor"], s["clip"]) for s in found] == [
        (42, 25, 0.5, "none"),
        (70, 50, 0.25, "none"),
    ]
    records = {record["step"]: record for record in run.history() if record["kind"] == "training"}
    assert set(records) == set(range(1, 91)) - {42, 70}  # a step that was rolled back belongs to no average
    rates = [records[step]["lr"] / config.lr for step in (41, 43, 69, 71, 90)]
    assert rates == [1, 0.5, 0.5, 0.25, 0.25]
    assert records[90]["targets"] == result.targets == 90 * 28
    assert report.messages[0].endswith(
        "Rolled back to the weights after step 25 and continued with the next batch, at 0.5 times the learning rate; "
        "rollback 1 of 4"
    )


def test_after_a_rollback_the_state_starts_anew(hard, monkeypatch):
    """The carried one was made by the weights that are gone."""
    judge, resets = Spikes.judge, []

    def noted(self, step):
        if step.place.reset:
            resets.append(step.step)
        return judge(self, step)

    monkeypatch.setattr(Spikes, "judge", noted)
    train(*hard(on_spike="rollback"))
    assert resets == [1, 43, 71]


def test_the_clip_is_there_from_the_first_rollback_on(hard):
    settings = {"on_spike": "rollback", "rollback_lr": 1.0, "rollback_clip": "norm:0.001", "log_every": 1}
    task, config, run = hard(**settings)
    train(task, config, run)
    clipped = {r["step"]: r["clipped"] for r in run.history() if r["kind"] == "training"}
    assert not any(clipped[step] for step in range(1, 42))
    assert all(clipped[step] for step in range(43, 91) if step in clipped)
    assert spikes_of(run)[0]["lr_factor"] == 1


def test_the_number_of_rollbacks_is_limited(hard):
    task, config, run = hard(on_spike="rollback", rollbacks=1)
    with pytest.raises(Diverged, match=r"^training stopped at step 70: .*after 1 rollback"):
        train(task, config, run)
    assert [spike["action"] for spike in spikes_of(run)] == ["rollback", "stop"]


@pytest.mark.parametrize("then", ["warn", "stop"])
def test_resumed_without_rollbacks_the_learning_rate_stays_smaller(hard, then, monkeypatch):
    """Also when it is resumed a second time, with rollbacks again."""
    settings = {"rollback_clip": "norm:0.001", "schedule": "constant", "warmup": 0.0, "log_every": 1}
    task, config, run = hard(at=(42,), on_spike="rollback", **settings)

    class Killed(Exception):
        pass

    save = Run.save_checkpoint

    def saved(self, tree):
        save(self, tree)
        if tree["steps"] < 90:
            raise Killed

    monkeypatch.setattr(Run, "save_checkpoint", saved)
    for step, on_spike in ((50, "rollback"), (60, then)):
        config = TrainingConfig(**{**vars(config), "on_spike": on_spike, "checkpoint_steps": step})
        with pytest.raises(Killed):
            train(task, config, run, resume=step > 50)
    kept = run.load_checkpoint()["guard"]["rollback"]
    assert (kept["used"], kept["kept"]) == (1, [])  # the weights that a rollback would need are dropped
    config = TrainingConfig(**{**vars(config), "on_spike": "rollback", "checkpoint_steps": None})
    train(task, config, run, resume=True)
    records = {record["step"]: record for record in run.history() if record["kind"] == "training"}
    assert [records[step]["lr"] / config.lr for step in (41, 43, 51, 60, 61, 90)] == [1, *[0.5] * 5]
    assert all(records[step]["clipped"] for step in range(43, 91))


def test_weights_that_were_kept_just_before_a_jump_are_not_the_ones_restored(hard):
    """Those after step 50 may be ruined already: a jump shows only some steps after its cause."""
    task, config, run = hard(at=(55,), on_spike="rollback")
    train(task, config, run)
    assert [(spike["step"], spike["to_step"]) for spike in spikes_of(run)] == [(55, 25)]


def test_another_jump_soon_after_a_rollback_is_one_too(hard):
    task, config, run = hard(at=(42, 46), on_spike="rollback")
    train(task, config, run)
    assert [(spike["step"], spike["to_step"]) for spike in spikes_of(run)] == [(42, 25), (46, 25)]


@pytest.fixture(scope="module")
def once():
    """What the training that is never killed leaves, computed for the first case."""
    return {}


@pytest.mark.parametrize("at", [26, 41, 42, 43, 60, 69, 70, 71])
def test_killed_and_resumed_it_ends_with_the_same_bits(hard, at, weights, without_times, once):
    settings = {
        "on_spike": "rollback",
        "rollback_clip": "norm:0.4",
        "layers": 2,
        "cell": "lstm",
        "log_every": 3,
    }
    if not once:
        reference = hard("reference", **settings)
        train(*reference)
        assert [spike["action"] for spike in spikes_of(reference[2])] == ["rollback"] * 2
        once.update(weights=weights(reference[2]), history=without_times(reference[2].history()))
    task, config, run = hard(**settings)
    config = TrainingConfig(**{**vars(config), "checkpoint_steps": at})

    class Killed(Exception):
        pass

    save = Run.save_checkpoint

    def saved(self, tree):
        save(self, tree)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save_checkpoint", saved)
        with pytest.raises(Killed):
            train(task, config, run)
    assert run.load_checkpoint()["steps"] == at
    train(task, config, run, resume=True)
    assert weights(run) == once["weights"]
    assert without_times(run.history()) == once["history"]


def test_interrupted_in_between(hard, weights, Recording):
    settings = {"on_spike": "rollback"}
    reference = hard("reference", **settings)
    train(*reference)
    task, config, run = hard(**settings)
    report = Recording(lambda progress: os.kill(os.getpid(), signal.SIGINT) if progress.step == 1 else None)
    with pytest.raises(Interrupted):
        train(task, config, run, report=report)
    train(task, config, run, resume=True)
    assert weights(run) == weights(reference[2])
