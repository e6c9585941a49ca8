"""What a measurement says, in sentences with numbers, and what to try."""

from __future__ import annotations

import math

from throughtime.flow.explanation.pattern import Pattern, advice, pattern_of, recurrent_unit, saturated
from throughtime.flow.measurement.fit import half_life
from throughtime.flow.result import Flow, HalfLife, LagCurve, LayerFlow

_LAG = 25  # the lag at which what is left is stated, where that many were measured
_LOSS = "check the loss function (a logarithm or root of what is not positive, 0 / 0) and the targets for NaN"
_BEND = 2.0  # a reach this many times shorter than the half-life predicts: the curve is no straight line
_ROUGH = 0.8  # R² below which one half-life does not describe the curve


def explain(flow: Flow) -> str:
    """One paragraph for each layer and direction on its gradient flow and the reasons for it; then what to try.

    The pattern is read from the measured gradient alone. The weights' spectral radius and singular values stand beside it, as
    neither decides by itself: phi' is in the product too, and a non-normal matrix may first grow and then decay. Growth and
    decay are stated only where the 95 % interval of the slope excludes zero.
    """
    ends = f"step {flow.ends[0]}" if len(flow.ends) == 1 else f"{len(flow.ends)} steps"
    head = (
        f"Measured on {_count(flow.examples, 'sequence')} of {_count(flow.steps, 'step')}, by the gradient of the loss of "
        f"{ends} alone; the loss is {flow.loss:.3g}."
    )
    finite = all(pattern_of(each) is not Pattern.NOT_FINITE for each in flow.layers.values())
    if not math.isfinite(flow.loss) and finite:
        head += f" The gradient is finite all the same: {_LOSS}."
    return "\n\n".join([head, *(_paragraph(flow, each) for each in flow.layers.values()), *_advice(flow)])


def _paragraph(flow: Flow, layer: LayerFlow) -> str:
    pattern = pattern_of(layer)
    sentences = [
        _not_finite(flow, layer) if pattern is Pattern.NOT_FINITE else _trend(layer.lag_h, pattern),
        _cell_path(layer),
        _weights(layer),
        _units(layer),
        _denormal(layer),
    ]
    direction = ", running backward" if layer.reverse else ""
    title = f"{layer.name} ({layer.cell}, {_count(layer.units, 'unit')}{direction})"
    return f"{title}: {' '.join(each for each in sentences if each)}"


def _advice(flow: Flow) -> list[str]:
    """What to try, stated once for all layers that need the same."""
    layers_of: dict[tuple[str, ...], list[str]] = {}
    for layer in flow.layers.values():
        pattern = pattern_of(layer)
        # A smaller step does not repair a loss function: where the network itself is sound, there is nothing to try on it.
        if pattern is Pattern.NOT_FINITE and not _diverged(flow):
            continue
        if tries := tuple(advice(layer, pattern)):
            layers_of.setdefault(tries, []).append(layer.name)
    alone = len(flow.layers) == 1
    return [
        f"Try{'' if alone else ', for ' + ', '.join(names)}: {'; '.join(tries)}. Then measure again."
        for tries, names in layers_of.items()
    ]


def _diverged(flow: Flow) -> bool:
    """Whether there are weights that are not finite."""
    return not all(math.isfinite(norm) for norm, _ in flow.parameters.values())


def _not_finite(flow: Flow, layer: LayerFlow) -> str:
    """What is not finite first: the weights, the states, the loss, or the gradient alone."""
    text = "The gradient is not a finite number"
    if _diverged(flow):
        return f"{text}: the network has diverged, its weights are not finite."
    if not all(math.isfinite(gate.mean) for gate in layer.gates.values()):
        return f"{text}, nor are the states, though all weights are: look for NaN in the inputs, or the states overflow."
    if not math.isfinite(flow.loss):
        return f"{text}, nor is the loss, though all weights and states are: {_LOSS}."
    return (
        f"{text}, though weights and loss are: it overflows in the backward pass, or the loss function has no derivative "
        "where it was evaluated (the root or the norm of 0)."
    )


def _trend(curve: LagCurve, pattern: Pattern) -> str:
    """How the gradient changes with lag."""
    last = len(curve.mean) - 1
    fit = curve.half_life
    at_last = f"after {_count(last, 'step')} {_size(curve, last)}"
    if pattern is Pattern.ZERO:
        return "No gradient reaches this layer: the loss does not depend on it."
    if float(curve.mean[0]) == 0:
        return "There is no gradient at lag 0, to which the others could be compared: this loss reads an earlier state."
    if pattern is Pattern.SHORT:
        return f"Only {_count(last, 'lag')} could be measured: give a longer sequence."
    lag, ratio = peak(curve)
    if pattern is Pattern.CUT_OFF:
        assert curve.gone is not None
        before = f" Before that it grows, to {ratio:.3g} times its size at lag {lag}." if ratio > 1.05 else ""
        return (
            f"The gradient is gone after {_count(curve.gone, 'step')}: a cutoff, not a decay; "
            f"what follows is rounding error.{before}"
        )
    if pattern is Pattern.HUMP:
        return f"The gradient first grows, to {ratio:.3g} times its size at lag {lag}, and then decays: {at_last}."
    if pattern is Pattern.GROWS:
        return f"The gradient explodes: doubling time {_fit(fit)}; {at_last}."
    if pattern is Pattern.RISES:
        return f"The gradient grows to {ratio:.3g} times its size at lag {lag}, but not exponentially: {at_last}."
    if pattern is Pattern.KEEPS:
        return f"The gradient keeps {'its' if _steady(curve) else 'most of its'} size: {at_last}."
    if pattern is Pattern.IRREGULAR:
        low, high = (float(value / curve.mean[0]) for value in (curve.mean.min(), curve.mean.max()))
        return (
            f"The gradient has no clear trend: over {_count(last, 'step')} it lies between {_percent(low)} and {_percent(high)} "
            f"of its size at lag 0; {at_last}."
        )
    return _decay(curve)


