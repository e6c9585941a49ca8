"""A call of the native recurrence: its options, its tensors, their checks, and both as the C struct."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.kernels.native.library import ACTIVATIONS, LAYOUTS, Library, NativeCall, pad
from throughtime.kernels.native.recurrence.rows import Chunk, Rows, pool
from throughtime.kernels.reference import Zoneout

CHUNK_BYTES = 4 << 20  # of gates, without what layer norm keeps
CHUNK_ROWS = 2048  # at least so many rows: the products over a chunk pack all weights again


class Plan(NamedTuple):
    """The options of a call: everything that is not a tensor of `CallTensors`."""

    library: Library
    kind: str  # one of LAYOUTS
    nonlinearity: str  # of the RNN
    rows: Rows
    reverse: bool
    training: bool
    cell_states: bool = False  # return an LSTM's c of every step
    zoneout: Zoneout | None = None  # masks [N, H], packed; see `pack_zoneout`
    bf16: int = 0  # float32 calls: how the factors of products are rounded, a tt_bf16 of csrc/bf16.h


class CallTensors(NamedTuple):
    """The tensors of a call."""

    x: Tensor  # [N, D]
    h0: Tensor  # [B, H], or [B, P] with a projection
    c0: Tensor | None
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    weight_peephole: Tensor | None
    h_mask: Tensor | None
    weight_hr: Tensor | None = None
    gain_ih: Tensor | None = None  # these four for layer norm
    gain_hh: Tensor | None = None
    gain_c: Tensor | None = None
    bias_c: Tensor | None = None


WEIGHTS = CallTensors._fields[3:]
GAINS = CallTensors._fields[-4:]


class Saved(NamedTuple):
    """What forward saves for backward besides the tensors of the call."""

    gates: Tensor  # [N, ldg] activated
    buffer: Tensor  # outputs, padded; with a full batch the initial state lies before (reverse: after) them
    c: Tensor | None  # [N, H] cell state of every step


class Sizes(NamedTuple):
    """The hidden units and the columns of h (fewer with a projection) of a call; and both padded."""

    hidden: int
    columns: int
    size: int
    width: int


def kind_of(recurrence: Any) -> str:
    """The entry of LAYOUTS of a recurrence."""
    return str(recurrence.kind) + " reset before" * (getattr(recurrence, "reset_after", True) is False)


def low_dtype(x: Tensor) -> torch.dtype | None:
    """The low dtype of a call with these inputs (see `precision`), or None. Autocast does not apply to float64."""
    if x.dtype == torch.bfloat16:
        return torch.bfloat16
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        return torch.get_autocast_dtype("cpu")
    return None


def pack_zoneout(zoneout: Zoneout | None, rows: Rows) -> Zoneout | None:
    """Zoneout with its masks [T, B, H], sequences in the caller's order, packed to [N, H]."""
    if zoneout is None or zoneout.keep is None:
        return zoneout
    return Zoneout(zoneout.rates, tuple(None if mask is None else rows.pack(mask) for mask in zoneout.keep))


def check(tensors: CallTensors, kind: str, batch: int) -> None:
    """The kernel trusts its pointers: every tensor must be on the CPU, of x's dtype, and of its shape.

    Raises: RuntimeError naming the one that is not, or what of layer norm is missing.
    """
    dtype = tensors.x.dtype
    for name, value in zip(CallTensors._fields, tensors, strict=True):
        if value is not None and (value.dtype != dtype or not value.is_cpu):
            raise RuntimeError(
                f"{name} must be {dtype} on the CPU, as the input is, got {value.dtype} on {value.device}: "
                "convert it with .to()"
            )
    gains = (
        (tensors.gain_ih, tensors.gain_hh)
        if tensors.c0 is None
        else (tensors.gain_ih, tensors.gain_hh, tensors.gain_c)
    )
    if len({gain is None for gain in gains}) > 1:
        raise RuntimeError(
            "layer norm must have gain_ih, gain_hh and in an LSTM gain_c, got "
            f"{' and '.join(n for n in GAINS[:3] if getattr(tensors, n) is not None)} only: give all of them or none"
        )

    (rows, columns), features = tensors.weight_hh.shape, tensors.x.shape[-1]
    hidden = rows // LAYOUTS[kind].gates
    rows = LAYOUTS[kind].gates * hidden
    if columns != hidden and tensors.weight_hr is None:
        raise RuntimeError(f"weight_hh must have {hidden} columns, one for each unit, got {columns}")
    # In the order of CallTensors, after x.
    expected: tuple[tuple[int, ...], ...] = (
        (batch, columns), (batch, hidden), (rows, features), (rows, columns), (rows,), (rows,), (3 * hidden,),
        (batch, columns), (columns, hidden), (rows,), (rows,), (hidden,), (hidden,),
    )  # fmt: skip
    for name, value, shape in zip(CallTensors._fields[1:], tensors[1:], expected, strict=True):
        if value is not None and value.shape != shape:
            raise RuntimeError(f"{name} must be of shape {list(shape)}, got {list(value.shape)}")


