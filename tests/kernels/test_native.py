"""The native recurrence against the float64 reference: outputs, final states and all gradients, on every instruction set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tests.kernels import one_direction
from tests.kernels.instruction_sets import libraries

import throughtime as tt
from throughtime.cells.gru import GRURecurrence
from throughtime.cells.lstm import LSTMRecurrence
from throughtime.cells.rnn import RNNRecurrence
from throughtime.kernels.native import library
from throughtime.kernels.reference import unroll
from throughtime.kernels.stack import zoneout_masks

KINDS = {"rnn": RNNRecurrence, "gru": GRURecurrence, "lstm": LSTMRecurrence}
# Relative to the largest value of a tensor: sums of up to 10^3 rounded products in float32, and through large weights.
TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-11}
# T, B, D, H: tiny, odd, just below and above a panel, more rows than a tile, one row, as many steps as rows.
SIZES = [
    (5, 3, 7, 16),
    (7, 1, 1, 33),
    (9, 13, 20, 50),
    (4, 1, 3, 1),
    (1, 2, 3, 5),
    (11, 40, 5, 96),
    (6, 17, 3, 31),
    (6, 6, 1, 9),
]

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")


def both(
    kind,
    size,
    dtype,
    *,
    ragged=False,
    reverse=False,
    bias=True,
    peepholes=False,
    masked=False,
    nonlinearity="tanh",
    reset_after=True,
    zoneout=None,
    training=True,
    proj_size=0,
    layer_norm=False,
):
    """(reference, native of each instruction set): outputs, final states and gradients of one random call, large weights."""
    steps, batch, features, hidden = size
    draw = lambda *shape: torch.randn(shape, dtype=torch.float64)  # noqa: E731
    terms = {"bias": bias, "layer_norm": layer_norm, "peepholes": peepholes, "proj_size": proj_size}
    shapes = KINDS[kind].shapes(features, hidden, **terms)
    weights = {name: draw(*shape) * 2 / max(shape[-1], 4) ** 0.5 for name, shape in shapes.items()}
    columns = proj_size or hidden
    x, states = draw(steps, batch, features), [draw(batch, columns)]
    states += [draw(batch, hidden)] * (kind == "lstm")
    lengths = torch.randint(0, steps + 1, (batch,)) if ragged else None
    dy, dstates = draw(steps, batch, columns), [torch.randn_like(s) for s in states]
    mask = (torch.rand(batch, columns) > 0.3).double() / 0.7 if masked else None
    options = {"rnn": {"nonlinearity": nonlinearity}, "gru": {"reset_after": reset_after}, "lstm": {}}[kind]
    zone = None if zoneout is None else zoneout_masks(tuple(states), steps, zoneout[: len(states)], training)

    def run(dtype, library=None):
        leaf = lambda value: value.to(dtype, copy=True).requires_grad_()  # noqa: E731
        parameters = {name: leaf(value) for name, value in weights.items()}
        inputs, start = leaf(x), [leaf(s) for s in states]
        h_mask = None if mask is None else mask.to(dtype)
        recurrence = KINDS[kind].bind({**parameters, "h_mask": h_mask}, **options)
        call = {"lengths": lengths, "reverse": reverse, "zoneout": zone}
        if library is None:
            y, final = unroll(recurrence, inputs, tuple(start), **call)
        else:
            padded = inputs
            if lengths is not None:
                padding = torch.arange(steps)[:, None] >= lengths
                padded = inputs.masked_fill(padding[..., None], float("nan"))
            y, final = one_direction.run(recurrence, padded, tuple(start), **call, library=library)
        loss = (y * dy.to(dtype)).sum() + sum(
            (s * d.to(dtype)).sum() for s, d in zip(final, dstates, strict=True)
        )
        loss.backward()
        return [y, *final, inputs.grad, *(s.grad for s in start), *(p.grad for p in parameters.values())]

    return run(torch.float64), [run(dtype, library) for library in libraries()]


def assert_close(reference, natives, dtype):
    assert natives
    for native in natives:
        for wanted, got in zip(reference, native, strict=True):
            assert got.dtype == dtype
            # Not below 0.1: through a saturated unit a gradient is 1 - h^2, the difference of two nearly equal numbers.
            scale = wanted.abs().max().clamp_min(0.1) if wanted.numel() else 1
            torch.testing.assert_close(got.double() / scale, wanted / scale, rtol=0, atol=TOLERANCE[dtype])


# Of full or ragged, forward or reverse, plain or (no bias, recurrent dropout): each pair of values once.
WAYS = (
    {"ragged": False, "reverse": False},
    {"ragged": True, "reverse": True},
    {"ragged": False, "reverse": True, "bias": False, "masked": True},
    {"ragged": True, "reverse": False, "bias": False, "masked": True},
)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference(kind, size, dtype):
    for way in WAYS:
        assert_close(*both(kind, size, dtype, **way), dtype)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("nonlinearity", ["relu", "sigmoid", "identity"])
def test_other_nonlinearities(nonlinearity, ragged):
    assert_close(
        *both("rnn", (7, 5, 3, 13), torch.float64, ragged=ragged, nonlinearity=nonlinearity), torch.float64
    )


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_peepholes(ragged, reverse):
    result = both(
        "lstm", (7, 5, 3, 13), torch.float64, ragged=ragged, reverse=reverse, peepholes=True, masked=True
    )
    assert_close(*result, torch.float64)


def leaves(kind, features=3, hidden=5, dtype=torch.float64, **options):
    """A recurrence over random leaves of its own, and those leaves."""
    terms = {name: options.get(name, False) for name in ("layer_norm", "peepholes", "proj_size")}
    shapes = KINDS[kind].shapes(features, hidden, **terms)
    weights = {n: torch.randn(s, dtype=dtype, requires_grad=True) for n, s in shapes.items()}
    equation = {"rnn": {"nonlinearity": options.get("nonlinearity", "tanh")}, "lstm": {}}
    equation["gru"] = {"reset_after": options.get("reset_after", True)}
    return KINDS[kind].bind(weights, **equation[kind]), list(weights.values())


@pytest.mark.parametrize("ways", ["create_graph", "is_grads_batched"])
def test_what_had_to_run_native_refuses_second_and_vectorized_derivatives(ways):
    recurrence, weights = leaves("lstm")
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    y, _ = one_direction.run(recurrence, x, None, named=True)
    torch.autograd.grad(y.sum(), x, retain_graph=True)
    if ways == "create_graph":
        arguments, keywords = (y.sum(), [x, *weights]), {"create_graph": True}
    else:
        arguments, keywords = (y, x, torch.ones(2, *y.shape, dtype=y.dtype)), {"is_grads_batched": True}
    with pytest.raises(tt.BackendError, match="asked for by name: native has no second or vectorized deriv"):
        torch.autograd.grad(*arguments, **keywords)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 0, 6, 6])], ids=["full", "ragged"])
@pytest.mark.parametrize("size", [(6, 4, 3, 5), (8, 4, 3, 16)], ids=str)
def test_no_state_is_a_state_of_zeros(kind, lengths, size):
    steps, batch, features, hidden = size
    recurrence, weights = leaves(kind, features, hidden)
    x = torch.randn(steps, batch, features, dtype=torch.float64, requires_grad=True)
    zeros = tuple(torch.zeros(batch, hidden).double() for _ in range(1 + (kind == "lstm")))
    for each in libraries():
        results = []
        for state in (None, zeros):
            y, final = one_direction.run(recurrence, x, state, lengths=lengths, library=each)
            loss = y.sin().sum() + sum(v.square().sum() for v in final)
            results.append([y, *final, *torch.autograd.grad(loss, [x, *weights])])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_vanishing_gradients_leave_the_caller_mode_as_it_was():
    """Flushed inside, and only there."""
    tiny = torch.tensor([1e-40])
    assert (tiny * 0.5).item() != 0
    both("rnn", (7, 3, 3, 16), torch.float32)
    assert (tiny * 0.5).item() != 0


def test_the_instruction_sets_are_what_they_are_called():
    """Else the tests above would compare one of them with itself."""
    found = [library.isa for library in libraries()]
    assert found[0] == library.load().isa
    if not os.environ.get("THROUGHTIME_ISA"):
        assert found[-1] == "portable"
        assert len({library.handle._handle for library in libraries()}) == len(found)
        assert len({library.panels for library in libraries()}) == len(set(found))


def test_an_instruction_set_that_is_not_there_is_a_reason():
    done = subprocess.run(
        [sys.executable, "-c", "import throughtime as tt; print(tt.backends())"],
        env={**os.environ, "THROUGHTIME_ISA": "mmx"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "native     no   THROUGHTIME_ISA=mmx cannot run on this processor" in done.stdout
