"""The native recurrence's options against the float64 reference, and through the layers."""

from __future__ import annotations

import pytest
import torch
from tests.kernels import one_direction
from tests.kernels.test_native import SIZES, TOLERANCE, WAYS, assert_close, both, leaves

import throughtime as tt
from throughtime.kernels.native import library
from throughtime.kernels.native.recurrence import call
from throughtime.kernels.reference import unroll
from throughtime.kernels.stack import zoneout_masks

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")

# Each cell, and each of its options by itself and with the others that change the same lines.
OPTIONS = {
    "gru reset before": ("gru", {"reset_after": False}),
    "rnn zoneout": ("rnn", {"zoneout": (0.3,)}),
    "rnn zoneout relu": ("rnn", {"zoneout": (0.3,), "nonlinearity": "relu"}),
    "gru zoneout": ("gru", {"zoneout": (0.3,)}),
    "gru zoneout reset before": ("gru", {"zoneout": (0.3,), "reset_after": False}),
    "lstm zoneout": ("lstm", {"zoneout": (0.3, 0.2)}),
    "lstm zoneout of h": ("lstm", {"zoneout": (0.3, 0.0)}),
    "lstm zoneout of c peepholes": ("lstm", {"zoneout": (0.0, 0.2), "peepholes": True}),
    "rnn expectation": ("rnn", {"zoneout": (0.3,), "training": False}),
    "gru expectation": ("gru", {"zoneout": (0.3,), "training": False}),
    "lstm expectation": ("lstm", {"zoneout": (0.3, 0.2), "training": False}),
    "lstm projection": ("lstm", {"proj_size": 3}),
    "rnn layer norm": ("rnn", {"layer_norm": True}),
    "rnn layer norm zoneout relu": ("rnn", {"layer_norm": True, "zoneout": (0.3,), "nonlinearity": "relu"}),
    "gru layer norm": ("gru", {"layer_norm": True}),
    "gru layer norm zoneout": ("gru", {"layer_norm": True, "zoneout": (0.3,)}),
    "gru layer norm reset before": ("gru", {"layer_norm": True, "reset_after": False}),
    "lstm layer norm": ("lstm", {"layer_norm": True}),
    "lstm layer norm projection": ("lstm", {"layer_norm": True, "proj_size": 3}),
    "lstm layer norm expectation": ("lstm", {"layer_norm": True, "zoneout": (0.3, 0.2), "training": False}),
    "lstm everything": (
        "lstm",
        {"layer_norm": True, "proj_size": 2, "zoneout": (0.3, 0.2), "peepholes": True},
    ),
}


