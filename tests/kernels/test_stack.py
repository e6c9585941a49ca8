"""Several layers and both directions in one call of the library against the reference, with all gradients."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from tests.kernels import one_direction
from tests.kernels.instruction_sets import libraries
from tests.kernels.test_native import leaves

import throughtime as tt
from throughtime.kernels.native import library
from throughtime.kernels.native.recurrence import autograd
from throughtime.kernels.native.recurrence.call import NONE
from throughtime.kernels.native.recurrence.rows import rows_of
from throughtime.kernels.native.recurrence.weights import Weights
from throughtime.kernels.reference import unroll

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")

T, B, D = 7, 5, 3
LENGTHS = torch.tensor([4, 7, 0, 5, 7])
STACKS = {
    "rnn": (tt.RNN, [13, 4, 33], {"nonlinearity": "relu"}),
    "rnn normed": (tt.RNN, [13, 4, 33], {"layer_norm": True, "zoneout": 0.3}),
    "gru": (tt.GRU, [16, 5, 32], {}),
    "gru without biases": (tt.GRU, [5, 32, 16], {"bias": False}),
    "gru reset before": (tt.GRU, [13, 4, 33], {"reset_after": False, "zoneout": 0.3, "recurrent_dropout": 0.3}),
    "gru normed": (tt.GRU, [13, 4, 33], {"layer_norm": True, "reset_after": False}),
    "lstm": (tt.LSTM, [16, 32, 64], {}),
    "lstm peepholes": (tt.LSTM, [13, 40, 8], {"peepholes": True, "zoneout": (0.2, 0.3), "recurrent_dropout": 0.3}),
    "lstm projected": (tt.LSTM, [13, 21, 8], {"proj_size": 6}),
    "lstm of one size": (tt.LSTM, [13, 13, 13], {"proj_size": 1}),
    "lstm everything": (tt.LSTM, [13, 21, 8], {"proj_size": 6, "layer_norm": True, "peepholes": True, "zoneout": 0.2}),
}  # fmt: skip


def layer_of(name, bidirectional, dropout=0.0):
    """A layer in float64, its weights large."""
    kind, sizes, options = STACKS[name]
    layer = kind(D, sizes, 3, bidirectional=bidirectional, dropout=dropout, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_().mul_(2 / max(parameter.shape[-1], 4) ** 0.5 if parameter.dim() > 1 else 1)
    return layer


def state_of(layer, batch=B):
    """Random components of a state, one tensor for each layer and direction where the layers differ in size."""
    zeros = layer._form.read(
        None, layer._read(torch.zeros(1, batch, D).double(), None, None, layer._stack())[0]
    )
    drawn = [
        torch.randn_like(z) if isinstance(z, torch.Tensor) else tuple(map(torch.randn_like, z)) for z in zeros
    ]
    return drawn


def flat(components):
    return [v for c in components for v in ((c,) if isinstance(c, torch.Tensor) else c)]


def numbers(layer, backend, x, state, lengths=None, weighing=None):
    """Outputs, final states, and all gradients, from the same seed."""
    x = x.detach().clone().requires_grad_()
    state = [
        c.clone().requires_grad_()
        if isinstance(c, torch.Tensor)
        else tuple(v.clone().requires_grad_() for v in c)
        for c in state
    ]
    hx = None if not state else tuple(state) if len(layer.state_type._fields) > 1 else state[0]
    torch.manual_seed(5)
    with tt.use_backend(backend):
        y, final = layer(x, hx, lengths=lengths)
    found = [y, *flat(final if len(layer.state_type._fields) > 1 else (final,))]
    torch.manual_seed(6)
    loss = sum((value * torch.randn_like(value)).sum() for value in found)
    return [*found, *torch.autograd.grad(loss, [x, *flat(state), *layer.parameters()])]


def assert_close(found, wanted, atol=1e-11):
    for got, expected in zip(found, wanted, strict=True):
        # Not below 0.1, as in test_native.py.
        scale = expected.detach().abs().max().clamp_min(0.1) if expected.numel() else 1
        torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=atol)


def poisoned(x, lengths):
    """NaN in the padding."""
    if lengths is None:
        return x
    return x.masked_fill((torch.arange(len(x))[:, None] >= lengths)[..., None], float("nan"))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", STACKS)
def test_equals_the_reference(name, bidirectional, lengths, dropout, instruction_set):
    """In training, with random masks from the same seed, and dropout between the layers."""
    layer = layer_of(name, bidirectional, dropout)
    x, state = poisoned(torch.randn(T, B, D).double(), lengths), state_of(layer)
    assert_close(*(numbers(layer, backend, x, state, lengths) for backend in ("native", "reference")))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", STACKS)
def test_equals_the_reference_in_evaluation(name, lengths, instruction_set):
    """Zoneout's expectation; the same bits with and without what backward needs."""
    layer = layer_of(name, True, 0.4).eval()
    x, state = poisoned(torch.randn(T, B, D).double(), lengths), state_of(layer)
    found, wanted = (numbers(layer, backend, x, state, lengths) for backend in ("native", "reference"))
    assert_close(found, wanted)
    hx = tuple(state) if len(layer.state_type._fields) > 1 else state[0]
    with torch.inference_mode():
        y, final = layer(x, hx, lengths=lengths)
    quiet = [y, *flat(final if len(layer.state_type._fields) > 1 else (final,))]
    assert all(torch.equal(a, b) for a, b in zip(quiet, found, strict=False))


