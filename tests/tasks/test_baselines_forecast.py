"""Baselines of forecasts: what they repeat, what they have read, and their quantiles."""

from __future__ import annotations

import numpy as np
import pytest

from throughtime.errors import InputError
from throughtime.metrics.forecasting import LEVELS
from throughtime.tasks.baselines import forecast as baselines_forecast
from throughtime.tasks.baselines.forecast import (
    Case,
    exponential_smoothing,
    forecast_baselines,
    seasonal_naive,
    theta,
)

MEDIAN = LEVELS.index(0.5)


def seasonal(n: int = 96, noise: float = 0.3) -> np.ndarray:
    draws = np.random.default_rng(3)
    steps = np.arange(n)
    return 20 + 0.1 * steps + 4 * np.sin(2 * np.pi * steps / 12) + noise * draws.standard_normal(n)


def case(values: np.ndarray, **changes: object) -> Case:
    return Case(values, 72, [71, 75, 83], 13, 12)._replace(**changes)  # type: ignore[arg-type]


BASELINES = [seasonal_naive, theta]


def test_naive_forecasts_repeat() -> None:
    values = seasonal()
    found = seasonal_naive(case(values))
    assert found.shape == (3, 13, 9) and bool((np.diff(found, axis=-1) >= 0).all())
    np.testing.assert_allclose(found[1, :12, MEDIAN], values[64:76])
    assert found[1, 12, MEDIAN] == values[64]  # of the last season, not of one that is still to come
    found = seasonal_naive(case(values, season=1))
    np.testing.assert_allclose(found[2, :, MEDIAN], values[83])


def test_naive_quantiles_are_those_of_the_training_parts_errors() -> None:
    values = seasonal()
    found = seasonal_naive(case(values, season=1))
    errors = values[4:72] - values[:68]  # four steps ahead
    spread = np.quantile(errors, 0.9) - np.quantile(errors, 0.5)
    assert found[0, 3, 8] - found[0, 3, MEDIAN] == pytest.approx(spread)


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_baseline_has_read_nothing_after_its_origin(baseline) -> None:  # type: ignore[no-untyped-def]
    values = seasonal()
    changed = values.copy()
    changed[76:] = 1000.0
    before, after = baseline(case(values)), baseline(case(changed))
    np.testing.assert_array_equal(before[:2], after[:2])
    assert not np.allclose(before[2], after[2])


@pytest.mark.parametrize("baseline", BASELINES)
def test_missing_values_are_no_news(baseline) -> None:  # type: ignore[no-untyped-def]
    values = seasonal()
    values[[5, 30, 74]] = np.nan
    assert np.isfinite(baseline(case(values))).all()


def test_theta_follows_trend_and_season() -> None:
    values = seasonal(noise=0.05)
    found = theta(case(values, origins=[71]))[0, :, MEDIAN]
    assert np.abs(found - values[72:85]).mean() < 0.6
    assert np.abs(found - values[72:85]).mean() < np.abs(values[71] - values[72:85]).mean() / 4


def test_theta_without_a_season_is_smoothing_with_half_the_slope() -> None:
    """By its definition: the mean of the line through the data and of smoothing of its double curvature, written out."""
    draws = np.random.default_rng(1)
    values = np.cumsum(draws.standard_normal(60)) - 30
    found = theta(Case(values, 50, [49, 55], 4, 1))
    slope, start = np.polyfit(np.arange(50), values[:50], 1)
    errors = {}
    for alpha in np.arange(0.01, 1.0, 0.01):
        level, total = values[0], 0.0
        for value in values[1:50]:
            total += (value - level) ** 2
            level += alpha * (value - level)
        errors[alpha] = (total, level)
    alpha = min(errors, key=lambda each: errors[each][0])
    level = errors[alpha][1]
    for ahead in range(1, 5):
        drift = slope / 2 * (ahead - 1 + (1 - (1 - alpha) ** 50) / alpha)
        assert found[0, ahead - 1, MEDIAN] == pytest.approx(level + drift)
    assert start < 0


def test_short_series_have_finite_baselines() -> None:
    for values in (np.array([1.0, 2, 3, 2, 4]), np.zeros(5), np.array([np.nan, np.nan, 1, 2, 3])):
        found = dict(forecast_baselines([Case(values, 3, [2, 3], 1, 12)]))
        for name, each in found.items():
            assert isinstance(each, str) or np.isfinite(each[0]).all(), name


