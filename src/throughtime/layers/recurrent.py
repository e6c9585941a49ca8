"""Any cell over time (`scan`), and as a layer: stacked, in both directions, with dropout and lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.bptt.carry import ACTIVE, Carry
from throughtime.cells.contract import Cell, State
from throughtime.kernels.dispatch import active_transform
from throughtime.kernels.reference import Steppable, rebuild, unroll
from throughtime.kernels.stack import reorder, run_stack
from throughtime.layers.checks import (
    CheckedCell,
    check_arguments,
    check_cell,
    check_cell_state,
    check_maker,
    make_cell,
)
from throughtime.layers.sequence import check_lengths, unpack
from throughtime.layers.trace import Trace, Tracer, Visit


class Recurrent(nn.Module):
    """A layer over any cell.

        tt.Recurrent(tt.MinGRUCell(28, 64))         # one layer, one direction
        tt.Recurrent(partial(tt.MinGRUCell, hidden_size=64), 28, num_layers=2, bidirectional=True)

    Args:
        cell: a cell, or a function that makes one from its number of input features; stacking and two directions need the
            function, because every layer and direction has its own weights.
        input_size: features of the input; needed with a function.
        num_layers, bidirectional, dropout, batch_first: as in torch.nn.

    Call: `layer(input, hx=None, *, lengths=None) -> (outputs, states)`, one state for each layer and direction.
    Runs on the reference backend.
    """

    def __init__(
        self,
        cell: Cell | Callable[[int], Cell],
        input_size: int | None = None,
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        batch_first: bool = False,
    ) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        if isinstance(cell, Cell):
            if num_layers != 1 or bidirectional:
                raise ValueError(
                    f"{num_layers} layers in {directions} direction(s) need {num_layers * directions} cells with their "
                    f"own weights, got one {type(cell).__name__}: give a function that makes one from its input size"
                )
            input_size = cell.input_size
        else:
            check_maker(cell)
        if input_size is None:
            raise ValueError("input_size is needed to make the first cell: Recurrent(make_cell, input_size)")
        check_arguments(input_size, num_layers, True, batch_first, dropout, stacklevel=3)
        if num_layers < 1:
            raise ValueError("num_layers must be greater than zero")
        cells: list[Cell] = []
        features = input_size
        for _ in range(num_layers):
            layer = [cell if isinstance(cell, Cell) else make_cell(cell, features) for _ in range(directions)]
            cells += layer
            # Not hidden_size: an LSTM with a projection gives proj_size features.
            state = layer[0].initial_state(0)
            check_cell_state(state, 0, f"initial_state of {type(layer[0]).__name__}")
            features = state[0].shape[-1] * directions
        self.cells = nn.ModuleList(cells)
        self.input_size = input_size
        self.hidden_size = cells[-1].hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = float(dropout)
        self.batch_first = batch_first

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Sequence[State] | None = None,
        *,
        lengths: Tensor | None = None,
    ) -> tuple[Any, tuple[State, ...]]:
        """Run the layers; `lengths` [B] as in `throughtime.LSTM`."""
        carry = None if torch.compiler.is_compiling() else ACTIVE.get()
        output, states, _ = self._run(input, hx, lengths, traced=False, carry=carry)
        if carry is not None:
            carry.leave(self, output, states)
        return output, states

    def trace(
        self,
        input: Tensor | PackedSequence,
        hx: Sequence[State] | None = None,
        *,
        lengths: Tensor | None = None,
        visit: Visit | None = None,
    ) -> Trace:
        """Run as `forward` does and return every step's states and the cell's `gates`, by name; `visit` as in `tt.LSTM`."""
        return Trace(*self._run(input, hx, lengths, traced=True, visit=visit))

    def _run(
        self,
        input: Tensor | PackedSequence,
        hx: Sequence[State] | None,
        lengths: Tensor | None,
        traced: bool,
        carry: Carry | None = None,
        visit: Visit | None = None,
    ) -> tuple[Any, tuple[State, ...], dict[str, dict[str, Tensor]]]:
        dtype = next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.get_default_dtype())
        batch = unpack("Recurrent", input, lengths, self.input_size, dtype, self.batch_first)
        x = batch.x
        tracer = Tracer(batch, visit) if traced else None
        scale = None
        if carry is not None:
            able = not (self.bidirectional or active_transform())
            scale = carry.enter(self, input, hx, len(x), able=able)
        if hx is None:
            states = [
                self._cell(n).initial_state(x.shape[1], device=x.device, dtype=x.dtype)
                for n in range(len(self.cells))
            ]
        else:
            if len(hx) != len(self.cells):
                raise ValueError(
                    f"hx must have one state for each of {len(self.cells)} layers and directions, got {len(hx)}"
                )
            for n, state in enumerate(hx):
                check_cell_state(state, x.shape[1] if batch.batched else None, f"hx[{n}]")
            rows = [s if batch.batched else rebuild(s, [v.unsqueeze(0) for v in s]) for s in hx]
            states = [reorder(s, batch.order) for s in rows]

        def run(number: int, cell: Steppable, x: Tensor, state: State, reverse: bool) -> tuple[Tensor, State]:
            observe = None if tracer is None else tracer.watch(number, self.cells[number])
            return unroll(
                cell, x, state, lengths=batch.lengths, reverse=reverse, observe=observe, carry_scale=scale
            )

        cells = [CheckedCell(self._cell(n)) for n in range(len(self.cells))]
        y, finals = run_stack(
            cells,
            x,
            states,
            run,
            bidirectional=self.bidirectional,
            dropout=self.dropout,
            training=self.training,
        )
        finals = [reorder(s, batch.restore) for s in finals]
        if not batch.batched:
            finals = [rebuild(s, [v.squeeze(0) for v in s]) for s in finals]
        directions = 2 if self.bidirectional else 1
        steps = {} if tracer is None else {
            f"l{n // directions}" + "_reverse" * (n % directions): kept for n, kept in tracer.steps.items()
        }  # fmt: skip
        return batch.output(y), tuple(finals), steps

    def _cell(self, number: int) -> Cell:
        cell = self.cells[number]
        assert isinstance(cell, Cell)
        return cell

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        defaults: dict[str, Any] = {
            "num_layers": 1,
            "bidirectional": False,
            "dropout": 0.0,
            "batch_first": False,
        }
        return ", ".join(f"{k}={getattr(self, k)}" for k, v in defaults.items() if getattr(self, k) != v)


def scan(
    cell: Cell, x: Tensor, state: State | None = None, *, lengths: Tensor | None = None, reverse: bool = False
) -> tuple[Tensor, State]:
    """Run a cell over a sequence.

    Args:
        cell: any `Cell`, also a custom one.
        x: [T, B, D], time first.
        state: the state before the first step; the cell's own initial state by default.
        lengths: [B] real steps of each row; padding is never read and may be NaN.
        reverse: from each row's last real step back to its first.

    Returns: outputs [T, B, H] (the state's first tensor at each step; zero in the padding), and the state after the last
    real step.
    Raises: TypeError for anything but a cell, ValueError for an input, a state or lengths that do not fit, InputError for a
        `project` or `step` that does not return what the loop needs or changes the state in place.
    Cost: T steps of the cell; activations of all steps while a gradient is wanted.
    """
    check_cell(cell)
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor [T, B, ...], got {type(x).__name__}")
    if x.dim() < 2 or x.shape[0] == 0:
        raise ValueError(f"x must be [T, B, ...] with at least one step, got {list(x.shape)}")
    if lengths is not None:
        lengths = check_lengths(lengths, x.shape[0], x.shape[1], x.device)
    if state is not None:
        check_cell_state(state, x.shape[1])
    else:
        state = cell.initial_state(
            x.shape[1], device=x.device, dtype=x.dtype if x.is_floating_point() else None
        )
        check_cell_state(state, x.shape[1], f"initial_state of {type(cell).__name__}")
    return unroll(CheckedCell(cell), x, state, lengths=lengths, reverse=reverse)
