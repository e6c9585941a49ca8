"""Full backpropagation through time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from throughtime.bptt.strategy import Backward, BackwardCall, Loss, Reduction, Run, Tally
from throughtime.bptt.tree import Tree, detach
from throughtime.bptt.windows import pull


@dataclass(frozen=True)
class Full:
    """Send the gradient back through all steps: exact.

        dL/dW = sum_t sum_{k<=t} dL_t/dh_t (prod_{j=t..k+1} dh_j/dh_{j-1}) d+h_k/dW

    Cost: one forward and one backward pass; keeps the activations of all T steps. Windows of an iterator are
    run one by one, but the graph and the inputs of all of them are kept, so they must fit in memory.
    Source: Werbos 1990, Proceedings of the IEEE 78(10).
    """

    def backward(
        self,
        run: Run,
        loss: Loss,
        inputs: Any,
        targets: Any = None,
        state: Tree = None,
        *,
        reduction: Reduction = "mean",
        count: int | None = None,
        backward: BackwardCall | None = None,
        generator: torch.Generator | None = None,
    ) -> Backward:
        """Run all of it, then go back once. See `Strategy.backward`; nothing is drawn from `generator`."""
        tally = Tally(loss, targets, reduction, count)
        shares = []
        for x, target in pull(inputs, targets):
            y, state = run(x, state)
            shares.append(tally.add(y, target))
        result = tally.result(detach(state), windows=1)
        (backward or Tensor.backward)(sum(shares[1:], start=shares[0]))
        return result

    def describe(self) -> str:
        """Say what it does."""
        return "full: the gradient travels through all steps"
