"""Measuring the gradient through time while training: what is measured, and that nothing is changed by it."""

from __future__ import annotations

import copy
import io
import os
import signal
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from throughtime.data.batch import Batch
from throughtime.flow import LayerSnapshot, measure, snapshot
from throughtime.flow.measurement.snapshot import EXAMPLES
from throughtime.tasks import TextTask
from throughtime.tasks.recorded import model_config_of
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import train
from throughtime.training.reporting import Terminal
from throughtime.training.watch import Watch, words


def watched(run):
    return [record for record in run.history() if record["kind"] == "watch"]


@pytest.fixture
def window(make):
    """A task's second window, with the state after the first, of more examples than are measured."""

    def made(steps=12, **settings):
        task, _, run = make(batch=EXAMPLES + 3, window=steps, **settings)
        torch.manual_seed(3)
        model = task.build(model_config_of(run), run.assets)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2.5)
        windows = task.batches(run.assets, steps=steps, batch=EXAMPLES + 3).epoch()
        with torch.no_grad():
            _, state = model(next(windows).inputs, None)
        return task, model, next(windows), state

    return made


@pytest.mark.parametrize(
    "settings",
    [
        {"cell": "lstm", "layers": 2, "recurrent_dropout": 0.2, "zoneout": 0.1, "bptt": "randomized:3"},
        {"cell": "rnn", "embedding": "onehot", "clip": "value:0.01"},
        {"bidirectional": True},
    ],
)
def test_the_watched_training_is_the_unwatched_one_to_the_bit(make, settings, weights, without_times):
    settings = {"dropout": 0.3, "evaluate_every": 6, **settings}
    blind, seeing = make("blind", watch=0, **settings), make("seeing", watch=3, **settings)
    train(*blind)
    train(*seeing)
    assert [record["step"] for record in watched(seeing[2])] == [3, 6, 9, 12, 15, 18]
    assert watched(blind[2]) == []
    assert weights(blind[2]) == weights(seeing[2])
    rest = [record for record in seeing[2].history() if record["kind"] != "watch"]
    assert without_times(rest) == without_times(blind[2].history())


def test_a_measurement_touches_neither_gradients_nor_mode_nor_random_numbers(window):
    task, model, second, state = window(cell="lstm", layers=2, dropout=0.5)
    model.train()
    task.loss(model(second.inputs, state)[0], second).backward()
    before = {name: (p.detach().clone(), p.grad.clone()) for name, p in model.named_parameters()}
    carried, random = copy.deepcopy(state), torch.get_rng_state()
    found = snapshot(model, task.loss, second, state)
    assert list(found) == ["layers.l0", "layers.l1"]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0])
        assert torch.equal(parameter.grad, before[name][1])
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
    for mine, theirs in zip(state, carried, strict=True):
        assert torch.equal(mine, theirs)
        assert not mine.requires_grad


def per_step(outputs, targets):
    """What the task sums, one value for each step and example."""
    return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none")


def expected(model, second, state, end, **more):
    """By `measure`, over the first examples."""
    flow = measure(
        model,
        (second.inputs, second.targets),
        loss=per_step,
        state=state,
        ends=[end],
        examples=EXAMPLES,
        products=False,
        **more,
    )
    return flow.layers


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_it_is_what_measure_measures(window, cell):
    task, model, second, state = window(cell=cell, layers=2)
    snapshots = snapshot(model, task.loss, second, state)
    wanted = expected(model, second, state, end=11, lags=11)
    assert list(snapshots) == list(wanted)
    for name, each in wanted.items():
        found = snapshots[name]
        assert found.half_life == pytest.approx(
            each.lag_h.half_life.steps, rel=1e-4
        )  # the task's loss is float32
        assert found.r_squared == pytest.approx(each.lag_h.half_life.r_squared, rel=1e-4)
        assert (found.reach, found.lags) == (each.lag_h.reach, 11)
        assert found.slope == pytest.approx({name: gate.slope_mean for name, gate in each.gates.items()})
        assert found.saturated == pytest.approx({name: gate.saturated for name, gate in each.gates.items()})
        if cell == "lstm":
            assert found.half_life_c == pytest.approx(each.lag_c.half_life.steps, rel=1e-4)
        else:
            assert found.half_life_c is None


def test_both_directions_are_measured_from_the_middle(window):
    task, model, second, _ = window(steps=13, bidirectional=True)
    found = snapshot(model, task.loss, second, None)
    wanted = expected(model, second, None, end=6, lags=6)
    assert list(found) == list(wanted) == ["layers.l0", "layers.l0_reverse"]
    for name, each in wanted.items():
        assert found[name].half_life == pytest.approx(each.lag_h.half_life.steps, rel=1e-4)
        assert found[name].lags == 6


def test_of_a_long_window_the_last_steps_are_measured(window, monkeypatch):
    """Their state comes from the steps before, so the gradient over the lags that remain is the same."""
    task, model, second, state = window(cell="lstm")
    wanted = expected(model, second, state, end=11, lags=6)["layers.l0"]
    monkeypatch.setattr(sys.modules[snapshot.__module__], "STEPS", 7)
    found = snapshot(model, task.loss, second, state)["layers.l0"]
    assert found.lags == 6
    assert found.half_life == pytest.approx(wanted.lag_h.half_life.steps, rel=1e-4)


