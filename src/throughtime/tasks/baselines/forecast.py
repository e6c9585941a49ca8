"""What a forecaster should beat: naive and seasonal naive forecasts, Theta and exponential smoothing, all with quantiles.

Every baseline is fitted once, on the training part, and then run over the series: at each forecast origin it has read all values
up to there, as the model has. Fitting it anew at each origin would cost a fit for each, and could be a little better.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from throughtime.data.readers.time_series import forward_filled
from throughtime.errors import InputError
from throughtime.metrics.forecasting import LEVELS

Values = NDArray[np.float64]

MOST_FITTED = 1000  # last values of a training part that exponential smoothing is fitted to
MOST_SERIES = 20  # that it is fitted for
_LEAST = 5  # errors of the training part that quantiles are taken from
_NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


class Case(NamedTuple):
    """One series to forecast."""

    values: Values  # [T], NaN where missing
    end: int  # of the training part
    origins: Sequence[int]  # the last step that a forecast has read
    horizon: int
    season: int


def forecast_baselines(cases: Sequence[Case]) -> Iterator[tuple[str, list[Values] | str]]:
    """Each baseline's name and its quantiles [origins, horizon, LEVELS] of every series; text says why there are none."""
    season = cases[0].season
    yield "naive: the last value", [seasonal_naive(case._replace(season=1)) for case in cases]
    if season > 1:
        yield f"seasonal naive: {season} steps before", [seasonal_naive(case) for case in cases]
    yield "Theta", [theta(case) for case in cases]
    found: list[Values] | str
    try:
        if len(cases) > MOST_SERIES:
            raise InputError(f"left out for more than {MOST_SERIES} series, as each is fitted on its own")
        found = [exponential_smoothing(case) for case in cases]
    except InputError as error:
        found = str(error)
    yield "exponential smoothing (ETS)", found


