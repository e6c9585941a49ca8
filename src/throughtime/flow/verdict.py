"""What kind of course the gradient takes, from the measured curve alone."""

from __future__ import annotations

import enum
import math

import torch

from throughtime.flow.result import GateStatistics, LayerFlow

_GROWS = 2.0  # a rise by this much is one
_KEEPS = 0.5  # at least so much left at the last lag


class Verdict(enum.Enum):
    """The courses that are told apart."""

    BROKEN = "not a finite number"
    SILENT = "no gradient at all"
    SHORT = "too few lags to say"
    GONE = "cut off: nothing but rounding from some lag on"
    HUMP = "grows, then dies: a product that is not normal"
    EXPLODES = "grows"
    KEEPS = "keeps its size"
    VANISHES = "dies away"


def judge(layer: LayerFlow) -> Verdict:
    """The course of |dL_T / dh_{T-k}| of one layer.

    GONE before all others, as it needs no fit. HUMP: at least doubled on the way, and at the last lag below half of its
    greatest size. EXPLODES, KEEPS: more than doubled, or at least a half left, at the last lag. VANISHES: the rest.
    """
    curve = layer.lag_h
    mean = curve.mean
    if not bool(torch.isfinite(mean).all()):
        return Verdict.BROKEN
    if not bool((mean > 0).any()):
        return Verdict.SILENT
    if curve.gone is not None:
        return Verdict.GONE
    if len(mean) < 4 or math.isnan(curve.half_life.steps) or float(mean[0]) <= 0:
        return Verdict.SHORT
    first, largest, last = float(mean[0]), float(mean.max()), float(mean[-1])
    if largest >= _GROWS * first and last <= _KEEPS * largest:
        return Verdict.HUMP
    if last > _GROWS * first:
        return Verdict.EXPLODES
    return Verdict.KEEPS if last >= _KEEPS * first else Verdict.VANISHES


def units_of(layer: LayerFlow) -> GateStatistics | None:
    """The squashed values that the recurrence passes through: h, the GRU's candidate, the LSTM's tanh(c)."""
    return layer.gates.get({"gru": "n", "lstm": "tanh(c)"}.get(layer.cell, "h"))


def saturated(layer: LayerFlow) -> bool:
    """Whether phi' of the units takes more than half of the gradient in a step, or more than a quarter of them are flat."""
    unit = units_of(layer)
    return unit is not None and (unit.slope_mean < 0.5 or unit.saturated > 0.25)
