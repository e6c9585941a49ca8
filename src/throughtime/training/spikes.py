"""A loss or a gradient norm that jumps: detected against the steps before, and explained."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from statistics import median, median_low
from typing import Any, NamedTuple

from throughtime.data.epochs import Epochs
from throughtime.errors import ThroughtimeError

PAST = 32  # steps that a new one is compared with
LEAST = 12  # of them, before one is judged
LOSS_DEVIATIONS, LOSS_FRACTION = (
    8.0,
    0.2,
)  # a jump is above the median by so many deviations, and by this fraction of it
LOSS_OF_START = (
    0.05  # and by this fraction of the first steps' median: near zero, single batches differ many times over
)
LOSS_OF_FEW, FEW = (
    0.35,
    256,
)  # by this fraction where a step has fewer than `FEW` targets: a mean over few varies by itself
NORM_DEVIATIONS, NORM_TIMES = 20.0, 10.0  # a norm's by so many deviations, and so many times the median
BEFORE = 10  # steps whose norms a report lists
CALM = 10  # steps without a jump, after which one is reported again
LARGE = 5.0  # times the usual norm: a gradient that counts as the cause
_NORMAL = 1.4826  # median absolute deviation to standard deviation, of a normal distribution


class Diverged(ThroughtimeError):
    """The loss or the gradient is not a number any more, or jumped and was to stop the training."""


class Place(NamedTuple):
    """Where in the data a step is, and how large it is."""

    epoch: int  # from 1
    batch: int  # of the epoch, from 1
    batches: int  # in an epoch
    reset: bool  # the batch started from no state
    lr: float

    @classmethod
    def of(cls, data: Epochs, reset: bool, lr: float) -> Place:
        """Of the batch that was yielded last. The position has moved on already, after an epoch's last batch to 0."""
        last, batches = data.batches_done == 0, len(data)
        batch = batches if last else data.batches_done
        return cls(data.epochs_done + (not last), batch, batches, reset, lr)


class StepNumbers(NamedTuple):
    """One step, read from the device."""

    step: int
    targets_so_far: int
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
    at: StepNumbers
    loss: Usual
    norm: Usual
    before: tuple[StepNumbers, ...]  # the last steps, oldest first


