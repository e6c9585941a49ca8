"""One direction of one layer on packed rows, with its gradient.

    forward:  one product for the input projection of all steps, then the native loop
    backward: the native loop back through time, then one product each for dx, dW_ih and dW_hh

A second derivative (create_graph=True) is computed by the reference from the same inputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.cells.recurrence import Recurrence
from throughtime.kernels.native.library import Library, load
from throughtime.kernels.native.rows import Rows
from throughtime.kernels.reference import unroll

CELLS = {"rnn": 0, "gru": 1, "lstm": 2}
ACTIVATIONS = {"tanh": 0, "relu": 1, "sigmoid": 2, "identity": 3}
TENSORS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole", "h_mask")


class Plan(NamedTuple):
    """What a call is, besides its tensors."""

    library: Library
    recurrence: Recurrence
    rows: Rows
    reverse: bool


class _Layout(NamedTuple):
    """How a cell's rows of gates are laid out: blocks of padded H columns."""

    blocks: int
    inputs: slice  # the blocks that hold the input projection
    hidden: slice  # the blocks whose gradient goes through weight_hh
    order: tuple[int, ...]  # the gate of weight_hh for each of those


_LAYOUTS = {
    "rnn": _Layout(1, slice(0, 1), slice(0, 1), (0,)),
    "gru": _Layout(4, slice(1, 4), slice(0, 3), (2, 0, 1)),  # hn | r | z | n
    "lstm": _Layout(4, slice(0, 4), slice(0, 4), (0, 1, 2, 3)),
}


