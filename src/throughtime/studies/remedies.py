"""Remedies for a vanishing gradient, side by side: who learns the adding problem at which length, and what its gradient says.

Each remedy is trained on whole sequences with full BPTT and Adam until its squared error on held-out sequences is below a
target, or its steps are used up. Before and after, the gradient of the last step's loss is measured by lag, in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from throughtime.bptt import Full
from throughtime.errors import InputError
from throughtime.flow import gradient_reach
from throughtime.flow.measurement.fit import half_life
from throughtime.models import ModelConfig
from throughtime.tasks import MemoryConfig, MemoryTask
from throughtime.training import evaluate
from throughtime.training.clipping import parse as parse_clip

_MEASURED = 16  # sequences that the gradient is measured on
_PIECE = 250  # validation sequences at a time


@dataclass(frozen=True)
class Remedy:
    """One way to build and train a recurrent network."""

    name: str
    model: dict[str, Any]  # of ModelConfig
    lr: float  # of Adam; the plain RNNs need a smaller one
    clip: str = "norm:1"


_RNN, _GATED = 3e-3, 1e-2
_RELU = {"cell": "rnn", "nonlinearity": "relu", "init": "identity"}
REMEDIES = (
    Remedy("RNN tanh", {"cell": "rnn"}, _RNN),
    Remedy("RNN tanh, not clipped", {"cell": "rnn"}, _RNN, "none"),
    Remedy("RNN tanh, orthogonal", {"cell": "rnn", "init": "orthogonal"}, _RNN),
    Remedy("RNN ReLU, identity", _RELU, _RNN),
    Remedy("RNN ReLU, identity, not clipped", _RELU, _RNN, "none"),
    Remedy("GRU", {"cell": "gru"}, _GATED),
    Remedy("LSTM", {"cell": "lstm"}, _GATED),
    Remedy("LSTM, forget bias 1", {"cell": "lstm", "forget_bias": 1.0}, _GATED),
)


@dataclass(frozen=True)
class Settings:
    """How long, how often, how large.

    Raises: InputError for a value that cannot be used.
    """

    lengths: tuple[int, ...] = (20, 50, 100, 200)
    steps: int = 2500  # at most, of one training
    seeds: int = 2
    hidden: int = 32
    batch: int = 32
    target: float = 0.05  # squared error at which the problem counts as learned; 0.1667 is knowing nothing
    every: int = 50  # steps between looks at the held-out sequences
    validation: int = 1000  # held-out sequences

    def __post_init__(self) -> None:
        for name in ("steps", "seeds", "hidden", "batch", "every", "validation"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.lengths or min(self.lengths) < 4:
            raise InputError(f"lengths must be at least 4 steps each, got {list(self.lengths)}")
        if not 0 < self.target < MemoryTask(MemoryConfig()).baseline:
            raise InputError(
                f"target must be above 0 and below 1/6, the error of knowing nothing, got {self.target}"
            )


QUICK = Settings(lengths=(10, 30), steps=400, seeds=1)


@dataclass(frozen=True)
class Gradient:
    """How the gradient of the last step's loss fades on its way back."""

    half_life: (
        float  # steps in which it halves, by a straight line through log |dL_T/dstate_{T-k}|; < 0: doubles in
    )
    quality: float  # of that line, the share of the variance it explains
    left: float  # of its size one step back, the share that is left 3/4 T steps back: where the first mark is on average
    lags: list[float] = field(repr=False)  # its size by lag, 1 .. T-1


@dataclass(frozen=True)
class Trial:
    """One remedy, one length, one seed."""

    remedy: str
    length: int
    seed: int
    learned: int | None  # steps until the error was below the target; None: not within the steps given
    steps: int  # trained
    loss: float  # squared error on the held-out sequences at the end; NaN if it diverged
    start: Gradient
    end: Gradient | None  # None if the weights are no numbers

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what is no number is None."""
        return {name: _finite(value) for name, value in asdict(self).items()}


class Stopped(Exception):
    """Asked to end between two steps."""


def trial(
    remedy: Remedy, length: int, seed: int, settings: Settings, stop: Callable[[], bool] = lambda: False
) -> Trial:
    """Train one network on the adding problem and measure its gradient before and after.

    The weights are drawn from `seed`, the sequences too. torch's random state is left as it was.
    Cost: `settings.steps` times a batch of `length` steps at most, and a look at the validation sequences every
        `settings.every` steps.
    Raises: Stopped when `stop()` says so.
    """
    task = MemoryTask(
        MemoryConfig(length=length, validation=settings.validation),
        ModelConfig(hidden=settings.hidden, embedding="onehot", **remedy.model),
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = task.build()
        start = gradient(model, task)
        learned, steps, loss = _train(model, task, remedy, seed, settings, stop)
        diverged = not math.isfinite(loss)
        end = None if diverged else gradient(model, task)
    return Trial(remedy.name, length, seed, learned, steps, loss, start, end)


def gradient(model: nn.Module, task: MemoryTask) -> Gradient:
    """Measure on held-out sequences, in float64, on a copy: the gradient of the last step's loss by lag."""
    window = next(task.validation(task.steps, _MEASURED))
    reach = gradient_reach(
        copy.deepcopy(model).double().eval(),
        lambda outputs, targets: (outputs - targets).square(),
        window.inputs.double(),
        window.targets.double(),
        lags=task.steps - 1,
        ends=[task.steps - 1],
    )
    norms = reach.norms
    found = half_life(torch.cat([norms[:1], norms]))  # lag 0, which the fit leaves out, is not measured
    at = 3 * task.steps // 4 - 1  # norms begin at lag 1
    left = float(norms[at] / norms[0]) if norms[0] > 0 else 0.0
    return Gradient(found.steps, found.r_squared, left, norms.tolist())


def _train(
    model: nn.Module,
    task: MemoryTask,
    remedy: Remedy,
    seed: int,
    settings: Settings,
    stop: Callable[[], bool],
) -> tuple[int | None, int, float]:
    """Steps until it was learned, steps done, and the last loss on the held-out sequences (NaN: diverged)."""
    clip, strategy = parse_clip(remedy.clip), Full()
    optimizer = torch.optim.Adam(model.parameters(), lr=remedy.lr)
    windows = iter(task.streams(task.steps, settings.batch, seed=seed).epoch())
    step = 0
    while step < settings.steps:
        for _ in range(min(settings.every, settings.steps - step)):
            if stop():
                raise Stopped
            window = next(windows)
            optimizer.zero_grad()
            result = strategy.backward(model, task.loss, window.inputs, window.targets, count=window.count)
            norm = clip(model.parameters()).norm
            if not (math.isfinite(float(result.loss)) and math.isfinite(float(norm))):
                return None, step, math.nan
            optimizer.step()
            step += 1
        loss = evaluate(model, task.validation(task.steps, _PIECE), task.loss).loss
        if not math.isfinite(loss):
            return None, step, math.nan
        if loss < settings.target:
            return step, step, loss
    return None, step, loss


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
