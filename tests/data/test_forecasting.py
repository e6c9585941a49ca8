"""Scaling, training windows and forecast origins: nothing of a part is seen before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from throughtime.data.forecasting import (
    Covariates,
    Scale,
    ScaledSeries,
    origin_batches,
    random_windows,
    unscaled,
)
from throughtime.data.readers.time_series import Series
from throughtime.data.readers.times import Step
from throughtime.data.step_inputs import Ahead, StepInputs
from throughtime.errors import InputError

STEP = Step("number", 1)


def series(values: np.ndarray, name: str = "a") -> Series:
    return Series(name, 0.0, values.astype(float), np.zeros((len(values), 0)), np.zeros((len(values), 0)))


def scaled(
    values: np.ndarray, horizon: int = 3, number: int = 0, window: int = 4, at_once: bool = True
) -> ScaledSeries:
    inputs = StepInputs(window, horizon=horizon if at_once else 0)
    return ScaledSeries(
        series(values),
        STEP,
        inputs,
        Scale(0.0, 1.0, 1.0, 1.0),
        Covariates([], []),
        number=number,
        horizon=horizon,
        how="mean",
    )


@pytest.mark.parametrize("how", ["standard", "mean", "log", "sqrt"])
def test_scaling_is_of_the_training_part_and_can_be_undone(how: str) -> None:
    values = np.array([2.0, 4, np.nan, 8, 16, 1000, 3])
    scale = Scale.of(series(values), 5, how, 2)
    known = np.array([2.0, 4, 8, 16])
    used = {"log": np.log(known), "sqrt": np.sqrt(known)}.get(how, known)
    assert scale.shift == pytest.approx(0 if how == "mean" else used.mean())
    assert scale.scale == pytest.approx(known.mean() if how == "mean" else used.std())
    assert scale.deviation == pytest.approx(known.std())
    assert scale.seasonal_error == pytest.approx(4.0)  # |8 - 4|; the others lack a value
    inputs = StepInputs(2)
    one = ScaledSeries(series(values), STEP, inputs, scale, Covariates([], []), number=0, horizon=1, how=how)
    np.testing.assert_allclose(unscaled(one.values[None], torch.tensor([scale]), how)[0], values, rtol=1e-5)
    assert one.observed.tolist() == [1, 1, 0, 1, 1, 1, 1]


def test_values_that_cannot_be_scaled() -> None:
    for how, values, message in (
        ("log", [1, 0, 2], "log needs positive values, and series 'a' has 0"),
        ("sqrt", [1, -2, 2], "sqrt needs values of at least 0, and series 'a' has -2"),
        ("mean", [np.nan, np.nan, 2], "'a' has no value in its training part of 2 steps"),
    ):
        with pytest.raises(InputError, match=message):
            Scale.of(series(np.array(values)), 2, how, 1)
    assert Scale.of(series(np.full(9, 7.0)), 5, "standard", 1)[:2] == (7.0, 1.0)  # a constant series


def test_a_row_holds_nothing_of_later_steps() -> None:
    values = np.arange(30.0)
    later = values.copy()
    later[20:] = np.nan
    later[25:] = -7
    rows, same = scaled(values).rows(10, 20), scaled(later).rows(10, 20)
    assert torch.equal(rows, same) and not torch.equal(
        scaled(values).rows(11, 21), scaled(later).rows(11, 21)
    )


@pytest.mark.parametrize("steps", [1, 3])
def test_windows_are_of_the_training_part_alone(steps: int) -> None:
    """Values are their own places, so what a batch holds says where it is from."""
    long, short = scaled(np.arange(40.0)), scaled(100 + np.arange(9.0), number=1)
    draw = random_windows([long, short], [30, 8], context=12, steps=steps)
    seen: set[float] = set()
    for seed in range(60):
        batch = draw(5, torch.Generator().manual_seed(seed))
        for b in range(5):
            rows = batch.inputs[: batch.lengths[b], b]
            values, targets = rows[:, 0], batch.targets[: batch.lengths[b], b]
            end = 30 if values[0] < 100 else 108
            for k in range(steps):
                expected = torch.where(values + k + 1 < end, values + k + 1, torch.nan)
                torch.testing.assert_close(targets[:, k], expected, equal_nan=True)
            assert len(values) == (12 if end == 30 else 7)
            seen |= {*values.tolist(), *targets[~targets.isnan()].tolist()}
    assert seen == {*map(float, range(30)), *map(float, range(100, 108))}  # all of it, and nothing else


def test_every_origin_is_forecast_once_with_what_came_after_it() -> None:
    """Quantiles at once: series of different lengths side by side, more of them than rows of a batch."""
    all_series = [scaled(1000 * n + np.arange(150.0 + n), number=n) for n in range(3)]
    origins = [list(range(90, 140)), [100, 120, 147], [95]]
    found: dict[float, list[float]] = {}
    states = 0
    for batch in origin_batches(all_series, origins, [144, 151, 152], 20, drawn=False, batch=2):
        states += batch.reset
        assert torch.equal(batch.context, torch.tensor([[0.0, 1, 1, 1]] * batch.size))
        for b in range(batch.size):
            for t in range(int(batch.lengths[b])):
                if not bool(batch.targets[t, b].isnan().all()):
                    value = float(batch.inputs[t, b, 0])
                    assert value not in found
                    found[value] = batch.targets[t, b].tolist()
    assert states == 2
    expected = {1000.0 * n + origin for n, each in enumerate(origins) for origin in each}
    assert set(found) == expected
    for value, targets in found.items():
        limit = {0: 144, 1: 151, 2: 152}[int(value // 1000)]
        for k, target in enumerate(targets):
            inside = value % 1000 + k + 1 < limit
            assert target == value + k + 1 if inside else target != target


def test_a_batch_that_is_drawn_from_ends_at_its_origin() -> None:
    all_series = [scaled(1000 * n + np.arange(60.0 + n), number=n, at_once=False) for n in range(2)]
    origins = [[30, 35, 40], [33]]
    batches = list(origin_batches(all_series, origins, [44, 61], 8, drawn=True, batch=5))
    assert [batch.reset for batch in batches] == [True, False, False]
    assert [batch.lengths.tolist() for batch in batches] == [[8, 8], [5, 0], [5, 0]]
    for number, batch in enumerate(batches):
        assert isinstance(batch.context, Ahead)
        last = batch.inputs[batch.lengths[0] - 1, 0, 0]
        assert float(last) == origins[0][number]
        torch.testing.assert_close(batch.context.targets[0], last + torch.arange(1.0, 4))
        assert batch.context.seed[0] == origins[0][number]
    assert float(batches[0].targets[7, 1, 0]) == 1034
    assert bool(batches[0].targets[:7].isnan().all())  # steps before the first origin are of another part
    assert batches[1].context.targets[1].isnan().all()  # the other series has ended
    assert batches[1].targets[:, 0, 0].tolist() == [32, 33, 34, 35, 36]
