"""A short look at how far the gradient reaches, cheap enough to be taken while training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from throughtime.errors import InputError
from throughtime.flow.capture import Recorded, record
from throughtime.flow.convert import measurable
from throughtime.flow.gates import gate_statistics
from throughtime.flow.lag import lag_curve, sizes_of
from throughtime.flow.result import LagCurve
from throughtime.flow.table import half_life_words

EXAMPLES = 8  # of the window, the first ones
STEPS = 128  # of the window, the last ones; what lies before them only makes their state
SHARE = 0.01  # of the gradient at lag 0: what still counts as reached


@dataclass(frozen=True)
class LayerLook:
    """One layer in one direction, over the lags that were looked at."""

    half_life: float  # steps in which |dL_T / dh_{T-k}| halves; < 0: doubles; inf: keeps; NaN: unknown
    says: str  # the same in words
    quality: float  # of the fit, the share of the variance it explains
    reach: int | None  # the lag from which less than `SHARE` of the gradient is left; None: beyond the last
    lags: int  # the last lag
    memory_half_life: float | None  # of |dL_T / dc_{T-k}|, where there is a memory c
    slope: dict[str, float]  # mean phi' by gate, "h" of an RNN
    saturated: dict[str, float]  # share of units whose phi' is below a tenth of the most, by gate

    @property
    def rate(self) -> float:
        """Halvings a step; NaN where unknown."""
        return 1 / self.half_life if self.half_life else math.nan

    def record(self) -> dict[str, Any]:
        """As JSON: a number that is none is null."""
        reach = {"reach": self.reach, "lags": self.lags}
        memory = {} if self.memory_half_life is None else {"memory_half_life": _finite(self.memory_half_life)}
        return {
            "half_life": _finite(self.half_life),
            "says": self.says,
            "quality": _finite(self.quality),
            **reach,
            **memory,
            "slope": {name: _finite(value) for name, value in self.slope.items()},
            "saturated": {name: _finite(value) for name, value in self.saturated.items()},
        }


def look(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], inputs: Any, targets: Any, state: Any
) -> dict[str, LayerLook]:
    """Measure, at the model as it is, how the gradient of one step's loss fades over the lags of a window.

    It is what `throughtime.flow.measure` measures, of one end and a few examples, without the products and the spectra: exact, in
    float64, on a copy in eval mode. No random number is drawn, and no parameter, gradient or mode of the model is touched. The
    end is the window's last step (its middle one where a layer runs backward), and nothing is cut on the way: it says how far the
    gradient would reach inside a window, whatever the BPTT strategy.

    Args: loss, the sum over some steps; inputs, targets [T, B, ...], pytrees, and the state before them.
    Cost: two to three steps of the optimiser on a CPU at the sizes of the defaults; memory for `EXAMPLES` x `STEPS` activations.
    Raises: InputError where the model has no recurrent layer, or runs it in a way that flow does not follow.
    """
    ours = measurable(model)
    inputs, targets, state = _few(inputs, targets, state)
    inputs, targets, state = _last(ours, inputs, targets, state)
    with torch.enable_grad():
        (outputs, _), recorded = record(ours, lambda: ours(inputs, state))
    steps = recorded[0].steps
    if any(each.steps != steps for each in recorded) or any(
        leaf.shape[:1] != (steps,) for leaf in tree_leaves((outputs, targets))
    ):
        raise InputError("layers, outputs and targets have different numbers of steps")
    both = any(each.reverse for each in recorded)
    end = (steps - 1) // 2 if both else steps - 1
    count = min(end + 1, steps - end) if both else steps
    one = tree_map(lambda leaf: leaf[end : end + 1], (outputs, targets))
    with torch.enable_grad():
        total = loss(*one).sum()
    curves = iter(_curves(total, recorded, end, count))
    found = {}
    for each in recorded:
        own = [next(curves) for _ in range(each.parts)]
        gates = gate_statistics(each)
        found[each.name] = LayerLook(
            half_life=own[0].half_life.steps,
            says=half_life_words(own[0]),
            quality=own[0].half_life.quality,
            reach=own[0].reach,
            lags=count - 1,
            memory_half_life=own[1].half_life.steps if len(own) > 1 else None,
            slope={name: gate.slope_mean for name, gate in gates.items()},
            saturated={name: gate.saturated for name, gate in gates.items()},
        )
    return found


def _few(inputs: Any, targets: Any, state: Any) -> tuple[Any, Any, Any]:
    """The first examples, floating tensors in float64. The batch is the second axis, of a state the last but one."""
    rows = {leaf.shape[1] for leaf in tree_leaves((inputs, targets)) if leaf.dim() > 1}
    if len(rows) != 1:
        raise InputError("the window's tensors are not all [T, B, ...] of one T and B")
    (batch,) = rows

    def fewer(leaf: Tensor, axis: int) -> Tensor:
        leaf = leaf.detach().double() if leaf.is_floating_point() else leaf
        if leaf.dim() < 2 or leaf.shape[axis] != batch:
            return leaf
        return leaf.narrow(axis, 0, min(EXAMPLES, batch))

    inputs, targets = tree_map_only(Tensor, lambda leaf: fewer(leaf, 1), (inputs, targets))
    return inputs, targets, tree_map_only(Tensor, lambda leaf: fewer(leaf, -2), state)


@torch.no_grad()
def _last(model: nn.Module, inputs: Any, targets: Any, state: Any) -> tuple[Any, Any, Any]:
    """The last steps, and the state before them; all of it where the model carries no state."""
    steps = len(tree_leaves(inputs)[0])
    if steps <= STEPS:
        return inputs, targets, state
    before, after = (
        tree_map(lambda leaf: leaf[: steps - STEPS], inputs),
        tree_map(lambda leaf: leaf[steps - STEPS :], inputs),
    )
    _, reached = model(before, state)
    if reached is None:
        return inputs, targets, state
    return after, tree_map(lambda leaf: leaf[steps - STEPS :], targets), reached


def _curves(loss: Tensor, recorded: list[Recorded], end: int, count: int) -> list[LagCurve]:
    """|dL_T / dstate_{T-k}| for each recording and part of its state; examples without a loss at T scale all lags alike."""
    leaves = [
        each.states[(each.steps - 1 - end if each.reverse else end) + 1 - lag][part]
        for each in recorded
        for part in range(each.parts)
        for lag in range(count)
    ]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    curves = []
    for first in range(0, len(leaves), count):
        stacked = torch.stack(gradients[first : first + count])  # [K, B, H]
        sizes = sizes_of(stacked.flatten(0, 1)).view(count, -1).cpu()
        curves.append(lag_curve(sizes, SHARE))
    return curves


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