def fitting(options, hidden):
    """The options, with a projection that is smaller than this hidden size, or None if there is none."""
    if options.get("proj_size"):
        if hidden == 1:
            return None
        return {**options, "proj_size": max(1, hidden * options["proj_size"] // 4)}
    return options


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", [s for s in SIZES if s[1] < 40], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_the_reference(name, size, dtype):
    kind, options = OPTIONS[name]
    options = fitting(options, size[-1])
    if options is None:
        pytest.skip("no projection is smaller than one unit")
    if "layer_norm" in options and dtype == torch.float32 and min(size[2:]) == 1:
        pytest.skip("what does not depend on the scale of one number has a gradient of rounding errors")
    for way in WAYS:
        assert_close(*both(kind, size, dtype, **way, **options), dtype)


@pytest.mark.parametrize(("batch", "dtype"), [(7, torch.float64), (24, torch.float32)], ids=str)
@pytest.mark.parametrize("split", [1, 2], ids=["by rows", "by units"])
@pytest.mark.parametrize("name", [*OPTIONS, "rnn", "gru", "lstm"])
def test_two_threads(name, split, batch, dtype, threads, monkeypatch):
    """As the reference, and the same bits each time; few rows and many, an odd number of panels."""
    kind, options = OPTIONS.get(name, (name, {}))
    # Below 4e6 operations (csrc/plan.hpp) one thread runs alone: here an RNN has 2 * 21 * 7 * 131^2 = 5e6.
    size, options = (21 if batch == 7 else 9, batch, 5, 131), fitting(options, 131)
    threads(2)
    monkeypatch.setattr(call, "split", split)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        reference, native = both(kind, size, dtype, ragged=batch == 24, masked=True, **options)
        assert_close(reference, native, dtype)
        results.append(native)
    for one, two in zip(*results, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_zoneout_has_an_effect_and_the_masks_are_obeyed(instruction_set):
    """A unit whose mask is set at every step never leaves its first value."""
    recurrence, _ = leaves("lstm", dtype=torch.float32)
    x, state = torch.randn(7, 2, 3), (torch.randn(2, 5), torch.randn(2, 5))
    zone = zoneout_masks(state, 7, (0.5, 0.5), True)
    zone.keep[0][:, :, 1] = zone.keep[1][:, :, 2] = True
    y, (h, c) = one_direction.run(recurrence, x, state, zoneout=zone, library=instruction_set)
    assert torch.equal(h[:, 1], state[0][:, 1]) and torch.equal(c[:, 2], state[1][:, 2])
    assert not torch.allclose(y, one_direction.run(recurrence, x, state, library=instruction_set)[0])


@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 0, 4])], ids=["full", "ragged"])
@pytest.mark.parametrize("name", [*OPTIONS, "rnn", "gru", "lstm"])
def test_a_graph_can_be_used_twice_and_differentiated_twice(name, lengths, instruction_set):
    kind, options = OPTIONS.get(name, (name, {}))
    recurrence, weights = leaves(kind, **options)
    x = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    state = [torch.randn(3, options.get("proj_size", 5), dtype=torch.float64, requires_grad=True)]
    state += [torch.randn(3, 5, dtype=torch.float64, requires_grad=True)] * (kind == "lstm")
    recurrence.h_mask = (torch.rand_like(state[0]) > 0.3).double()
    zone = None
    if "zoneout" in options:
        zone = zoneout_masks(tuple(state), 4, options["zoneout"], options.get("training", True))
    of, call = [x, *state, *weights], {"lengths": lengths, "zoneout": zone}
    y, final = unroll(recurrence, x, tuple(state), **call)
    loss = lambda y, final: y.sin().sum() + sum(v.cos().sum() for v in final)  # noqa: E731
    wanted = torch.autograd.grad(loss(y, final), of, create_graph=True)
    wanted_twice = torch.autograd.grad(sum(g.square().sum() for g in wanted), of)

    found = loss(*one_direction.run(recurrence, x, tuple(state), **call, library=instruction_set))
    first = torch.autograd.grad(found, of, retain_graph=True)
    again = torch.autograd.grad(found, of, retain_graph=True)
    once = torch.autograd.grad(found, of, create_graph=True)
    twice = torch.autograd.grad(sum(g.square().sum() for g in once), of)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for got, expected in ((first, wanted), (once, wanted), (twice, wanted_twice)):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)


LAYERS = [
    ("RNN", {"zoneout": 0.3}),
    ("GRU", {"zoneout": 0.3, "reset_after": False, "recurrent_dropout": 0.3}),
    ("LSTM", {"zoneout": (0.3, 0.1), "peepholes": True, "recurrent_dropout": 0.3}),
    ("LSTM", {"zoneout": (0.0, 0.2), "proj_size": 4}),
    ("LSTM", {"proj_size": 4}),
    ("RNN", {"layer_norm": True}),
    ("GRU", {"layer_norm": True, "reset_after": False, "zoneout": 0.2}),
    ("LSTM", {"layer_norm": True, "proj_size": 4, "peepholes": True, "recurrent_dropout": 0.3}),
]


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 0, 7, 1])], ids=["full", "ragged"])
@pytest.mark.parametrize(("name", "options"), LAYERS, ids=str)
def test_a_layer_gives_what_the_reference_gives_from_the_same_seed(name, options, lengths, training):
    layer = getattr(tt, name)(5, 13, 2, bidirectional=True, backend="native", **options).double()
    layer.train(training)
    assert tt.backends(layer.call(torch.randn(7, 4, 5, dtype=torch.float64), lengths)).rows[1][1]
    x = torch.randn(7, 4, 5, dtype=torch.float64)
    if lengths is not None:
        x.masked_fill_((torch.arange(7)[:, None] >= lengths)[..., None], float("nan"))
    results = []
    for backend in ("native", "reference"):
        layer.backend = backend
        layer.zero_grad()
        torch.manual_seed(1)
        y, state = layer(x, lengths=lengths)
        y.square().sum().backward()
        results.append([y, state, *(p.grad.clone() for p in layer.parameters())])
    torch.testing.assert_close(*results)
