"""A sequence that is run in chunks gives what it gives at once: the library runs a few rows at a time."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from throughtime.kernels.native import library
from throughtime.kernels.native.recurrence import call

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")

LAYERS = {
    "rnn": lambda **sizes: tt.RNN(3, zoneout=0.2, **sizes),
    "gru": lambda **sizes: tt.GRU(3, recurrent_dropout=0.3, **sizes),
    "gru reset before": lambda **sizes: tt.GRU(3, reset_after=False, **sizes),
    "gru normed": lambda **sizes: tt.GRU(3, layer_norm=True, **sizes),
    "lstm": lambda **sizes: tt.LSTM(3, peepholes=True, zoneout=(0.2, 0.1), **sizes),
    "lstm projected": lambda **sizes: tt.LSTM(3, proj_size=5, **sizes),
    "lstm normed": lambda **sizes: tt.LSTM(3, layer_norm=True, **sizes),
}
# Nothing padded, and all; one layer, and two.
SIZES = [{"hidden_size": 13}, {"hidden_size": 32}, {"hidden_size": 13, "num_layers": 2}]


def numbers(layer, lengths, training):
    """Outputs, final states and (training) all gradients, from the same random start."""
    torch.manual_seed(1)
    layer = layer.double()
    x = torch.randn(11, 4, 3, dtype=torch.float64, requires_grad=training)
    hidden, count = layer.hidden_size, 2 * layer.num_layers
    shapes = [layer.proj_size or hidden] + [hidden] * (len(layer.state_type._fields) - 1)
    states = tuple(torch.randn(count, 4, n, dtype=torch.float64, requires_grad=training) for n in shapes)
    with torch.set_grad_enabled(training):
        y, hx = layer(x, states if len(states) > 1 else states[0], lengths=lengths)
    finals = hx if isinstance(hx, tuple) else (hx,)
    if not training:
        return y, *finals
    loss = sum((value * torch.randn_like(value)).sum() for value in (y, *finals))
    return y, *finals, *torch.autograd.grad(loss, [x, *states, *layer.parameters()])


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_chunks_equal_the_whole(name, sizes, ragged, training, monkeypatch, instruction_set):
    """Chunks of a step each, of a few steps, and of all but a few rows; both directions."""
    layer = LAYERS[name](bidirectional=True, **sizes)
    lengths = torch.tensor([11, 3, 0, 7]) if ragged else None
    whole = numbers(layer, lengths, training)
    for rows in (1, 9, 20):
        monkeypatch.setattr(call, "chunk_rows", rows)
        for one, other in zip(whole, numbers(layer, lengths, training), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm projected"])
def test_chunks_on_two_threads(name, ragged, monkeypatch, threads):
    """By rows and by units, in pieces that are large enough for two threads."""
    layer = {"rnn": tt.RNN, "gru": tt.GRU}.get(name, tt.LSTM)(
        20, 96, **{"proj_size": 40} if "proj" in name else {}
    )
    x, lengths = torch.randn(21, 20, 20), torch.randint(0, 22, (20,)) if ragged else None

    def gradients():
        y, _ = layer(x, lengths=lengths)
        return [y, *torch.autograd.grad(y.sin().sum(), list(layer.parameters()))]

    whole = gradients()
    threads(2)
    for split in (1, 2):
        monkeypatch.setattr(call, "split", split)
        for rows in (0, 150):
            monkeypatch.setattr(call, "chunk_rows", rows)
            for one, other in zip(whole, gradients(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_chunks_are_run(monkeypatch):
    """Else the tests above would compare the whole with itself: one step at a time rounds the sums of gradients differently."""
    layer, x = tt.GRU(3, 13), torch.randn(40, 4, 3)
    found = []
    for rows in (0, 4):
        monkeypatch.setattr(call, "chunk_rows", rows)
        found.append(torch.autograd.grad(layer(x)[0].sum(), layer.weight_hh_l0)[0])
    assert not torch.equal(*found)
    torch.testing.assert_close(*found)
