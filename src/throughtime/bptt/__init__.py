"""How the gradient travels back through time: full, truncated, randomised or checkpointed.

A strategy is a frozen value with one method that does work, `strategy.backward(run, loss, inputs, targets,
state)`. It takes the place of `loss.backward()` in anyone's training loop, with any module that maps
`(inputs, state)` to `(outputs, state)`.
"""

from throughtime.bptt.checkpointed import Checkpointed
from throughtime.bptt.closed_form import LinearGradients, TanhGradients, linear_gradients, tanh_gradients
from throughtime.bptt.full import Full
from throughtime.bptt.parse import parse
from throughtime.bptt.random_window import RandomWindow
from throughtime.bptt.randomized import Randomized
from throughtime.bptt.strategy import Backward, Strategy, count_targets
from throughtime.bptt.tree import detach
from throughtime.bptt.truncated import Truncated

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
    "count_targets",
    "detach",
    "linear_gradients",
    "parse",
    "tanh_gradients",
]
