"""Backpropagation through time: full, truncated, randomized or checkpointed.

A strategy is a frozen value with one method that does work, `strategy.backward(run, loss, inputs, targets,
state)`. It takes the place of `loss.backward()` in any training loop, with any module that maps
`(inputs, state)` to `(outputs, state)`.
"""

from throughtime.bptt.checkpointed import Checkpointed
from throughtime.bptt.closed_form import LinearGradients, TanhGradients, linear_gradients, tanh_gradients
from throughtime.bptt.inputs import check_module
from throughtime.bptt.parse import parse
from throughtime.bptt.randomized import Randomized
from throughtime.bptt.strategy import Backward, Full, Strategy
from throughtime.bptt.truncated import RandomWindow, Truncated
from throughtime.bptt.windows import detach
from throughtime.data.batch import count_targets

__all__ = [
    "Backward",
    "Checkpointed",
    "Full",
    "LinearGradients",
    "RandomWindow",
    "Randomized",
    "Strategy",
    "TanhGradients",
    "Truncated",
    "check_module",
    "count_targets",
    "detach",
    "linear_gradients",
    "parse",
    "tanh_gradients",
]
