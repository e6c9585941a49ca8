"""Statistics of the gates and of saturation, the gradient along the cell state path, and the spectra of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.cells.indrnn import IndRNNCell
from throughtime.cells.mingru import MinGRUCell
from throughtime.cells.rnn import NONLINEARITIES
from throughtime.flow.measurement.curves import End, sizes_of
from throughtime.flow.measurement.recording import Recorded
from throughtime.flow.result import GateStatistics, Spectrum
from throughtime.kernels.reference import rebuild

SHOWN = 60  # steps of the first example that are kept for pictures: more symbols cannot be read
_ROWS = 4096  # steps times examples computed at once
_FLAT = 0.1  # a slope below this fraction of the largest counts as saturated

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
    size = max(1, _ROWS // each.batch)
    for first in range(0, each.steps, size):
        last = min(first + size, each.steps)
        active = each.x.new_ones(last - first, each.batch, dtype=torch.bool)
        if each.active is not None:
            active = each.active[first:last]
        for name, (value, phi) in _values(each, first, last).items():
            sums.setdefault(name, _Sums(phi)).add(value.reshape(last - first, each.batch, -1), active)
    return {name: total.result(each.reverse, int(each.lengths[0])) for name, total in sums.items()}


class _Sums:
    """Sums over steps, added chunk by chunk."""

    def __init__(self, phi: str | None) -> None:
        self._slope = None if phi is None else _SLOPES[phi]
        self._count = 0
        self._sums = [0.0] * 5
        self._over_time: list[Tensor] = []
        self._first: list[Tensor] = []

    def add(self, value: Tensor, active: Tensor) -> None:
        """Value [S, B, H], active [S, B]."""
        real = value[active]
        slope = torch.full_like(real, math.nan) if self._slope is None else self._slope[0](real)
        most = math.nan if self._slope is None else self._slope[1]
        parts = (real, real.square(), slope, slope.square(), (slope < _FLAT * most).double())
        self._sums = [total + float(part.sum()) for total, part in zip(self._sums, parts, strict=True)]
        self._count += real.numel()
        inside = value.masked_fill(~active[:, :, None], 0)
        self._over_time.append(inside.sum(dim=1) / active.sum(dim=1, keepdim=True).clamp(min=1))
        self._first.append(value[:, 0].float())

    def result(self, reverse: bool, length: int) -> GateStatistics:
        """Of a direction whose first example has `length` steps."""
        mean, square, slope, slope_square, flat = (total / self._count for total in self._sums)
        over_time, first = (torch.cat(parts).float().cpu() for parts in (self._over_time, self._first))
        if reverse:
            over_time, first = over_time.flip(0), first.flip(0)
        return GateStatistics(
            mean=mean,
            std=math.sqrt(max(0.0, square - mean**2)),
            slope_mean=slope,
            slope_std=math.sqrt(max(0.0, slope_square - slope**2)) if slope == slope else math.nan,
            saturated=flat if self._slope is not None else math.nan,
            over_time=over_time,
            first=first[: min(SHOWN, length)].clone(),
        )


@torch.no_grad()
def cell_path(
    each: Recorded, ends: Sequence[End], at_end: bool, count: int, gradients: Sequence[Tensor]
) -> tuple[Tensor, Tensor] | None:
    """The path past all weights: prod_{j=0..k-1} d_{T-j}, where a state keeps the fraction d of itself in a step.

    d is f of an LSTM, z of a GRU, 1 - z of a minGRU; with zoneout r, r + (1 - r) d. None for a cell without such a path.

    Args: gradients, dL_T / dstate_T [rows, H] of the path's own part of the state at each end.
    Returns: [K] the product's mean over units, rows and ends; [K] what is left of the gradient's norm if this is its only path,
    |dL_T/dstate_T * product| / |dL_T/dstate_T|, each the mean over rows and ends.
    """
    products, norms = [], []
    for end, gradient in zip(ends, gradients, strict=True):
        rows = torch.arange(len(end.rows))[end.rows]
        place = end.running(each, at_end)[rows]
        first = int(place.min()) + 2 - count
        kept = _kept(each, first, int(place.max()) + 1)
        if kept is None:
            return None
        index = (place - first)[None] - torch.arange(count - 1)[:, None]  # [K - 1, rows]
        product = torch.cat([torch.ones_like(gradient)[None], kept[index, rows].cumprod(0)])
        products.append(product.mean(2))
        norms.append(torch.stack([sizes_of(gradient * factor) for factor in product]))
    left = torch.cat(norms, 1).mean(1)
    return torch.cat(products, 1).mean(1).cpu(), (left / left[0]).cpu()


def _kept(each: Recorded, first: int, last: int) -> Tensor | None:
    """[S, B, H] the fraction of itself that the state keeps in each step."""
    kind = _kind(each.recurrence)
    if kind not in ("lstm", "gru", "mingru"):
        return None
    if first >= last:
        return each.x.new_ones(0, each.batch, each.states[0][-1].shape[-1])
    gates = _gates(each, first, last)
    kept = {"lstm": lambda: gates["f"], "gru": lambda: gates["z"], "mingru": lambda: 1 - gates["z"]}[kind]()
    kept = kept.reshape(last - first, each.batch, -1)
    if each.zoneout is not None:
        rate = each.zoneout.rates[1 if kind == "lstm" else 0]
        kept = rate + (1 - rate) * kept
    return kept


def _values(each: Recorded, first: int, last: int) -> dict[str, tuple[Tensor, str | None]]:
    """Activations [S * B, H] by name, and the function behind them where it is known."""
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
        # The cell state of the equation, before zoneout mixes the old one in.
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
    """The states before steps `first` to `last` - 1 as one batch of S * B rows."""
    columns = list(zip(*each.states[first:last], strict=True))
    return rebuild(each.states[first], [torch.cat(column).detach() for column in columns])


def _kind(recurrence: Any) -> str:
    if isinstance(recurrence, IndRNNCell):
        return "indrnn"
    if isinstance(recurrence, MinGRUCell):
        return "mingru"
    return str(getattr(recurrence, "kind", ""))


_BLOCKS = {"rnn": ("hh",), "gru": ("hr", "hz", "hn"), "lstm": ("hi", "hf", "hg", "ho")}


def spectra(recurrence: Any) -> dict[str, Spectrum]:
    """The spectrum of each recurrent block: "W_hh" of an RNN; "W_hr", "W_hz", "W_hn" of a GRU; "W_hi", ... of an LSTM.

    With a projection a block is taken from h to h, W_hr W_h., [P, P]. A layer
    norm's gains are not in it. Of another cell: a parameter named weight_hh, square blocks of it, or a vector as a diagonal.
    Cost: one eigenvalue and one singular value decomposition of [H, H] for each block.
    """
    weight = getattr(recurrence, "weight_hh", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        return {}
    weight = weight.detach().double()
    if weight.dim() == 1:
        values = weight.abs().sort(descending=True).values.cpu()
        return {"W_hh": Spectrum(float(values[0]), values)}
    projection = getattr(recurrence, "weight_hr", None)
    names = _BLOCKS.get(getattr(recurrence, "kind", ""), ())
    if isinstance(projection, Tensor):
        blocks = [projection.detach().double() @ block for block in weight.chunk(len(names))]
    elif weight.dim() == 2 and weight.shape[0] % weight.shape[1] == 0:
        blocks = list(torch.split(weight, weight.shape[1]))
        if not names:
            names = ("hh",) if len(blocks) == 1 else tuple(f"hh[{number}]" for number in range(len(blocks)))
    else:
        return {}
    return {f"W_{name}": _spectrum(block.cpu()) for name, block in zip(names, blocks, strict=True)}


def _spectrum(block: Tensor) -> Spectrum:
    if not bool(torch.isfinite(block).all()):
        return Spectrum(float("nan"), torch.full((block.shape[0],), float("nan"), dtype=torch.float64))
    radius = float(torch.linalg.eigvals(block).abs().max())
    return Spectrum(radius, torch.linalg.svdvals(block))
