"""The pattern of a measured gradient, and what to try against it."""

from __future__ import annotations

import enum
import math

import torch

from throughtime.flow.explanation.table import keeps_size
from throughtime.flow.measurement.fit import half_life
from throughtime.flow.result import GateStatistics, LagCurve, LayerFlow

_CHANGE = 2.0  # a rise or fall by this factor counts as one
_STRAIGHT = 0.5  # R² below which a curve is no exponential growth


class Pattern(enum.Enum):
    """The patterns that are distinguished."""

    NOT_FINITE = "not a finite number"
    ZERO = "no gradient at all"
    SHORT = "too few lags"
    CUT_OFF = "only rounding error from some lag on"
    HUMP = "grows, then decays"
    GROWS = "grows exponentially"
    RISES = "grows, then levels off"
    KEEPS = "keeps its size"
    DECAYS = "decays exponentially"
    FALLS = "falls, not exponentially"
    IRREGULAR = "no clear trend"


def pattern_of(layer: LayerFlow) -> Pattern:
    """The pattern of |dL_T / dh_{T-k}| of one layer.

    CUT_OFF before those that need a fit. GROWS and DECAYS need a slope whose 95 % interval excludes zero, and a change of at
    least a factor of two over the measured lags; GROWS up to the last lag, as an exponential does. HUMP: at least doubled, and at
    the last lag at most half its maximum. RISES: at least doubled, and neither. FALLS: at most half its size at the last lag, and
    near its minimum there. KEEPS: between half and twice its size at every lag. IRREGULAR: the rest.
    """
    curve = layer.lag_h
    mean = curve.mean
    if not bool(torch.isfinite(mean).all()):
        return Pattern.NOT_FINITE
    if not bool((mean > 0).any()):
        return Pattern.ZERO
    if curve.gone is not None:
        return Pattern.CUT_OFF
    fit = curve.half_life
    if len(mean) < 4 or math.isnan(fit.steps) or float(mean[0]) <= 0:
        return Pattern.SHORT
    first, largest, last = float(mean[0]), float(mean.max()), float(mean[-1])
    if largest >= _CHANGE * first:
        if last <= largest / _CHANGE:
            return Pattern.HUMP
        straight = fit.grows and fit.r_squared >= _STRAIGHT and grows_to_the_end(curve)
        return Pattern.GROWS if straight and last >= _CHANGE * first else Pattern.RISES
    if last <= first / _CHANGE and (fit.decays or last <= _CHANGE * float(mean.min())):
        return Pattern.DECAYS if fit.decays else Pattern.FALLS
    return Pattern.KEEPS if keeps_size(curve) else Pattern.IRREGULAR


def grows_to_the_end(curve: LagCurve) -> bool:
    """Whether the second half of the lags grows too, by itself."""
    half = len(curve.mean) // 2
    tail = curve.mean[half - 1 :]  # the fit leaves out the first
    if len(tail) < 4:  # too few for a fit of their own
        return bool((tail.diff() > 0).all())
    return half_life(tail).grows


def recurrent_unit(layer: LayerFlow) -> GateStatistics | None:
    """The activation that the recurrence passes through: h, the GRU's candidate, the LSTM's tanh(c)."""
    return layer.gates.get({"gru": "n", "lstm": "tanh(c)"}.get(layer.cell, "h"))


def saturated(layer: LayerFlow) -> bool:
    """Whether phi' takes more than half of the gradient in a step, or more than a quarter of the units are saturated."""
    unit = recurrent_unit(layer)
    return unit is not None and (unit.slope_mean < 0.5 or unit.saturated > 0.25)


# Each item of advice has the argument, and the option of `throughtime train text`, that follows it.
_ORTHOGONAL = 'init="orthogonal" (--init orthogonal): all singular values of W_hh start at 1'
_RELU = 'nonlinearity="relu" with init="identity" (--nonlinearity relu --init identity)'
_GATED = "a GRU or an LSTM (--cell gru, --cell lstm), whose state has a path past the weights"
_CLIP = "throughtime.clip_norm_(model.parameters(), 1.0) before each step (--clip norm:1)"
_NORM = "layer_norm=True (--layer-norm), which bounds the units' inputs"
_OPEN = 0.85  # a gate that keeps less than this loses 98 % in 25 steps
_HAS_INIT = ("rnn", "gru", "lstm")


def advice(layer: LayerFlow, pattern: Pattern) -> list[str]:
    """What to try, the most promising first; empty where nothing needs to change."""
    orthogonal = [_ORTHOGONAL] if layer.cell in _HAS_INIT else []
    if pattern is Pattern.NOT_FINITE:
        return [_CLIP, "a smaller learning rate"]
    if pattern in (Pattern.ZERO, Pattern.SHORT):
        return []
    if pattern in (Pattern.GROWS, Pattern.RISES):
        return [_CLIP, *(orthogonal if layer.cell == "rnn" else [])]
    if pattern is Pattern.HUMP:
        # Weights whose eigenvalues and singular values agree cannot do this.
        return [*orthogonal, _CLIP]
    if pattern is Pattern.KEEPS:
        steps = len(layer.lag_h.mean) - 1
        return [
            f"truncating only after more than {steps} steps (--bptt truncated:{2 * steps}), as the gradient reaches further"
        ]
    return _against_vanishing(layer)


def _against_vanishing(layer: LayerFlow) -> list[str]:
    if layer.cell == "rnn":
        radius = max((s.radius for s in layer.weights.values()), default=1.0)
        norm = [_NORM] if saturated(layer) else []
        orthogonal = [_ORTHOGONAL] if not saturated(layer) or radius < 0.9 else []
        return [*norm, *orthogonal, _RELU, _GATED]
    if layer.cell == "lstm":
        keeps = layer.gates["f"].mean if "f" in layer.gates else 1.0
        bias = 1 if keeps < 0.65 else 3  # sigmoid(1) = 0.73, sigmoid(3) = 0.95
        open_f = [f"forget_bias={bias} (--forget-bias {bias}), as f keeps only {keeps:.2f} of c in a step"]
        return [*(open_f if keeps < _OPEN else []), *([_NORM] if saturated(layer) else [])]
    if layer.cell == "gru":
        keeps = layer.gates["z"].mean
        if keeps < _OPEN:
            return [
                f"an LSTM with forget_bias=1 (--cell lstm --forget-bias 1), as z keeps only {keeps:.2f} of h in a step",
                "a GRU whose z starts higher, gru.bias_ih_l0.data[H : 2 * H] += 1",
            ]
        return [_NORM] if saturated(layer) else []
    return [] if layer.cell_path is not None or layer.lag_c is not None else [_GATED]
