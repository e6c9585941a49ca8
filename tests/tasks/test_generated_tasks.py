"""The tasks with generated sequences: their losses, their models, and that a run restores them."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch

from throughtime.bptt import Full, Truncated
from throughtime.data import Assets, Batch
from throughtime.errors import InputError, RunError
from throughtime.flow import gradient_reach, measure
from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.tasks import AddingTask, CopyTask, EchoTask, TextTask
from throughtime.tasks.recorded import model_config_of, restore_model, task_of
from throughtime.training import TrainingConfig
from throughtime.training.evaluation import evaluate
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import check, start_run, train
from throughtime.training.reporting import Silent

MODEL = ModelConfig(hidden=5, embedding="onehot", cell="gru")
KINDS = (AddingTask, CopyTask, EchoTask)


def made(kind=AddingTask, length=11, **settings):
    return kind(**{"length": length, "validation": 30, "test": 30, **settings})


def first_batch(task, batch):
    return next(iter(task.batches(Assets(), steps=64, batch=batch).epoch()))


def new_run(task, path, **training):
    config = TrainingConfig(**{"batch": 3, "log_every": 5, "bptt": "full", "no_baselines": True, **training})
    return start_run(task, MODEL, config, path)[1], config


def test_the_squared_error_is_that_of_the_last_step_whatever_the_others_hold():
    task = made()
    batch = first_batch(task, 7)
    assert (batch.steps, batch.size, batch.num_targets) == (11, 7, 7)
    outputs = torch.randn(11, 7, 1, requires_grad=True)
    loss = task.loss(outputs, batch)
    by_hand = sum(
        (outputs[-1, b, 0] - (batch.inputs[:, b, 0] * batch.inputs[:, b, 1]).sum()).item() ** 2
        for b in range(7)
    )
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)  # float32
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert (gradient[:-1] == 0).all() and (gradient[-1] != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_float64_outputs_is_float64(kind):
    task = made(kind)
    batch = first_batch(task, 7)
    sizes = {AddingTask: 1, CopyTask: 10, EchoTask: 2}
    outputs = torch.randn(task.steps, 7, sizes[kind], dtype=torch.float64)
    loss = task.loss(outputs, batch)
    assert loss.dtype == torch.float64
    assert abs(loss.item() - task.loss(outputs.float(), batch).item()) > 0
    if kind is not AddingTask:
        kept = batch.targets >= 0
        chosen = outputs.log_softmax(-1)[kept].gather(1, batch.targets[kept][:, None])
        assert loss.item() == pytest.approx(-chosen.sum().item(), rel=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_without_memory_the_loss_is_the_first_level(kind):
    task = made(kind, 40, epoch=10_000)

    def guess(inputs):
        if kind is AddingTask:
            return torch.ones(*inputs.shape[:2], 1)
        if kind is EchoTask:
            return torch.tensor([3 / 8, 5 / 8]).log().expand(*inputs.shape, 2)
        logits = torch.full((*inputs.shape, 10), -torch.inf)
        logits[..., :8] = -math.log(8)
        logits[:-10] = -torch.inf
        logits[:-10, :, 8] = 0.0
        return logits

    class Model(torch.nn.Module):
        def forward(self, inputs, state):
            return guess(inputs), None

    found = evaluate(Model(), task.batches(Assets(), steps=64, batch=5000).epoch(), task.loss)
    levels = list(task.levels.values())
    # 10,000 squared errors scatter by 0.002 about their mean; 320,000 coins by 0.0004.
    assert found.loss == pytest.approx(levels[0], abs=0.01)
    assert levels == sorted(levels, reverse=True)
    assert task.baseline(Assets(), "test") == {name: {"loss": value} for name, value in task.levels.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_one_by_one_sum_to_the_loss_and_can_be_measured(kind):
    task = made(kind)
    model = task.build(MODEL, Assets())
    batch = first_batch(task, 3)
    per_step = task.flow_loss()
    if per_step is not None:
        losses = per_step(model(batch.inputs)[0], batch.targets)
        assert losses.sum().item() == pytest.approx(task.loss(model(batch.inputs)[0], batch).item(), rel=1e-5)
        assert losses.shape == (3,)
    last = task.steps - 1
    flow = measure(model, (batch.inputs, batch.targets), loss=per_step, ends=[last], products=False)
    (layer,) = flow.layers.values()
    reach = gradient_reach(
        model, lambda y, t: task.loss(y, Batch.of(y, t)), batch.inputs, batch.targets, lags=last, ends=[last]
    )
    curve = layer.lag_h.mean[1:].float()
    assert torch.isfinite(curve).all() and curve[0] > 0
    assert torch.allclose(curve, reach.norms[: len(curve)].float(), rtol=1e-3)  # the GRU's state is h alone


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_can_be_cut_inside_a_sequence(kind):
    task = made(kind)
    model = task.build(MODEL, Assets())
    batch = first_batch(task, 3)
    gradients = {}
    for strategy in (Full(), Truncated(4)):
        model.zero_grad()
        result = strategy.backward(lambda window, state: window.run(model, state), task.loss, batch)
        gradients[strategy] = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert torch.isfinite(gradients[strategy]).all()
        assert torch.isfinite(result.loss)
    full, cut = gradients.values()
    assert not torch.allclose(full, cut, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_restores_the_task_and_the_model(kind, tmp_path):
    task = made(kind)
    run, config = new_run(task, tmp_path / "run", steps=3)
    with pytest.raises(RunError, match="no weights yet"):
        restore_model(run, task)
    result = train(task, config, run)
    run = Run.open(run.path)
    again, model = task_of(run), restore_model(run, task)
    assert (again, model_config_of(run)) == (task, MODEL)
    assert not model.training
    losses = {}
    for split in ("validation", "test"):
        batches = again.evaluation_batches(run.assets, split, steps=64, batch=3)
        losses[split] = evaluate(model, batches, again.loss).loss
        assert losses[split] == pytest.approx(result.results[split]["this model"]["loss"], rel=1e-12)
    assert losses["validation"] != losses["test"]
    assert losses["validation"] == pytest.approx(
        min(r["loss"] for r in run.history() if r["kind"] == "evaluation"), rel=1e-12
    )
    with pytest.raises(
        RunError, match=rf"is a run of the task '{kind.name}', got text, whose name is 'text'"
    ):
        task_of(run, "text")


@pytest.mark.parametrize("bptt", ["full", "randomized:4"])
def test_stopped_and_resumed_it_ends_with_the_same_bits(bptt, tmp_path):
    task = made(epoch=20)
    whole, config = new_run(task, tmp_path / "whole", steps=30, bptt=bptt)
    train(task, config, whole)

    class Stop(Silent):
        def step(self, step):
            os.kill(os.getpid(), signal.SIGINT)

    run, config = new_run(task, tmp_path / "run", steps=30, bptt=bptt)
    with pytest.raises(Interrupted, match="throughtime train adding --resume"):
        train(task, config, run, report=Stop())
    assert 0 < run.load_checkpoint()["steps"] < 30
    train(task_of(run), config, run, resume=True)
    ours, theirs = run.load_model(), whole.load_model()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_it_learns_is_the_echo_and_not_the_bias():
    task = made(EchoTask, 20)
    torch.manual_seed(0)
    model = task.build(ModelConfig(hidden=24, embedding="onehot", cell="rnn"), Assets())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batches = iter(task.batches(Assets(), steps=64, batch=32).epoch())
    for batch in (next(batches) for _ in range(120)):
        optimizer.zero_grad()
        Full().backward(lambda window, state: window.run(model, state), task.loss, batch)
        optimizer.step()
    loss = evaluate(
        model, task.evaluation_batches(Assets(), "validation", steps=64, batch=30), task.loss
    ).loss
    assert loss < 0.57  # 0.6616 is all that can be reached without memory


def test_settings_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="length must be at least 1 and at most 1,000,000, got 0"):
        made(CopyTask, 0)
    with pytest.raises(InputError, match="validation must be at least 1, got 0"):
        made(validation=0)
    with pytest.raises(
        InputError, match="window is for one long sequence, and adding trains on whole sequences: leave"
    ):
        check(made(), MODEL, TrainingConfig(window=7), Assets())
    with pytest.raises(InputError, match="adding draws its sequences and reads no file"):
        made().evaluation_batches(Assets(), "all", steps=64, batch=3)
    with pytest.raises(InputError, match="input must have 2 features, got 3"):
        made().build(MODEL, Assets())(torch.zeros(4, 1, 3))
    run = Run.create(tmp_path / "a", {"task": "adding", "text": TextTask().to_table()}, Assets())
    with pytest.raises(RunError, match=r"config.toml is damaged: it has no section \[adding\]"):
        task_of(run)
    run = Run.create(tmp_path / "b", {"task": "adding", "adding": {"lenght": 3}, "model": {}}, Assets())
    with pytest.raises(
        RunError, match=r"config.toml is damaged: \[adding\] has no setting 'lenght'. Did you mean 'length'"
    ):
        task_of(run)


def test_a_bidirectional_model_is_remarked_on():
    assert made().remarks(MODEL) == []
    both = ModelConfig(hidden=5, embedding="onehot", bidirectional=True)
    assert "reads the end first" in made().remarks(both)[0]
    outputs, _ = made().build(both, Assets())(torch.rand(11, 2, 2))
    assert outputs.shape == (11, 2, 1)


def test_predictions():
    task = made(EchoTask)
    model = task.build(MODEL, Assets()).double()
    text, none = task.predict(model, Assets(), [{"input": "0110"}, {"input": ""}])
    logits, _ = model(torch.tensor([0, 1, 1, 0])[:, None])
    assert text["output"] == "".join("01"[int(number)] for number in logits[:, 0].argmax(-1)) and none == {
        "output": ""
    }
    with pytest.raises(InputError, match="input must be of the symbols 01 of echo, got '2'"):
        list(task.predict(model, Assets(), [{"input": "012"}]))
    adding = made()
    model = adding.build(MODEL, Assets())
    pairs = [[0.25, 1], [0.5, 0], [0.125, 1]]
    for value in (pairs, str(pairs)):
        (found,) = adding.predict(model, Assets(), [{"input": value}])
        assert found["sum"] == model(torch.tensor(pairs)[:, None])[0][-1, 0, 0].item()
    for wrong in ("x", [], [1, 2], [[1, 2, 3]], "[[1]]", None):
        with pytest.raises(
            InputError, match=r"input must be a list \[\[value, mark\], ...\], one pair for each step"
        ):
            list(adding.predict(model, Assets(), [{"input": wrong}]))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_loss_means(kind):
    task = made(kind)
    trivial, *_, best = task.levels.values()
    assert "worse than no memory" in task.conclude({"loss": 1.1 * trivial})
    assert "worse than no memory" in task.conclude({"loss": math.nan})
    last = list(task.levels)[-1]
    assert task.conclude({"loss": best}).startswith(f"That is nearest to {last}: 100% of the way")
    assert "50% of the way" in task.conclude({"loss": (trivial + best) / 2})
