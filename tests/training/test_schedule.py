"""The learning rate over a training, and what ends one."""

from __future__ import annotations

import math

import pytest

from throughtime.errors import InputError
from throughtime.training import TrainingConfig
from throughtime.training.schedule import Budget, decay, epochs, factor, warm
from throughtime.training.step import optimizer_for


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0]),
        ("step", [1, 1, 0.1, 0.01, 0.01]),
    ],
)
def test_decay_at_the_quarters(name, values):
    assert [decay(name, spent) for spent in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx(values, abs=1e-12)


def test_warm_up_by_fraction_and_by_steps():
    assert warm(0, 0, 0) == 1
    assert warm(0.2, 0, 0) == warm(10, 0, 0) == 0.01
    assert warm(0.2, 0.1, 999) == pytest.approx(0.505)
    assert warm(10, 0.9, 5) == pytest.approx(0.505)
    assert warm(0.2, 0.2, 0) == warm(10, 0, 10) == warm(10, 1, 500) == 1
    assert factor("linear", 0.2, 0.1, 0) == pytest.approx(0.505 * 0.9)
    with pytest.raises(InputError, match=r"from 0 to 1, got 1\.5"):
        factor("linear", 0, 1.5, 0)
    with pytest.raises(InputError, match="Did you mean 'cosine'"):
        decay("cosin", 0)


class Half:
    """Data of 8 batches an epoch, half-way through the third."""

    epochs_done, batches_done = 2, 4

    def __len__(self):
        return 8


def test_budgets():
    assert epochs(Half()) == 2.5
    assert Budget.of(TrainingConfig(steps=40)).spent(10, Half(), 999) == 0.25
    assert Budget.of(TrainingConfig(epochs=10)).spent(10, Half(), 999) == 0.25
    assert Budget.of(TrainingConfig(minutes=4)).spent(10, Half(), 60) == 0.25
    assert Budget.of(TrainingConfig(steps=40)).spent(99, Half(), 0) == 1
    assert Budget.of(TrainingConfig()) == Budget("epochs", 10)
    assert Budget("minutes", 2).seconds_left(0.5, 70) == 50
    assert Budget("steps", 2).seconds_left(0.25, 10) == 30
    assert Budget("steps", 2).seconds_left(0, 10) is None
    assert [str(Budget("epochs", n)) for n in (1, 2.5)] == ["1 epoch", "2.5 epochs"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 5, "minutes": 2.0}, "one of steps, epochs and minutes, got steps and minutes"),
        ({"steps": 0}, "steps must be at least 1 and at most 9,007,199,254,740,992, got 0"),
        ({"minutes": math.inf}, "minutes must be above 0"),
        ({"optimizer": "rmsprob"}, "Did you mean 'rmsprop'"),
        ({"schedule": "cos"}, "schedule must be one of"),
        ({"precision": "fp16"}, "precision must be one of fp32, bf16, got 'fp16'"),
        ({"keep": "all"}, "keep must be one of best, last"),
        ({"clip": "1"}, "clip must be norm:THRESHOLD"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": math.nan}, "lr must be above 0 and at most 10,000.0, got nan"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"window": 0}, "window must be at least 1"),
        ({"warmup": -1.0}, "warmup must be at least 0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"seed": -1}, "seed must be at least 0 and at most 9,223,372,036,854,775,807, got -1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(InputError, match=message) as error:
        TrainingConfig(**settings)
    assert "\n" not in str(error.value)


def test_weight_decay_is_adamws_alone_and_for_matrices_only():
    import torch

    model = torch.nn.Linear(3, 2)
    groups = optimizer_for(model, TrainingConfig()).param_groups
    assert [(g["weight_decay"], g["params"][0].dim()) for g in groups] == [(0.01, 2), (0.0, 1)]
    for name, kind in {"sgd": "SGD", "momentum": "SGD", "adam": "Adam", "rmsprop": "RMSprop"}.items():
        optimizer = optimizer_for(model, TrainingConfig(optimizer=name))
        assert type(optimizer).__name__ == kind
        assert all(group["weight_decay"] == 0 for group in optimizer.param_groups)
    assert optimizer_for(model, TrainingConfig(optimizer="momentum")).defaults["momentum"] == 0.9
    assert optimizer_for(model, TrainingConfig(optimizer="sgd")).defaults["momentum"] == 0