class NativeRecurrence(torch.autograd.Function):
    """(plan, x [N, D], h0 [B, H], c0 or None, tensors in the order of TENSORS) -> y [N, H], h_T, c_T."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, x: Tensor, h0: Tensor, c0: Tensor | None, *tensors: Tensor | None
    ) -> Any:
        library, recurrence, rows, reverse = plan
        w_ih, w_hh, b_ih, b_hh, peephole, mask = tensors
        assert w_ih is not None
        assert w_hh is not None
        layout, lstm = _LAYOUTS[recurrence.kind], recurrence.kind == "lstm"
        gates_count, wide = recurrence.num_gates, x.dtype == torch.float64
        hidden = w_hh.shape[1]
        H = library.pad(hidden, wide)
        training = any(ctx.needs_input_grad)
        ldg = layout.blocks * H + 16
        gates = x.new_empty(rows.total, ldg)
        columns = gates[:, layout.inputs.start * H : layout.inputs.stop * H]
        torch.mm(x, _pad_rows(w_ih, gates_count, hidden, H).t(), out=columns)
        weights = _pad(_pad_rows(w_hh, gates_count, hidden, H), H)
        full = rows.source is None
        # With a full batch the initial state lies beside the outputs, so each step's recurrent input is a view.
        beside = rows.batch if full else 0
        buffer = x.new_empty(rows.total + beside, H)
        start = 0 if reverse else beside
        y = buffer[start : start + rows.total]
        h_start, c_start = _pad(h0, H), None if c0 is None else _pad(c0, H)
        if full:
            buffer[rows.total if reverse else 0 :][:beside].copy_(h_start)
        c = x.new_empty(rows.total, H) if lstm and training else None
        h_state = h_start.clone(memory_format=torch.contiguous_format)
        c_state = None if c_start is None else c_start.clone(memory_format=torch.contiguous_format)
        numbers = {
            "cell": CELLS[recurrence.kind],
            "activation": ACTIVATIONS[getattr(recurrence, "nonlinearity", "tanh")],
            "steps": rows.steps, "batch": rows.batch, "hidden": H, "reverse": int(reverse),
            "training": int(training), "threads": torch.get_num_threads(), "ldg": ldg,
        }  # fmt: skip
        common = {
            "offsets": rows.offsets, "weight_hh": weights, "peephole": _pad_blocks(peephole, 3, hidden, H),
            "h_mask": None if mask is None else _pad(mask, H), "gates": gates, "y": y, "c": c, "h0": h_start.contiguous(),
            "c0": None if c_start is None else c_start.contiguous(),
        }  # fmt: skip
        bias = _bias(recurrence.kind, b_ih, b_hh, hidden, H)
        library.run(
            "forward", wide, numbers, {**common, "bias": bias, "h_state": h_state, "c_state": c_state}
        )
        ctx.plan, ctx.numbers, ctx.sizes = plan, numbers, (hidden, H)
        if training:
            inside = (gates, buffer, c, weights, *(common[k] for k in ("peephole", "h_mask", "h0", "c0")))
            ctx.save_for_backward(x, h0, c0, *tensors, *inside)
        if hidden != H:
            y, h_state = y[:, :hidden].contiguous(), h_state[:, :hidden].contiguous()
            c_state = None if c_state is None else c_state[:, :hidden].contiguous()
        return y, h_state, c_state

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh: Tensor | None, dc: Tensor | None) -> Any:
        if torch.is_grad_enabled():
            return (None, *_twice_differentiable(ctx, dy, dh, dc))
        plan: Plan = ctx.plan
        library, recurrence, rows, reverse = plan
        x, h0, _, w_ih, _, b_ih, b_hh, peephole, _, *inside = ctx.saved_tensors
        gates, buffer, c, weights, peep, h_mask, h_start, c_start = inside
        needs = dict(zip(("x", "h0", "c0", *TENSORS), ctx.needs_input_grad[1:], strict=True))
        layout, (hidden, H) = _LAYOUTS[recurrence.kind], ctx.sizes
        gates_count, wide = recurrence.num_gates, x.dtype == torch.float64
        threads = ctx.numbers["threads"]
        start = 0 if reverse or rows.source is not None else rows.batch
        y = buffer[start : start + rows.total]
        dgates = _workspace(x, rows.total, ctx.numbers["ldg"])
        dh_state = _like_state(dh, h0, H)
        dc_state = None if c is None else _like_state(dc, h0.new_empty(rows.batch, hidden), H)
        dbias = x.new_empty(layout.blocks * H)
        dpeephole = None if peephole is None else x.new_empty(3 * H)
        library.run(
            "backward", wide, ctx.numbers,
            {
                "offsets": rows.offsets, "weight_hh": weights, "peephole": peep, "h_mask": h_mask, "gates": gates, "y": y, "c": c,
                "h0": h_start, "c0": c_start, "dy": None if dy is None else _pad(dy, H).contiguous(), "dgates": dgates,
                "dh_state": dh_state, "dc_state": dc_state, "dbias": dbias, "dpeephole": dpeephole,
            },
        )  # fmt: skip
        # The products of a vanishing gradient are denormal too, and would be slow in torch's threads.
        before = library.flush_denormals(threads, True)
        dx = dw_ih = dw_hh = None
        inputs = dgates[:, layout.inputs.start * H : layout.inputs.stop * H]
        if needs["x"]:
            dx = torch.mm(inputs, _pad_rows(w_ih, gates_count, hidden, H))
        if needs["weight_ih"]:
            dw_ih = _cut_rows(torch.mm(inputs.t(), x), gates_count, hidden, H)
        if needs["weight_hh"]:
            if rows.source is None:
                h_before = buffer[rows.batch :] if reverse else buffer[: rows.total]
            else:
                h_before = rows.before(y, h_start, reverse)
            if h_mask is not None:
                h_before = h_before * h_mask.index_select(0, rows.sequences())
            products = dgates[:, layout.hidden.start * H : layout.hidden.stop * H]
            dw = torch.mm(products.t(), h_before).view(gates_count, H, H)
            if layout.order != tuple(range(gates_count)):
                dw = torch.stack([dw[layout.order.index(gate)] for gate in range(gates_count)])
            dw_hh = dw[:, :hidden, :hidden].reshape(gates_count * hidden, hidden)
        if not before:
            library.flush_denormals(threads, False)
        blocks = dbias.view(layout.blocks, H)[:, :hidden]
        db_ih = blocks[layout.inputs].reshape(-1) if b_ih is not None else None
        db_hh = None
        if b_hh is not None:
            through = blocks[layout.hidden]
            db_hh = torch.cat([through[layout.order.index(gate)] for gate in range(gates_count)])
        dp = None if dpeephole is None else dpeephole.view(3, H)[:, :hidden].reshape(-1)
        return (
            None, dx, dh_state[:, :hidden], None if dc_state is None else dc_state[:, :hidden],
            dw_ih, dw_hh, db_ih, db_hh, dp, None,
        )  # fmt: skip


def run(
    recurrence: Recurrence, rows: Rows, x: Tensor, state: tuple[Tensor, ...], reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One direction of one layer on packed rows x [N, D]; `state` has its sequences in the order of the rows."""
    library = load()
    assert isinstance(library, Library)  # dispatch has asked
    tensors = [getattr(recurrence, name, None) for name in TENSORS]
    c0 = state[1] if len(state) > 1 else None
    plan = Plan(library, recurrence, rows, reverse)
    y, h, c = NativeRecurrence.apply(plan, x, state[0], c0, *tensors)  # type: ignore[no-untyped-call]
    return y, (h,) if c is None else (h, c)


