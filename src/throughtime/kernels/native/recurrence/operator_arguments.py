"""The arguments of the operators of `operators.py`: checked, converted for `compute`, and the shapes of the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.errors import BackendError, one_of
from throughtime.kernels.native.library import ACTIVATIONS, LAYOUTS, Library, load
from throughtime.kernels.native.recurrence.call import (
    WEIGHTS,
    CallTensors,
    Plan,
    Saved,
    check,
    pack_zoneout,
)
from throughtime.kernels.native.recurrence.rows import Rows, rows_of
from throughtime.kernels.reference import Zoneout


class Arguments(NamedTuple):
    """One direction of one layer; sequences in the caller's order, any values in the padding."""

    x: Tensor  # [T, B, D]
    h0: Tensor  # [B, P]
    c0: Tensor | None  # [B, H] of an LSTM
    weights: Sequence[Tensor | None]  # in the order of WEIGHTS
    lengths: Tensor | None  # int64 [B]
    keep: Sequence[
        Tensor | None
    ]  # zoneout's masks, bool [T, B, .], one for each tensor of the state, or empty
    rates: Sequence[float]  # zoneout's, one for each tensor of the state, or empty
    kind: str
    nonlinearity: str
    reverse: bool

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """Those that may have a gradient, in the order of `CallTensors`."""
        return (self.x, self.h0, self.c0, *self.weights)

    def with_input(self, x: Tensor) -> CallTensors:
        """The tensors for `compute`, with this input in the place of x."""
        return CallTensors(x, self.h0, self.c0, *self.weights)  # type: ignore[arg-type]

    @property
    def zoneout(self) -> Zoneout | None:
        """Zoneout as the reference takes it."""
        if not self.rates:
            return None
        masks = tuple(self.keep) if any(mask is not None for mask in self.keep) else None
        return Zoneout(tuple(self.rates), masks)

    def weight(self, name: str) -> Tensor | None:
        """A weight by its name."""
        return self.weights[WEIGHTS.index(name)]

    @property
    def sizes(self) -> tuple[int, int]:
        """H and P."""
        weight_hh = self.weights[WEIGHTS.index("weight_hh")]
        assert weight_hh is not None
        return weight_hh.shape[0] // LAYOUTS[self.kind].gates, weight_hh.shape[1]


def prepare(a: Arguments, training: bool) -> tuple[Plan, CallTensors]:
    """The call for `compute`: rows packed, sequences from long to short.

    Raises: BackendError without the library; RuntimeError, ValueError for tensors that do not belong together.
    """
    library = load()
    if not isinstance(library, Library):
        raise BackendError(f"an operator of throughtime needs the native backend: {library}")
    check_arguments(a)
    rows = rows_of(a.x, a.lengths)
    tensors = a.with_input(rows.pack(a.x))
    if rows.order is not None:
        of_sequences = {name: getattr(tensors, name) for name in ("h0", "c0", "h_mask")}
        ordered = {k: v.index_select(0, rows.order) for k, v in of_sequences.items() if v is not None}
        tensors = tensors._replace(**ordered)
    zoneout = pack_zoneout(a.zoneout, rows)
    return Plan(library, a.kind, a.nonlinearity, rows, a.reverse, training, zoneout=zoneout), tensors


def check_arguments(a: Arguments) -> None:
    """Anybody can call an operator, and the kernel trusts its pointers: shapes, dtypes, lengths."""
    one_of("kind", a.kind, tuple(LAYOUTS))
    one_of("nonlinearity", a.nonlinearity, tuple(ACTIVATIONS))
    if len(a.weights) != len(WEIGHTS):
        raise RuntimeError(f"weights must be {len(WEIGHTS)}, {', '.join(WEIGHTS)}, got {len(a.weights)}")
    if a.x.dim() != 3 or a.x.shape[0] == 0:
        raise RuntimeError(f"x must be [T, B, D] with at least one step, got {list(a.x.shape)}")
    if a.x.dtype not in (torch.float32, torch.float64):
        raise RuntimeError(f"x must be float32 or float64, got {a.x.dtype}: convert it with .to()")
    if (a.c0 is not None) != (a.kind == "lstm"):
        raise RuntimeError("c0 must be given for an lstm, and only there")
    (steps, batch, _), (hidden, columns) = a.x.shape, a.sizes
    check(a.with_input(a.x), a.kind, batch)
    if len(a.rates) not in (0, 1 + (a.kind == "lstm")):
        raise RuntimeError(f"rates must be one for each tensor of the state, or none, got {len(a.rates)}")
    for mask, size in zip(a.keep, (columns, hidden), strict=False):
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (steps, batch, size)):
            raise RuntimeError(
                f"a mask of zoneout must be bool {[steps, batch, size]}, got {mask.dtype} {list(mask.shape)}"
            )
    if a.lengths is not None:
        _check_lengths(a.lengths, steps, batch)


