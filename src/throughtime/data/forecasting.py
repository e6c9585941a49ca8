"""From series to batches of a forecaster: scaling, random windows to train on, and forecast origins to evaluate at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from throughtime.data.batch import Batch
from throughtime.data.readers.time_series import Series, Values, forward_filled
from throughtime.data.readers.times import Step, calendar, later
from throughtime.data.step_inputs import Ahead, StepInputs
from throughtime.errors import InputError

SCALINGS = ("standard", "mean", "log", "sqrt")
_CHUNK = 64  # steps of an evaluation batch


class Scale(NamedTuple):
    """How a series is scaled, from its training part alone: z = (f(y) - shift) / scale with f = y, ln y or the square root."""

    shift: float
    scale: float
    deviation: float  # standard deviation in the data's units
    seasonal_error: float  # mean |y_t - y_{t-season}|; 0 where there is none

    @classmethod
    def of(cls, series: Series, end: int, how: str, season: int) -> Scale:
        """From the first `end` values; how, one of SCALINGS.

        standard: mean and standard deviation; mean: no shift, the mean of |y|; log, sqrt: mean and standard deviation of ln y, of
        the square root of y.
        Raises: InputError where no value is known, or some value has no logarithm or square root.
        """
        values = series.values[:end]
        known = values[~np.isnan(values)]
        if not len(known):
            raise InputError(f"series {series.name!r} has no value in its training part of {end} steps")
        least = float(np.nanmin(series.values))
        if (how == "log" and least <= 0) or (how == "sqrt" and least < 0):
            kind = "positive values" if how == "log" else "values of at least 0"
            raise InputError(
                f"scaling {how} needs {kind}, and series {series.name!r} has {least:g}: use standard or mean"
            )
        used = _transformed(known, how)
        shift = 0.0 if how == "mean" else float(used.mean())
        scale = float(np.abs(used).mean() if how == "mean" else used.std())
        differences = np.abs(values[season:] - values[:-season])
        differences = differences[~np.isnan(differences)]
        error = float(differences.mean()) if len(differences) else 0.0
        return cls(shift, scale if scale > 0 else 1.0, float(known.std()) or 1.0, error)


def unscaled(z: Tensor, scales: Tensor, how: str) -> Tensor:
    """Values [n, ...] in the data's units, from scaled ones and the `Scale` of each row [n, 4]; how, one of SCALINGS."""
    rows = (-1, *(1,) * (z.dim() - 1))
    y = z.double() * scales[:, 1].double().view(rows) + scales[:, 0].double().view(rows)
    if how == "log":
        return y.exp()
    return y.clamp(min=0).square() if how == "sqrt" else y


class Covariates(NamedTuple):
    """Mean and standard deviation of known and past columns, over the training parts of all series."""

    means: list[float]
    deviations: list[float]

    @classmethod
    def of(cls, series: Sequence[Series], ends: Sequence[int]) -> Covariates:
        """Of a column without any value, or with one alone: deviation 1."""
        parts = [
            np.concatenate([each.known, each.past], axis=1)[:end]
            for each, end in zip(series, ends, strict=True)
        ]
        table = np.concatenate(parts)
        found = cls([], [])
        for column in table.T:
            known = column[~np.isnan(column)]
            found.means.append(float(known.mean()) if len(known) else 0.0)
            found.deviations.append(float(known.std()) or 1.0 if len(known) else 1.0)
        return found


class ScaledSeries:
    """One series as a forecaster reads it. Missing covariates are their mean."""

    def __init__(
        self,
        series: Series,
        step: Step,
        layout: StepInputs,
        scale: Scale,
        covariates: Covariates,
        *,
        number: int,
        horizon: int,
        how: str,
        counts: bool = False,
    ) -> None:
        self.layout, self.scale, self.horizon = layout, scale, horizon
        self.number = torch.tensor(number)
        scaled = (_transformed(series.values, how) - scale.shift) / scale.scale
        self.values = _tensor(scaled)  # [T], NaN where missing
        self.targets = _tensor(series.values) if counts else self.values
        self.filled = _tensor(forward_filled(scaled))
        self.observed = (~self.values.isnan()).float()
        known = series.known.shape[1]
        means, deviations = np.asarray(covariates.means), np.asarray(covariates.deviations)
        self.past = _tensor(np.nan_to_num((series.past - means[known:]) / deviations[known:]))
        future = np.nan_to_num((series.known - means[:known]) / deviations[:known])
        times = [later(series.start, steps, step) for steps in range(len(series) + horizon)]
        padded = np.concatenate([future, np.zeros((horizon, known))])
        self.ahead = _tensor(np.concatenate([calendar(times, step), padded], axis=1))  # [T + horizon, C + K]

    def __len__(self) -> int:
        """Steps."""
        return len(self.values)

    def rows(self, start: int, stop: int) -> Tensor:
        """What the model reads at steps start .. stop-1: [n, size]."""
        if start == stop:
            return self.filled.new_zeros(0, self.layout.size)
        first = max(0, start + 1 - self.layout.memory)  # rows do not depend on what lies before
        end = stop + max(1, self.layout.horizon)
        return self.layout.rows(
            self.filled[first:stop],
            self.observed[first:stop],
            self.ahead[start + 1 : end],
            self.past[start:stop],
            self.number,
            start - first,
            stop - first,
        )

    def next_values(self, start: int, stop: int, steps: int, limit: int, values: Tensor) -> Tensor:
        """The `steps` values after each of the steps start .. stop-1: [n, steps], NaN from step `limit` on."""
        if start == stop:
            return values.new_zeros(0, steps)
        found = torch.full((stop - start + steps - 1,), torch.nan)
        part = values[start + 1 : min(stop + steps, limit)]
        found[: len(part)] = part
        return found.unfold(0, steps, 1)


