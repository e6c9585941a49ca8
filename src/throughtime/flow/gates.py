"""What the gates do, how far the units are saturated, and the way of the memory past all weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.cells.indrnn import IndRNNCell
from throughtime.cells.mingru import MinGRUCell
from throughtime.cells.rnn import NONLINEARITIES
from throughtime.flow.capture import Recorded
from throughtime.flow.lag import sizes_of
from throughtime.flow.result import GateStatistics
from throughtime.kernels.reference import rebuild

SHOWN = 60  # steps of the first example that are kept for pictures: more symbols cannot be read
_ROWS = 4096  # steps times examples looked at in one go
_FLAT = 0.1  # a slope below this part of the most counts as saturated

# phi' from the activated value, and the most it can be.
_SLOPES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "tanh": (lambda y: 1 - y * y, 1.0),
    "sigmoid": (lambda y: y * (1 - y), 0.25),
    "relu": (lambda y: (y > 0).to(y.dtype), 1.0),
    "identity": (torch.ones_like, 1.0),
}


@torch.no_grad()
def gate_statistics(each: Recorded) -> dict[str, GateStatistics]:
    """Mean, spread and slope of every gate over all steps and examples.

    Where the function behind a value is not known, as in a cell of one's own, its slope is NaN.
    Cost: every step forward once more, many of them at once; memory T * H numbers for each gate.
    """
    sums: dict[str, _Sums] = {}
    for first, last in _pieces(each.steps, each.batch):
        for name, (value, phi) in _values(each, first, last).items():
            shaped = value.reshape(last - first, each.batch, -1)
            sums.setdefault(name, _Sums(phi)).add(shaped)
    return {name: each_sum.result(each.reverse) for name, each_sum in sums.items()}


class _Sums:
    """Sums over steps, taken piece by piece."""

    def __init__(self, phi: str | None) -> None:
        self._slope = None if phi is None else _SLOPES[phi]
        self._count = 0
        self._sums = [0.0] * 5
        self._over_time: list[Tensor] = []
        self._first: list[Tensor] = []

    def add(self, value: Tensor) -> None:
        slope = torch.full_like(value, math.nan) if self._slope is None else self._slope[0](value)
        most = math.nan if self._slope is None else self._slope[1]
        parts = (value, value.square(), slope, slope.square(), (slope < _FLAT * most).double())
        self._sums = [total + float(part.sum()) for total, part in zip(self._sums, parts, strict=True)]
        self._count += value.numel()
        self._over_time.append(value.mean(dim=1))
        self._first.append(value[:, 0].float())

    def result(self, reverse: bool) -> GateStatistics:
        mean, square, slope, slope_square, flat = (total / self._count for total in self._sums)
        over_time, first = (torch.cat(parts).float().cpu() for parts in (self._over_time, self._first))
        if reverse:
            over_time, first = over_time.flip(0), first.flip(0)
        return GateStatistics(
            mean=mean,
            spread=math.sqrt(max(0.0, square - mean**2)),
            slope_mean=slope,
            slope_spread=math.sqrt(max(0.0, slope_square - slope**2)) if slope == slope else math.nan,
            saturated=flat if self._slope is not None else math.nan,
            over_time=over_time,
            first=first[:SHOWN].clone(),
        )


@torch.no_grad()
def memory_path(
    each: Recorded, ends: Sequence[int], count: int, gradients: Sequence[Tensor]
) -> tuple[Tensor, Tensor] | None:
    """The way past all weights: prod_{j=0..k-1} d_{T-j}, where a state keeps d of itself in a step.

    d is f of an LSTM, z of a GRU, 1 - z of a minGRU; with zoneout r, r + (1 - r) d. None for a cell with no such way.

    Args: `ends` T in the layer's running order; `gradients` dL_T / dstate_T [B, H] of that part of the state at each of them.
    Returns: [K] the product's mean over units, examples and ends; [K] what is left of the gradient's norm if this is its only
    way, |dL_T/dstate_T * product| / |dL_T/dstate_T|, each the mean over examples and ends.
    """
    kept, norms = [], []
    for end, gradient in zip(ends, gradients, strict=True):
        product = each.x.new_ones(1, each.batch, gradient.shape[-1])
        share = _kept_share(each, end + 2 - count, end + 1)
        if share is None:
            return None
        product = torch.cat([product, share.flip(0).cumprod(0)])
        kept.append(product.mean((1, 2)))
        norms.append(torch.stack([sizes_of(gradient * factor) for factor in product]).mean(1))
    left = torch.stack(norms).mean(0)
    return torch.stack(kept).mean(0).cpu(), (left / left[0]).cpu()


def _kept_share(each: Recorded, first: int, last: int) -> Tensor | None:
    """[S, B, H] the share of itself that the state keeps in each step, on the straight way."""
    kind = _kind(each.recurrence)
    if kind not in ("lstm", "gru", "mingru"):
        return None
    if first == last:
        return each.x.new_ones(0, each.batch, each.states[0][-1].shape[-1])
    gates = _gates(each, first, last)
    share = {"lstm": lambda: gates["f"], "gru": lambda: gates["z"], "mingru": lambda: 1 - gates["z"]}[kind]()
    share = share.reshape(last - first, each.batch, -1)
    if each.zoneout is not None:
        rate = each.zoneout.rates[1 if kind == "lstm" else 0]
        share = rate + (1 - rate) * share
    return share


def _values(each: Recorded, first: int, last: int) -> dict[str, tuple[Tensor, str | None]]:
    """Activated values [S * B, H] by name, and the function that made them where it is known."""
    recurrence, kind = each.recurrence, _kind(each.recurrence)
    gates = _gates(each, first, last)
    if kind == "rnn":
        phi = recurrence.nonlinearity
        return {"h": (NONLINEARITIES[phi](gates["a"]), phi)}
    if kind == "indrnn":
        return {"h": (torch.relu(gates["a"]), "relu")}
    known: dict[str, str] = {"r": "sigmoid", "z": "sigmoid", "n": "tanh"} if kind == "gru" else {}
    if kind == "mingru":
        known = {"z": "sigmoid", "n": "identity"}
    if kind == "lstm":
        known = {"i": "sigmoid", "f": "sigmoid", "g": "tanh", "o": "sigmoid"}
    found: dict[str, tuple[Tensor, str | None]] = {name: (v, known.get(name)) for name, v in gates.items()}
    if kind == "lstm":
        # The memory as the equation makes it, before zoneout mixes the old one in.
        c = gates["f"] * _before(each, first, last)[1] + gates["i"] * gates["g"]
        if recurrence.gain_c is not None:
            c = F.layer_norm(c, c.shape[-1:], recurrence.gain_c, recurrence.bias_c)
        found["tanh(c)"] = (torch.tanh(c), "tanh")
    return found


def _gates(each: Recorded, first: int, last: int) -> dict[str, Tensor]:
    show: Callable[[State, Tensor], dict[str, Tensor]] | None = getattr(each.recurrence, "gates", None)
    if show is None:
        return {}
    u = each.project(each.x[first:last]).flatten(0, 1)
    found = show(_before(each, first, last), u)
    return {name: value.double() for name, value in found.items() if value.dim() > 1}


def _before(each: Recorded, first: int, last: int) -> State:
    """The states before steps `first` to `last` - 1, one under the other as if they were one batch."""
    columns = list(zip(*each.states[first:last], strict=True))
    return rebuild(each.states[first], [torch.cat(column).detach() for column in columns])


def _kind(recurrence: Any) -> str:
    if isinstance(recurrence, IndRNNCell):
        return "indrnn"
    if isinstance(recurrence, MinGRUCell):
        return "mingru"
    return str(getattr(recurrence, "kind", ""))


def _pieces(steps: int, batch: int) -> Iterator[tuple[int, int]]:
    size = max(1, _ROWS // batch)
    for first in range(0, steps, size):
        yield first, min(first + size, steps)