def test_examples_without_a_target_at_the_end_do_not_count(window):
    task, model, second, state = window()
    targets = second.targets.clone()
    targets[-1, 1:EXAMPLES] = -100
    found = snapshot(model, task.loss, Batch.of(second.inputs, targets, reset=False), state)
    one = snapshot(model, task.loss, second.rows(slice(0, 1)), state[:, :1])
    assert found["layers.l0"].half_life == pytest.approx(one["layers.l0"].half_life, rel=1e-4)
    targets[-1] = -100
    nothing = snapshot(model, task.loss, Batch.of(second.inputs, targets, reset=False), state)["layers.l0"]
    assert nothing.text == "unknown"
    assert nothing.record()["half_life"] is None


@pytest.mark.parametrize(("clip", "threshold"), [("norm:0.2", 0.2), ("norm:50", 50.0), ("none", None)])
def test_norms_before_and_after_clipping(make, clip, threshold):
    task, config, run = make(clip=clip, watch=4, log_every=1)
    train(task, config, run)
    norms = {r["step"]: r["gradient_norm"] for r in run.history() if r["kind"] == "training"}
    for record in watched(run):
        assert record["norm"] == norms[record["step"]]
        after = record["norm"] if threshold is None else min(record["norm"], threshold)
        assert record["norm_clipped"] == pytest.approx(after, rel=1e-5)
        assert record["watch_seconds"] > 0


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_the_progress_line_says_it_in_few_words(make, monkeypatch):
    """On a clock of our own, by which every step is shown."""
    monkeypatch.setenv("COLUMNS", "200")
    now = [0.0]

    def later():
        now[0] += 20.0
        return now[0]

    monkeypatch.setattr(time, "monotonic", later)
    lines, bar = io.StringIO(), Screen()
    train(*make(watch=2, steps=10), report=Terminal(lines))
    train(*make("bar", watch=2, steps=10), report=Terminal(bar))
    steps = [line for line in lines.getvalue().splitlines() if line.startswith("training: ")]
    assert len(steps) == 9
    assert ", half-life " in steps[-1]
    assert "half-life" not in steps[0]
    assert "half-life" in bar.getvalue()


def layer(half_life, text, r_squared=1.0):
    return LayerSnapshot(half_life, text, r_squared, None, 63, None, {}, {})


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ({"a": layer(7.1, "7.1 steps"), "b": layer(3.2, "3.2 steps")}, "half-life 7.1 steps"),
        ({"a": layer(7.1, "7.1 steps"), "b": layer(float("inf"), "keeps")}, "gradient keeps its size"),
        ({"a": layer(7.1, "7.1 steps"), "b": layer(-5.0, "doubles in 5")}, "gradient doubles in 5 steps"),
        ({"a": layer(float("nan"), "gone at 2"), "b": layer(3.0, "3 steps")}, "half-life 3 steps"),
        ({"a": layer(float("nan"), "gone at 2")}, "gradient zero after 2 steps"),
        ({"a": layer(float("nan"), "unknown")}, ""),
        ({"a": layer(52.7, "52.7 steps", 0.09)}, "half-life about 52.7 steps"),
    ],
)
def test_the_words_are_those_of_the_layer_whose_gradient_lasts_longest(layers, text):
    assert words(layers) == text


def test_resumed_it_measures_at_the_same_steps_and_finds_the_same(make, without_times, Recording):
    reference = make("reference", watch=4, dropout=0.3)
    train(*reference)
    task, config, run = make(watch=4, dropout=0.3)
    report = Recording(lambda progress: os.kill(os.getpid(), signal.SIGINT) if progress.step == 1 else None)
    with pytest.raises(Interrupted):
        train(task, config, run, report=report)
    shown = []
    train(task, config, run, resume=True, report=Recording(lambda progress: shown.append(progress.watched)))
    assert without_times(run.history()) == without_times(reference[2].history())
    assert shown[-1].startswith("half-life")


class Flat(nn.Module):
    """No time in it."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.logits = nn.Embedding(symbols, symbols)

    def forward(self, ids, state=None):
        return self.logits(ids), None


class FlatTask(TextTask):
    def build(self, config, assets):
        return Flat(len(assets.vocabulary))


def test_a_model_without_a_recurrent_layer_is_trained_and_it_is_reported_once(make, Recording):
    task, config, run = make(watch=2)
    report = Recording()
    train(FlatTask(**vars(task)), config, run, report=report)
    assert watched(run) == []
    (message,) = report.messages
    assert message.startswith("the gradient through time is not measured: the model holds no recurrent layer")


def test_at_which_steps_it_measures(make):
    task, _, run = make()
    model, cpu = task.build(model_config_of(run), run.assets), torch.device("cpu")
    watch = Watch(None, model, task.loss, cpu)
    assert [step for step in range(1, 700) if watch.due(step)] == [200, 400, 600]
    assert not any(Watch(0, model, task.loss, cpu).due(step) for step in range(1, 700))
    assert Watch(None, model, task.loss, torch.device("meta")).every == 2000
