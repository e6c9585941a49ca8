"""The native operators of torch.library: what a traced graph sees."""

from __future__ import annotations

import pytest
import torch

from throughtime.cells.gru import GRURecurrence
from throughtime.cells.lstm import LSTMRecurrence
from throughtime.cells.rnn import RNNRecurrence
from throughtime.kernels.native import library, operators
from throughtime.kernels.reference import unroll

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")

KINDS = {
    "rnn": (RNNRecurrence, {"nonlinearity": "tanh"}),
    "gru": (GRURecurrence, {"reset_after": True}),
    "lstm": (LSTMRecurrence, {}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_operator_is_well_behaved_and_compiles_in_one_graph(kind):
    recurrence, options = KINDS[kind]
    leaf = lambda *shape: torch.randn(shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    weights = {name: leaf(*shape) for name, shape in recurrence.shapes(5, 13).items()}
    x, h0, c0 = leaf(7, 3, 5), leaf(3, 13), leaf(3, 13) if kind == "lstm" else None
    mask = (torch.rand(3, 13) > 0.3).double()

    def call(x):
        return (x.reshape(21, 5), h0, c0, *weights.values(), None, mask, kind, "tanh", False, True)

    flat = leaf(21, 5)
    torch.library.opcheck(operators.recurrence, (flat, *call(x)[1:]))
    y, h, c = torch.compile(
        lambda x: operators.recurrence(*call(x))[:3], fullgraph=True, backend="aot_eager"
    )(x)
    found = torch.autograd.grad(y.sin().sum() + h.sum() + c.sum(), [x, h0, *weights.values()])

    bound = recurrence.bind({**weights, "h_mask": mask}, **options)
    wanted_y, final = unroll(bound, x, (h0,) if c0 is None else (h0, c0))
    loss = wanted_y.sin().sum() + sum(s.sum() for s in final)
    torch.testing.assert_close(y.view(7, 3, 13), wanted_y, rtol=0, atol=1e-12)
    for got, wanted in zip(found, torch.autograd.grad(loss, [x, h0, *weights.values()]), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)
