"""Metrics of forecasts with quantiles, in the units of the data. All add up over batches, series and forecast origins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from throughtime.data.batch import Batch
from throughtime.errors import InputError
from throughtime.metrics.metric import Metric

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Forecasts(NamedTuple):
    """Forecasts and what came, in the data's units; n forecasts of `H` steps."""

    quantiles: Tensor  # [n, H, Q] at LEVELS, ascending
    actual: Tensor  # [n, H]; NaN where it is not known
    unit: Tensor  # [n], what errors are divided by: 1, or the standard deviation of the series' training part
    seasonal_error: Tensor  # [n], mean |y_t - y_{t-season}| in the series' training part


Read = Callable[[Any, Batch], Forecasts]


class ForecastMetric(Metric):
    """A mean over all steps of all forecasts whose value is known. Args: read, the forecasts in a batch."""

    higher_is_better: ClassVar[bool] = False

    def __init__(self, read: Read | None = None) -> None:
        super().__init__()
        self.read = read

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        if self.read is None:
            raise InputError("a metric of forecasts needs the function that reads them from a batch")
        self.add(self.read(outputs, batch))

    def add(self, forecasts: Forecasts) -> None:
        """Take in forecasts; those without a value are left out."""
        known = ~forecasts.actual.isnan()
        rows = known.nonzero()[:, 0]
        errors = self.errors(
            forecasts.quantiles[known].double(),
            forecasts.actual[known].double(),
            forecasts.unit[rows].double(),
            forecasts.seasonal_error[rows].double(),
        )
        self.totals += torch.tensor([float(errors.sum()), float(len(errors))], dtype=torch.float64)

    def errors(self, quantiles: Tensor, actual: Tensor, unit: Tensor, seasonal_error: Tensor) -> Tensor:
        """One number for each value for which it is defined: quantiles [k, Q], the rest [k]."""
        raise NotImplementedError

    def value(self) -> float:
        total, count = self.totals.tolist()
        return total / count if count else float("nan")


class CRPS(ForecastMetric):
    """The continuous ranked probability score, as twice the mean pinball loss over LEVELS; of a point forecast |error|."""

    name: ClassVar[str] = "crps"
    convention: ClassVar[str] = "twice the mean pinball loss over the quantiles 0.1, 0.2, ... 0.9"

    def errors(self, quantiles: Tensor, actual: Tensor, unit: Tensor, seasonal_error: Tensor) -> Tensor:
        levels = torch.tensor(LEVELS, dtype=torch.float64)
        error = actual[:, None] - quantiles
        return 2 * torch.maximum(levels * error, (levels - 1) * error).mean(-1) / unit


class MASE(ForecastMetric):
    """Mean absolute scaled error of the median: |error| over the mean |y_t - y_{t-season}| in the series' training part.

    Series whose training part repeats itself exactly have none and do not count.
    Source: Hyndman & Koehler 2006, International Journal of Forecasting 22(4).
    """

    name: ClassVar[str] = "mase"

    def __init__(self, season: int = 1, read: Read | None = None) -> None:
        super().__init__(read)
        self.convention = (  # type: ignore[misc]  # of this season
            f"absolute error of the median over the training part's mean |y_t - y_(t-{season})|, season {season}"
        )

    def errors(self, quantiles: Tensor, actual: Tensor, unit: Tensor, seasonal_error: Tensor) -> Tensor:
        defined = seasonal_error > 0
        return _error(quantiles, actual).abs()[defined] / seasonal_error[defined]


class SMAPE(ForecastMetric):
    """Symmetric mean absolute percentage error of the median, 0 to 200; 0 where forecast and value are both 0."""

    name: ClassVar[str] = "smape"
    convention: ClassVar[str] = "200 |y - f| / (|y| + |f|) with the median f, 0 to 200"

    def errors(self, quantiles: Tensor, actual: Tensor, unit: Tensor, seasonal_error: Tensor) -> Tensor:
        size = actual.abs() + (actual - _error(quantiles, actual)).abs()
        return torch.where(size == 0, 0, 200 * _error(quantiles, actual).abs() / size)


class Coverage(ForecastMetric):
    """The fraction of values inside the 80% interval, from the quantile 0.1 to 0.9; the nearer 0.8 the better."""

    name: ClassVar[str] = "coverage80"
    convention: ClassVar[str] = "fraction of values from the quantile 0.1 to 0.9, ideally 0.8"

    def errors(self, quantiles: Tensor, actual: Tensor, unit: Tensor, seasonal_error: Tensor) -> Tensor:
        return ((quantiles[:, 0] <= actual) & (actual <= quantiles[:, -1])).double()

    def better(self, value: float, than: float) -> bool:
        return abs(value - 0.8) < abs(than - 0.8)


class MAE(ForecastMetric):
    """Mean absolute error of the median."""

    name: ClassVar[str] = "mae"

    def errors(self, quantiles: Tensor, actual: Tensor, unit: Tensor, seasonal_error: Tensor) -> Tensor:
        return _error(quantiles, actual).abs() / unit


class MSE(ForecastMetric):
    """Mean squared error of the median."""

    name: ClassVar[str] = "mse"
    convention: ClassVar[str] = "squared error of the median, which is the point forecast of all metrics here"

    def errors(self, quantiles: Tensor, actual: Tensor, unit: Tensor, seasonal_error: Tensor) -> Tensor:
        return (_error(quantiles, actual) / unit).square()


def forecast_metrics(season: int, read: Read | None = None) -> list[Metric]:
    """All of them; the CRPS decides."""
    return [CRPS(read), MASE(season, read), SMAPE(read), Coverage(read), MAE(read), MSE(read)]


def scores(forecasts: Sequence[Forecasts], season: int) -> dict[str, float]:
    """The metrics' values for some forecasts, by name."""
    found = {}
    for metric in forecast_metrics(season):
        assert isinstance(metric, ForecastMetric)
        for each in forecasts:
            metric.add(each)
        found[metric.name] = metric.value()
    return found


def _error(quantiles: Tensor, actual: Tensor) -> Tensor:
    return actual - quantiles[:, LEVELS.index(0.5)]
