"""Every step's states and gates, by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.kernels.reference import Observe
from throughtime.layers.sequence import PaddedBatch

Visit = Callable[[int, int, State], None]
"""Called with the number of the layer and direction, t, and the state after step t, whose tensors it may change in place."""


class Trace(NamedTuple):
    """What `forward` returns, and the states and gates of every step."""

    output: Any  # as forward's
    hx: Any  # as forward's
    # "l0", "l0_reverse", "l1", ... -> name of the state or gate -> [T, B, H]
    steps: dict[str, dict[str, Tensor]]


class Tracer:
    """Collects states and gates while the reference runs."""

    def __init__(self, batch: PaddedBatch, visit: Visit | None = None) -> None:
        self.num_steps = batch.x.shape[0]
        self.lengths = batch.lengths
        self.restore = batch.restore
        self._visit = visit
        self._kept: dict[int, dict[str, list[Tensor]]] = {}

    def watch(self, number: int, recurrence: Any) -> Observe:
        """The observer of one layer and direction."""
        kept: dict[str, list[Tensor]] = defaultdict(lambda: [torch.empty(0)] * self.num_steps)
        self._kept[number] = kept

        def observe(t: int, before: State, u: Tensor, after: State) -> None:
            if self._visit is not None:
                self._visit(number, t, after)
            names = getattr(after, "_fields", tuple(str(index) for index in range(len(after))))
            for name, value in (*zip(names, after, strict=True), *recurrence.gates(before, u).items()):
                kept[name][t] = value

        return observe

    @property
    def steps(self) -> dict[int, dict[str, Tensor]]:
        """Number of the layer and direction -> name -> [T, B, H], rows in the caller's order, zero in the padding."""
        return {
            number: {name: self._clear(torch.stack(values)) for name, values in kept.items()}
            for number, kept in self._kept.items()
        }

    def _clear(self, values: Tensor) -> Tensor:
        if self.lengths is not None:
            steps = torch.arange(self.num_steps, device=values.device)[:, None]
            padding = steps >= self.lengths.to(values.device)
            values = values.masked_fill(padding.reshape(padding.shape + (1,) * (values.dim() - 2)), 0)
        return values if self.restore is None else values.index_select(1, self.restore)
