"""A short measurement of gradient flow, cheap enough to be taken while training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from throughtime.data.batch import Batch, masked, tensors, unmasked
from throughtime.errors import InputError
from throughtime.flow.explanation.table import half_life_words
from throughtime.flow.measurement.batch import first_rows, without_padding
from throughtime.flow.measurement.curves import End, gradients_by_lag, lag_curve, typical_length
from throughtime.flow.measurement.gates import gate_statistics
from throughtime.flow.measurement.model_copy import layers_of, measurable
from throughtime.flow.measurement.recording import record
from throughtime.flow.measurement.threads import recurrent_weights, threads_for
from throughtime.flow.result import LagCurve

EXAMPLES = 8  # of the batch, the first ones
STEPS = 128  # of the batch, the last ones; those before only produce their state
FRACTION = 0.01  # of the gradient at lag 0: it defines the reach


@dataclass(frozen=True)
class LayerSnapshot:
    """One layer in one direction."""

    half_life: (
        float  # steps in which |dL_T / dh_{T-k}| halves; < 0: doubles; inf: keeps its size; NaN: unknown
    )
    text: str  # the same in words: "3.2 steps", "doubles in 5", "keeps", "uneven", "gone at 2" or "unknown"
    r_squared: float  # of the fit
    reach: (
        int | None
    )  # lag from which less than `FRACTION` of the gradient is left; None: beyond the last lag
    lags: int  # the last lag
    half_life_c: float | None  # of |dL_T / dc_{T-k}|, where there is a cell state c
    slope: dict[str, float]  # mean phi' by gate; "h" of an RNN
    saturated: dict[str, float]  # fraction of phi' below a tenth of its maximum, by gate

    @property
    def rate(self) -> float:
        """Halvings per step; NaN where unknown."""
        return 1 / self.half_life if self.half_life else math.nan

    def record(self) -> dict[str, Any]:
        """As JSON, with null for numbers that are not finite."""
        found: dict[str, Any] = {
            "half_life": _finite(self.half_life),
            "text": self.text,
            "r_squared": _finite(self.r_squared),
            "reach": self.reach,
            "lags": self.lags,
        }
        if self.half_life_c is not None:
            found["half_life_c"] = _finite(self.half_life_c)
        found["slope"] = {name: _finite(value) for name, value in self.slope.items()}
        found["saturated"] = {name: _finite(value) for name, value in self.saturated.items()}
        return found


def snapshot(
    model: nn.Module, loss: Callable[[Any, Batch], Tensor], batch: Batch, state: Any
) -> dict[str, LayerSnapshot]:
    """Measure how the gradient of the loss of each row's last step decays over the lags of a batch.

    It is `throughtime.flow.measure` with one end and a few examples, without products and spectra: exact, in float64, on a copy
    in evaluation mode. No random number is drawn, and no parameter, gradient or mode of the model changes. Nothing is truncated:
    the result is how far the gradient would reach inside the batch, whatever the BPTT strategy.

    The loss is that of each row's own last step (the middle one where a layer runs backward); with targets per sequence it is the
    loss of the rows that end in this batch, and lag counts back from each row's own end. Rows without a target there do not
    count, and where there is no target at all everything is unknown. In a ragged batch the lags are as many as half of those rows
    have steps for, and the shorter rows are left out.

    Args:
        loss: `(outputs, batch) -> Tensor`, the sum over the unmasked targets.
        batch: time first, also a window of a longer one; pytrees of tensors are fine.
        state: before the batch; the model is called as `batch.run(model, state)`.

    Cost: two to three optimizer steps on a CPU at the sizes of the defaults; memory for the activations of 8 x 128 steps.
    Raises: InputError where there is nothing to measure: no recurrent layer, one that runs twice, or no targets.
    """
    copied = measurable(model)
    if batch.targets is None:
        raise InputError("the batch has no targets: the gradient of a single step's loss cannot be measured")
    few, state = first_rows(batch, state, EXAMPLES)
    few, state = _last_steps(copied, few, state)
    with torch.enable_grad(), threads_for(few.size, recurrent_weights(layers_of(copied).values())):
        (outputs, _), recorded = record(copied, lambda: few.run(copied, state))
        steps = few.steps
        timed = () if few.per_sequence else tensors((outputs, few.targets))
        if any(each.steps != steps for each in recorded) or any(leaf.shape[:1] != (steps,) for leaf in timed):
            raise InputError("layers, outputs and targets have different numbers of steps")
        lengths = few.lengths if few.lengths is not None else torch.full((few.size,), steps)
        both = any(each.reverse for each in recorded) and not few.per_sequence
        ends = (lengths - 1) // 2 if both else lengths - 1
        aim = few if few.per_sequence else _at(few, ends)
        rows = (lengths > 0) & _has_target(aim).cpu()
        room = torch.minimum(ends + 1, lengths - ends) if both else lengths
        count = typical_length(room[rows]) if bool(rows.any()) else int(room.max())
        end = End(steps - 1, ends, rows & (room >= count))
        curves: list[list[LagCurve]]
        if bool(rows.any()):
            total = loss(outputs if few.per_sequence else _at_steps(outputs, ends), aim).sum()
            found = gradients_by_lag(total, recorded, end, few.per_sequence, count)
            curves = [[lag_curve(sizes, FRACTION) for sizes, _ in parts] for parts in found]
        else:
            nothing = lag_curve(torch.zeros(max(1, count), 1, dtype=torch.float64), FRACTION)
            curves = [[nothing] * each.parts for each in recorded]
    layers = {}
    for each, own in zip(recorded, curves, strict=True):
        gates = gate_statistics(each)
        layers[each.name] = LayerSnapshot(
            half_life=own[0].half_life.steps,
            text=half_life_words(own[0]),
            r_squared=own[0].half_life.r_squared,
            reach=own[0].reach,
            lags=len(own[0].lags) - 1,
            half_life_c=own[1].half_life.steps if len(own) > 1 else None,
            slope={name: gate.slope_mean for name, gate in gates.items()},
            saturated={name: gate.saturated for name, gate in gates.items()},
        )
    return layers


@torch.no_grad()
def _last_steps(model: nn.Module, batch: Batch, state: Any) -> tuple[Batch, Any]:
    """The last steps, and the state before them; all of it where the model carries no state. Padding is zero."""
    if batch.lengths is not None:
        batch = without_padding(batch, batch.lengths)
    steps = batch.steps
    if steps <= STEPS:
        return batch, state
    _, reached = batch.window(0, steps - STEPS).run(model, state)
    if reached is None:
        return batch, state
    return batch.window(steps - STEPS, steps), reached


def _at(batch: Batch, ends: Tensor) -> Batch:
    """One step of each row as a batch of one step; rows without steps are masked."""
    one = batch._replace(
        inputs=_at_steps(batch.inputs, ends), targets=_at_steps(batch.targets, ends), lengths=None
    )
    return one._replace(targets=masked(one.targets, (ends >= 0)[None]))


def _at_steps(tree: Any, ends: Tensor) -> Any:
    """[T, B, ...] -> [1, B, ...], one step of each row."""

    def each(leaf: Tensor) -> Tensor:
        return leaf[ends.clamp(min=0).to(leaf.device), torch.arange(len(ends), device=leaf.device)][None]

    return tree_map_only(Tensor, each, tree)


def _has_target(batch: Batch) -> Tensor:
    """Rows, [B], with an unmasked target, of a batch of one step or with targets per sequence."""
    found = []
    for leaf in tree_leaves(batch.targets):
        counts = unmasked(leaf)
        counts = counts if batch.per_sequence else counts[0]
        found.append(counts.flatten(1).any(1) if counts.dim() > 1 else counts)
    return torch.stack(found).any(0)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
