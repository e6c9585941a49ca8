"""The arguments of the operators of `operators.py`: checked, converted for `call`, and the shapes of the results."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.errors import BackendError, one_of
from throughtime.kernels.native.library import GATES, Library, load
from throughtime.kernels.native.recurrence.call import Extras
from throughtime.kernels.native.recurrence.rows import Rows, rows_of
from throughtime.kernels.native.recurrence.weights import KINDS, Weights, check_memory
from throughtime.kernels.reference import Zoneout
from throughtime.kernels.stack import Stack

# The order of the argument `weights`; h_mask [B, P] is the mask of recurrent dropout.
WEIGHTS = (
    "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole", "h_mask", "weight_hr", "gain_ih", "gain_hh", "gain_c",
    "bias_c",
)  # fmt: skip
H_MASK = WEIGHTS.index("h_mask")
TENSORS = ("x", "h0", "c0", *WEIGHTS)  # those that may have a gradient
NONLINEARITIES = ("tanh", "relu", "sigmoid", "identity")
CELLS = {"rnn": "rnn", "gru": "gru", "gru reset before": "gru", "lstm": "lstm"}


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
        """Those that may have a gradient, in the order of TENSORS."""
        return (self.x, self.h0, self.c0, *self.weights)

    @property
    def zoneout(self) -> Zoneout | None:
        """Zoneout as the reference takes it."""
        if not self.rates:
            return None
        masks = tuple(self.keep) if any(mask is not None for mask in self.keep) else None
        return Zoneout(tuple(self.rates), masks)

    @property
    def sizes(self) -> tuple[int, int]:
        """H and P."""
        weight_hh = self.weights[1]
        assert weight_hh is not None
        return weight_hh.shape[0] // GATES[CELLS[self.kind]], weight_hh.shape[1]


def prepare(a: Arguments) -> tuple[Weights, Rows, Extras, Tensor, Tensor, Tensor | None]:
    """The arguments of `call.forward`: rows packed, sequences from long to short.

    Raises: BackendError without the library; RuntimeError, ValueError for tensors that do not belong together.
    """
    library = load()
    if not isinstance(library, Library):
        raise BackendError(f"an operator of throughtime needs the native backend: {library}")
    check_arguments(a)
    rows = rows_of(a.x, a.lengths)
    weights = Weights(stack_of(a.kind, a.nonlinearity, a.weights), library)
    h_mask = a.weights[H_MASK]
    if rows.order is not None and h_mask is not None:
        h_mask = h_mask.index_select(0, rows.order)
    keep = [None if mask is None else rows.pack(mask) for mask in a.keep]
    masks = (h_mask, keep[0] if keep else None, keep[1] if len(keep) > 1 else None)
    present = any(mask is not None for mask in masks)
    extras = Extras((masks,) if present else None, tuple(a.rates), reverse=a.reverse)
    x, h0, c0 = rows.pack(a.x), a.h0, a.c0
    if rows.order is not None:
        h0, c0 = h0.index_select(0, rows.order), None if c0 is None else c0.index_select(0, rows.order)
    return (
        weights,
        rows,
        extras,
        x.resolve_neg().contiguous(),
        h0.resolve_neg().contiguous(),
        None if c0 is None else c0.resolve_neg().contiguous(),
    )


def stack_of(kind: str, nonlinearity: str, weights: Sequence[Tensor | None]) -> Stack:
    """One layer and direction over weights in the order of WEIGHTS, without its mask."""
    recurrence, state_type = KINDS[CELLS[kind]]
    options: dict[str, Any] = {"nonlinearity": nonlinearity, "reset_after": kind != "gru reset before"}
    named = {name: w for name, w in zip(WEIGHTS, weights, strict=True) if w is not None and name != "h_mask"}
    return Stack(recurrence, state_type, options, (named,), 1, False, 0.0, True)


def kind_of(recurrence: Any) -> str:
    """The entry of CELLS of a recurrence."""
    return str(recurrence.kind) + " reset before" * (getattr(recurrence, "reset_after", True) is False)


def check_arguments(a: Arguments) -> None:
    """Anybody can call an operator, and the library trusts its pointers: shapes, dtypes, lengths."""
    one_of("kind", a.kind, tuple(CELLS))
    one_of("nonlinearity", a.nonlinearity, NONLINEARITIES)
    if len(a.weights) != len(WEIGHTS):
        raise RuntimeError(f"weights must be {len(WEIGHTS)}, {', '.join(WEIGHTS)}, got {len(a.weights)}")
    if a.x.dim() != 3 or a.x.shape[0] == 0:
        raise RuntimeError(f"x must be [T, B, D] with at least one step, got {list(a.x.shape)}")
    if a.x.dtype not in (torch.float32, torch.float64):
        raise RuntimeError(f"x must be float32 or float64, got {a.x.dtype}: convert it with .to()")
    if (a.c0 is not None) != (a.kind == "lstm"):
        raise RuntimeError("c0 must be given for an lstm, and only there")
    if a.weights[0] is None or a.weights[1] is None or a.weights[1].dim() != 2:
        raise RuntimeError("weight_ih and weight_hh must be given, each of 2 dimensions")
    (steps, batch, features), (hidden, columns) = a.x.shape, a.sizes
    if a.weights[0].shape[-1] != features:
        raise RuntimeError(
            f"weight_ih must have {features} columns, as x has, got {list(a.weights[0].shape)}"
        )
    states = (("h0", a.h0, columns), ("c0", a.c0, hidden), ("h_mask", a.weights[H_MASK], columns))
    for name, value, size in states:
        if value is not None:
            check_memory(name, value, a.x.dtype)
            if value.shape != (batch, size):
                raise RuntimeError(f"{name} must be of shape {[batch, size]}, got {list(value.shape)}")
    check_memory("weight_hh", a.weights[1], a.x.dtype)
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
    wanted = empty_saved(a, saved_row(a))
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


def empty_saved(a: Arguments, columns: int) -> list[Tensor]:
    """What backward needs, without values: outputs and `saved` of `call.forward`, with T*B rows whatever the lengths."""
    (steps, batch, _), (_, outputs) = a.x.shape, a.sizes
    return [a.x.new_empty(steps * batch, outputs), a.x.new_empty(steps * batch, columns)]


def saved_row(a: Arguments) -> int:
    """The numbers that `saved` has for each row of the batch: another build or processor may need others."""
    library = load()
    assert isinstance(library, Library)  # dispatch has asked
    hidden, columns = a.sizes
    present = {
        name: 1
        for name, w in zip(WEIGHTS, a.weights, strict=True)
        if name in ("weight_hr", "gain_hh") and w is not None
    }
    weights = library.structs["weights"](
        inputs=int(a.x.shape[2]), units=int(hidden), columns=int(columns), **present
    )
    stack = library.structs["stack"](
        wide=a.x.dtype == torch.float64,
        cell=library.cells[CELLS[a.kind]],
        layers=1,
        directions=1,
        weights=ctypes.addressof(weights),
    )
    return int(library.handle.tt_saved_row(ctypes.byref(stack)))
