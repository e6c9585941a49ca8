"""Remedies for a vanishing gradient: which models learn the adding problem at which length, and how far their gradient reaches.

Each model is trained on whole sequences with full BPTT and Adam until its squared error on held-out sequences is below a
target, or for a fixed number of steps. Before and after, the gradient of the last step's loss is measured by lag, in float64.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from throughtime.bptt import Full
from throughtime.data import Assets
from throughtime.errors import InputError
from throughtime.flow import gradient_reach
from throughtime.flow.measurement.fit import half_life
from throughtime.models import ModelConfig
from throughtime.options import Settings, option
from throughtime.studies.workers import (
    Progress,
    Stop,
    available_cores,
    check_stop,
    never,
    run_cases,
)
from throughtime.tasks import AddingTask
from throughtime.training.clipping import parse as parse_clip
from throughtime.training.evaluation import evaluate

BASELINE = AddingTask().levels["always predicting 1"]
_GRADIENT_BATCH = 16  # held-out sequences that the gradient is measured on
_EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Remedy:
    """One way to build and train a recurrent network."""

    name: str
    model: dict[str, Any]  # settings of ModelConfig
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
_STEP_COST = {"rnn": 1.0, "gru": 2.2, "lstm": 2.2}  # of a training step, relative to the plain RNN


@dataclass(frozen=True)
class RemedySettings(Settings):
    """Lengths, steps and sizes of the comparison.

    Raises: InputError for a value that cannot be used.
    """

    section: ClassVar[str] = "remedies"

    lengths: tuple[int, ...] = option((20, 50, 100, 200), "Steps of a sequence.", low=4)
    steps: int = option(2500, "Optimizer steps of one training, at most.", low=1)
    seeds: int = option(2, "Trainings of each remedy and length.", low=1)
    hidden: int = option(32, "Units.", low=1)
    batch: int = option(32, "Sequences in a batch.", low=1)
    target: float = option(0.05, "Squared error below which the problem counts as learned.", above=0)
    every: int = option(50, "Steps between two evaluations on the held-out sequences.", low=1)
    validation: int = option(1000, "Held-out sequences.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target >= BASELINE:
            raise InputError(
                f"target must be below 1/6, the error of always predicting 1, got {self.target}: choose a smaller one"
            )


QUICK_REMEDIES = RemedySettings(lengths=(10, 30), steps=400, seeds=1)


@dataclass(frozen=True)
class GradientDecay:
    """The gradient of the last step's loss with respect to earlier states."""

    half_life: float  # steps; from a straight line fitted to log |dL_T/dstate_{T-k}|; negative: it doubles in so many
    r_squared: float  # of that line
    fraction_left: (
        float  # |dL_T/dstate| 3/4 T steps back over that one step back; the first mark is there on average
    )
    norms: list[float] = field(repr=False)  # |dL_T/dstate_{T-k}|, k = 1 .. T-1


@dataclass(frozen=True)
class RemedyTrial:
    """The result of one remedy, length and seed."""

    remedy: str
    length: int
    seed: int
    learned: int | None  # steps until the error was below the target; None: not within the steps
    steps: int  # trained
    loss: float  # squared error on the held-out sequences at the end; NaN if it diverged
    start: GradientDecay
    end: GradientDecay | None  # None if it diverged

    def __str__(self) -> str:
        end = "not learned" if self.learned is None else f"learned after {self.learned} steps"
        return f"{self.remedy}, T = {self.length}: {end}"


@dataclass(frozen=True)
class RemedyComparison:
    """The finished trials, ordered by length, remedy and seed."""

    settings: RemedySettings
    remedies: tuple[Remedy, ...]
    trials: tuple[RemedyTrial, ...]
    complete: bool

    @property
    def finished(self) -> str:
        """How much was done, for a reader; "" if nothing."""
        return f"{len(self.trials)} trainings" if self.trials else ""

    def of(self, remedy: str, length: int) -> list[RemedyTrial]:
        """The trials of one remedy at one length."""
        return [trial for trial in self.trials if (trial.remedy, trial.length) == (remedy, length)]

    @property
    def lengths(self) -> list[int]:
        """Those with a trial, ascending."""
        return sorted({trial.length for trial in self.trials})


