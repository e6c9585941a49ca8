"""How tensors of torch.nn's shapes are laid out for the native loop, and back.

H is padded to whole panels of the matrix product. What is padded is zero in the weights, biases and states, and no weight leads
out of it, so it stays harmless.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Layout(NamedTuple):
    """A cell's rows of gates: blocks of padded H columns."""

    cell: int  # tt_cell of csrc/call.h
    gates: int  # blocks of rows in weight_ih and weight_hh
    blocks: int  # blocks of columns in a row of gates
    inputs: slice  # the blocks that hold the input projection
    hidden: slice  # the blocks whose gradient goes through weight_hh
    order: tuple[int, ...]  # for each gate of weight_hh, its place among those


LAYOUTS = {
    "rnn": Layout(0, 1, 1, slice(0, 1), slice(0, 1), (0,)),
    "gru": Layout(1, 3, 4, slice(1, 4), slice(0, 3), (1, 2, 0)),  # hn | r | z | n
    "gru reset before": Layout(1, 3, 4, slice(1, 4), slice(1, 4), (0, 1, 2)),  # q | r | z | n, q = r * h
    "lstm": Layout(2, 4, 4, slice(0, 4), slice(0, 4), (0, 1, 2, 3)),
}


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


def pad_rows(weight: Tensor, gates: int, hidden: int, size: int) -> Tensor:
    """[gates*H, K] with each gate's rows padded to `size`."""
    if hidden == size:
        return weight.contiguous()
    return F.pad(weight.reshape(gates, hidden, -1), (0, 0, 0, size - hidden)).reshape(gates * size, -1)


def cut_rows(weight: Tensor, gates: int, hidden: int, size: int) -> Tensor:
    """The way back from `pad_rows`."""
    return weight if hidden == size else weight.view(gates, size, -1)[:, :hidden].reshape(gates * hidden, -1)


def cut(value: Tensor, hidden: int) -> Tensor:
    """The first `hidden` columns, contiguous."""
    return value if value.shape[-1] == hidden else value[..., :hidden].contiguous()


def pad_blocks(value: Tensor, blocks: int, hidden: int, size: int) -> Tensor:
    """[blocks*H] with each block padded to `size`."""
    return value.contiguous() if hidden == size else pad(value.reshape(blocks, hidden), size).reshape(-1)


def gate_bias(kind: str, b_ih: Tensor | None, b_hh: Tensor | None, hidden: int, size: int) -> Tensor | None:
    """Both biases as one row of gates. A GRU's b_hn stays apart where it is inside the reset."""
    if b_ih is None or b_hh is None:
        return None
    both = b_ih + b_hh
    if kind == "gru":
        both = torch.cat([b_hh[2 * hidden :], both[: 2 * hidden], b_ih[2 * hidden :]])
    if kind == "gru reset before":
        both = F.pad(both, (hidden, 0))
    return pad_blocks(both, LAYOUTS[kind].blocks, hidden, size)


def bias_gradients(kind: str, row: Tensor, hidden: int, size: int) -> tuple[Tensor, Tensor]:
    """(db_ih, db_hh) from the sums of one row of gates."""
    layout = LAYOUTS[kind]
    blocks = row.view(layout.blocks, size)[:, :hidden]
    inputs = blocks[layout.inputs].reshape(-1)
    if kind != "gru":
        return inputs, inputs.clone()
    through = blocks[layout.hidden]
    return inputs, torch.cat([through[place] for place in layout.order])


def recurrent_gradient(kind: str, through: Tensor, before: Tensor, gates: Tensor, sizes: Sizes) -> Tensor:
    """dW_hh [gates*H, columns] from the gradients `through` it and its inputs: h before each step, or what its gates hold."""
    layout, (hidden, columns, size, _) = LAYOUTS[kind], sizes
    if kind == "gru":
        blocks = torch.mm(through.t(), before).view(layout.gates, size, size)
        return cut(torch.cat([blocks[place, :hidden] for place in layout.order]), columns)
    if kind == "gru reset before":  # the candidate's weights read q = r * h
        split = 2 * size
        gates_and_candidate = [
            torch.mm(through[:, :split].t(), before),
            torch.mm(through[:, split:].t(), gates[:, :size]),
        ]
        product = torch.cat(gates_and_candidate)
    else:
        product = torch.mm(through.t(), before)
    return cut(cut_rows(product, layout.gates, hidden, size), columns)