@pytest.mark.parametrize("name", ["rnn", "gru reset before", "lstm projected", "lstm everything"])
@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ((1, 1, D), None),
        ((1, 30, D), None),
        ((6, 6, D), None),
        ((6, 6, D), [6, 3, 0, 1, 6, 2]),
        ((4, 6, D), [0, 0, 0, 0, 0, 0]),
        ((4, 3, D), [0, 1, 0]),
        ((5, 0, D), None),
        ((5, 0, D), []),
        ((40, 2, D), None),
        ((2, 40, D), None),
    ],
    ids=str,
)
def test_unusual_batches(name, shape, lengths, instruction_set):
    """One row, one step, none of them, as many steps as rows, no real step at all."""
    layer = layer_of(name, True)
    lengths = None if lengths is None else torch.tensor(lengths, dtype=torch.int64)
    x = torch.randn(shape, dtype=torch.float64)
    x, state = poisoned(x, lengths), state_of(layer, shape[1])
    found, wanted = (numbers(layer, backend, x, state, lengths) for backend in ("native", "reference"))
    assert_close(found, wanted)
    if lengths is not None and not lengths.any():
        assert all(torch.equal(a, b) for a, b in zip(found[1:], flat(state), strict=False))


@pytest.mark.parametrize("kind", [tt.RNN, tt.GRU, tt.LSTM])
def test_one_feature_and_one_unit(kind, instruction_set):
    for features, hidden in ((1, 17), (1, 32), (5, 1), (1, 1)):
        layer = kind(features, hidden, 2, bidirectional=True).double()
        x = torch.randn(9, 4, features, dtype=torch.float64)
        state = [torch.randn(4, 4, hidden).double() for _ in layer.state_type._fields]
        for lengths in (None, torch.tensor([9, 0, 3, 1])):
            assert_close(*(numbers(layer, backend, x, state, lengths) for backend in ("native", "reference")))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", ["rnn", "gru", "gru reset before", "lstm", "lstm projected"])
