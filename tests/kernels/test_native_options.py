"""The native recurrence's options against the float64 reference, and through the layers."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.test_native import (
    KINDS,
    SIZES,
    TOLERANCE,
    WAYS,
    assert_close,
    both,
    instruction_set,  # noqa: F401  a fixture
    same_bits,
)

import throughtime as tt
from throughtime.kernels.native.recurrence import autograd, rows
from throughtime.kernels.reference import unroll
from throughtime.kernels.stack import zoneout_masks

reason = tt.backends(tt.Call("rnn", extras=("zoneout", "layer_norm"))).rows[1]
pytestmark = pytest.mark.skipif(not reason[1], reason=f"native: {reason[2]}")

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


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("batch", [7, 24])
def test_two_threads_give_the_same_bits_each_time(name, batch):
    """Divided by units (few rows) and by rows (many); large enough that two threads are used."""
    kind, options = OPTIONS[name]
    options = fitting(options, 131)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        results = []
        for _ in range(2):
            torch.manual_seed(3)
            reference, native = both(
                kind, (6, batch, 5, 131), torch.float32, ragged=True, masked=True, **options
            )
            assert_close(reference, native, torch.float32)
            results.append(native)
    finally:
        torch.set_num_threads(before)
    assert same_bits(*results)


@pytest.mark.usefixtures("instruction_set")
def test_zoneout_has_an_effect_and_the_masks_are_obeyed():
    """A unit whose mask is set at every step never leaves its first value."""
    torch.manual_seed(0)
    recurrence = KINDS["lstm"].bind({n: torch.randn(s) for n, s in KINDS["lstm"].shapes(3, 5).items()})
    x, state = torch.randn(7, 2, 3), (torch.randn(2, 5), torch.randn(2, 5))
    zone = zoneout_masks(state, 7, (0.5, 0.5), True)
    zone.keep[0][:, :, 1] = zone.keep[1][:, :, 2] = True
    where = rows.rows_of(x, None)
    y, (h, c), _ = autograd.run(recurrence, where, where.pack(x), state, False, zone)
    assert torch.equal(h[:, 1], state[0][:, 1]) and torch.equal(c[:, 2], state[1][:, 2])
    assert not torch.allclose(y, autograd.run(recurrence, where, where.pack(x), state, False)[0])


def leaves(kind, options, dtype=torch.float64):
    """A recurrence over random leaves of its own."""
    terms = {name: options.get(name, False) for name in ("layer_norm", "peepholes", "proj_size")}
    shapes = KINDS[kind].shapes(3, 5, **terms)
    weights = {n: torch.randn(s, dtype=dtype, requires_grad=True) for n, s in shapes.items()}
    equation = {"rnn": {"nonlinearity": options.get("nonlinearity", "tanh")}, "lstm": {}}
    equation["gru"] = {"reset_after": options.get("reset_after", True)}
    return KINDS[kind].bind(weights, **equation[kind]), list(weights.values())


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 0, 4])], ids=["full", "ragged"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_graph_can_be_used_twice_and_differentiated_twice(name, lengths):
    torch.manual_seed(0)
    kind, options = OPTIONS[name]
    recurrence, weights = leaves(kind, options)
    x = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    state = [torch.randn(3, options.get("proj_size", 5), dtype=torch.float64)]
    state += [torch.randn(3, 5, dtype=torch.float64)] * (kind == "lstm")
    recurrence.h_mask = (torch.rand_like(state[0]) > 0.3).double()
    zone = None
    if "zoneout" in options:
        zone = zoneout_masks(tuple(state), 4, options["zoneout"], options.get("training", True))
    y, _ = unroll(recurrence, x, tuple(state), lengths=lengths, zoneout=zone)
    wanted = torch.autograd.grad(y.sin().sum(), [x, *weights], create_graph=True)
    wanted_twice = torch.autograd.grad(sum(g.square().sum() for g in wanted), [x, *weights])

    where = rows.rows_of(x, lengths)
    order = torch.arange(3) if where.order is None else where.order
    recurrence.h_mask = recurrence.h_mask[order]
    y, _, _ = autograd.run(recurrence, where, where.pack(x), tuple(s[order] for s in state), False, zone)
    first = torch.autograd.grad(y.sin().sum(), [x, *weights], retain_graph=True)
    again = torch.autograd.grad(y.sin().sum(), [x, *weights], retain_graph=True)
    once = torch.autograd.grad(y.sin().sum(), [x, *weights], create_graph=True)
    twice = torch.autograd.grad(sum(g.square().sum() for g in once), [x, *weights])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for got, expected in ((first, wanted), (once, wanted), (twice, wanted_twice)):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 0, 4])], ids=["full", "ragged"])
@pytest.mark.parametrize("name", ["lstm", "lstm zoneout", "lstm layer norm", "lstm everything"])
def test_the_cell_state_of_every_step_and_its_gradient(name, lengths):
    torch.manual_seed(0)
    options = OPTIONS.get(name, ("lstm", {}))[1]
    recurrence, weights = leaves("lstm", options)
    x = torch.randn(4, 3, 3, dtype=torch.float64, requires_grad=True)
    state = (torch.randn(3, options.get("proj_size", 5)).double(), torch.randn(3, 5).double())
    zone = zoneout_masks(state, 4, options["zoneout"], True) if "zoneout" in options else None
    weighing = torch.randn(4, 3, 5, dtype=torch.float64)
    every = [None] * 4

    def observe(t, before, u, after):
        every[t] = after[-1]

    unroll(recurrence, x, state, lengths=lengths, zoneout=zone, observe=observe)
    where = rows.rows_of(x, lengths)
    order = torch.arange(3) if where.order is None else where.order
    wanted = where.pack(torch.stack(every))
    found = autograd.run(
        recurrence, where, where.pack(x), tuple(s[order] for s in state), False, zone, cell_states=True
    )[2]
    torch.testing.assert_close(found, wanted)
    for create_graph in (False, True):
        gradients = [
            torch.autograd.grad(
                (c.sin() * where.pack(weighing)).sum(),
                [x, *weights],
                retain_graph=True,
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
            for c in (found, wanted)
        ]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)
    with torch.no_grad():
        quiet = autograd.run(
            recurrence, where, where.pack(x), tuple(s[order] for s in state), False, zone, cell_states=True
        )
    torch.testing.assert_close(quiet[2], wanted)


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
