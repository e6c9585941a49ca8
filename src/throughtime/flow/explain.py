"""What a measurement says, in sentences with numbers, and what to try."""

from __future__ import annotations

import math

from throughtime.flow.fit import half_life
from throughtime.flow.remedies import remedies
from throughtime.flow.result import Flow, LagCurve, LayerFlow
from throughtime.flow.verdict import Verdict, judge, saturated, units_of

_LOOK = 25  # the lag at which "what is left" is told, where so many were measured
_LOSS = "look at the loss function (a logarithm or root of what is not positive, 0 / 0) and for NaN in the targets"
_BEND = 2.0  # the measured reach is so many times another than the half-life predicts: the curve is no straight line
_ROUGH = 0.8  # R² below which one half-life does not describe the curve


def explain(flow: Flow) -> str:
    """One paragraph for each layer and direction, on what the gradient does and why; then what to try.

    What it does is read from the measured gradient alone. The weights' spectral radius and singular values stand beside it, for
    neither decides by itself: phi' is in the product too, and a matrix that is not normal may first grow and then die.
    """
    ends = f"step {flow.ends[0]}" if len(flow.ends) == 1 else f"{len(flow.ends)} steps"
    head = (
        f"Measured on {_count(flow.examples, 'sequence')} of {_count(flow.steps, 'step')}, "
        f"sending back the loss of {ends} alone; the loss is {flow.loss:.3g}."
    )
    if not math.isfinite(flow.loss) and all(
        judge(each) is not Verdict.BROKEN for each in flow.layers.values()
    ):
        head += f" The gradient is finite all the same: {_LOSS}."
    return "\n\n".join([head, *(_paragraph(flow, each) for each in flow.layers.values()), *_advice(flow)])


def _paragraph(flow: Flow, layer: LayerFlow) -> str:
    verdict = judge(layer)
    said = [
        _broken(flow, layer) if verdict is Verdict.BROKEN else _course(layer, verdict),
        _fit(layer.lag_h, verdict),
        _memory(layer),
        _weights(layer),
        _units(layer),
        _denormal(layer),
    ]
    direction = ", running backward" if layer.reverse else ""
    title = f"{layer.name} ({layer.cell}, {_count(layer.units, 'unit')}{direction})"
    return f"{title}: {' '.join(part for part in said if part)}"


def _advice(flow: Flow) -> list[str]:
    """What to try, said once for the layers that need the same."""
    layers_of: dict[tuple[str, ...], list[str]] = {}
    for layer in flow.layers.values():
        verdict = judge(layer)
        # A smaller step mends no loss function: where the network itself is sound, nothing is to be tried on it.
        if verdict is Verdict.BROKEN and not _diverged(flow):
            continue
        tries = tuple(remedies(layer, verdict))
        if tries:
            layers_of.setdefault(tries, []).append(layer.name)
    alone = len(flow.layers) == 1
    return [
        f"Try{'' if alone else ', for ' + ', '.join(names)}: {'; '.join(tries)}. Then measure again."
        for tries, names in layers_of.items()
    ]


def _diverged(flow: Flow) -> bool:
    """Whether there are weights that are not finite."""
    return not all(math.isfinite(norm) for norm, _ in flow.parameters.values())


def _broken(flow: Flow, layer: LayerFlow) -> str:
    """Which of all that could have done it did: the weights, the states, the loss, or the way back."""
    said = "The gradient is not a finite number"
    if _diverged(flow):
        return f"{said}: the network has diverged, its weights are not finite."
    if not all(math.isfinite(gate.mean) for gate in layer.gates.values()):
        return f"{said}, nor are the states, though all weights are: look for NaN in the inputs, or the states overflow."
    if not math.isfinite(flow.loss):
        return f"{said}, nor is the loss, though all weights and states are: {_LOSS}."
    return (
        f"{said}, though weights and loss are: it overflows on its way back, or the loss function has no slope "
        "where it was taken (the root or the norm of 0)."
    )


def _course(layer: LayerFlow, verdict: Verdict) -> str:
    """What the gradient does on its way back."""
    curve = layer.lag_h
    last = len(curve.mean) - 1
    steps = curve.half_life.steps
    if verdict is Verdict.SILENT:
        return "No gradient reaches this layer: the loss does not depend on it."
    if verdict is Verdict.SHORT:
        return f"Only {_count(last, 'lag')} could be measured: give a longer sequence."
    if verdict is Verdict.GONE:
        assert curve.gone is not None
        return (
            f"The gradient is gone after {_count(curve.gone, 'step')}: from there on nothing is left but rounding. "
            f"It does not fade, it is cut off.{_peak_before(curve)}"
        )
    if verdict is Verdict.HUMP:
        lag, ratio = peak(curve)
        tail = f"; after {last} steps {_left(curve, last)} is left"
        return f"The gradient first grows, to {ratio:.3g} times its size at lag {lag}, and then dies{tail}."
    if verdict is Verdict.EXPLODES:
        return (
            f"The gradient doubles every {_number(-steps)} steps: after {last} steps it is "
            f"{_times(curve, last)} times as large. It explodes."
        )
    if verdict is Verdict.KEEPS:
        how = "keeps its size" if math.isinf(steps) else "keeps most of its size"
        return f"The gradient {how}: after {_count(last, 'step')} {_left(curve, last)} is left."
    if (bent := _bend(curve)) is not None:
        return bent
    lag = min(_LOOK, last)
    reach = (
        f", and from lag {curve.reach} on less than {_share(curve.share)}" if curve.reach is not None else ""
    )
    return f"The gradient halves every {_number(steps)} steps; after {_count(lag, 'step')} {_left(curve, lag)} is left{reach}."


