"""From a curve over lag to numbers of steps: half-life, reach, and the lag from which only rounding error is left."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from throughtime.flow.result import HalfLife

DROP = 2.0**-40  # a fall by more than this in one step is no decay: what is left is rounding error
_SMALLEST = 1e-290  # below, float64 loses digits
_EXACT = 1e-10  # residuals of a logarithm that are rounding error
_FLAT = 1e-6  # a slope in nats per step that is no larger than the rounding error of float32 weights


def half_life(norms: Tensor) -> HalfLife:
    """Fit log norm = a - k ln 2 / steps, by least squares, over the lags from 1 on in which the norm is above rounding error.

    Lag 0 is left out: there only the loss and the layers above have acted, and not yet the recurrence. The interval is Student's
    t interval with an effective sample size of n (1 - r) / (1 + r), r the residuals' autocorrelation at lag 1, because the points
    of a curve are not independent (Bayley & Hammersley 1946; Santer et al. 2000, JGR 105).

    Args: norms [K], lags 0, 1, ...
    Returns: NaN throughout where fewer than three lags can be used; inf steps where the norm stays the same up to the rounding
    error of float32 weights (it would take 700,000 steps to halve).
    """
    end = gone_from(norms)
    usable = torch.isfinite(norms) & (norms > _SMALLEST)
    usable[:1] = False
    if end is not None:
        usable[end:] = False
    broken = (~torch.isfinite(norms)).nonzero()
    if len(broken):  # lags beyond an overflow say nothing about the slope
        usable[int(broken[0]) :] = False
    k, y = usable.nonzero()[:, 0].double(), norms[usable].double().log()
    n = len(k)
    if n < 3:
        return HalfLife(math.nan, math.nan, math.nan, math.nan, n)
    centered = k - k.mean()
    spread = float(centered.square().sum())
    slope = float((centered * (y - y.mean())).sum()) / spread
    residuals = y - y.mean() - slope * centered
    left, total = float(residuals.square().sum()), float((y - y.mean()).square().sum())
    if left <= n * _EXACT**2:
        r_squared, error = 1.0, 0.0
    else:
        r_squared = 1 - left / total
        r = max(0.0, float((residuals[1:] * residuals[:-1]).sum()) / left)
        free = max(n * (1 - r) / (1 + r) - 2, 2.0)
        error = _student(free) * math.sqrt(left / free / spread)
    return HalfLife(_steps(slope), _steps(slope - error), _steps(slope + error), r_squared, n)


def gone_from(norms: Tensor) -> int | None:
    """The first lag from which only rounding error is left, after a fall by more than 2^40 in one step; None: no such lag.

    A product of Jacobians that is exactly zero after some steps, such as that of [[0, 2], [0, 0]] after two, and units
    whose phi' is zero, end a curve so. A decay, however fast, does not.
    """
    values: list[float] = norms.tolist()
    largest = 0.0  # from this lag on
    found = None
    for lag in range(len(values) - 1, 0, -1):
        if math.isnan(values[lag]):
            return None
        largest = max(largest, values[lag])
        before = values[lag - 1]
        if 0 < before < math.inf and largest <= DROP * before:
            found = lag
    return found


def stays_below(norms: Tensor, fraction: float) -> int | None:
    """The first index after which no value rises to `fraction` of the first one again; None: not up to the last lag."""
    # Written as "not below", so that a NaN never counts as vanished.
    above = (~(norms < fraction * norms[0])).nonzero()
    index = int(above[-1]) + 1 if len(above) else 0
    return index if index < len(norms) else None


def quartiles(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper quartile of each row of [K, N]."""
    low, high = torch.quantile(samples, samples.new_tensor([0.25, 0.75]), dim=1)
    return low, high


def _steps(slope: float) -> float:
    """The half-life of a slope of the natural logarithm, in steps."""
    return math.inf if abs(slope) < _FLAT else -math.log(2) / slope


def _student(free: float) -> float:
    """The 97.5 % quantile of Student's t, by the first terms of its series in 1/free (Abramowitz & Stegun 26.7.5)."""
    z = 1.959963984540054
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / free**power for power, term in enumerate(terms, start=1))