def seasonal_naive(case: Case) -> Values:
    """The value one season before, or of the last season; the last value where season = 1.

    The quantiles are the median and, at each step ahead, the errors that the same forecast makes in the training part.
    """
    filled = forward_filled(case.values)
    origins, known = np.asarray(case.origins), ~np.isnan(case.values)
    found = np.empty((len(origins), case.horizon, len(LEVELS)))
    spread = np.zeros(len(LEVELS))
    for ahead in range(1, case.horizon + 1):
        back = ahead - case.season * -(-ahead // case.season)  # from the origin to the value that is repeated
        steps = np.arange(-back, case.end - ahead)
        errors = (filled[steps + ahead] - filled[steps + back])[known[steps + ahead] & known[steps + back]]
        if len(errors) >= _LEAST:
            spread = np.quantile(errors, LEVELS)
            spread -= spread[LEVELS.index(0.5)]
        found[:, ahead - 1] = filled[np.maximum(origins + back, 0)][:, None] + spread
    return found


def theta(case: Case) -> Values:
    """The Theta method: simple exponential smoothing with half the slope of a line as drift, after removing the season.

        f_h = level + b/2 (h - 1 + (1 - (1 - a)^n) / a)

    The season is removed by classical decomposition, multiplicative where all training values are positive, if the
    autocorrelation at that lag is significant (10%). Normal quantiles with the variance s^2 (1 + (h - 1) a^2).
    Source: Assimakopoulos & Nikolopoulos 2000, IJF 16(4); in this form Hyndman & Billah 2003, IJF 19(2).
    """
    filled, known = forward_filled(case.values), ~np.isnan(case.values)
    multiplicative = bool(filled[: case.end].min() > 0)
    indices = _seasonal_indices(filled[: case.end], case.season, multiplicative)
    seasonal = np.resize(indices, len(filled) + case.horizon)
    adjusted = filled / seasonal[: len(filled)] if multiplicative else filled - seasonal[: len(filled)]
    steps = np.arange(case.end)
    slope = float(np.polyfit(steps, adjusted[: case.end], 1)[0]) if case.end > 1 else 0.0
    grid = np.arange(0.01, 1.0, 0.01)
    # Levels of all smoothing parameters at once, then of the one with the smallest squared errors.
    errors = _smoothed(adjusted[: case.end], known, grid)[1]
    alpha = float(grid[np.square(errors[1:]).sum(0).argmin()]) if case.end > 2 else 1.0
    levels = _smoothed(adjusted, known, np.array([alpha]))[0][:, 0]

    def drift(count: Any, ahead: Any) -> Any:
        return slope / 2 * (ahead - 1 + (1 - (1 - alpha) ** count) / alpha)

    one_step = adjusted[1 : case.end] - levels[: case.end - 1] - drift(steps[1:], 1)
    sigma = float(np.sqrt(np.square(one_step[known[1 : case.end]]).mean())) if case.end > 2 else 0.0
    origins, ahead = np.asarray(case.origins)[:, None], np.arange(1, case.horizon + 1)
    mean = levels[origins] + drift(origins + 1, ahead)
    spread = sigma * np.sqrt(1 + (ahead - 1) * alpha**2)
    found = mean[..., None] + spread[:, None] * _NORMAL
    index = seasonal[origins + ahead][..., None]
    result: Values = found * index if multiplicative else found + index
    return result


def exponential_smoothing(case: Case) -> Values:
    """Additive exponential smoothing: the trend (none, linear, damped) and the scale (as it is, logarithm) with the smallest AIC.

    statsmodels fits level, trend, season and damping by maximum likelihood to the last MOST_FITTED training values; from there
    the fitted model is run on over the series. Normal quantiles with the model's forecast variance, on the chosen scale.
    Source: Hyndman, Koehler, Ord & Snyder 2008, Forecasting with Exponential Smoothing, chapters 3 and 6.
    Raises: InputError without statsmodels, or where nothing can be fitted.
    """
    try:
        model: Any = import_module("statsmodels.tsa.exponential_smoothing.ets").ETSModel
    except ImportError:
        raise InputError(
            "it needs statsmodels, which is not installed: pip install 'throughtime[baselines]'"
        ) from None
    filled, known = forward_filled(case.values), ~np.isnan(case.values)
    season = case.season if case.season > 1 and case.end >= 2 * case.season + 5 else 1
    fits = []
    for logarithm in (False, True) if filled.min() > 0 else (False,):
        train = (np.log(filled) if logarithm else filled)[: case.end][-MOST_FITTED:]
        for trend, damped in ((None, False), ("add", False), ("add", True)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of optimizers that stop early
                try:
                    fit = model(
                        train,
                        error="add",
                        trend=trend,
                        damped_trend=damped,
                        seasonal="add" if season > 1 else None,
                        seasonal_periods=season if season > 1 else None,
                        initialization_method="heuristic" if season > 12 else "estimated",
                    ).fit(disp=False)
                except (ValueError, np.linalg.LinAlgError):  # too short for this one
                    continue
            fits.append((float(fit.aic) + (2 * train.sum() if logarithm else 0.0), logarithm, fit))
    if not fits:
        raise InputError(f"could not be fitted to {case.end} training values")
    _, logarithm, fit = min(fits, key=lambda each: each[0])
    found = _run_smoothing(fit, np.log(filled) if logarithm else filled, known, case, season)
    return np.exp(found) if logarithm else found


def _run_smoothing(fit: Any, values: Values, known: NDArray[np.bool_], case: Case, season: int) -> Values:
    """Forecasts [origins, horizon, LEVELS] of a fitted model that reads on from the end of the training part."""
    has_trend, has_season = hasattr(fit, "slope"), hasattr(fit, "season")
    alpha, beta = float(fit.alpha), float(fit.beta) if has_trend else 0.0
    gamma, phi = float(fit.gamma) if has_season else 0.0, float(getattr(fit, "phi", 1.0))
    level, slope = float(fit.level[-1]), float(fit.slope[-1]) if has_trend else 0.0
    seasonal = list(map(float, fit.season[-season:])) if has_season else [0.0]
    ahead = np.arange(1, case.horizon + 1)
    damping = np.cumsum(phi**ahead)  # phi + ... + phi^h
    weights = alpha + beta * damping[:-1] + gamma * (ahead[:-1] % season == 0) * has_season
    sigma = float(np.sqrt(np.mean(np.square(fit.resid))))
    spread = sigma * np.sqrt(1 + np.concatenate([[0.0], np.cumsum(np.square(weights))]))
    wanted, means = set(case.origins), {}
    for step in range(case.end - 1, max(case.origins) + 1):
        if step >= case.end:
            before = seasonal.pop(0)
            error = values[step] - (level + phi * slope + before) if known[step] else 0.0
            level, slope = level + phi * slope + alpha * error, phi * slope + beta * error
            seasonal.append(before + gamma * error)
        if step in wanted:
            means[step] = level + damping * slope + np.resize(seasonal, case.horizon)
    mean = np.stack([means[origin] for origin in case.origins])
    result: Values = mean[..., None] + spread[:, None] * _NORMAL
    return result


def _smoothed(values: Values, known: NDArray[np.bool_], alphas: Values) -> tuple[Values, Values]:
    """Levels after, and one-step errors at, each step [T, A] of simple exponential smoothing; missing values are no news."""
    levels, errors = np.empty((len(values), len(alphas))), np.zeros((len(values), len(alphas)))
    level = np.full(len(alphas), values[0])
    for step, value in enumerate(values):
        if known[step]:
            errors[step] = value - level
            level = level + alphas * errors[step]
        levels[step] = level
    return levels, errors


def _seasonal_indices(values: Values, season: int, multiplicative: bool) -> Values:
    """The season's factors (mean 1) or terms (mean 0) [season]; ones or zeros where there is none."""
    neutral = np.ones(1) if multiplicative else np.zeros(1)
    if season < 2 or len(values) < 2 * season + 1:
        return neutral
    centered = values - values.mean()
    total = float(np.square(centered).sum())
    if total == 0:
        return neutral
    correlations = np.array([centered[lag:] @ centered[:-lag] / total for lag in range(1, season + 1)])
    limit = 1.645 * np.sqrt((1 + 2 * np.square(correlations[:-1]).sum()) / len(values))
    if abs(correlations[-1]) <= limit:
        return neutral
    weights = np.ones(season + 1) if season % 2 == 0 else np.ones(season)
    if season % 2 == 0:
        weights[[0, -1]] = 0.5
    trend = np.convolve(values, weights / season, mode="valid")
    first = len(weights) // 2
    middle = values[first : first + len(trend)]
    detrended = middle / trend if multiplicative else middle - trend
    phases = (first + np.arange(len(trend))) % season
    indices = np.array([detrended[phases == phase].mean() for phase in range(season)])
    found: Values = indices / indices.mean() if multiplicative else indices - indices.mean()
    return found