def _bend(curve: LagCurve) -> str | None:
    """What is said of a gradient that dies away, but not evenly: the half-life of all lags would mislead about the first ones."""
    last, lag = len(curve.mean) - 1, min(_LOOK, len(curve.mean) - 1)
    overall = curve.half_life.steps
    predicted = overall * math.log2(
        1 / curve.share
    )  # infinite where the curve rises again: then no reach is too long
    if overall <= 0:
        predicted = math.inf
    left = f"after {_count(lag, 'step')} {_left(curve, lag)} is left"
    if curve.reach is not None and _BEND * curve.reach < predicted:
        tail = half_life(curve.mean[curve.reach :]).steps
        if math.isnan(tail):
            rest = ""
        elif 0 < tail < math.inf:
            beside = "" if abs(tail / overall - 1) < 0.05 else f" ({_number(overall)} over all lags)"
            rest = f", then halves every {_number(tail)} steps{beside if overall > 0 else ''}"
        else:
            rest = ", and then falls no further"
        return (
            f"The gradient falls to {_share(curve.share)} within {_count(curve.reach, 'step')}{rest}; {left}."
        )
    measured = curve.reach if curve.reach is not None else last
    if measured > _BEND * predicted:
        until = (
            f"it takes {measured} steps"
            if curve.reach is not None
            else f"more than {last} steps do not suffice"
        )
        return (
            f"The gradient halves every {_number(overall)} steps over all lags, but falls more slowly at first: "
            f"to {_share(curve.share)} {until}; {left}."
        )
    return None


def _peak_before(curve: LagCurve) -> str:
    lag, ratio = peak(curve)
    return f" Before that it grows, to {ratio:.3g} times its size at lag {lag}." if ratio > 1.05 else ""


def peak(curve: LagCurve) -> tuple[int, float]:
    """The lag at which the gradient is largest (the last one of equals), and how many times lag 0's size it is there."""
    largest = float(curve.mean.max())
    lag = int((curve.mean >= 0.999 * largest).nonzero()[-1])
    return lag, largest / float(curve.mean[0])


def _fit(curve: LagCurve, verdict: Verdict) -> str:
    fit = curve.half_life
    if verdict not in (Verdict.VANISHES, Verdict.EXPLODES) or math.isnan(fit.steps):
        return ""
    if fit.quality < _ROUGH:
        return f"One half-life describes it badly (R² {fit.quality:.2f}): look at the curve."
    sign = 1 if fit.steps > 0 else -1
    bounds = [sign * fit.low, sign * fit.high]
    if min(bounds) <= 0:
        return f"(R² {fit.quality:.2f}; the 95 % interval of the slope holds zero.)"
    low, high = sorted(bounds)
    if high - low <= 0.02 * abs(fit.steps):
        return ""
    return f"(95 % interval {_number(low)} to {_number(high)} steps, R² {fit.quality:.2f}.)"


def _memory(layer: LayerFlow) -> str:
    """The way past all weights beside all ways together."""
    path, curve = layer.straight, layer.lag_c or layer.lag_h
    if (
        path is None
        or len(path) < 2
        or not math.isfinite(float(curve.mean.sum()))
        or float(curve.mean[0]) == 0
    ):
        return ""
    lag = min(_LOOK, len(path) - 1)
    gate = {"lstm": "f", "gru": "z"}.get(layer.cell, "")
    opens = f" ({gate} averages {layer.gates[gate].mean:.2f})" if gate in layer.gates else ""
    what = "dL/dc" if layer.lag_c is not None else "dL/dh"
    return (
        f"Of {what}, {_share(float(path[lag]))} is left after {_count(lag, 'step')} on the straight way, "
        f"past all weights{opens}, and {_left(curve, lag)} by all ways together."
    )


def _weights(layer: LayerFlow) -> str:
    if not layer.weights:
        return ""
    blocks = [
        f"{name} has singular value {_number(float(s.singular_values[0]))}{_against(s.radius, float(s.singular_values[0]))} "
        f"spectral radius {_number(s.radius)}"
        for name, s in layer.weights.items()
    ]
    if len(blocks) == 1:
        return blocks[0] + "."
    radii = ", ".join(f"{name} {_number(s.radius)}" for name, s in layer.weights.items())
    return f"Spectral radii: {radii}."


def _against(radius: float, largest: float) -> str:
    return " but" if largest > 1 > radius else " and"


def _units(layer: LayerFlow) -> str:
    """How flat the units are that the recurrence passes through."""
    unit = units_of(layer)
    if unit is None or math.isnan(unit.slope_mean):
        return ""
    name = {"rnn": "Phi'", "gru": "The candidate's tanh'", "lstm": "The memory's tanh'"}.get(
        layer.cell, "Phi'"
    )
    state = "saturated" if saturated(layer) else "not saturated"
    return f"{name} averages {unit.slope_mean:.2f}, {100 * unit.saturated:.0f} % of it below a tenth: the units are {state}."


def _denormal(layer: LayerFlow) -> str:
    if layer.denormal_share < 0.01:
        return ""
    return (
        f"{100 * layer.denormal_share:.0f} % of the gradient's numbers are denormal in float32: "
        "processors that do not flush them slow down."
    )


def _left(curve: LagCurve, lag: int) -> str:
    return _share(float(curve.mean[lag] / curve.mean[0]))


def _times(curve: LagCurve, lag: int) -> str:
    return f"{float(curve.mean[lag] / curve.mean[0]):.3g}"


def _share(value: float) -> str:
    """As a percentage: 0.4 %, 6.8e-05 %."""
    if value <= 0:
        return "nothing"
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def _number(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 99.5 else f"{value:.0f}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
