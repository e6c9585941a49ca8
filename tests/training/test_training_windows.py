"""The window of one optimiser step, and where the strategy cuts it."""

from __future__ import annotations

import pytest

from throughtime import bptt
from throughtime.training import TrainingConfig, train, window_of


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
    pieces = []
    original = bptt.Truncated.backward

    def watched(self, run, *args, **options):
        def counted(x, state):
            pieces.append(len(x))
            return run(x, state)

        return original(self, counted, *args, **options)

    monkeypatch.setattr(bptt.Truncated, "backward", watched)
    train(*make(bptt="truncated:3", steps=2))
    assert pieces == [3, 3, 1, 3, 3, 1]


def test_random_windows_start_from_nothing(make):
    task, config, run = make(sampling="random")
    states = []
    build = task.build

    def watched():
        model = build()
        model.register_forward_pre_hook(
            lambda module, args: states.append(args[1]) if module.training else None
        )
        return model

    task.build = watched
    train(task, config, run)
    assert len(states) == 20
    assert set(states) == {None}
