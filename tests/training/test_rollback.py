"""What a rollback restores; and a training on real text that diverges without one."""

from __future__ import annotations

import pytest
import torch

from throughtime.models.config import ModelConfig
from throughtime.tasks import TextTask
from throughtime.tasks.recorded import model_config_of
from throughtime.training import TrainingConfig
from throughtime.training.guard import EVERY, KEPT, MARGIN, Rollback
from throughtime.training.loop import start_run, train
from throughtime.training.processes import Processes
from throughtime.training.spikes import Diverged, Place
from throughtime.training.step import Step


def spikes_of(run):
    return [record for record in run.history() if record["kind"] == "spike"]


def stepped(make, **settings):
    """A step, and what makes one update with it."""
    task, config, run = make(optimizer="adamw", **settings)
    torch.manual_seed(0)
    step = Step(
        task.build(model_config_of(run), run.assets), task.loss, config, Processes("cpu"), torch.Generator()
    )
    batches = task.batches(run.assets, steps=7, batch=4).epoch()

    def update(lr=0.01):
        batch = next(batches)
        step.gradients(batch, None, batch.num_targets, Place(1, 1, 1, True, lr))
        step.update(lr)

    return step, Rollback(config, step), update


def everything(step):
    state = [value for each in step.optimizer.state_dict()["state"].values() for value in each.values()]
    return [t.detach().clone() for t in [*step.model.state_dict().values(), *state]]


def test_what_is_put_back_is_what_was_kept(make):
    step, rollback, update = stepped(make, on_spike="rollback", rollbacks=9)
    kept = {}
    for number in range(3 * EVERY + MARGIN + 1):
        rollback.keep(number)
        kept[number] = everything(step)
        update()
    newest = 3 * EVERY
    cases = [
        (newest + MARGIN, newest),
        (newest + MARGIN - 1, newest - EVERY),
        (newest + MARGIN, newest - EVERY),
    ]
    for at, expected in cases:  # what was too new the second time is gone the third
        assert rollback.back(at) == expected
        for mine, theirs in zip(everything(step), kept[expected], strict=True):
            assert torch.equal(mine, theirs)
        update()  # must not write into what is kept
    assert all(parameter.grad is None for parameter in step.parameters)
    assert rollback.used == 3
    assert KEPT * EVERY > MARGIN + EVERY - 1


def test_with_nothing_old_enough_the_oldest_is_taken(make):
    step, rollback, update = stepped(make, on_spike="rollback")
    start = everything(step)
    rollback.keep(0)
    update()
    assert rollback.back(2) == 0
    assert torch.equal(everything(step)[0], start[0])


@pytest.fixture
def rising(tmp_path):
    """A ReLU network on the text that ships inside, its learning rate rising until it is too high, nothing clipped."""

    def made(name, **settings):
        task = TextTask(limit=100_000, validation=0.0)
        model = ModelConfig(cell="rnn", nonlinearity="relu", hidden=128)
        steep = {"optimizer": "momentum", "lr": 3.0, "schedule": "constant", "warmup": 0.9, "clip": "none"}
        config = TrainingConfig(
            bptt="truncated:35", steps=400, watch=100, log_every=1, no_baselines=True, **steep, **settings
        )
        task, run = start_run(task, model, config, tmp_path / name)
        return task, config, run

    return made


def test_on_real_text_the_report_lists_the_norms_and_rollbacks_save_the_training(rising):
    task, config, run = rising("steep")
    with pytest.raises(Diverged) as error:
        train(task, config, run)
    last = spikes_of(run)[-1]
    norms = {r["step"]: r["gradient_norm"] for r in run.history() if r["kind"] == "training"}
    assert last["norms_before"] == [norms[last["step"] - back] for back in range(10, 0, -1)]
    assert ", ".join(f"{norm:.3g}" for norm in last["norms_before"]) in str(error.value)
    assert max(last["norms_before"][-3:]) > 5 * last["usual_norm"]  # the gradient grew before the end
    assert "clip = norm:" in str(error.value)
    assert last["step"] < 400
    assert last["watched_at"] in (100, 200, 300)

    task, config, run = rising("calmed", on_spike="rollback", rollback_clip="norm:1", rollbacks=8)
    result = train(task, config, run)
    found = spikes_of(run)
    assert result.step == 400
    assert found
    assert found[0]["action"] == "rollback"
    assert found[0]["step"] > 10
    assert result.loss < 1.1 * found[0]["usual_loss"]
