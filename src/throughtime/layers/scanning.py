"""Any cell over time."""

from __future__ import annotations

from torch import Tensor

from throughtime.cells.contract import Cell, State
from throughtime.kernels.reference import unroll
from throughtime.layers.checks import check_cell, check_cell_state, check_lengths


def scan(
    cell: Cell, x: Tensor, state: State | None = None, *, lengths: Tensor | None = None, reverse: bool = False
) -> tuple[Tensor, State]:
    """Run a cell over a sequence.

    Args:
        cell: any `Cell`, also one of your own.
        x: [T, B, D], time first.
        state: the state before the first step; the cell's own initial state by default.
        lengths: [B] real steps of each row; padding is never read and may be NaN.
        reverse: from each row's last real step back to its first.

    Returns: outputs [T, B, H] (the state's first tensor at each step; zero in the padding), and the state after the last
    real step.
    Raises: TypeError for what is no cell, ValueError for an input, a state or lengths that do not fit.
    Cost: T steps of the cell; activations of all steps while a gradient is wanted.
    """
    check_cell(cell)
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor [T, B, ...], got {type(x).__name__}")
    if x.dim() < 2 or x.shape[0] == 0:
        raise ValueError(f"x must be [T, B, ...] with at least one step, got {list(x.shape)}")
    if lengths is not None:
        lengths = check_lengths(lengths, x.shape[0], x.shape[1])
    if state is not None:
        check_cell_state(state, x.shape[1])
    else:
        state = cell.initial_state(
            x.shape[1], device=x.device, dtype=x.dtype if x.is_floating_point() else None
        )
        check_cell_state(state, x.shape[1], f"initial_state of {type(cell).__name__}")
    y, final = unroll(cell, x, state, lengths=lengths, reverse=reverse)
    check_cell_state(final, x.shape[1], f"what step of {type(cell).__name__} returns")
    return y, final
