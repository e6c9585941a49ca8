"""Unusual calls that the kernel, which trusts its pointers, must survive."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.kernels.native import library
from throughtime.kernels.native.recurrence.operator_arguments import Arguments, saved_row

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")
CELLS = [tt.RNN, tt.GRU, tt.LSTM]


def pair(cell, hidden=8, **options):
    """The same layer on native and on the reference."""
    torch.manual_seed(0)
    ours, exact = (cell(5, hidden, backend=name, **options) for name in ("native", "reference"))
    exact.load_state_dict(ours.state_dict())
    return ours, exact


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("bias_hh_l0", (0,)),
        ("bias_ih_l0", (1,)),
        ("bias_hh_l0", (32, 1)),
        ("weight_hh_l0", (32, 9)),
        ("weight_hh_l0", (64, 8)),
        ("weight_ih_l0", (32, 4)),
    ],
)
def test_a_parameter_of_another_shape_is_refused(name, shape):
    layer = tt.LSTM(5, 8, backend="native")
    setattr(layer, name, nn.Parameter(torch.randn(shape)))
    with pytest.raises(RuntimeError, match=r"must be of shape|must have|x must be"):
        layer(torch.randn(6, 3, 5))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("hidden", [8, 31, 32])
def test_an_infinite_input_does_not_come_back_as_no_number(cell, hidden):
    ours, exact = pair(cell, hidden)
    x = torch.randn(6, 1, 5)
    x[2, 0, 0] = torch.inf
    torch.testing.assert_close(ours(x)[0], exact(x)[0])
    if (
        cell is not tt.GRU
    ):  # which has h beside the products too, where an infinite one is no number in either form of its equation
        state = torch.zeros(1, 1, hidden)
        state[0, 0, 1] = torch.inf
        hx = (state, torch.zeros_like(state)) if cell is tt.LSTM else state
        torch.testing.assert_close(ours(x[:1], hx)[0], exact(x[:1], hx)[0])


@pytest.mark.parametrize("cell", CELLS)
def test_a_default_device_is_not_the_layers(cell):
    ours, _ = pair(cell)
    x, lengths = torch.randn(17, 3, 5), torch.tensor([17, 3, 0])
    state = torch.zeros(1, 3, 8)
    hx = (state, state) if cell is tt.LSTM else state
    with torch.device("meta"):
        inside = ours(x, hx)[0], ours(x, hx, lengths=lengths)[0]
    torch.testing.assert_close(inside, (ours(x, hx)[0], ours(x, hx, lengths=lengths)[0]))


def test_the_negative_bit_of_a_state_counts():
    ours, exact = pair(tt.GRU)
    x, h = torch.randn(6, 2, 5), torch._neg_view(torch.randn(1, 2, 8))
    torch.testing.assert_close(ours(x, h)[0], exact(x, h)[0])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lengths", [None, [7, 3, 0]])
def test_many_gradients_at_once_are_those_one_by_one(cell, lengths):
    torch.manual_seed(0)
    layer = cell(5, 8, dtype=torch.float64)
    x = torch.randn(7, 3, 5, dtype=torch.float64, requires_grad=True)
    lengths = None if lengths is None else torch.tensor(lengths)
    assert tt.backends(layer.call(x, lengths)).rows[1][:2] == ("native", True)
    y = layer(x, lengths=lengths)[0]
    directions, wanted = torch.randn(4, *y.shape, dtype=torch.float64), [x, *layer.parameters()]
    together = torch.autograd.grad(y, wanted, directions, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(y, wanted, one, retain_graph=True) for one in directions]
    for found, alone in zip(together, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(alone))


def test_backward_as_an_operator_checks_what_it_is_given():
    x, h, c = torch.randn(6, 3, 5), torch.zeros(3, 8), torch.zeros(3, 8)
    layer = tt.LSTM(5, 8)
    weights = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0] + [None] * 7
    call = (x, h, c, weights, None, [], [], "lstm", "tanh", False)
    operators = torch.ops.throughtime
    with torch.no_grad():
        _, _, _, *kept = operators.recurrence_kept(*call, saved_row(Arguments(*call)))
        dy, needs = torch.randn(6, 3, 8), [True] * 7 + [False] * 7
        assert len(operators.recurrence_backward(*call, kept, [dy, None, None], needs)) == 7
        for wrong_kept, gradients in (
            ([k[:0] for k in kept], [dy, None, None]),
            (kept, [dy[:, :, :1], None, None]),
            (kept, [dy.double(), None, None]),
            (kept, [dy, torch.randn(0), None]),
            (kept[:1], [dy, None, None]),
        ):
            with pytest.raises(RuntimeError, match="must be"):
                operators.recurrence_backward(*call, wrong_kept, gradients, needs)