def _twice_differentiable(
    ctx: Any, dy: Tensor | None, dh: Tensor | None, dc: Tensor | None
) -> list[Tensor | None]:
    """The same gradient with a graph of its own, through the reference."""
    plan: Plan = ctx.plan
    _, recurrence, rows, reverse = plan
    given = ctx.saved_tensors[:9]
    x, h0, c0, *tensors = given
    bound = type(recurrence).bind(
        dict(zip(TENSORS, tensors, strict=True)),
        **{
            name: getattr(recurrence, name)
            for name in ("nonlinearity", "reset_after")
            if hasattr(recurrence, name)
        },
    )
    state = (h0,) if c0 is None else (h0, c0)
    lengths = None
    if rows.source is not None:
        lengths = (rows.offsets.diff()[:, None] > torch.arange(rows.batch)).sum(0)
        real = torch.arange(rows.steps)[:, None] < lengths
        at = real.flatten().nonzero().squeeze(1)
        padded = x.new_zeros(rows.steps * rows.batch, x.shape[-1]).index_copy(0, at, x)
    else:
        padded = x
    y, final = unroll(bound, padded.view(rows.steps, rows.batch, -1), state, lengths=lengths, reverse=reverse)
    y = y.reshape(-1, y.shape[-1])
    outputs = [y if rows.source is None else y.index_select(0, at), *final]
    pairs = [(o, g) for o, g in zip(outputs, (dy, dh, dc), strict=False) if g is not None and o.requires_grad]
    wanted = [value for value, need in zip(given, ctx.needs_input_grad[1:], strict=True) if need]
    gradients = iter(
        torch.autograd.grad(
            [o for o, _ in pairs], wanted, [g for _, g in pairs], create_graph=True, allow_unused=True
        )
    )
    return [next(gradients) if need else None for need in ctx.needs_input_grad[1:]]


def _pad(value: Tensor, size: int) -> Tensor:
    """Zeros behind the last dimension, up to `size`."""
    return value if value.shape[-1] == size else F.pad(value, (0, size - value.shape[-1]))


def _pad_rows(weight: Tensor, gates: int, hidden: int, size: int) -> Tensor:
    """[gates*H, K] with each gate's rows padded to `size`."""
    if hidden == size:
        return weight.contiguous()
    return F.pad(weight.reshape(gates, hidden, -1), (0, 0, 0, size - hidden)).reshape(gates * size, -1)


def _cut_rows(weight: Tensor, gates: int, hidden: int, size: int) -> Tensor:
    return weight if hidden == size else weight.view(gates, size, -1)[:, :hidden].reshape(gates * hidden, -1)


def _pad_blocks(value: Tensor | None, blocks: int, hidden: int, size: int) -> Tensor | None:
    return None if value is None else _pad(value.reshape(blocks, hidden), size).reshape(-1).contiguous()


def _bias(kind: str, b_ih: Tensor | None, b_hh: Tensor | None, hidden: int, size: int) -> Tensor | None:
    """The biases of one row of gates."""
    if b_ih is None or b_hh is None:
        return None
    if kind == "gru":
        both = b_ih + b_hh
        both = torch.cat([b_hh[2 * hidden :], both[: 2 * hidden], b_ih[2 * hidden :]])
        return _pad_blocks(both, 4, hidden, size)
    return _pad_blocks(b_ih + b_hh, b_ih.numel() // hidden, hidden, size)


def _like_state(gradient: Tensor | None, state: Tensor, size: int) -> Tensor:
    """The final state's gradient, in memory that the kernel may write."""
    if gradient is None:
        return state.new_zeros(state.shape[0], size)
    padded = _pad(gradient, size)
    return padded.clone(memory_format=torch.contiguous_format) if padded is gradient else padded


_workspaces: dict[torch.dtype, Tensor] = {}


def _workspace(like: Tensor, rows: int, columns: int) -> Tensor:
    """Memory for one backward pass, kept for the next: fresh pages cost more than the arithmetic at long T."""
    kept = _workspaces.pop(like.dtype, None)
    if kept is None or kept.numel() < rows * columns:
        kept = like.new_empty(rows * columns)
    _workspaces[like.dtype] = kept
    return kept[: rows * columns].view(rows, columns)
