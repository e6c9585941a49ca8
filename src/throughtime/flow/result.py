"""What a measurement of the gradient's way through time holds: plain numbers and tensors, nothing that computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class HalfLife:
    """Of `|dL_T / dh_{T-k}|` over lag k, by a fit of log norm = a - k ln 2 / steps over the lags in which it is above rounding.

    `steps` > 0: the gradient halves every so many steps; < 0: it doubles every -steps; inf: it keeps its size; NaN: there are
    fewer than three lags to fit. Where the interval of the slope holds zero, `low` > 0 and `high` < 0: it may do either.
    """

    steps: float
    low: float  # 95 % interval of 1/steps turned back into steps, its steepest fall first: steps if it falls as fast as it may
    high: float  # and if it falls as slowly, or rises as fast, as it may
    quality: float  # R² of the fit, 0 to 1
    lags: int  # how many lags it was fitted on


@dataclass(frozen=True)
class LagCurve:
    """The gradient of one step's loss, by how many steps back it is looked at: all tensors [K], float64."""

    lags: Tensor  # int64 0 .. K-1
    mean: Tensor  # |dL_T / dh_{T-k}|, mean over examples and end positions T
    low: Tensor  # lower quartile
    high: Tensor  # upper quartile
    half_life: HalfLife
    reach: (
        int | None
    )  # the lag from which the mean stays below `share` of that at lag 0; None: not within what was measured
    share: float
    gone: int | None = None  # the lag from which nothing is left but rounding, at once and not by decay


@dataclass(frozen=True)
class Products:
    """The Jacobian product d state_T / d state_{T-k} of one layer's own recurrence (h and c together), input held fixed."""

    lags: Tensor  # int64 [K]
    singular_values: Tensor  # [K, n] largest first, geometric mean over examples and ends
    lyapunov: Tensor  # [n] exponents in nats per step, largest first, by QR
    lyapunov_error: Tensor  # [n] standard error over examples


@dataclass(frozen=True)
class Spectrum:
    """One block of recurrent weights, [H, H]."""

    radius: float  # largest |eigenvalue|
    singular_values: Tensor  # [H] largest first


@dataclass(frozen=True)
class GateStatistics:
    """One gate, or one squashed pre-activation."""

    mean: float
    spread: float  # standard deviation over steps, examples and units
    slope_mean: (
        float  # of phi'(a), the factor a gradient meets there; 1 is the most for tanh, 1/4 for a sigmoid
    )
    slope_spread: float
    saturated: (
        float  # share of units and steps whose slope is below a tenth of the most; NaN where phi is unknown
    )
    over_time: Tensor  # [T, H] float32, mean over examples, by the input's step
    first: Tensor | None = (
        None  # [min(T, 60), H] float32, of the first example alone (for pictures over its text)
    )


@dataclass(frozen=True)
class LayerFlow:
    """One layer in one direction."""

    name: str  # "rnn.l0", "rnn.l1_reverse": the module's path, then torch.nn's suffix
    cell: str  # "rnn", "gru", "lstm" or the class of the cell
    units: int
    reverse: bool
    gradient_h: Tensor  # [T] |dL/dh_t| of the whole loss, mean over examples, by the input's step t
    gradient_c: Tensor | None  # [T] the same for the memory of an LSTM
    lag_h: LagCurve
    lag_c: LagCurve | None
    products: Products | None  # None when they were not asked for
    weights: dict[
        str, Spectrum
    ]  # by block: "W_hh" of an RNN; "W_hr", "W_hz", "W_hn" of a GRU; "W_hi", ... of an LSTM
    gates: dict[str, GateStatistics]  # "h" of an RNN; "r", "z", "n"; "i", "f", "g", "o", and "tanh(c)"
    memory_path: (
        Tensor | None
    )  # [K] mean over units of prod f (LSTM) or prod z (GRU) over k steps: the way past all weights
    denormal_share: float  # of the non-zero entries of dL/dh_t, share that are denormal numbers in float32
    straight: Tensor | None = (
        None  # [K] what is left of |dL_T/dc_T| (dL_T/dh_T of a GRU) if the memory path were its only way
    )


@dataclass(frozen=True, repr=False)
class Flow:
    """What `throughtime.flow.measure` found. `explain()` says it in sentences, `plot()` and `html()` draw it."""

    layers: dict[str, LayerFlow]
    loss: float  # mean over targets, nats (or whatever the loss gives)
    steps: int
    examples: int
    ends: tuple[int, ...]  # the steps T whose loss was sent back alone
    seconds: float  # what measuring took
    symbols: tuple[str, ...] = field(
        default=()
    )  # the input's own symbols, one for each step of the first example, for pictures
    parameters: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # name -> (norm, norm of its gradient)

    def __repr__(self) -> str:
        """A table: for each layer how fast the gradient falls, how far it reaches, and how flat its units are."""
        from throughtime.flow.table import table

        return table(self)

    def to_json(self) -> str:
        """All of it as text, to be read by `from_json` to the same numbers."""
        from throughtime.flow.stored import to_json

        return to_json(self)

    @staticmethod
    def from_json(text: str) -> Flow:
        """What `to_json` wrote.

        Raises: InputError for any other text.
        """
        from throughtime.flow.stored import from_json

        return from_json(text)

    def explain(self) -> str:
        """The verdict, in sentences with numbers; see `throughtime.flow.explain`."""
        from throughtime.flow.explain import explain

        return explain(self)

    def plot(self, path: str | None = None) -> object:
        """A matplotlib figure (extra `plot`), written to `path` (PNG, SVG, PDF by its suffix) if one is given."""
        from throughtime.flow.plot import plot

        return plot(self, path)

    def html(self, path: str) -> None:
        """A report in one file that needs no network; written whole or not at all."""
        from throughtime.flow.report import write_report

        write_report(self, path)
