"""One strategy on one problem: a training, and its loss on held-out data as it goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from throughtime.bptt import Backward, parse
from throughtime.data import Window
from throughtime.studies.strategies import Problem
from throughtime.training import evaluate
from throughtime.training.clipping import Clipped
from throughtime.training.clipping import parse as parse_clip


class Stopped(Exception):
    """Asked to end between two steps."""


@dataclass(frozen=True)
class Training:
    """One strategy, one problem, one seed."""

    problem: str
    strategy: str
    seed: int
    steps: list[int]  # updates done at each look, the first of them 0
    losses: list[float]  # on the held-out data; NaN from where it diverged
    clipped: float  # share of the updates whose gradient was clipped

    @property
    def final(self) -> float:
        """The last loss."""
        return self.losses[-1]

    def at(self, step: float) -> float:
        """The loss after so many updates, on a straight line between two looks; that of the last look beyond it."""
        for (x0, y0), (x1, y1) in zip(self._curve, self._curve[1:], strict=False):
            if step <= x1:
                return y0 + (y1 - y0) * (step - x0) / (x1 - x0)
        return self.final

    @property
    def _curve(self) -> list[tuple[int, float]]:
        return list(zip(self.steps, self.losses, strict=True))


class Learner:
    """A model part-way through its training. The weights, the sequences and the cuts are drawn from `seed`.

    Whatever the strategy, the same seed gives the same weights at the start and the same sequences. torch's own random
    state is left as it was.
    """

    def __init__(self, problem: Problem, strategy: str, seed: int) -> None:
        self.task, self.strategy = problem.task(), parse(strategy)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.model = self.task.build()
        self.cuts = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=problem.lr)
        self.clip = parse_clip(problem.clip)
        self.windows = self._windows(problem, seed)
        self.state: Any = None

    def backward(self, window: Window, state: Any) -> Backward:
        """Leave the gradient of the mean loss in `.grad`, and nothing else there."""
        self.optimizer.zero_grad()
        return self.strategy.backward(
            self.model,
            self.task.loss,
            window.inputs,
            window.targets,
            state,
            count=window.count,
            generator=self.cuts,
        )

    def update(self) -> Clipped:
        """Take the next sequences and move the weights.

        Raises: FloatingPointError when the loss or the gradient is no number; the weights are then as they were.
        """
        window = next(self.windows)
        result = self.backward(window, None if window.fresh else self.state)
        clipped = self.clip(self.model.parameters())
        if not (math.isfinite(float(result.loss)) and math.isfinite(float(clipped.norm))):
            raise FloatingPointError(
                f"loss {float(result.loss):g}, norm of the gradient {float(clipped.norm):g}"
            )
        self.optimizer.step()
        self.state = result.state
        return clipped

    def _windows(self, problem: Problem, seed: int) -> Iterator[Window]:
        streams = self.task.streams(problem.length, problem.batch, seed=seed)
        while True:
            yield from streams.epoch()


def learn(
    problem: Problem, strategy: str, seed: int, looks: int, stop: Callable[[], bool] = lambda: False
) -> Training:
    """Train, and look at the held-out data `looks` times.

    Raises: Stopped when `stop()` says so.
    """
    learner = Learner(problem, strategy, seed)
    steps, losses, clipped = [0], [look(learner, problem)], 0
    try:
        for step in range(1, problem.steps + 1):
            if stop():
                raise Stopped
            clipped += int(learner.update().changed)
            if step * looks // problem.steps > (step - 1) * looks // problem.steps:
                steps.append(step)
                losses.append(look(learner, problem))
    except FloatingPointError:  # a training that diverges is a result: it ends in no number
        steps.append(step)
        losses.append(math.nan)
    return Training(problem.name, strategy, seed, steps, losses, clipped / steps[-1])


def look(learner: Learner, problem: Problem) -> float:
    """The loss on the held-out data."""
    windows = learner.task.validation(problem.length, problem.batch)
    assert windows is not None  # every problem holds some back
    return evaluate(learner.model, windows, learner.task.loss).loss