def test_without_statsmodels_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(baselines_forecast, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'throughtime\[baselines\]'"):
        exponential_smoothing(case(seasonal()))
    found = dict(forecast_baselines([case(seasonal())]))
    assert list(found) == [
        "naive: the last value", "seasonal naive: 12 steps before", "Theta", "exponential smoothing (ETS)",
    ]  # fmt: skip
    assert "needs statsmodels" in str(found["exponential smoothing (ETS)"])


class Fit:
    """What `_run_smoothing` reads of a fitted damped, seasonal model."""

    alpha, beta, gamma, phi = 0.4, 0.1, 0.3, 0.9
    level, slope = np.array([5.0]), np.array([0.5])
    season = np.array([1.0, -2.0, 1.5])
    resid = np.array([1.0, -1.0])


def test_smoothing_runs_on_as_its_equations_say() -> None:
    """Means step by step as written in the source, variances from many simulated paths."""
    values = np.array([5.0, 6, 4, 8, 5, 7])
    found = baselines_forecast._run_smoothing(
        Fit, values, np.ones(6, dtype=bool), Case(values, 3, [2, 4], 5, 3), 3
    )
    level, slope, seasons = 5.0, 0.5, [1.0, -2.0, 1.5]
    for value in values[3:5]:
        error = value - (level + 0.9 * slope + seasons[0])
        level, slope = level + 0.9 * slope + 0.4 * error, 0.9 * slope + 0.1 * error
        seasons = [*seasons[1:], seasons[0] + 0.3 * error]
    draws = np.random.default_rng(0).standard_normal((20_000, 5))
    paths = np.empty((20_000, 5))
    for row, errors in enumerate(draws):
        a, b, s = level, slope, list(seasons)
        for ahead, error in enumerate(errors):
            paths[row, ahead] = a + 0.9 * b + s[0] + error
            a, b = a + 0.9 * b + 0.4 * error, 0.9 * b + 0.1 * error
            s = [*s[1:], s[0] + 0.3 * error]
    np.testing.assert_allclose(found[1, :, MEDIAN], paths.mean(0), atol=0.05)
    width = (found[1, :, 8] - found[1, :, 0]) / (2 * 1.2815515655)
    np.testing.assert_allclose(width, paths.std(0), rtol=0.03)


def test_exponential_smoothing_of_statsmodels() -> None:
    pytest.importorskip("statsmodels", reason="statsmodels is not installed: there is nothing to fit with")
    values = seasonal(noise=0.1)
    found = exponential_smoothing(case(values))
    assert np.abs(found[0, :, MEDIAN] - values[72:85]).mean() < 0.5
    changed = values.copy()
    changed[76:] = 1000.0
    np.testing.assert_array_equal(found[:2], exponential_smoothing(case(changed))[:2])


@pytest.mark.parametrize(
    ("trend", "damped", "season"), [(None, False, 12), ("add", False, 12), ("add", True, 1)]
)
def test_smoothing_is_that_of_statsmodels(trend: str | None, damped: bool, season: int) -> None:
    """At the end of the training part its forecast, with its variance; later what it gives with the same parameters."""
    ets = pytest.importorskip(
        "statsmodels.tsa.exponential_smoothing.ets",
        reason="statsmodels is not installed: nothing to compare with",
    )
    values = seasonal()
    options = {"seasonal": "add", "seasonal_periods": 12} if season > 1 else {}
    made = {"error": "add", "trend": trend, "damped_trend": damped, **options}
    fit = ets.ETSModel(values[:72], **made).fit(disp=False)
    found = baselines_forecast._run_smoothing(fit, values, np.ones(96, dtype=bool), case(values), season)
    np.testing.assert_allclose(found[0, :, MEDIAN], fit.forecast(13), rtol=1e-6)
    width = found[0, :, 8] - found[0, :, MEDIAN]
    pandas = pytest.importorskip("pandas", reason="statsmodels gives intervals of pandas' series alone")
    labelled = ets.ETSModel(pandas.Series(values[:72]), **made).smooth(fit.params)
    theirs = labelled.get_prediction(72, 84).summary_frame(alpha=0.2)
    np.testing.assert_allclose(width, theirs["pi_upper"] - theirs["mean"], rtol=0.02)
    start = {"initialization_method": "known", "initial_level": fit.initial_level}
    start |= {"initial_trend": fit.initial_trend} if trend else {}
    start |= {"initial_seasonal": np.asarray(fit.initial_seasonal)} if season > 1 else {}
    longer = ets.ETSModel(values[:84], **made, **start)
    names = [name for name in fit.model.param_names if not name.startswith("initial")]
    smoothed = longer.smooth(
        np.array([dict(zip(fit.model.param_names, fit.params, strict=True))[n] for n in names])
    )
    np.testing.assert_allclose(found[2, :, MEDIAN], smoothed.forecast(13), rtol=1e-6)
