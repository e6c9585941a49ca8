"""The learning rate over a training, as a pure function of how much of the budget is spent."""

from __future__ import annotations

import math

from throughtime.errors import InputError, one_of
from throughtime.training.config import SCHEDULES

START = 0.01  # of the learning rate, where the warm-up begins


def factor(schedule: str, warmup: float, spent: float, step: int) -> float:
    """What the learning rate is multiplied by in a step: `warm(...) * decay(...)`.

    Args:
        schedule: one of constant, linear, cosine, step; see `decay`.
        warmup: below 1 a share of the budget, from 1 a number of steps; 0 for none.
        spent: the share of the budget that is spent before the step, 0 to 1. With a budget of minutes, of time.
        step: the number of the step, from 0.

    Raises: InputError for an unknown schedule, or a `spent` out of range.
    """
    if not 0 <= spent <= 1:
        raise InputError(f"spent is a share of the budget from 0 to 1, got {spent}")
    return warm(warmup, spent, step) * decay(schedule, spent)


def warm(warmup: float, spent: float, step: int) -> float:
    """Rise in a straight line from a hundredth to 1, then stay: an adaptive optimiser's first steps are blind."""
    if warmup == 0:
        return 1.0
    done = step / warmup if warmup >= 1 else spent / warmup
    return min(1.0, START + (1 - START) * done)


def decay(schedule: str, spent: float) -> float:
    """Fall from 1 at the start of the budget.

    constant 1; linear 1 - spent; cosine (1 + cos(pi * spent)) / 2 (Loshchilov & Hutter 2017, arXiv 1608.03983); step a tenth
    from half of the budget on, a hundredth in its last quarter.
    """
    one_of("schedule", schedule, SCHEDULES)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - spent
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * spent))
    return 1.0 if spent < 0.5 else 0.1 if spent < 0.75 else 0.01
