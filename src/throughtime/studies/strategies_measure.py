"""One strategy on one problem: its training, the seconds and memory of an update, and the bias and variance of its gradient."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from throughtime.bench.timing import Timing, interleave
from throughtime.bptt import Backward, Randomized, RandomWindow, parse
from throughtime.data import Batch
from throughtime.studies.strategies import Problem
from throughtime.studies.workers import Stop, check_stop, never
from throughtime.training.clipping import Clipped
from throughtime.training.clipping import parse as parse_clip
from throughtime.training.evaluation import evaluate

# A bias counts as seen when it is so many standard errors above zero. A sum of squares over few directions has a long right
# tail: 2 would too often be reached by chance.
BIAS_ERRORS = 4.0
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Learner:
    """A model part-way through its training. Weights, sequences and cuts are drawn from `seed`.

    The same seed gives the same initial weights and the same sequences, whatever the strategy. torch's random state is
    preserved.
    Cost: reads the text.
    """

    def __init__(self, problem: Problem, strategy: str, seed: int) -> None:
        self.problem, self.strategy = problem, parse(strategy)
        self.assets = problem.task.prepare()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.model = problem.task.build(problem.model, self.assets)
        self.cuts = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=problem.lr)
        self.clip = parse_clip(problem.clip)
        data = problem.task.batches(self.assets, steps=problem.length, batch=problem.batch, seed=seed)
        self.batches = (batch for _ in itertools.count() for batch in data.epoch())
        self.state: Any = None

    def backward(self, batch: Batch, state: Any) -> Backward:
        """Leave the gradient of the mean loss, and nothing else, in `.grad`."""
        self.optimizer.zero_grad()
        return self.strategy.backward(
            lambda window, state: window.run(self.model, state),
            self.problem.task.loss,
            batch,
            state=state,
            generator=self.cuts,
        )

    def update(self) -> Clipped:
        """Read the next batch and update the weights.

        Raises: FloatingPointError when the loss or the gradient is not finite; the weights are then unchanged.
        """
        result = self.backward(next(self.batches), self.state)
        clipped = self.clip(self.model.parameters())
        loss, norm = float(result.loss), float(clipped.norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(f"loss {loss:g}, gradient norm {norm:g}")
        self.optimizer.step()
        self.state = result.state
        return clipped

    def evaluate(self) -> float:
        """The loss on the held-out data."""
        task, problem = self.problem.task, self.problem
        batches = task.evaluation_batches(
            self.assets, "validation", steps=problem.length, batch=problem.batch
        )
        assert batches is not None  # every problem has held-out data
        return evaluate(self.model, batches, task.loss).loss

    def gradient(self) -> Tensor:
        """All of it, [P], a copy."""
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])


@dataclass(frozen=True)
class StrategyTraining:
    """The training of one strategy on one problem with one seed."""

    problem: str
    strategy: str
    seed: int
    steps: list[int]  # updates before each evaluation; 0 before the first
    losses: list[float]  # on the held-out data; NaN from where it diverged
    clipped: float  # fraction of the updates whose gradient was clipped

    @property
    def final(self) -> float:
        """The last loss."""
        return self.losses[-1]

    def loss_at(self, step: float) -> float:
        """The loss after so many updates, interpolated linearly between evaluations; beyond the last one, its loss."""
        for (x0, x1), (y0, y1) in zip(
            itertools.pairwise(self.steps), itertools.pairwise(self.losses), strict=True
        ):
            if step <= x1:
                return y0 + (y1 - y0) * (step - x0) / (x1 - x0)
        return self.final


def learn(
    problem: Problem, strategy: str, seed: int, evaluations: int, stop: Stop = never
) -> StrategyTraining:
    """Train, with so many evaluations on the held-out data.

    Raises: Stopped when `stop()` says so.
    """
    learner = Learner(problem, strategy, seed)
    steps, losses, clipped = [0], [learner.evaluate()], 0
    try:
        for step in range(1, problem.steps + 1):
            check_stop(stop)
            clipped += int(learner.update().changed)
            if step * evaluations // problem.steps > (step - 1) * evaluations // problem.steps:
                steps.append(step)
                losses.append(learner.evaluate())
    except FloatingPointError:  # a training that diverges is a result too
        steps.append(step)
        losses.append(math.nan)
    return StrategyTraining(problem.name, strategy, seed, steps, losses, clipped / steps[-1])


def update_seconds(problem: Problem, budget: float) -> dict[str, Timing]:
    """Seconds of one update (forward, backward, clipping, optimizer), one update of each strategy in turn.

    On as many threads as torch is set to. Cost: `budget` seconds, three times as many where other work runs on the machine.
    """
    updates = {spec: Learner(problem, spec, seed=0).update for spec in problem.strategies}
    return interleave(updates, seconds=budget, most=1000)


def peak_memory(case: tuple[Problem, str, int], stop: Stop = never) -> float | None:
    """Peak MiB of so many updates of a strategy, on top of the model, its optimizer and the data.

    The system's count of this process's resident pages (VmHWM), reset after two updates on sequences of two steps. Memory that
    the allocator kept from before is not counted. None where the system has no such count (it is Linux's). Call it in a process
    that did nothing else.
    """
    problem, strategy, updates = case
    learner = Learner(problem, strategy, seed=0)
    batches, first = learner.batches, next(learner.batches)
    short = first.window(first.steps - 2, first.steps)._replace(reset=True)
    learner.batches = (short for _ in range(2))
    for _ in range(2):
        learner.update()
    learner.batches, learner.state = batches, None
    try:
        _CLEAR.write_text("5")  # the peak counts from now on
    except OSError:
        return None
    before = _status_kib("VmRSS")
    for _ in range(updates):
        check_stop(stop)
        learner.update()
    return (_status_kib("VmHWM") - before) / 1024


def _status_kib(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


@dataclass(frozen=True)
class GradientError:
    """Bias and variance of a strategy's gradient for one set of weights and one batch, relative to the full gradient g.

        g_i = g + b + e_i,  E[e_i] = 0:   bias |b| / |g|,   variance E|e_i|^2 / |g|^2

    The mean of n draws differs from g by m = mean(g_i) - g even without a bias: E|m|^2 = |b|^2 + variance / n. So the bias
    is judged by |m|^2 - variance / n, whose expectation is |b|^2.
    """

    problem: str
    strategy: str
    draws: int  # 1 if the gradient is not random
    bias: float  # |m| / |g|, sampling error included
    error: (
        float  # sqrt(variance / n): the expected `bias` if there were none; 0 if the gradient is not random
    )
    bias_z: float  # (|m|^2 - variance / n) in its standard errors without a bias; infinite if the gradient is not random
    along: float  # <mean(g_i), g> / |g|^2: 1 if the component along the full gradient is right
    along_error: float  # its standard error
    variance: float

    @property
    def biased(self) -> bool:
        """Whether a bias is seen."""
        return self.bias_z > BIAS_ERRORS


def bias_and_variance(full: Tensor, draws: Tensor) -> tuple[float, float, float, float, float, float]:
    """The numbers of a GradientError from `bias` on.

    Args: full [P]; draws [n, P], n = 1 for a gradient that is not random.

    The standard error of |m|^2 - variance / n without a bias is sqrt(2 tr(C^2) / (n (n-1))), with C the covariance of one
    draw; tr(C^2) is estimated from the n x n products of the draws, without bias for normal draws.
    Cost: n^2 P multiplications, in float64.
    Source: Bai & Saranadasa 1996, Statistica Sinica 6, for the test and the estimate of tr(C^2).
    """
    n, size = len(draws), float(full.double().norm())
    difference = (draws.double() - full.double()) / size  # [n, P]
    mean = difference.mean(0)
    bias, along = float(mean.norm()), 1 + float(mean @ full.double()) / size
    if n == 1:
        return bias, 0.0, math.inf if bias > 0 else 0.0, along, 0.0, 0.0
    centered = difference - mean
    products = centered @ centered.t()  # [n, n]
    variance = float(products.trace()) / (n - 1)
    square = float(products.square().sum()) / (n - 1) ** 2
    square = max((n - 1) ** 2 / ((n + 1) * (n - 2)) * (square - variance**2 / (n - 1)), 0.0)
    standard_error = math.sqrt(2 * square / (n * (n - 1)))
    excess = bias**2 - variance / n
    z = excess / standard_error if standard_error > 0 else (math.inf if excess > 0 else 0.0)
    along_error = float((difference @ full.double()).std()) / size / math.sqrt(n)
    return bias, math.sqrt(variance / n), z, along, along_error, variance


def gradient_error(
    problem: Problem, strategy: str, draws: int, warmup: float, stop: Stop = never
) -> GradientError:
    """Train with the full gradient for a fraction `warmup` of the updates, then compare gradients on the next batch.

    Cost: those updates, and `draws` gradients of the strategy if it is random, else one. Keeps all of them, in float32.
    Raises: Stopped when `stop()` says so.
    """
    learner = warmed_up(problem, warmup, stop)
    batch = next(learner.batches)
    learner.backward(batch, learner.state)
    full = learner.gradient()
    learner.strategy = parse(strategy)
    gradients = []
    for _ in range(draws if is_random(strategy) else 1):
        check_stop(stop)
        learner.backward(batch, learner.state)
        gradients.append(learner.gradient())
    numbers = bias_and_variance(full, torch.stack(gradients))
    return GradientError(problem.name, strategy, len(gradients), *numbers)


def variance_over_batches(problem: Problem, batches: int, warmup: float, stop: Stop = never) -> float:
    """Variance of the full gradient over batches for the same weights, relative to the squared norm of its mean.

    What the variance of random cuts is to be compared with. The squared norm is estimated without bias; infinite if the
    estimate is not positive.
    Raises: Stopped when `stop()` says so.
    """
    learner = warmed_up(problem, warmup, stop)
    gradients = []
    for _ in range(batches):
        check_stop(stop)
        learner.state = learner.backward(next(learner.batches), learner.state).state
        gradients.append(learner.gradient().double())
    stacked = torch.stack(gradients)
    variance = float(stacked.var(0).sum())
    square = float(stacked.mean(0).square().sum()) - variance / batches
    return variance / square if square > 0 else math.inf


def warmed_up(problem: Problem, warmup: float, stop: Stop = never) -> Learner:
    """A learner after a fraction `warmup` of the updates with the full gradient; seed 0."""
    learner = Learner(problem, "full", seed=0)
    for _ in range(max(1, round(warmup * problem.steps))):
        check_stop(stop)
        learner.update()
    return learner


def is_random(strategy: str) -> bool:
    """Whether its gradient differs from call to call."""
    return isinstance(parse(strategy), Randomized | RandomWindow)