def _decay(curve: LagCurve) -> str:
    """A gradient that decays, evenly or not: where the curve bends, one half-life would mislead about the first lags."""
    last, lag = len(curve.mean) - 1, min(_LAG, len(curve.mean) - 1)
    fit = curve.half_life
    left = f"after {_count(lag, 'step')} {_size(curve, lag)}"
    goal = _percent(curve.fraction)
    if not fit.decays:
        to_goal = f" to {goal} within {_count(curve.reach, 'step')}," if curve.reach is not None else ""
        at_last = (
            "" if lag == last else f", after {last} steps {_percent(float(curve.mean[last] / curve.mean[0]))}"
        )
        return f"The gradient falls,{to_goal} but not exponentially: {left}{at_last}."
    predicted = fit.steps * math.log2(1 / curve.fraction)
    if curve.reach is not None and _BEND * curve.reach < predicted:
        tail = half_life(curve.mean[curve.reach :])
        if tail.decays:
            rest = f", and then decays with half-life {_fit(tail)}"
        else:
            rest = "" if math.isnan(tail.steps) else ", and then falls no further"
        fall = f"The gradient falls to {goal} within {_count(curve.reach, 'step')}"
        return f"{fall}{rest}; {left}. Over all lags: half-life {_fit(fit)}."
    reach = f", and from lag {curve.reach} on less than {goal}" if curve.reach is not None else ""
    return f"The gradient decays: half-life {_fit(fit)}; {left}{reach}."


def _fit(fit: HalfLife) -> str:
    """The number with its interval: "6.2 steps, 95 % interval 5.9 to 6.6 (R² 0.98)"."""
    steps, low, high = abs(fit.steps), *sorted((abs(fit.low), abs(fit.high)))
    text = f"{_number(steps)} steps"
    if high - low > 0.02 * steps:
        above = "more than 10,000" if high > 1e4 else _number(high)
        text += f", 95 % interval {_number(low)} to {above}"
        text += (
            f" (R² {fit.r_squared:.2f})"
            if fit.r_squared >= _ROUGH
            else f" (R² {fit.r_squared:.2f}: a rough fit)"
        )
    return text


def peak(curve: LagCurve) -> tuple[int, float]:
    """The lag at which the gradient is largest (the last of equals), and how many times lag 0's size it is there."""
    largest = float(curve.mean.max())
    lag = int((curve.mean >= 0.999 * largest).nonzero()[-1])
    return lag, largest / float(curve.mean[0])


def _steady(curve: LagCurve) -> bool:
    relative = curve.mean / curve.mean[0]
    return bool(((relative > 0.9) & (relative < 1.1)).all())


def _cell_path(layer: LayerFlow) -> str:
    """The path past all weights beside all paths together."""
    path, curve = layer.cell_path_gradient, layer.lag_c or layer.lag_h
    if (
        path is None
        or len(path) < 2
        or not math.isfinite(float(curve.mean.sum()))
        or float(curve.mean[0]) == 0
    ):
        return ""
    lag = min(_LAG, len(path) - 1)
    gate = {"lstm": "f", "gru": "z"}.get(layer.cell, "")
    mean = f" (mean {gate} {layer.gates[gate].mean:.2f})" if gate in layer.gates else ""
    what = "dL/dc" if layer.lag_c is not None else "dL/dh"
    name = "cell state path" if layer.lag_c is not None else "path past the weights"
    return (
        f"Of {what}, {_percent(float(path[lag]))} is left after {_count(lag, 'step')} along the {name} alone{mean}, "
        f"{_percent(float(curve.mean[lag] / curve.mean[0]))} along all paths together."
    )


def _weights(layer: LayerFlow) -> str:
    if len(layer.weights) > 1:
        radii = ", ".join(f"{name} {_number(s.radius)}" for name, s in layer.weights.items())
        return f"Spectral radii: {radii}."
    for name, s in layer.weights.items():
        largest = float(s.singular_values[0])
        link = "but" if largest > 1 > s.radius else "and"
        return f"{name} has singular value {_number(largest)} {link} spectral radius {_number(s.radius)}."
    return ""


def _units(layer: LayerFlow) -> str:
    """The saturation of the units that the recurrence passes through."""
    unit = recurrent_unit(layer)
    if unit is None or math.isnan(unit.slope_mean):
        return ""
    name = {"rnn": "phi'", "gru": "the candidate's tanh'", "lstm": "the cell state's tanh'"}.get(
        layer.cell, "phi'"
    )
    state = "saturated" if saturated(layer) else "not saturated"
    return (
        f"The units are {state}: {name} averages {unit.slope_mean:.2f}, and {100 * unit.saturated:.0f} % of it lies below "
        "a tenth of the maximum."
    )


def _denormal(layer: LayerFlow) -> str:
    if layer.denormal_fraction < 0.01:
        return ""
    return (
        f"{100 * layer.denormal_fraction:.0f} % of the gradient's numbers are denormal in float32: "
        "processors that do not flush them slow down."
    )


def _size(curve: LagCurve, lag: int) -> str:
    ratio = float(curve.mean[lag] / curve.mean[0])
    return f"{_percent(ratio)} is left" if ratio <= 1.005 else f"it is {ratio:.3g} times as large"


def _percent(value: float) -> str:
    """As a percentage: 0.4 %, 6.8e-05 %."""
    if value <= 0:
        return "nothing"
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def _number(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 99.5 else f"{value:.0f}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