class Spikes:
    """Judges step after step against the steps before.

    A loss jumps when it is above the median of the last `PAST` steps by `LOSS_DEVIATIONS` robust standard deviations, by
    `LOSS_FRACTION` of the median (for a training whose steps hardly differ) and by `LOSS_OF_START` of the first steps' median
    (for one whose loss is near zero, where single batches differ many times over; `LOSS_OF_FEW` for a step of few targets).
    A gradient's norm jumps in the same way, if above the first steps' too, but only one that was not clipped: a clipped gradient
    cannot throw the weights far. Batches that start from no state are compared with each other alone, for their loss is higher.
    A jump that lasts is one jump.

    Median and median absolute deviation, because a jump among the last steps must not hide the next one: Hampel 1974,
    Journal of the American Statistical Association 69.
    Cost: a few medians of `PAST` numbers a step, in Python.
    """

    def __init__(self) -> None:
        self._past: dict[bool, deque[StepNumbers]] = {kind: deque(maxlen=PAST) for kind in (False, True)}
        self._before: deque[StepNumbers] = deque(maxlen=BEFORE)
        self._calm = CALM
        self._start: list[list[float]] = []  # loss and norm of each of the first `LEAST` steps

    def judge(self, step: StepNumbers) -> Spike | None:
        """The step as a spike, if it is the first of one."""
        past = self._past[step.place.reset]
        loss, norm = Usual.of([each.loss for each in past]), Usual.of([each.norm for each in past])
        if len(self._start) < LEAST and step.finite:
            self._start.append([step.loss, step.norm])
        first_loss, first_norm = (median(each) for each in zip(*self._start or [[0.0, 0.0]], strict=True))
        kind = _kind(step, loss, norm, _least(step) * abs(first_loss), first_norm)
        spike = None
        if kind == "number" or (kind is not None and self._calm >= CALM):
            spike = Spike(kind, step, loss, norm, tuple(self._before))
        self._calm = self._calm + 1 if kind is None else 0
        self._before.append(step)
        if step.finite:
            past.append(step)
        return spike

    def forget(self, step: int) -> None:
        """Continue as after `step`: later steps belong to weights that were discarded."""
        for kept in (*self._past.values(), self._before):
            left = [each for each in kept if each.step <= step]
            kept.clear()
            kept.extend(left)
        self._calm = CALM

    def state_dict(self) -> dict[str, Any]:
        """All that the next judgement depends on."""
        return {
            "past": {int(kind): [_as_list(each) for each in past] for kind, past in self._past.items()},
            "before": [_as_list(each) for each in self._before],
            "calm": self._calm,
            "start": self._start,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for kind, past in state["past"].items():
            self._past[bool(kind)] = deque(map(_numbers_of, past), maxlen=PAST)
        self._before = deque(map(_numbers_of, state["before"]), maxlen=BEFORE)
        self._calm, self._start = state["calm"], list(state["start"])


def _least(step: StepNumbers) -> float:
    return LOSS_OF_FEW if step.targets < FEW else LOSS_OF_START


def _kind(step: StepNumbers, loss: Usual, norm: Usual, least_loss: float, least_norm: float) -> str | None:
    """What is wrong with a step; None if nothing is."""
    if not step.finite:
        return "number"
    if loss.steps < LEAST:
        return None
    if step.loss > loss.median + max(
        LOSS_DEVIATIONS * loss.deviation, LOSS_FRACTION * abs(loss.median), least_loss
    ):
        return "loss"
    high = max(norm.median + NORM_DEVIATIONS * norm.deviation, NORM_TIMES * norm.median, least_norm)
    return "gradient" if step.norm > high and not step.clipped else None


def _as_list(step: StepNumbers) -> list[Any]:
    return [*step[:-1], list(step.place)]


def _numbers_of(values: list[Any]) -> StepNumbers:
    return StepNumbers._make([*values[:-1], Place._make(values[-1])])


def describe(spike: Spike, clip: str, watched: str, watched_at: int) -> str:
    """What jumped, where, what came before it, and the likely cause, in plain sentences."""
    place = spike.at.place
    parts = [
        f"{_what(spike)}; epoch {place.epoch}, batch {place.batch} of {place.batches}, learning rate {place.lr:.3g}"
    ]
    norms = ", ".join(f"{each.norm:.3g}" for each in spike.before) or "none, it was the first step"
    parts.append(f"gradient norms of the steps before: {norms}")
    parts.append(f"in this step {spike.at.norm:.3g}, before clipping (clip = {clip})")
    if watched:
        parts.append(f"at step {watched_at}: {watched}")
    return f"{'; '.join(parts)}. {_cause(spike)}"


def numbers(spike: Spike, watched: str, watched_at: int) -> dict[str, Any]:
    """The same for the history."""
    at, place = spike.at, spike.at.place
    return {
        "what": spike.kind,
        "loss": at.loss,
        "gradient_norm": at.norm,
        "clipped": at.clipped,
        "lr": place.lr,
        "batch": place.batch,
        "batches": place.batches,
        "usual_loss": spike.loss.median,
        "usual_loss_deviation": spike.loss.deviation,
        "usual_norm": spike.norm.median,
        "steps_before": [each.step for each in spike.before],
        "losses_before": [each.loss for each in spike.before],
        "norms_before": [each.norm for each in spike.before],
        "watched": watched or None,
        "watched_at": watched_at if watched else None,
    }


def _what(spike: Spike) -> str:
    at = spike.at
    if spike.kind == "number":
        name, value = ("loss is", at.loss) if not math.isfinite(at.loss) else ("gradient's norm is", at.norm)
        return f"the {name} {value}"
    if spike.kind == "gradient":
        return (
            f"the gradient's norm jumped to {at.norm:.3g}, from a median of {spike.norm.median:.3g} "
            f"over {spike.norm.steps} steps"
        )
    return (
        f"the loss jumped to {at.loss:.4g}, from a median of {spike.loss.median:.4g} over "
        f"{spike.loss.steps} steps, standard deviation {spike.loss.deviation:.2g}"
    )


def _cause(spike: Spike) -> str:
    """Where the step came from that was too large.

    The update of a step shows in the loss of the next one, so the cause of a loss is looked for in the steps before; of a
    gradient in the step itself.
    """
    usual = spike.norm.median
    if spike.norm.steps < LEAST and spike.before:  # few steps, the jump among them
        usual = median_low(each.norm for each in spike.before)
    steps = [*spike.before, spike.at] if spike.kind == "gradient" else list(spike.before)
    large = [each for each in steps if each.norm > LARGE * usual or math.isinf(each.norm)]
    here = spike.at.norm
    if not large and here > LARGE * usual:
        end = (
            "is clipped, but the steps that led there were too long: train with a smaller lr"
            if spike.at.clipped
            else f"would move the weights far: {_advice(spike)}"
        )
        return (
            "No gradient before it was unusually large: the last updates led to a steep part of the loss surface, and the "
            f"gradient of this step, {here / usual:.3g} times the median, {end}"
        )
    if not large:
        return (
            "No gradient before it was unusually large, so the steps themselves were too long: train with a smaller lr, "
            "and with clip = norm:1 if there is none"
        )
    first = large[0]
    times = "infinitely many" if math.isinf(first.norm) else f"{first.norm / usual:.3g}"
    if all(each.clipped for each in large):
        return (
            f"The gradient grew first, at step {first.step}, to {times} times its median; it was clipped, and the steps were "
            "still too long: train with a smaller lr or a lower threshold"
        )
    return (
        f"The gradient grew first, at step {first.step}, to {times} times its median of {usual:.3g}, and it was not clipped: "
        f"{_advice(spike)}"
    )


def _advice(spike: Spike) -> str:
    """Clip at about twice the usual norm, in one digit; at 1, the usual threshold, where that is close or too little is known."""
    norm = spike.norm
    twice = 2 * norm.median
    threshold = "1" if norm.steps < LEAST or 0.25 <= twice <= 4 else f"{float(f'{twice:.1g}'):g}"
    return f"train with clip = norm:{threshold}, or with a smaller lr"
