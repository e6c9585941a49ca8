"""The window of one optimizer step, and where the strategy cuts it."""

from __future__ import annotations

import pytest

from throughtime import bptt
from throughtime.tasks import TextTask
from throughtime.training import TrainingConfig
from throughtime.training.loop import train, window_of


@pytest.mark.parametrize(
    ("spec", "window"),
    [
        ("truncated:35", 35),
        ("truncated:35/5", 140),
        ("full", 64),
        ("checkpointed:8", 64),
        ("random_window:20-50", 200),
        ("randomized:35", 140),
        ("polynomial:10", 40),
    ],
)
def test_the_window_of_a_strategy(spec, window):
    assert window_of(TrainingConfig(bptt=spec)) == window
    assert window_of(TrainingConfig(bptt=spec, window=9)) == 9


def test_the_strategy_cuts_inside_the_window(make, monkeypatch):
    chunks = []
    original = bptt.Truncated.backward

    def watched(self, run, *args, **options):
        def counted(window, state):
            chunks.append(window.steps)
            return run(window, state)

        return original(self, counted, *args, **options)

    monkeypatch.setattr(bptt.Truncated, "backward", watched)
    train(*make(bptt="truncated:3", steps=2))
    assert chunks == [3, 3, 1, 3, 3, 1]


def test_random_windows_start_from_nothing(make):
    task, config, run = make(sampling="random")
    states = []

    class Watched(TextTask):
        def build(self, config, assets):
            model = super().build(config, assets)
            model.register_forward_pre_hook(
                lambda module, args: states.append(args[1]) if module.training else None
            )
            return model

    train(Watched(**vars(task)), config, run)
    assert len(states) == 20
    assert set(states) == {None}
