"""The gradient that a strategy gives beside the full one: how far off it is on average, and how much it varies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from throughtime.bptt import Full, Randomized, RandomWindow, parse
from throughtime.studies.strategies import Problem
from throughtime.studies.strategies_learn import Learner, Stopped

# A bias is called seen when it is so many standard errors from none. What is squared and summed over few directions has a
# long tail to the right: 2 would too often be reached by chance.
SEEN = 4.0


@dataclass(frozen=True)
class GradientError:
    """Bias and variance at one set of weights and on one batch, all relative to the norm of the full gradient g.

        g_i = g + b + e_i,  E[e_i] = 0:   bias |b| / |g|,   variance E|e_i|^2 / |g|^2

    The mean of n draws misses g by |m|, m = mean(g_i) - g, even without a bias: E|m|^2 = |b|^2 + variance / n. So the bias
    is judged by |m|^2 - variance / n, whose expectation is |b|^2.
    """

    problem: str
    strategy: str
    draws: int
    bias: float  # |m| / |g|: of the mean of the draws, noise and all
    error: (
        float  # sqrt(variance / n): what it would be on average if there were no bias; 0 if nothing is drawn
    )
    away: float  # (|m|^2 - variance / n) in its standard errors where there is no bias; infinite if nothing is drawn
    along: float  # <mean(g_i), g> / |g|^2: 1 if what is along the full gradient comes through whole
    along_error: float  # its standard error
    variance: float

    @property
    def biased(self) -> bool:
        """Whether a bias is seen."""
        return self.away > SEEN


def relative(full: Tensor, draws: Tensor) -> tuple[float, float, float, float, float, float]:
    """The numbers of a GradientError from `bias` on.

    Args: full [P]; draws [n, P], n = 1 for a gradient that is not random.

    The standard error of |m|^2 - variance / n without a bias is sqrt(2 tr(C^2) / (n (n-1))), with C the covariance of one
    draw; tr(C^2) is estimated from the n x n products of the draws, without its bias for normal draws.
    Cost: n^2 P multiplications, in float64.
    Source: Bai & Saranadasa 1996, Statistica Sinica 6, for the test and the estimate of tr(C^2).
    """
    n, size = len(draws), float(full.double().norm())
    off = (draws.double() - full.double()) / size  # [n, P]
    mean = off.mean(0)
    bias, along = float(mean.norm()), 1 + float(mean @ full.double()) / size
    if n == 1:
        return bias, 0.0, math.inf if bias > 0 else 0.0, along, 0.0, 0.0
    centred = off - mean
    products = centred @ centred.t()  # [n, n]
    variance = float(products.trace()) / (n - 1)
    square = float(products.square().sum()) / (n - 1) ** 2
    square = max((n - 1) ** 2 / ((n + 1) * (n - 2)) * (square - variance**2 / (n - 1)), 0.0)
    spread = math.sqrt(2 * square / (n * (n - 1)))
    excess = bias**2 - variance / n
    away = excess / spread if spread > 0 else (math.inf if excess > 0 else 0.0)
    sideways = float((off @ full.double()).std()) / size
    return bias, math.sqrt(variance / n), away, along, sideways / math.sqrt(n), variance


def gradient_error(
    problem: Problem,
    strategy: str,
    draws: int,
    early: float,
    stop: Callable[[], bool] = lambda: False,
) -> GradientError:
    """Train with the full gradient for a share `early` of the updates, then compare on the next batch.

    Cost: those updates, and `draws` gradients of the strategy if it is random, else one. Keeps all of them, in float32.
    Raises: Stopped when `stop()` says so.
    """
    learner = part_way(problem, early, stop)
    window = next(learner.windows)
    state = None if window.fresh else learner.state
    learner.backward(window, state)
    full = _gradient(learner)
    learner.strategy = parse(strategy)
    found = []
    for _ in range(draws if is_random(strategy) else 1):
        if stop():
            raise Stopped
        learner.backward(window, state)
        found.append(_gradient(learner))
    return GradientError(problem.name, strategy, len(found), *relative(full, torch.stack(found)))


def is_random(strategy: str) -> bool:
    """Whether its gradient is another one every time."""
    return isinstance(parse(strategy), Randomized | RandomWindow)


def over_batches(
    problem: Problem, batches: int, early: float, stop: Callable[[], bool] = lambda: False
) -> float:
    """Variance of the full gradient over batches at the same weights, relative to the square of the mean's norm.

    The yardstick for the variance that random cuts add. |mean|^2 is taken without the noise in it; infinite if nothing is left.
    Raises: Stopped when `stop()` says so.
    """
    learner = part_way(problem, early, stop)
    found = []
    for _ in range(batches):
        if stop():
            raise Stopped
        window = next(learner.windows)
        learner.state = learner.backward(window, None if window.fresh else learner.state).state
        found.append(_gradient(learner).double())
    all_of_them = torch.stack(found)
    variance = float(all_of_them.var(0).sum())
    square = float(all_of_them.mean(0).square().sum()) - variance / batches
    return variance / square if square > 0 else math.inf


def part_way(problem: Problem, early: float, stop: Callable[[], bool] = lambda: False) -> Learner:
    """A model that learned with the full gradient for a share of the updates; seed 0."""
    learner = Learner(problem, "full", seed=0)
    assert learner.strategy == Full()
    for _ in range(max(1, round(early * problem.steps))):
        if stop():
            raise Stopped
        learner.update()
    return learner


def _gradient(learner: Learner) -> Tensor:
    """All of it, [P], a copy."""
    return torch.cat([p.grad.flatten() for p in learner.model.parameters() if p.grad is not None])
