"""How tensors of torch.nn's shapes are laid out for the native loop, and back.

H is padded to whole panels of the matrix product. What is padded is zero in the weights, biases and states, and no weight leads
out of it, so it stays harmless.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Layout(NamedTuple):
    """A cell's rows of gates: blocks of padded H columns."""

    cell: int  # tt_cell of csrc/call.h
    gates: int  # blocks of rows in weight_ih and weight_hh
    blocks: int  # blocks of columns in a row of gates
    inputs: slice  # the blocks that hold the input projection
    # dW_hh as products: the blocks of gradients, the gates of weight_hh they belong to, and whether the weights read the
    # first block of the gates (q) instead of h.
    recurrent: tuple[tuple[slice, slice, bool], ...]

    def row(self, size: int, projected: bool, normed: bool) -> int:
        """How many numbers a row of gates takes; layer norm keeps both normalised maps and their scales behind it."""
        # Past a power of two, whose multiples would fight for the same cache lines.
        return (self.blocks + projected + 2 * self.gates * normed) * size + 16


LAYOUTS = {
    "rnn": Layout(0, 1, 1, slice(0, 1), ((slice(0, 1), slice(0, 1), False),)),
    "gru": Layout(  # hn | r | z | n
        1, 3, 4, slice(1, 4), ((slice(1, 3), slice(0, 2), False), (slice(0, 1), slice(2, 3), False))
    ),
    "gru reset before": Layout(  # q | r | z | n, q = r * h
        1, 3, 4, slice(1, 4), ((slice(1, 3), slice(0, 2), False), (slice(3, 4), slice(2, 3), True))
    ),
    "lstm": Layout(2, 4, 4, slice(0, 4), ((slice(0, 4), slice(0, 4), False),)),
}


def kind_of(recurrence: Any) -> str:
    """The entry of LAYOUTS of a recurrence."""
    return str(recurrence.kind) + " reset before" * (getattr(recurrence, "reset_after", True) is False)


class Sizes(NamedTuple):
    """Of a call: the hidden units and the columns of h, which a projection makes fewer; and both padded."""

    hidden: int
    columns: int
    size: int
    width: int


def pad(value: Tensor, size: int) -> Tensor:
    """Zeros behind the last dimension, up to `size`; contiguous."""
    short = size - value.shape[-1]
    return value.contiguous() if short == 0 else F.pad(value, (0, short))


def cut(value: Tensor, hidden: int) -> Tensor:
    """The first `hidden` columns, contiguous."""
    return value if value.shape[-1] == hidden else value[..., :hidden].contiguous()
