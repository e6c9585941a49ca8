"""Layer norm inside the native kernel, beyond what every option is tested for in test_native_options.py."""

from __future__ import annotations

import pytest
import torch
from tests.kernels import one_direction
from tests.kernels.test_native import KINDS

import throughtime as tt
from throughtime.kernels.native import library
from throughtime.kernels.native.recurrence import call

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")

LAYERS = {
    "rnn": ("RNN", {}),
    "gru": ("GRU", {}),
    "gru reset before": ("GRU", {"reset_after": False}),
    "lstm": ("LSTM", {}),
    "lstm projected": ("LSTM", {"proj_size": 2, "peepholes": True}),
}


def layer_of(name, hidden, layers=1, **options):
    """A layer with layer norm in float64, its gains and biases far from their start."""
    kind, more = LAYERS[name]
    layer = getattr(tt, kind)(3, hidden, layers, layer_norm=True, **more, **options).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def states_of(layer, batch, hidden):
    """A random initial state."""
    sizes = [layer.proj_size or hidden, hidden][: len(layer.state_type._fields)]
    directions = layer.num_layers * (1 + layer.bidirectional)
    return [torch.randn(directions, batch, size, dtype=torch.float64) for size in sizes]


def hx_of(states):
    return tuple(states) if len(states) > 1 else states[0]


@pytest.mark.parametrize("name", LAYERS)
def test_finite_differences(name):
    torch.manual_seed(0)
    layer = layer_of(name, 3, backend="native")
    x, states = torch.randn(4, 2, 3, dtype=torch.float64), states_of(layer, 2, 3)
    names, values = zip(*layer.named_parameters(), strict=True)

    def call(x, *others):
        parameters = dict(zip(names, others[len(states) :], strict=True))
        y, final = torch.func.functional_call(layer, parameters, (x, hx_of(others[: len(states)])))
        return y, *(final if isinstance(final, tuple) else (final,))

    inputs = [value.detach().clone().requires_grad_() for value in (x, *states, *values)]
    assert torch.autograd.gradcheck(call, inputs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_rows_without_variance(name, dtype):
    """Where all units of a map are equal, nothing but eps is below the fraction."""
    torch.manual_seed(0)
    layer = layer_of(name, 13).to(dtype)
    for parameter_name, parameter in layer.named_parameters():
        if "weight_ih" in parameter_name or "weight_hh" in parameter_name:
            torch.nn.init.constant_(parameter, 0.5)
    x = torch.randn(5, 3, 3, dtype=dtype, requires_grad=True)
    found = []
    for backend in ("native", "reference"):
        layer.backend = backend
        y, _ = layer(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
    assert all(value.isfinite().all() for value in found[0])
    if dtype == torch.float64:
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", LAYERS)
def test_the_scale_of_the_weights_does_not_matter(name):
    torch.manual_seed(0)
    layer = layer_of(name, 13, backend="native")
    x = torch.randn(7, 3, 3, dtype=torch.float64)
    y, _ = layer(x, hx_of(states := states_of(layer, 3, 13)))
    with torch.no_grad():
        for parameter_name, parameter in layer.named_parameters():
            if "weight_ih" in parameter_name or "weight_hh" in parameter_name:
                parameter.mul_(100)
    scaled, _ = layer(x, hx_of(states))
    torch.testing.assert_close(scaled, y, rtol=1e-3, atol=1e-3)
    assert not torch.equal(scaled, y)


@pytest.mark.parametrize("lengths", [None, torch.tensor([11, 3, 0, 7])], ids=["full", "ragged"])
@pytest.mark.parametrize("name", LAYERS)
def test_chunks_and_inference_give_the_same(name, lengths, monkeypatch):
    torch.manual_seed(0)
    layer = layer_of(name, 13, 2, bidirectional=True, backend="native")
    x, states = torch.randn(11, 4, 3, dtype=torch.float64), states_of(layer, 4, 13)

    def numbers():
        y, final = layer(x, hx_of(states), lengths=lengths)
        final = final if isinstance(final, tuple) else (final,)
        return [y, *final, *torch.autograd.grad(y.sin().sum() + final[-1].sum(), list(layer.parameters()))]

    whole = numbers()
    with torch.no_grad():
        y, _ = layer(x, hx_of(states), lengths=lengths)
    assert torch.equal(y, whole[0])
    monkeypatch.setattr(call, "chunk_rows", 7)
    for one, other in zip(whole, numbers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    with torch.no_grad():
        y, _ = layer(x, hx_of(states), lengths=lengths)
    torch.testing.assert_close(y, whole[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("batch", [7, 24])
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_inference_on_two_threads(name, batch, threads):
    """Divided by units (few rows) and by rows (many)."""
    layer = layer_of(name, 131)
    x = torch.randn(21, batch, 3, dtype=torch.float64)
    threads(2)
    with torch.no_grad():
        found = []
        for backend in ("native", "reference"):
            layer.backend = backend
            found.append(layer(x)[0])
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


def test_native_runs_it_and_says_so():
    layer = tt.LSTM(3, 5, layer_norm=True, zoneout=0.1)
    report = {name: runs for name, runs, _ in tt.backends(layer.call(torch.zeros(4, 2, 3))).rows}
    assert report["native"]
    assert not report["aten"]


@pytest.mark.parametrize("missing", ["gain_ih", "gain_hh", "gain_c"])
def test_half_a_norm_is_refused(missing):
    shapes = KINDS["lstm"].shapes(3, 5, layer_norm=True)
    recurrence = KINDS["lstm"].bind({n: torch.randn(s) for n, s in shapes.items() if n != missing})
    with pytest.raises(
        RuntimeError, match="layer norm must have gain_ih, gain_hh and in an LSTM gain_c, got "
    ):
        one_direction.run(recurrence, torch.randn(4, 2, 3), None)