def check_backward(
    a: Arguments, kept: Sequence[Tensor], gradients: Sequence[Tensor | None], needs: Sequence[bool]
) -> None:
    """The further arguments of backward, for the same reason."""
    if len(needs) != len(a.tensors):
        raise RuntimeError(f"needs must be {len(a.tensors)}, one for each tensor, got {len(needs)}")
    results = zip(("dy", "dh", "dc"), gradients, empty_results(a), strict=True)
    pairs = [(name, value, like) for name, value, like in results if value is not None]
    wanted = empty_saved(a)
    if len(kept) != len(wanted):
        raise RuntimeError(f"kept must be {len(wanted)} tensors, got {len(kept)}")
    pairs += [(f"kept[{i}]", value, like) for i, (value, like) in enumerate(zip(kept, wanted, strict=True))]
    for name, value, like in pairs:
        if value.shape != like.shape or value.dtype != like.dtype or not value.is_cpu:
            raise RuntimeError(
                f"{name} must be {like.dtype} {list(like.shape)} on the CPU, got {value.dtype} {list(value.shape)} on "
                f"{value.device}"
            )


def _check_lengths(lengths: Tensor, steps: int, batch: int) -> None:
    if lengths.dtype != torch.int64 or lengths.shape != (batch,) or not lengths.is_cpu:
        raise RuntimeError(
            f"lengths must be int64 [{batch}] on the CPU, got {lengths.dtype} {list(lengths.shape)} on {lengths.device}"
        )
    if batch and (int(lengths.min()) < 0 or int(lengths.max()) > steps):
        raise ValueError(
            f"lengths must lie between 0 and the {steps} steps of the input, got {int(lengths.min())} to "
            f"{int(lengths.max())}: count steps, and pad the input to the longest"
        )


def empty_results(a: Arguments) -> list[Tensor]:
    """y, h_T and c_T without values; c_T has no elements but for an LSTM."""
    (steps, batch, _), (hidden, columns) = a.x.shape, a.sizes
    c = a.x.new_empty(0) if a.c0 is None else a.x.new_empty(batch, hidden)
    return [a.x.new_empty(steps, batch, columns), a.x.new_empty(batch, columns), c]


def empty_saved(a: Arguments) -> list[Tensor]:
    """What backward needs, without values: gates, buffer, and an LSTM's cell states, for T*B rows whatever the lengths."""
    library = load()
    assert isinstance(library, Library)  # dispatch has asked
    (steps, batch, _), (hidden, columns) = a.x.shape, a.sizes
    wide, rows = a.x.dtype == torch.float64, steps * batch
    size, width = library.pad(hidden, wide), library.pad(columns, wide)
    projected, normed = (a.weight(name) is not None for name in ("weight_hr", "gain_hh"))
    gates = a.x.new_empty(rows, LAYOUTS[a.kind].row(size, projected, normed))
    buffer = a.x.new_empty(rows + (batch if a.lengths is None else 0), width)
    return [gates, buffer] if a.c0 is None else [gates, buffer, a.x.new_empty(rows, size)]


def widen(saved: Saved, rows: Rows) -> list[Tensor]:
    """What backward needs, with rows for T*B steps: a graph must know the shape of every result before it runs."""
    every = [value for value in saved[:3] if value is not None]
    if rows.total == rows.steps * rows.batch:
        return every
    wide = [value.new_empty(rows.steps * rows.batch, value.shape[1]) for value in every]
    for whole, value in zip(wide, every, strict=True):
        whole[: rows.total] = value
    return wide


def narrow(kept: Sequence[Tensor], rows: Rows) -> Saved:
    """The inverse of `widen`."""
    gates, buffer, *cell_states = kept
    around = rows.batch if rows.source is None else 0
    c = cell_states[0][: rows.total] if cell_states else None
    return Saved(gates[: rows.total], buffer[: rows.total + around], c)
