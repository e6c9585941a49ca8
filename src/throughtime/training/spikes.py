"""A loss that jumps, or a gradient: told from the noise of the steps before."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from throughtime.errors import ThroughtimeError
from throughtime.training.task import Windows

PAST = 32  # steps that a new one is compared with
LEAST = 12  # of them, before one is judged
LOSS_DEVIATIONS, LOSS_SHARE = (
    8.0,
    0.2,
)  # a jump is above the median by so many deviations, and by this share of it
NORM_DEVIATIONS, NORM_TIMES = 20.0, 10.0  # a norm's by so many deviations, and so many times the median
BEFORE = 10  # steps whose norms a report tells
CALM = 10  # steps without a jump, after which one is reported anew
_NORMAL = 1.4826  # median absolute deviation to standard deviation, of a normal distribution


class Diverged(ThroughtimeError):
    """The loss or the gradient is not a number any more, or jumped and was to stop the training."""


class Place(NamedTuple):
    """Where in the data a step is, and how large it is."""

    epoch: int  # from 1
    window: int  # of the epoch, from 1
    windows: int  # in an epoch
    fresh: bool  # the window started from no state
    lr: float

    @classmethod
    def of(cls, streams: Windows, fresh: bool, lr: float) -> Place:
        """Of the window that `streams` gave last. Its position has moved on already, after an epoch's last window to 0."""
        last, windows = streams.windows_done == 0, len(streams)
        window = windows if last else streams.windows_done
        return cls(streams.epochs_done + (not last), window, windows, fresh, lr)


class Measured(NamedTuple):
    """One step, read from the device."""

    step: int
    tokens: int  # targets so far
    loss: float
    norm: float  # of the gradient, before clipping
    clipped: bool
    targets: int  # of the step
    place: Place

    @property
    def finite(self) -> bool:
        """Whether loss and norm are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Usual(NamedTuple):
    """What a measurement usually was: its median, and its median absolute deviation as a standard deviation."""

    median: float
    deviation: float
    steps: int  # that it is made from

    @classmethod
    def of(cls, values: Sequence[float]) -> Usual:
        """Of some steps; NaN of none."""
        if not values:
            return cls(math.nan, math.nan, 0)
        middle = median(values)
        return cls(middle, _NORMAL * median(abs(value - middle) for value in values), len(values))


class Spike(NamedTuple):
    """A step that jumped, and what came before it."""

    kind: str  # "loss", "gradient", or "number": one of them is none
    at: Measured
    loss: Usual
    norm: Usual
    before: tuple[Measured, ...]  # the last steps, oldest first


class Spikes:
    """Judges step after step; keeps what it compares them with.

    A loss jumps when it is above the median of the last `PAST` steps by `LOSS_DEVIATIONS` robust standard deviations and by
    `LOSS_SHARE` of the median: the second for a training whose steps hardly differ. A gradient's norm jumps in the same way,
    but only one that was not clipped: a clipped gradient cannot throw the weights far. Windows that start from no state are
    compared with each other alone, for their loss is higher. A jump that lasts is one jump.

    Median and median absolute deviation, because a jump among the last steps must not hide the next one: Hampel 1974,
    Journal of the American Statistical Association 69.
    Cost: a few medians of `PAST` numbers a step, in Python.
    """

    def __init__(self) -> None:
        self._past: dict[bool, deque[Measured]] = {kind: deque(maxlen=PAST) for kind in (False, True)}
        self._before: deque[Measured] = deque(maxlen=BEFORE)
        self._calm = CALM

    def judge(self, step: Measured) -> Spike | None:
        """The step as a spike, if it is the first of one. Takes note of it."""
        past = self._past[step.place.fresh]
        loss, norm = Usual.of([each.loss for each in past]), Usual.of([each.norm for each in past])
        kind = _kind(step, loss, norm)
        spike = None
        if kind == "number" or (kind is not None and self._calm >= CALM):
            spike = Spike(kind, step, loss, norm, tuple(self._before))
        self._calm = self._calm + 1 if kind is None else 0
        self._before.append(step)
        if step.finite:
            past.append(step)
        return spike

    def forget(self, step: int) -> None:
        """Go on as after `step`: what came later was of weights that are gone."""
        for kept in (*self._past.values(), self._before):
            left = [each for each in kept if each.step <= step]
            kept.clear()
            kept.extend(left)
        self._calm = CALM

    def state_dict(self) -> dict[str, Any]:
        """All that the next judgement depends on."""
        return {
            "past": {int(kind): [_plain(each) for each in past] for kind, past in self._past.items()},
            "before": [_plain(each) for each in self._before],
            "calm": self._calm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for kind, past in state["past"].items():
            self._past[bool(kind)] = deque(map(_measured, past), maxlen=PAST)
        self._before = deque(map(_measured, state["before"]), maxlen=BEFORE)
        self._calm = state["calm"]


def _kind(step: Measured, loss: Usual, norm: Usual) -> str | None:
    """What is wrong with a step; None if nothing is."""
    if not step.finite:
        return "number"
    if loss.steps < LEAST:
        return None
    if step.loss > loss.median + max(LOSS_DEVIATIONS * loss.deviation, LOSS_SHARE * abs(loss.median)):
        return "loss"
    high = max(norm.median + NORM_DEVIATIONS * norm.deviation, NORM_TIMES * norm.median)
    return "gradient" if step.norm > high and not step.clipped else None


def _plain(step: Measured) -> list[Any]:
    return [*step[:-1], list(step.place)]


def _measured(values: list[Any]) -> Measured:
    return Measured._make([*values[:-1], Place._make(values[-1])])
