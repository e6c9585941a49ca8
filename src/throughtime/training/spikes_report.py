"""What is said of a spike: one paragraph, and the same as numbers for the history."""

from __future__ import annotations

import math
from statistics import median_low
from typing import Any

from throughtime.training.spikes import LEAST, Spike
from throughtime.training.watch import Watch

LARGE = 5.0  # times the usual norm: a gradient that is taken for the cause


def describe(spike: Spike, clip: str, watch: Watch) -> str:
    """What jumped, where, what came before it, and the likely cause, in plain sentences."""
    place = spike.at.place
    parts = [
        f"{_what(spike)}; epoch {place.epoch}, window {place.window} of {place.windows}, learning rate {place.lr:.3g}"
    ]
    norms = ", ".join(f"{each.norm:.3g}" for each in spike.before) or "none, it was the first step"
    parts.append(f"gradient norms of the steps before: {norms}")
    parts.append(f"in this step {spike.at.norm:.3g}, before clipping (clip = {clip})")
    if watch.words:
        parts.append(f"at step {watch.step}: {watch.words}")
    return f"{'; '.join(parts)}. {_cause(spike)}"


def numbers(spike: Spike, watch: Watch) -> dict[str, Any]:
    """The same for the history; a number that is none is null."""
    at, place = spike.at, spike.at.place
    return {
        "what": spike.kind,
        "loss": _finite(at.loss),
        "gradient_norm": _finite(at.norm),
        "clipped": at.clipped,
        "lr": place.lr,
        "window": place.window,
        "windows": place.windows,
        "usual_loss": _finite(spike.loss.median),
        "usual_loss_deviation": _finite(spike.loss.deviation),
        "usual_norm": _finite(spike.norm.median),
        "steps_before": [each.step for each in spike.before],
        "losses_before": [_finite(each.loss) for each in spike.before],
        "norms_before": [_finite(each.norm) for each in spike.before],
        "watched": watch.words or None,
        "watched_at": watch.step if watch.words else None,
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
        f"{spike.loss.steps} steps that strayed from it by {spike.loss.deviation:.2g}"
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
            else f"would throw the weights far: {_hold(spike)}"
        )
        return (
            "No gradient before it was unusually large: the last updates led to where the loss is steep, and the gradient of "
            f"this step, {here / usual:.3g} times the median, {end}"
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
        f"The gradient grew first, at step {first.step}, to {times} times its median of {usual:.3g}, and nothing held it back: "
        f"{_hold(spike)}"
    )


def _hold(spike: Spike) -> str:
    """Clip at about twice the usual norm, in one digit; at 1, the usual threshold, where that is near or too little is known."""
    norm = spike.norm
    twice = 2 * norm.median
    threshold = "1" if norm.steps < LEAST or 0.25 <= twice <= 4 else f"{float(f'{twice:.1g}'):g}"
    return f"train with clip = norm:{threshold}, or with a smaller lr"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
