"""The result of a measurement of gradient flow: plain numbers and tensors, and their JSON form."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime.errors import InputError

FORMAT = 2
NOTHING: Mapping[str, str] = types.MappingProxyType({})


@dataclass(frozen=True)
class HalfLife:
    """Of `|dL_T / dh_{T-k}|` over lag k: least squares of log norm = a - k ln 2 / steps over the lags above rounding error.

    `steps` > 0: the gradient halves every `steps` steps; < 0: it doubles every -steps; inf: it keeps its size; NaN: fewer than
    three lags could be fitted. Where the interval of the slope contains zero, `low` > 0 and `high` < 0: the trend has no sign.
    """

    steps: float
    low: float  # the steepest decay in the 95 % interval of the slope, in steps
    high: float  # the slowest decay, or the fastest growth, in that interval, in steps
    r_squared: float  # of the fit, 0 to 1
    lags: int  # number of lags fitted

    @property
    def decays(self) -> bool:
        """Whether the slope is below zero with 95 % confidence."""
        return 0 < self.steps < math.inf and self.low > 0 and self.high > 0

    @property
    def grows(self) -> bool:
        """Whether the slope is above zero with 95 % confidence."""
        return -math.inf < self.steps < 0 and self.low < 0 and self.high < 0


@dataclass(frozen=True)
class LagCurve:
    """The gradient of the loss of step T at the states before it, by lag k: all tensors [K], float64."""

    lags: Tensor  # int64 0 .. K-1
    mean: Tensor  # |dL_T / dh_{T-k}|, mean over examples and ends T
    low: Tensor  # lower quartile
    high: Tensor  # upper quartile
    half_life: HalfLife
    reach: int | None  # lag from which the mean stays below `fraction` of lag 0; None: beyond the last lag
    fraction: float
    gone: int | None = None  # lag from which only rounding error is left, after a fall too steep for a decay


@dataclass(frozen=True)
class Products:
    """The Jacobian product d state_T / d state_{T-k} of one layer's recurrence (h and c together), the input held fixed."""

    lags: Tensor  # int64 [K]
    singular_values: Tensor  # [K, n] largest first, geometric mean over examples and ends
    lyapunov: Tensor  # [n] exponents in nats per step, largest first, by QR
    lyapunov_error: Tensor  # [n] standard error over examples


@dataclass(frozen=True)
class Spectrum:
    """One block of recurrent weights, [H, H]."""

    radius: float  # spectral radius, the largest |eigenvalue|
    singular_values: Tensor  # [H] largest first


@dataclass(frozen=True)
class GateStatistics:
    """One gate, or one activation of the recurrence, over all steps, examples and units."""

    mean: float
    std: float
    slope_mean: float  # of phi'(a), the factor that multiplies a gradient there; at most 1 for tanh, 1/4 for a sigmoid
    slope_std: float
    saturated: (
        float  # fraction whose slope is below a tenth of the largest possible; NaN where phi is unknown
    )
    over_time: Tensor  # [T, H] float32, mean over examples, by the input's step
    first: Tensor | None = None  # [min(T, 60), H] float32, of the first example alone, for pictures


@dataclass(frozen=True)
class LayerFlow:
    """One layer in one direction."""

    name: str  # "rnn.l0", "rnn.l1_reverse": the module's path, then torch.nn's suffix
    cell: str  # "rnn", "gru", "lstm" or the class of the cell
    units: int
    reverse: bool
    gradient_h: Tensor  # [T] |dL/dh_t| of the whole loss, mean over the examples that have step t
    gradient_c: Tensor | None  # [T] the same for the cell state of an LSTM
    lag_h: LagCurve
    lag_c: LagCurve | None
    products: Products | None  # None when they were not asked for
    weights: dict[str, Spectrum]  # "W_hh" of an RNN; "W_hr", "W_hz", "W_hn" of a GRU; "W_hi", ... of an LSTM
    gates: dict[str, GateStatistics]  # "h" of an RNN; "r", "z", "n"; "i", "f", "g", "o", and "tanh(c)"
    cell_path: (
        Tensor | None
    )  # [K] mean over units of prod f (LSTM) or prod z (GRU) over k steps: the path past all weights
    denormal_fraction: (
        float  # of the non-zero entries of dL/dh_t, those that float32 holds as denormal numbers
    )
    cell_path_gradient: Tensor | None = (
        None  # [K] left of |dL_T/dc_T| (h of a GRU) if the cell state path were the only one
    )