def sizes_of(plan: Plan, tensors: CallTensors) -> Sizes:
    """The sizes of a call."""
    rows, columns = tensors.weight_hh.shape
    hidden, wide = rows // LAYOUTS[plan.kind].gates, tensors.x.dtype == torch.float64
    return Sizes(hidden, columns, plan.library.pad(hidden, wide), plan.library.pad(columns, wide))


def chunks_of(plan: Plan, tensors: CallTensors, size: int) -> list[Chunk]:
    """The chunks of a call: of as many rows with layer norm as without, or the products would have too few."""
    row = LAYOUTS[plan.kind].row(size, tensors.weight_hr is not None, False)
    return plan.rows.chunks(max(CHUNK_BYTES // (row * tensors.x.itemsize), CHUNK_ROWS), plan.reverse)


def native_call(plan: Plan, tensors: CallTensors, sizes: Sizes, ldg: int) -> tuple[NativeCall, list[Any]]:
    """What forward and backward have in common, and the tensors that must live as long."""
    rows = plan.rows
    call = NativeCall(
        cell=LAYOUTS[plan.kind].cell,
        activation=ACTIVATIONS[plan.nonlinearity],
        reset_before=plan.kind == "gru reset before",
        steps=rows.steps,
        batch=rows.batch,
        units=sizes.hidden,
        columns=sizes.columns,
        hidden=sizes.size,
        width=sizes.width,
        reverse=plan.reverse,
        training=plan.training or plan.cell_states,
        threads=torch.get_num_threads(),
        ldg=ldg,
        bf16=plan.bf16,
        offsets=rows.offsets.data_ptr(),
    )
    alive = [
        set_pointer(call, "weight_hh", tensors.weight_hh),
        set_pointer(call, "weight_hr", tensors.weight_hr),
        set_pointer(call, "peephole", tensors.weight_peephole),
        set_pointer(call, "h_mask", tensors.h_mask),
        set_pointer(call, "h0", tensors.h0),
        set_pointer(call, "c0", tensors.c0),
    ]
    if tensors.gain_hh is not None:
        alive += [set_pointer(call, name, getattr(tensors, name)) for name in GAINS]
    if plan.zoneout is not None:
        call.zoneout = 1
        rates, masks = plan.zoneout.rates, plan.zoneout.keep or (None, None)
        for name, rate, mask, padded in zip("hc", rates, masks, (sizes.width, sizes.size), strict=False):
            setattr(call, f"share_{name}", rate)
            mask = None if mask is None else mask.view(torch.uint8)
            alive.append(set_pointer(call, f"keep_{name}", mask, padded))
    return call, alive


def set_pointer(
    call: NativeCall, name: str, value: Tensor | None, padded: int | None = None
) -> Tensor | None:
    """Set a field to the address of the contiguous tensor, with its rows padded to that size; returns that tensor."""
    if value is None:
        return None
    value = value.resolve_neg()  # a flag of the tensor that its memory does not show
    value = value.contiguous() if padded is None else pad(value, padded)
    setattr(call, name, value.data_ptr())
    return value


def packed_weights(plan: Plan, call: NativeCall, x: Tensor, back: bool) -> Tensor:
    """Memory for the packed weights that the chunks of a call share."""
    packed = pool.empty(plan.library.packed(call, x.dtype, back), dtype=x.dtype)
    call.packed = packed.data_ptr()
    return packed


def outputs_in(plan: Plan, buffer: Tensor) -> Tensor:
    """The rows of `Saved.buffer` that are outputs."""
    if plan.rows.source is not None:
        return buffer
    return buffer[: plan.rows.total] if plan.reverse else buffer[plan.rows.batch :]


def initial_state_in(plan: Plan, buffer: Tensor) -> Tensor:
    """The rows of `Saved.buffer` that hold the initial state of a full batch."""
    return buffer[plan.rows.total :] if plan.reverse else buffer[: plan.rows.batch]


def recurrent_inputs(plan: Plan, tensors: CallTensors, saved: Saved, sizes: Sizes) -> Tensor:
    """What W_hh was multiplied by at each row [N, P]: the previous state, times the mask of recurrent dropout."""
    rows = plan.rows
    if rows.source is not None:
        before = rows.before(saved.buffer, pad(tensors.h0, sizes.width), plan.reverse)
    else:
        before = saved.buffer[rows.batch :] if plan.reverse else saved.buffer[: rows.total]
    if tensors.h_mask is None:
        return before
    mask = pad(tensors.h_mask, sizes.width)
    if rows.source is None:
        return (before.view(rows.steps, rows.batch, sizes.width) * mask).view(rows.total, sizes.width)
    return before * mask.index_select(0, rows.sequences())


def present_of(tensors: Sequence[Tensor | None]) -> tuple[bool, ...]:
    """Which of the tensors there are: absent ones are not handed to autograd, which examines each argument at some cost."""
    return tuple(value is not None for value in tensors)


def restore_absent(present: Sequence[bool], values: Sequence[Any], absent: Any = None) -> tuple[Any, ...]:
    """The present tensors (or a value for each of them) in their places."""
    each = iter(values)
    return tuple(next(each) if there else absent for there in present)
