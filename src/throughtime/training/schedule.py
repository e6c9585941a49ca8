"""How much of a training is done, and what depends on it: the learning rate, and when to evaluate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from throughtime.data.epochs import Epochs
from throughtime.errors import InputError, nearest
from throughtime.training.config import SCHEDULES, TrainingConfig

START = 0.01  # fraction of the learning rate, where the warm-up begins
EVALUATIONS = 10  # in all, where the configuration does not say
APART = 5  # steps at least between two of those: a short training is not spent on evaluations
EVALUATING = 0.15  # at most this fraction of a budget of minutes, but for the last evaluation


def factor(schedule: str, warmup: float, spent: float, step: int) -> float:
    """What the learning rate is multiplied by in a step: `warm(...) * decay(...)`.

    Args:
        schedule: one of constant, linear, cosine, step; see `decay`.
        warmup: below 1 a fraction of the budget, from 1 a number of steps; 0 for none.
        spent: the fraction of the budget that is spent before the step, 0 to 1. With a budget of minutes, of time.
        step: the number of the step, from 0.

    Raises: InputError for an unknown schedule, or a `spent` out of range.
    """
    if not 0 <= spent <= 1:
        raise InputError(f"spent is a fraction of the budget from 0 to 1, got {spent}")
    return warm(warmup, spent, step) * decay(schedule, spent)


def warm(warmup: float, spent: float, step: int) -> float:
    """Rise linearly from a hundredth to 1, then stay: an adaptive optimizer's first steps know no variance."""
    if warmup == 0:
        return 1.0
    done = step / warmup if warmup >= 1 else spent / warmup
    return min(1.0, START + (1 - START) * done)


def decay(schedule: str, spent: float) -> float:
    """Fall from 1 at the start of the budget.

    constant 1; linear 1 - spent; cosine (1 + cos(pi * spent)) / 2 (Loshchilov & Hutter 2017, arXiv 1608.03983); step a tenth
    from half of the budget on, a hundredth in its last quarter.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - spent
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * spent))
    if schedule == "step":
        return 1.0 if spent < 0.5 else 0.1 if spent < 0.75 else 0.01
    raise InputError(
        f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}.{nearest(schedule, SCHEDULES)}"
    )


@dataclass(frozen=True)
class Budget:
    """Optimizer steps, passes over the data, or minutes."""

    kind: str
    amount: float

    @classmethod
    def of(cls, config: TrainingConfig) -> Budget:
        """The budget of a configuration."""
        return cls(*config.budget)

    def spent(self, step: int, data: Epochs, seconds: float) -> float:
        """The fraction that is spent after `step` steps, at most 1."""
        if self.kind == "steps":
            done = float(step)
        elif self.kind == "epochs":
            done = epochs(data)
        else:
            done = seconds / 60
        return min(1.0, done / self.amount)

    def seconds_left(self, spent: float, seconds: float) -> float | None:
        """How long the rest takes, if `spent` took `seconds`; None before anything is spent."""
        if self.kind == "minutes":
            return max(0.0, self.amount * 60 - seconds)
        return seconds * (1 - spent) / spent if spent > 0 else None

    def __str__(self) -> str:
        number = f"{self.amount:g}"
        return f"{number} {self.kind.removesuffix('s') if number == '1' else self.kind}"


def epochs(data: Epochs) -> float:
    """Passes over the data so far."""
    return data.epochs_done + data.batches_done / len(data)


class EvaluationSchedule:
    """Every so many steps; by default ten times in all, as the budget is spent, but not after every step of a few.

    With a budget of minutes, the default leaves evaluations out that would take more than `EVALUATING` of the time so far: such
    a training depends on the machine's speed anyway. Any other is the same on every machine.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._every = config.evaluate_every
        self._timed = config.budget[0] == "minutes"
        self._last = (0, 0.0)  # step and spent budget at the last evaluation
        self._seconds = (0.0, 0.0)  # all evaluations so far took, and the last one

    def due(self, step: int, spent: float, seconds: float) -> bool:
        """Whether to evaluate after this step; at the end always."""
        if spent < 1 and not self._reached(step, spent, seconds):
            return False
        self._last = step, spent
        return True

    def took(self, seconds: float) -> None:
        """Take note of how long an evaluation took."""
        self._seconds = self._seconds[0] + seconds, seconds

    def state_dict(self) -> dict[str, Any]:
        """The last evaluation."""
        return {"last": self._last, "seconds": self._seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._last, self._seconds = tuple(state["last"]), tuple(state["seconds"])

    def _reached(self, step: int, spent: float, seconds: float) -> bool:
        if self._every is not None:
            return step % self._every == 0
        before, fraction = self._last
        if self._timed and sum(self._seconds) > EVALUATING * seconds:
            return False
        return step - before >= APART and int(spent * EVALUATIONS) > int(fraction * EVALUATIONS)
