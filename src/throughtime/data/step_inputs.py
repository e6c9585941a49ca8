"""What a forecaster reads at each step of a series, as one row of numbers: the same rows in training and while it forecasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Ahead(NamedTuple):
    """The context of a batch whose rows are forecast from their last step."""

    inputs: Tensor  # [B, horizon, calendar + known] of the steps after the last
    seed: Tensor  # int64 [B]; the first one seeds the draws
    targets: Tensor  # [B, horizon], scaled values that came, NaN where not known; for metrics
    scales: Tensor  # [B, 4], the `Scale` of each row; for metrics


class Parts(NamedTuple):
    """The columns of a row."""

    features: Tensor  # [..., features]: what the recurrent layers read
    window: Tensor  # [..., window]: the last values, the newest last
    future: Tensor  # [..., horizon, known]: the known columns of the steps ahead
    series: Tensor  # [...] int64: the number of the series


@dataclass(frozen=True)
class StepInputs:
    """The layout of the row of a step t, from scaled values z.

        features  z_t, whether it was observed, z_t - z_{t-1}, z_{t+1-lag} for each lag,
                  calendar and known columns of step t+1, past columns of step t
        window    z_{t-window+1} .. z_t
        future    known columns of steps t+1 .. t+horizon
        series    the number of the series

    A missing value is replaced by the last one before it (and not observed); what lies before the start by the first value.
    """

    window: int  # at least 1
    lags: tuple[int, ...] = ()
    calendar: int = 0  # columns
    known: int = 0
    past: int = 0
    horizon: int = 0  # steps of `future`; 0 where the model predicts one step

    @property
    def features(self) -> int:
        """Numbers that the recurrent layers read."""
        return 3 + len(self.lags) + self.calendar + self.known + self.past

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return self.features + self.window + self.horizon * self.known + 1

    @property
    def memory(self) -> int:
        """The last values that the row of the last step depends on."""
        return max(self.window, 2, *self.lags)

    def rows(
        self,
        filled: Tensor,
        observed: Tensor,
        ahead: Tensor,
        past: Tensor,
        series: Tensor,
        start: int,
        stop: int,
    ) -> Tensor:
        """The rows [..., n, size] of steps start .. stop-1, n of them.

        Args:
            filled, observed: scaled values without gaps [..., T] and 1 where they are no filled ones, T >= stop.
            ahead: calendar and known columns [..., n + max(1, horizon) - 1, calendar + known] of the steps start+1 and following.
            past: [..., n, past], of the steps start .. stop-1.
            series: numbers [...].
        """
        steps = torch.arange(start, stop, device=filled.device)
        value = filled[..., start:stop]
        before = filled[..., (steps - 1).clamp(min=0)]
        parts = [value, observed[..., start:stop], value - before]
        parts += [filled[..., (steps + 1 - lag).clamp(min=0)] for lag in self.lags]
        last = steps[:, None] + torch.arange(1 - self.window, 1, device=filled.device)
        n = stop - start
        found = [torch.stack(parts, dim=-1), ahead[..., :n, :], past, filled[..., last.clamp(min=0)]]
        if self.horizon and self.known:
            future = ahead[..., self.calendar :].unfold(-2, self.horizon, 1)[..., :n, :, :]
            found.append(future.transpose(-1, -2).flatten(-2))
        found.append(series[..., None, None].expand(*value.shape, 1))
        return torch.cat([each.to(filled.dtype) for each in found], dim=-1)

    def split(self, rows: Tensor) -> Parts:
        """The parts of rows [..., size]."""
        sizes = [self.features, self.window, self.horizon * self.known, 1]
        features, window, future, series = torch.split(rows, sizes, dim=-1)
        return Parts(
            features,
            window,
            future.reshape(*future.shape[:-1], self.horizon, self.known),
            series[..., 0].round().long(),
        )
