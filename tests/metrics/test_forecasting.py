"""Metrics of forecasts against loops; how they add up; what does not count."""

from __future__ import annotations

import math

import pytest
import torch

from throughtime.metrics.forecasting import LEVELS, Forecasts, forecast_metrics, scores


def some(n: int, horizon: int) -> Forecasts:
    """Forecasts of different units; one value in seven is not known, one series has no seasonal error."""
    actual = 10 * torch.randn(n, horizon, dtype=torch.float64)
    actual.view(-1)[::7] = torch.nan
    quantiles = (5 * torch.randn(n, horizon, len(LEVELS), dtype=torch.float64)).sort(-1).values
    seasonal = torch.rand(n, dtype=torch.float64) + 0.5
    seasonal[0] = 0
    return Forecasts(quantiles, actual, torch.rand(n, dtype=torch.float64) + 1, seasonal)


def by_loops(found: Forecasts) -> dict[str, float]:
    sums: dict[str, list[float]] = {}
    for i in range(len(found.actual)):
        for h in range(found.actual.shape[1]):
            y = float(found.actual[i, h])
            if math.isnan(y):
                continue
            q, unit = found.quantiles[i, h].tolist(), float(found.unit[i])
            f = q[4]
            losses = [max(a * (y - each), (a - 1) * (y - each)) for a, each in zip(LEVELS, q, strict=True)]
            values = {
                "crps": 2 * sum(losses) / 9 / unit,
                "smape": 200 * abs(y - f) / (abs(y) + abs(f)),
                "coverage80": float(q[0] <= y <= q[-1]),
                "mae": abs(y - f) / unit,
                "mse": (y - f) ** 2 / unit**2,
            }
            if found.seasonal_error[i] > 0:
                values["mase"] = abs(y - f) / float(found.seasonal_error[i])
            for name, value in values.items():
                sums.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sums.items()}


@pytest.mark.parametrize(("n", "horizon"), [(5, 3), (9, 9), (1, 13)])
def test_metrics_are_the_loops(n: int, horizon: int) -> None:
    found = some(n, horizon)
    expected = by_loops(found)
    assert scores([found], 4) == pytest.approx(
        expected | ({} if "mase" in expected else {"mase": math.nan}), rel=1e-10, nan_ok=True
    )


def test_parts_add_up_to_the_whole() -> None:
    """Over batches, and over processes, whose totals are summed."""
    whole = some(11, 5)
    parts = [Forecasts(*(each[start:stop] for each in whole)) for start, stop in ((0, 4), (4, 5), (5, 11))]
    assert scores(parts, 7) == pytest.approx(scores([whole], 7), rel=1e-12)
    for name, metric in ((metric.name, metric) for metric in forecast_metrics(7)):
        others = [next(each for each in forecast_metrics(7) if each.name == name) for _ in parts]
        for other, part in zip(others, parts, strict=True):
            other.add(part)  # type: ignore[attr-defined]
            metric.totals += other.totals
        assert metric.value() == pytest.approx(scores([whole], 7)[name], rel=1e-12)


def test_a_point_forecast_has_its_absolute_error_as_crps() -> None:
    actual = torch.randn(6, 4, dtype=torch.float64)
    point = torch.randn(6, 4, 1, dtype=torch.float64).expand(6, 4, 9)
    ones = torch.ones(6, dtype=torch.float64)
    found = scores([Forecasts(point, actual, ones, ones)], 1)
    assert found["crps"] == pytest.approx(found["mae"]) == pytest.approx(found["mase"])


def test_what_is_equal_or_zero() -> None:
    zeros, ones = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    found = scores([Forecasts(zeros.unsqueeze(-1).expand(2, 3, 9), zeros, ones, ones)], 1)
    assert found == {"crps": 0, "mase": 0, "smape": 0, "coverage80": 1, "mae": 0, "mse": 0}


def test_a_forecast_that_is_no_number_is_not_left_out() -> None:
    found = some(3, 2)
    found.quantiles[1, 1] = torch.nan
    found.actual[1, 1] = 1.0
    values = scores([found], 1)
    assert all(math.isnan(values[name]) for name in ("crps", "mase", "smape", "mae", "mse"))


def test_directions_and_conventions() -> None:
    metrics = {metric.name: metric for metric in forecast_metrics(12)}
    assert next(iter(metrics)) == "crps"
    assert metrics["crps"].better(1.0, 2.0) and not metrics["mase"].better(2.0, 1.0)
    assert metrics["coverage80"].better(0.75, 0.95) and not metrics["coverage80"].better(1.0, 0.75)
    assert "season 12" in metrics["mase"].convention
    assert all(math.isnan(metric.value()) for metric in metrics.values())