def compare_remedies(
    settings: RemedySettings | None = None,
    remedies: Sequence[Remedy] = REMEDIES,
    *,
    jobs: int | None = None,
    progress: Progress = lambda fraction, text: None,
) -> RemedyComparison:
    """Train every remedy at every length with every seed.

    Args:
        jobs: processes at a time, one thread each; default: one for each core. 1 works in this process. The results do not
            depend on it.
        progress: called after each trial.

    Ctrl-C ends it early: the finished trials are returned, with `complete` False.
    Cost: with the defaults about ten minutes on two cores.
    """
    settings = settings or RemedySettings()
    cases = [
        (remedy, length, seed)
        for seed in range(settings.seeds)
        for length in settings.lengths
        for remedy in remedies
    ]
    costs = [_STEP_COST[remedy.model["cell"]] * length for remedy, length, _ in cases]
    trials, spent, complete = [], 0.0, True
    try:
        for number, trial in run_cases(partial(_run_case, settings), cases, jobs or available_cores()):
            trials.append(trial)
            spent += costs[number]
            progress(spent / sum(costs), str(trial))
    except KeyboardInterrupt:
        complete = False
    order = {remedy.name: place for place, remedy in enumerate(remedies)}
    trials.sort(key=lambda trial: (trial.length, order[trial.remedy], trial.seed))
    return RemedyComparison(settings, tuple(remedies), tuple(trials), complete)


def _run_case(settings: RemedySettings, case: tuple[Remedy, int, int], stop: Stop) -> RemedyTrial:
    return run_trial(*case, settings, stop)


def run_trial(
    remedy: Remedy, length: int, seed: int, settings: RemedySettings, stop: Stop = never
) -> RemedyTrial:
    """Train one network on the adding problem and measure its gradient before and after.

    Weights and sequences are drawn from `seed`. torch's random state is preserved.
    Cost: at most `settings.steps` batches of `length` steps, and an evaluation every `settings.every` steps.
    Raises: Stopped when `stop()` says so.
    """
    task = AddingTask(length=length, validation=settings.validation)
    config = ModelConfig(hidden=settings.hidden, embedding="onehot", **remedy.model)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = task.build(config, Assets())
        start = gradient_decay(model, task)
        learned, steps, loss = _train(model, task, remedy, seed, settings, stop)
        end = gradient_decay(model, task) if math.isfinite(loss) else None
    return RemedyTrial(remedy.name, length, seed, learned, steps, loss, start, end)


def gradient_decay(model: nn.Module, task: AddingTask) -> GradientDecay:
    """Measure the gradient of the last step's loss by lag, on held-out sequences, with a copy of the model in float64."""
    batches = task.evaluation_batches(Assets(), "validation", steps=task.steps, batch=_GRADIENT_BATCH)
    assert batches is not None
    batch = next(batches)
    norms = gradient_reach(
        copy.deepcopy(model).double().eval(),
        task.flow_loss(),
        batch.inputs.double(),
        batch.targets.double(),
        lags=task.steps - 1,
        ends=task.flow_ends(False),
    ).norms
    fit = half_life(torch.cat([norms[:1], norms]))  # the fit leaves out lag 0, which is not measured
    place = 3 * task.steps // 4 - 1  # norms begin at lag 1
    left = float(norms[place] / norms[0]) if norms[0] > 0 else 0.0
    return GradientDecay(fit.steps, fit.r_squared, left, norms.tolist())


def _train(
    model: nn.Module, task: AddingTask, remedy: Remedy, seed: int, settings: RemedySettings, stop: Stop
) -> tuple[int | None, int, float]:
    """Steps until it was learned, steps trained, and the last loss on the held-out sequences (NaN: diverged)."""
    clip, strategy, assets = parse_clip(remedy.clip), Full(), Assets()
    optimizer = torch.optim.Adam(model.parameters(), lr=remedy.lr)
    data = task.batches(assets, steps=task.steps, batch=settings.batch, seed=seed)
    batches = (batch for _ in itertools.count() for batch in data.epoch())
    step = 0
    while step < settings.steps:
        for _ in range(min(settings.every, settings.steps - step)):
            check_stop(stop)
            optimizer.zero_grad()
            result = strategy.backward(
                lambda window, state: window.run(model, state), task.loss, next(batches)
            )
            norm = clip(model.parameters()).norm
            if not (math.isfinite(float(result.loss)) and math.isfinite(float(norm))):
                return None, step, math.nan
            optimizer.step()
            step += 1
        held_out = task.evaluation_batches(assets, "validation", steps=task.steps, batch=_EVALUATION_BATCH)
        assert held_out is not None
        loss = evaluate(model, held_out, task.loss).loss
        if not math.isfinite(loss):
            return None, step, math.nan
        if loss < settings.target:
            return step, step, loss
    return None, step, loss
