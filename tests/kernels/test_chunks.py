"""A sequence that is run in chunks gives what it gives at once."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from throughtime.kernels.native import library
from throughtime.kernels.native.recurrence import call
from throughtime.kernels.native.recurrence.rows import full_rows, rows_of

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")

LAYERS = {
    "rnn": lambda: tt.RNN(3, 13, bidirectional=True, zoneout=0.2),
    "gru": lambda: tt.GRU(3, 13, bidirectional=True, recurrent_dropout=0.3),
    "gru reset before": lambda: tt.GRU(3, 13, bidirectional=True, reset_after=False),
    "lstm": lambda: tt.LSTM(3, 13, bidirectional=True, peepholes=True),
    "lstm projected": lambda: tt.LSTM(3, 13, bidirectional=True, proj_size=5),
}


def numbers(layer, lengths, training):
    """Outputs, final states and (training) all gradients, from the same random start."""
    torch.manual_seed(1)
    layer = layer.double()
    x = torch.randn(11, 4, 3, dtype=torch.float64, requires_grad=training)
    shapes = [layer.proj_size or 13] + [13] * (len(layer.state_type._fields) - 1)
    states = tuple(torch.randn(2, 4, n, dtype=torch.float64, requires_grad=training) for n in shapes)
    with torch.set_grad_enabled(training):
        y, hx = layer(x, states if len(states) > 1 else states[0], lengths=lengths)
    finals = hx if isinstance(hx, tuple) else (hx,)
    if not training:
        return y, *finals
    loss = sum((value * torch.randn_like(value)).sum() for value in (y, *finals))
    return y, *finals, *torch.autograd.grad(loss, [x, *states, *layer.parameters()])


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("name", LAYERS)
def test_chunks_equal_the_whole(name, ragged, training, monkeypatch):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    lengths = torch.tensor([11, 3, 0, 7]) if ragged else None
    whole = numbers(layer, lengths, training)
    monkeypatch.setattr(call, "CHUNK_BYTES", 7 * 80 * 8)  # a few rows
    for one, other in zip(whole, numbers(layer, lengths, training), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_chunks_cover_every_row_once(reverse):
    ragged = rows_of(torch.zeros(9, 5, 1), torch.tensor([9, 1, 4, 4, 0]))
    for rows in (full_rows(9, 5), ragged):
        chunks = rows.chunks(8, reverse)
        assert [p.begin for p in chunks] == [0, *(p.end for p in chunks[:-1])]
        assert chunks[-1].end == 9
        covered = sorted(row for p in chunks for row in range(p.first, p.last))
        assert covered == list(range(rows.total))
        assert all(p.last - p.first <= 8 or p.end - p.begin == 1 for p in chunks)