@dataclass(frozen=True, repr=False)
class Flow:
    """The result of `throughtime.flow.measure`. `explain()` puts it into sentences, `plot()` and `html()` draw it."""

    layers: dict[str, LayerFlow]
    loss: float  # mean over targets, nats (or whatever the loss gives)
    steps: int  # T; in a ragged batch, of the longest row
    examples: int
    ends: tuple[int, ...]  # the steps T whose loss was backpropagated alone; see `measure` for ragged batches
    seconds: float  # the measurement took
    symbols: tuple[str, ...] = field(
        default=()
    )  # of the first example's input, one for each step, for pictures
    parameters: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # name -> (norm, norm of its gradient)

    def __repr__(self) -> str:
        """A table: for each layer how fast the gradient decays, its reach, and the fraction of saturated units."""
        from throughtime.flow.explanation.table import table

        return table(self)

    def to_json(self) -> str:
        """Strict JSON that `from_json` reads back to the same numbers (float32 tensors, for pictures, have six digits).

        A tensor is {"dtype", "shape", "values"}. NaN is null; infinities, for which JSON has no word, are "inf" and "-inf".
        """
        return json.dumps({"format": FORMAT, "flow": _plain(self)}, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Flow:
        """Read what `to_json` wrote.

        Raises: InputError for text that is no measurement, is damaged, or has another format.
        """
        try:
            whole = json.loads(text)
            version = whole["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"expected the JSON of a flow measurement, got other text ({error})") from None
        if version != FORMAT:
            raise InputError(
                f"this measurement has format {version}, and this version reads {FORMAT}: measure again"
            )
        try:
            found: Flow = _read(Flow, whole["flow"])
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"the JSON of this measurement is damaged: {error!r}; measure again") from None
        return found

    def explain(self) -> str:
        """Sentences with numbers, and what to try; see `throughtime.flow.explain`."""
        from throughtime.flow.explanation.explain import explain

        return explain(self)

    def plot(self, path: str | None = None) -> object:
        """A matplotlib figure (extra `plot`), written to `path` (PNG, SVG or PDF by its suffix) if there is one."""
        from throughtime.flow.drawing.figures import plot

        return plot(self, path)

    def html(self, path: str, about: Mapping[str, str] = NOTHING) -> None:
        """Write a report in one file that needs no network, whole or not at all.

        Args: about, what was measured, such as {"run": ..., "model": ..., "data": ...}: rows of the table at the top, to which
            the date and throughtime's version are added.
        """
        from throughtime.flow.drawing.report import write_report

        write_report(self, path, about)


def json_number(value: float) -> float | str | None:
    """A number as strict JSON: NaN as null, infinities as "inf" and "-inf"."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        values = value.flatten().tolist()
        if value.dtype == torch.float32:
            values = [float(f"{each:.6g}") for each in values]
        return {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "values": [_plain(each) for each in values],
        }
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return json_number(value) if isinstance(value, float) else value


def _read(kind: Any, value: Any) -> Any:
    """A value of the type that the dataclass declares."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        some = next(each for each in inner if each is not types.NoneType)
        return None if value is None else _read(some, value)
    if kind is float:
        return math.nan if value is None else float(value)
    if kind is Tensor:
        values = [
            _read(float, each) if each is None or isinstance(each, str) else each for each in value["values"]
        ]
        return torch.tensor(values, dtype=getattr(torch, value["dtype"])).reshape(value["shape"])
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        # A field with a default may be missing.
        known = [each for each in fields(kind) if each.name in value or each.default is MISSING]
        return kind(**{each.name: _read(hints[each.name], value[each.name]) for each in known})  # type: ignore[operator]
    if origin is dict:
        return {key: _read(inner[1], each) for key, each in value.items()}
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_read(of, each) for of, each in zip(kinds, value, strict=True))
    return value
