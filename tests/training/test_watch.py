"""Looking at the gradient's way through time while training: what is seen, and that nothing is changed by it."""

from __future__ import annotations

import io
import os
import signal

import pytest
import torch
from torch import nn

from throughtime.flow import LayerSnapshot
from throughtime.models import ModelConfig
from throughtime.tasks import TextTask
from throughtime.training import Interrupted, Lines, train
from throughtime.training.bar import Bar
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


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_progress_line_says_it_in_few_words(make, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    lines, bar = io.StringIO(), Terminal()
    train(*make(watch=2, steps=10), report=Lines(lines, seconds=0))
    train(*make("bar", watch=2, steps=10), report=Bar(bar))
    assert ", half-life " in lines.getvalue().splitlines()[-2]
    assert "half-life" not in lines.getvalue().splitlines()[0]
    assert "half-life" in bar.getvalue()


def seen(half_life, text, r_squared=1.0):
    return LayerSnapshot(half_life, text, r_squared, None, 63, None, {}, {})


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"a": seen(7.1, "7.1 steps"), "b": seen(3.2, "3.2 steps")}, "half-life 7.1 steps"),
        ({"a": seen(7.1, "7.1 steps"), "b": seen(float("inf"), "keeps")}, "gradient keeps its size"),
        ({"a": seen(7.1, "7.1 steps"), "b": seen(-5.0, "doubles in 5")}, "gradient doubles in 5 steps"),
        ({"a": seen(float("nan"), "gone at 2"), "b": seen(3.0, "3 steps")}, "half-life 3 steps"),
        ({"a": seen(float("nan"), "gone at 2")}, "gradient gone after 2 steps"),
        ({"a": seen(float("nan"), "unknown")}, ""),
        ({"a": seen(-370.0, "uneven"), "b": seen(3.0, "3 steps")}, "half-life 3 steps"),
        ({"a": seen(-370.0, "uneven")}, "gradient reach over 63 steps"),
        ({"a": seen(52.7, "52.7 steps", 0.09)}, "half-life about 52.7 steps"),
    ],
)
def test_the_words_are_those_of_the_longest_memory(layers, said):
    assert words(layers) == said


def test_resumed_it_looks_at_the_same_steps_and_sees_the_same(make, without_times, Told):
    reference = make("reference", watch=4, dropout=0.3)
    train(*reference)
    task, config, run = make(watch=4, dropout=0.3)
    told = Told(lambda progress: os.kill(os.getpid(), signal.SIGINT) if progress.step == 1 else None)
    with pytest.raises(Interrupted):
        train(task, config, run, report=told)
    shown = []
    train(task, config, run, resume=True, report=Told(lambda progress: shown.append(progress.watched)))
    times = ("watch_seconds",)
    found, wanted = (
        [{k: v for k, v in record.items() if k not in times} for record in without_times(run.history())]
        for run in (run, reference[2])
    )
    assert found == wanted
    assert shown[-1].startswith("half-life")


class Flat(nn.Module):
    """No time in it."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.logits = nn.Embedding(symbols, symbols)

    def forward(self, ids, state=None):
        return self.logits(ids), None


class FlatTask(TextTask):
    def build(self):
        return Flat(len(self.vocabulary))


def test_a_model_that_cannot_be_watched_is_trained_and_it_is_said_once(make, Told):
    task, config, run = make(watch=2)
    flat = FlatTask(task.config, ModelConfig(), task.vocabulary)
    told = Told()
    train(flat, config, run, report=told)
    assert watched(run) == []
    (message,) = told.messages
    assert message.startswith("the gradient's way is not watched: the model holds no recurrent layer")


def test_when_it_looks(make):
    task, _, _ = make()
    watch = Watch(None, task.build(), task, torch.device("cpu"))
    assert [step for step in range(1, 700) if watch.due(step)] == [200, 400, 600]
    assert not any(Watch(0, task.build(), task, torch.device("cpu")).due(step) for step in range(1, 700))
    assert Watch(None, task.build(), task, torch.device("meta")).every == 2000