def test_no_state_is_a_state_of_zeros(name, lengths, instruction_set):
    """The library's own zeros, of all layers and directions; a layer gives it tensors."""
    layer = layer_of(name, True).eval()
    stack, x = layer._stack(), torch.randn(T, B, D).double()
    rows = rows_of(x, lengths)
    packed = rows.pack(x).contiguous()
    zeros = [
        z.reshape(-1) if isinstance(z, torch.Tensor) else torch.cat([v.flatten() for v in z])
        for z in state_of(layer)
    ]
    zeros = [torch.zeros_like(z) for z in zeros]
    results = []
    for given in ((None, None), (*zeros, None)[:2]):
        y, *final = autograd.apply(Weights(stack, instruction_set), rows, NONE, False, packed, *given)
        final = [v for v in final if v is not None]
        loss = y.sin().sum() + sum(v.square().sum() for v in final)
        results.append([y, *final, *torch.autograd.grad(loss, list(layer.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["gru", "lstm projected", "lstm everything"])
def test_only_one_gradient_or_only_one_result(name, instruction_set):
    """What is not wanted is not computed, and what is wanted does not depend on it."""
    layer = layer_of(name, True).eval()
    x, state = torch.randn(T, B, D, dtype=torch.float64), state_of(layer)
    tensors = [x, *flat(state), *layer.parameters()]
    count = len(layer.state_type._fields)

    def results():
        y, final = layer(x, tuple(state) if count > 1 else state[0], lengths=LENGTHS)
        return [y, *flat(final if count > 1 else (final,))]

    for value in tensors:
        value.requires_grad_()
    with tt.use_backend("native"):
        weighing = [torch.randn_like(v) for v in results()]
        of_each = [
            torch.autograd.grad(
                (v * w).sum(), tensors, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for v, w in zip(results(), weighing, strict=True)
        ]
        every = torch.autograd.grad(
            sum((v * w).sum() for v, w in zip(results(), weighing, strict=True)), tensors
        )
    for alone, together in zip(zip(*of_each, strict=True), every, strict=True):
        torch.testing.assert_close(sum(alone), together, rtol=1e-9, atol=1e-9)
    for value in tensors:
        value.requires_grad_(False)
    with tt.use_backend("native"):
        for value, wanted in zip(tensors, every, strict=True):
            value.requires_grad_()
            found = sum((v * w).sum() for v, w in zip(results(), weighing, strict=True))
            assert torch.equal(torch.autograd.grad(found, value)[0], wanted)
            value.requires_grad_(False)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", STACKS)
def test_second_derivatives(name, lengths):
    """By the reference, over the same masks, of a call that native ran."""
    layer = layer_of(name, True, 0.4)
    x, state = torch.randn(T, B, D, dtype=torch.float64), state_of(layer)
    tensors = [x, *flat(state), *layer.parameters()]
    for value in tensors:
        value.requires_grad_()
    hx, results = tuple(state) if len(layer.state_type._fields) > 1 else state[0], []
    for backend in ("reference", None):
        torch.manual_seed(5)
        with tt.use_backend(backend):
            y, final = layer(x, hx, lengths=lengths)
        loss = y.sin().sum() + sum(
            v.square().sum() for v in flat(final if isinstance(final, tuple) else [final])
        )
        once = torch.autograd.grad(loss, tensors, create_graph=True)
        results.append([*once, *torch.autograd.grad(sum(g.square().sum() for g in once), tensors)])
    assert_close(results[1], results[0], atol=1e-9)  # through large weights twice


@pytest.mark.parametrize("kind", [tt.RNN, tt.GRU, tt.LSTM])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_inputs_and_states_as_they_lie(kind, lengths, instruction_set):
    """Transposed, expanded, every third, behind an offset, with a negative bit: the numbers count, not where they are."""
    layer = kind(D, 13, 2, bidirectional=True, backend="native").double()
    x, state = (
        torch.randn(T, B, D, dtype=torch.float64),
        [torch.randn(4, 1, 13).double() for _ in layer.state_type._fields],
    )

    def run(x, state):
        y, final = layer(x, tuple(state) if len(state) > 1 else state[0], lengths=lengths)
        found = [y, *flat(final if len(state) > 1 else (final,))]
        loss = sum(v.sin().sum() for v in found)
        return [*found, *torch.autograd.grad(loss, list(layer.parameters()))]

    expanded = [s.expand(4, B, 13) for s in state]
    wanted = run(x, [s.contiguous() for s in expanded])
    wide = torch.full((T, B, 3 * D), float("nan"), dtype=torch.float64)
    wide[..., ::3] = x
    for given in (
        x.transpose(0, 1).contiguous().transpose(0, 1),
        x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        wide[..., ::3],
        torch.cat([torch.zeros(1).double(), x.flatten()])[1:].view(x.shape),
        torch._neg_view(-x),
        torch.complex(torch.zeros_like(x), -x).conj().imag,
    ):
        assert torch.equal(given, x)
        for states in (expanded, [torch._neg_view(-s.contiguous()) for s in expanded]):
            assert all(torch.equal(a, b) for a, b in zip(run(given, states), wanted, strict=True))


@pytest.mark.parametrize(("dropout", "calls"), [(0.0, 1), (0.4, 3)])
def test_a_stack_is_one_call(dropout, calls, monkeypatch):
    """Of the library, forward and backward; with dropout between its layers one for each of them."""
    counted, found = Counter(), library.load()
    for name in ("tt_forward", "tt_backward"):
        entry = getattr(found, name)
        monkeypatch.setattr(found, name, lambda c, n=name, e=entry: (counted.update([n]), e(c))[1])
    layer = tt.LSTM(D, 13, 3, bidirectional=True, dropout=dropout)
    for lengths in (None, LENGTHS):
        counted.clear()
        layer(torch.randn(T, B, D), lengths=lengths)[0].sum().backward()
        assert counted == {"tt_forward": calls, "tt_backward": calls}


def test_the_directions_read_the_same_numbers_from_their_ends():
    """A second direction is the first of the reversed sequence."""
    recurrence, _ = leaves("gru")
    x = torch.randn(T, B, 3, dtype=torch.float64)
    for found in libraries():
        y, _ = one_direction.run(recurrence, x, None, reverse=True, library=found)
        forward, _ = one_direction.run(recurrence, x.flip(0), None, library=found)
        assert torch.equal(y, forward.flip(0))
    torch.testing.assert_close(y, unroll(recurrence, x, (torch.zeros(B, 5).double(),), reverse=True)[0])
