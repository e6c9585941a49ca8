"""How the gradient travels back through time: full, truncated, randomised or checkpointed.

A strategy is a frozen value with one method that does work, `strategy.backward(run, loss, inputs, targets,
state)`. It takes the place of `loss.backward()` in anyone's training loop, with any module that maps
`(inputs, state)` to `(outputs, state)`.
"""

from .checkpointed import Checkpointed
from .closed_form import LinearGradients, TanhGradients, linear_gradients, tanh_gradients
from .full import Full
from .parse import parse
from .random_window import RandomWindow
from .randomized import Randomized
from .strategy import Backward, Strategy, count_targets
from .tree import detach
from .truncated import Truncated

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