def random_windows(
    series: Sequence[ScaledSeries], ends: Sequence[int], context: int, steps: int
) -> Callable[[int, torch.Generator], Batch]:
    """Draws batches of windows of `context` steps of the training parts, each of which ends before `ends`.

    A target at each step is the `steps` values after it (one: [T, B, 1]); those beyond the training part are masked. Every
    window of every series is equally likely; a series that is shorter than a window is read whole.
    """
    starts = torch.tensor([max(1, end - context) for end in ends])
    limits = starts.cumsum(0)

    def draw(batch: int, generator: torch.Generator) -> Batch:
        inputs, targets = [], []
        for place in torch.randint(int(limits[-1]), (batch,), generator=generator):
            index = int(torch.searchsorted(limits, place, right=True))
            one, end = series[index], ends[index]
            start = int(place - (limits[index] - starts[index]))
            stop = min(start + context, end - 1)
            inputs.append(one.rows(start, stop))
            targets.append(one.next_values(start, stop, steps, end, one.targets))
        lengths = torch.tensor([len(each) for each in inputs])
        return Batch.of(pad_sequence(inputs), pad_sequence(targets), lengths)

    return draw


def origin_batches(
    series: Sequence[ScaledSeries],
    origins: Sequence[Sequence[int]],
    limits: Sequence[int],
    context: int,
    *,
    drawn: bool,
    batch: int,
) -> Iterator[Batch]:
    """Batches that read up to each forecast origin once, the state carried, from `context` steps before the first on.

    Rows are series; origins are the last steps that a forecast reads; values from step `limits` on are not known.
    A quantile head has the next `horizon` values as targets at each origin, and the `Scale` of each row as context. A head that
    draws (`drawn`) has a batch for each origin, the next value as target at each step from the first origin on, and an `Ahead`
    as context.
    """
    for first in range(0, len(series), batch):
        group = range(first, min(first + batch, len(series)))
        yield from _of_group(
            [series[i] for i in group],
            [origins[i] for i in group],
            [limits[i] for i in group],
            context,
            drawn,
        )


def _of_group(
    series: list[ScaledSeries], origins: list[Sequence[int]], limits: list[int], context: int, drawn: bool
) -> Iterator[Batch]:
    places = [max(0, each[0] + 1 - context) for each in origins]
    scales = torch.tensor([each.scale for each in series])
    rounds = max(map(len, origins))
    number, reset = 0, True
    while number < rounds if drawn else any(p <= each[-1] for p, each in zip(places, origins, strict=True)):
        inputs, targets, ahead, came, seeds = [], [], [], [], []
        for row, (one, wanted, limit) in enumerate(zip(series, origins, limits, strict=True)):
            start, last = places[row], wanted[-1]
            if drawn:
                stop = wanted[min(number, len(wanted) - 1)] + 1
            else:
                stop = min(start + _CHUNK + (context if reset else 0), last + 1)
            stop = max(start, stop)
            places[row] = stop
            inputs.append(one.rows(start, stop))
            steps = 1 if drawn else one.horizon
            target = one.next_values(start, stop, steps, limit, one.targets)
            at = torch.arange(start, stop)
            counted = at >= wanted[0] if drawn else torch.isin(at, torch.tensor(wanted))
            targets.append(torch.where(counted[:, None], target, torch.nan))
            if drawn:
                origin = stop - 1
                ahead.append(one.ahead[origin + 1 : origin + 1 + one.horizon])
                future = one.next_values(origin, stop, one.horizon, limit, one.values)[0]
                came.append(future if number < len(wanted) else torch.full_like(future, torch.nan))
                seeds.append(origin)
        lengths = torch.tensor([len(each) for each in inputs])
        found = Ahead(torch.stack(ahead), torch.tensor(seeds), torch.stack(came), scales) if drawn else scales
        yield Batch.of(pad_sequence(inputs), pad_sequence(targets), lengths, context=found, reset=reset)
        number, reset = number + 1, False


def _transformed(values: Values, how: str) -> Values:
    found: Values = np.log(values) if how == "log" else np.sqrt(values) if how == "sqrt" else values
    return found


def _tensor(values: Values) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
