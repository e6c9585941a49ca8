"""Measuring the gradient through time while training: what is measured, and that nothing is changed by it."""

from __future__ import annotations

import io
import os
import signal
import sys

import pytest
import torch
from tests.clock import set_clock
from torch import nn

from throughtime import progress
from throughtime.flow import LayerSnapshot
from throughtime.tasks import TextTask
from throughtime.tasks.recorded import model_config_of
from throughtime.training import trainer
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import train
from throughtime.training.reporting import Terminal
from throughtime.training.watch import Watch, words


def watched(run):
    return [record for record in run.history() if record["kind"] == "watch"]


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

    set_clock(monkeypatch, later, progress, trainer)
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


def test_at_which_steps_it_measures(make, monkeypatch):
    task, config, run = make()
    model = task.build(model_config_of(run), run.assets)
    assert Watch(None, model, task.loss, torch.device("cpu")).every == 200
    assert Watch(None, model, task.loss, torch.device("meta")).every == 2000
    assert Watch(0, model, task.loss, torch.device("cpu")).every == 0
    monkeypatch.setattr(sys.modules[Watch.__module__], "ON_CPU", 6)
    train(task, config, run)
    assert [record["step"] for record in watched(run)] == [6, 12, 18]
