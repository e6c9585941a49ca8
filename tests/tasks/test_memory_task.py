"""The tasks with a known memory: their losses, their models, and that a run gives them back."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch

from throughtime.bptt import Full, Truncated
from throughtime.errors import InputError, RunError
from throughtime.flow import gradient_reach, measure
from throughtime.models import ModelConfig, settings_to_dict
from throughtime.runs import Run
from throughtime.tasks import MemoryConfig, MemoryTask, TextTask
from throughtime.tasks.memory_config import PROBLEMS
from throughtime.training import Interrupted, Silent, TrainingConfig, evaluate, train

MODEL = ModelConfig(hidden=5, embedding="onehot", cell="gru")


def task(problem="adding", length=11, model=MODEL, **settings) -> MemoryTask:
    return MemoryTask(MemoryConfig(problem=problem, length=length, validation=30, **settings), model)


def run_of(made: MemoryTask, path, **training):
    config = TrainingConfig(window=made.steps, batch=3, log_every=5, **training)
    tables = settings_to_dict(made.config, made.model, config)
    return Run.create(path, tables, made.vocabulary), config


def test_the_squared_error_is_that_of_the_last_step_whatever_stands_elsewhere():
    made = task()
    window = next(iter(made.streams(11, 7).epoch()))
    outputs = torch.randn(11, 7, 1, requires_grad=True)
    loss = made.loss(outputs, window.targets)
    by_hand = sum(
        (outputs[-1, b, 0] - (window.inputs[:, b, 0] * window.inputs[:, b, 1]).sum()).item() ** 2
        for b in range(7)
    )
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)  # float32
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert (gradient[:-1] == 0).all() and (gradient[-1] != 0).all()
    assert window.count == 7


@pytest.mark.parametrize("problem", PROBLEMS)
def test_who_knows_nothing_has_the_baseline(problem):
    made = task(problem, 40)

    def know_nothing(inputs, state):
        if problem == "adding":
            return torch.ones(*inputs.shape[:2], 1), None
        if problem == "echo":
            return torch.tensor([3 / 8, 5 / 8]).log().expand(*inputs.shape, 2), None
        logits = torch.full((*inputs.shape, 10), -torch.inf)
        logits[..., :8] = -math.log(8)
        logits[:-10] = -torch.inf
        logits[:-10, :, 8] = 0.0
        return logits, None

    class Model(torch.nn.Module):
        def forward(self, inputs, state):
            return know_nothing(inputs, state)

    windows = list(task(problem, 40).streams(made.steps, 5000).epoch())[:2]
    found = evaluate(Model(), windows, made.loss)
    # 10,000 squared errors scatter by 0.002 about their mean; 320,000 coins by 0.0004.
    assert found.loss == pytest.approx(made.baseline, abs=0.01)
    assert next(iter(made.levels().values())) == made.baseline
    assert list(made.levels().values())[-1] == made.optimum


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_losses_one_by_one_sum_to_the_loss_and_can_be_measured(problem):
    made = task(problem)
    model = made.build()
    window = next(iter(made.streams(made.steps, 3).epoch()))
    losses = made.losses(model(window.inputs)[0], window.targets)
    assert losses.sum().item() == pytest.approx(
        made.loss(model(window.inputs)[0], window.targets).item(), rel=1e-5
    )
    assert losses.shape == ((3,) if problem == "adding" else (made.steps, 3))
    last = made.steps - 1
    flow = measure(model, (window.inputs, window.targets), loss=made.losses, ends=[last], products=False)
    (layer,) = flow.layers.values()
    reach = gradient_reach(
        model, lambda y, t: made.loss(y, t), window.inputs, window.targets, lags=last, ends=[last]
    )
    curve = layer.lag_h.mean[1:].float()
    assert torch.isfinite(curve).all() and curve[0] > 0
    assert torch.allclose(curve, reach.norms[: len(curve)].float(), rtol=1e-3)  # the GRU's state is h alone


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_gradient_can_be_cut_inside_a_sequence(problem):
    made = task(problem)
    model = made.build()
    window = next(iter(made.streams(made.steps, 3).epoch()))
    gradients = {}
    for strategy in (Full(), Truncated(4)):
        model.zero_grad()
        result = strategy.backward(model, made.loss, window.inputs, window.targets, count=window.count)
        gradients[strategy] = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert torch.isfinite(gradients[strategy]).all()
        assert torch.isfinite(result.loss)
    full, cut = gradients.values()
    assert not torch.allclose(full, cut, rtol=1e-2)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_run_gives_back_the_task_and_the_model(problem, tmp_path):
    made = task(problem)
    run, config = run_of(made, tmp_path / "run", steps=3)
    with pytest.raises(RunError, match="no weights yet"):
        MemoryTask.restore(run)
    train(made, config, run)
    model, again = MemoryTask.restore(Run.open(run.path))
    assert (again.config, again.model) == (made.config, made.model)
    assert not model.training
    loss = evaluate(model, again.validation(again.steps, 3), again.loss).loss
    assert loss == pytest.approx(min(r["loss"] for r in run.history() if r["kind"] == "evaluation"), rel=1e-5)
    with pytest.raises(RunError, match="is not the run of a language model"):
        TextTask.restore(run)


@pytest.mark.parametrize("bptt", ["full", "randomized:4"])
def test_stopped_and_resumed_it_ends_in_the_same_bits(bptt, tmp_path):
    made = task(examples=20)
    whole, config = run_of(made, tmp_path / "whole", steps=30, bptt=bptt)
    train(made, config, whole)

    class Stop(Silent):
        def step(self, progress):
            os.kill(os.getpid(), signal.SIGINT)

    run, config = run_of(made, tmp_path / "run", steps=30, bptt=bptt)
    with pytest.raises(Interrupted, match="throughtime train adding --resume"):
        train(made, config, run, report=Stop())
    assert 0 < run.load_checkpoint()["steps"] < 30
    train(MemoryTask.from_run(run), config, run, resume=True)
    ours, theirs = run.load_model(), whole.load_model()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_what_it_learns_is_the_memory_and_not_the_bias():
    made = task("echo", 20, ModelConfig(hidden=24, embedding="onehot", cell="rnn"))
    torch.manual_seed(0)
    model = made.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    windows = iter(made.streams(made.steps, 32).epoch())
    for window in (next(windows) for _ in range(120)):
        optimizer.zero_grad()
        Full().backward(model, made.loss, window.inputs, window.targets, count=window.count)
        optimizer.step()
    loss = evaluate(model, task("echo", 20).validation(20, 30), made.loss).loss
    assert loss < 0.57  # 0.6616 is all that can be had without memory


def test_settings_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="problem must be one of adding, copy, echo, got 'add'"):
        MemoryConfig(problem="add")
    with pytest.raises(InputError, match="length must be at least 1, got 0"):
        MemoryConfig(length=0)
    with pytest.raises(InputError, match="window must be a whole sequence, 11 steps, got 7"):
        task().streams(7, 3)
    with pytest.raises(InputError, match="window must be a whole sequence"):
        task().validation(7, 3)
    with pytest.raises(InputError, match="input must have 2 features, got 3"):
        task().build()(torch.zeros(4, 1, 3))
    run = Run.create(tmp_path / "a", {"text": {}}, task().vocabulary)
    with pytest.raises(RunError, match="is not the run of adding, copy or echo"):
        MemoryTask.from_run(run)
    run = Run.create(tmp_path / "b", {"memory": {"lenght": 3}, "model": {}}, task().vocabulary)
    with pytest.raises(RunError, match=r"config.toml is damaged: \[memory\] has no setting 'lenght'"):
        MemoryTask.from_run(run)


def test_a_bidirectional_model_is_remarked_on():
    assert task().remarks() == []
    made = task(model=ModelConfig(hidden=5, embedding="onehot", bidirectional=True))
    assert "reads the end first" in made.remarks()[0]
    outputs, _ = made.build()(torch.rand(11, 2, 2))
    assert outputs.shape == (11, 2, 1)
