"""Calls of so few rows that the library reads the weights as they lie (`pays_to_pack` in csrc/plan.hpp), and of some more."""

from __future__ import annotations

import pytest
import torch
from tests.kernels import one_direction
from tests.kernels.instruction_sets import libraries
from tests.kernels.test_native import KINDS, WAYS, assert_close, both, leaves
from tests.kernels.test_native_options import OPTIONS, fitting

from throughtime.kernels.native import library
from throughtime.kernels.reference import unroll

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")

LIMIT = 24  # rows, of products over 192 numbers or more; an eighth of the numbers with fewer
# D, H: of one number, less than a register, odd, whole panels, more than one of them; up to the limit.
SIZES = [(1, 17), (3, 7), (5, 1), (1, 32), (16, 64), (19, 33), (200, 96), (3, 200)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_of_one_step(kind, size, dtype):
    for batch in range(1, LIMIT + 7):
        assert_close(*both(kind, (1, batch, *size), dtype), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", [*OPTIONS, "rnn", "gru", "lstm"])
def test_as_many_rows_in_several_steps(name, dtype):
    """Full batches below and above the limit; ragged ones, whose padding does not count."""
    kind, options = OPTIONS.get(name, (name, {}))
    # Not so many steps in float32: large weights magnify a rounding from step to step.
    for steps, batch in ((2, 12), (2, 13), (4, 6), (5, 5), (6, 6)) + ((24, 1), (25, 1)) * (
        dtype == torch.float64
    ):
        for size in ((3, 13), (4, 32)):
            for way in WAYS:
                fit = fitting(options, size[-1])
                assert_close(*both(kind, (steps, batch, *size), dtype, **way, **fit), dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_inference_gives_the_bits_of_training(kind):
    for features, hidden in ((1, 17), (5, 32)):
        recurrence, _ = leaves(kind, features, hidden)
        for steps, batch in [(1, b) for b in range(1, LIMIT + 7)] + [(5, 5), (9, 2), (13, 2)]:
            x = torch.randn(steps, batch, features, dtype=torch.float64)
            state = tuple(torch.randn(batch, hidden).double() for _ in range(1 + (kind == "lstm")))
            for found in libraries():
                y, final = one_direction.run(recurrence, x, state, library=found)
                assert y.requires_grad
                with torch.no_grad():
                    quiet, quiet_final = one_direction.run(recurrence, x, state, library=found)
                assert torch.equal(y, quiet)
                assert all(torch.equal(a, b) for a, b in zip(final, quiet_final, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3, 24, 25])
def test_weights_that_are_not_contiguous_or_lie_at_any_address(kind, batch):
    """Neither their rows nor the matrices begin where a register would."""
    recurrence, weights = leaves(kind, 5, 19)
    names = list(KINDS[kind].shapes(5, 19))  # in the order of the weights
    x, state = (
        torch.randn(1, batch, 5).double(),
        tuple(torch.randn(batch, 19).double() for _ in range(1 + (kind == "lstm"))),
    )
    y, _ = unroll(recurrence, x, state)
    wanted = torch.autograd.grad(y.sin().sum(), weights)
    apart = lambda v: torch.cat([torch.full((1,), torch.nan).double(), v.flatten()])[1:].view(v.shape)  # noqa: E731
    columns = lambda v: v.t().contiguous().t() if v.dim() > 1 else torch.stack([v, -v], -1)[..., 0]  # noqa: E731
    for moved in (apart, columns):
        given = [moved(weight.detach()).requires_grad_() for weight in weights]
        other = KINDS[kind].bind(dict(zip(names, given, strict=True)), nonlinearity="tanh", reset_after=True)
        for found in libraries():
            got, _ = one_direction.run(other, x, state, library=found)
            torch.testing.assert_close(got, y)
            torch.testing.assert_close(torch.autograd.grad(got.sin().sum(), given), wanted)
