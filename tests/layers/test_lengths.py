"""A batch of unequal lengths gives, for every row, exactly what the row gives alone (LESSONS R7), and all of its gradients.

The padding holds NaN: whatever reads it shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import throughtime as tt

T, D, H = 7, 3, 13
LENGTHS = torch.tensor([4, 7, 0, 1, 6, 2])
B = len(LENGTHS)
LAYERS = ["RNN", "GRU", "LSTM"]
# float64; sums of up to T * B terms are taken in another order when rows run alone.
CLOSE = {"rtol": 1e-9, "atol": 1e-10}

CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in LAYERS),
    *((name, {"bidirectional": True}) for name in LAYERS),
    *((name, {"num_layers": 2, "bidirectional": True}) for name in LAYERS),
    *((name, {"num_layers": 2, "bias": False, "layer_norm": True}) for name in LAYERS),
    *((name, {"bidirectional": True, "zoneout": 0.3, "recurrent_dropout": 0.4}) for name in LAYERS),
    *(("RNN", {"nonlinearity": name, "bidirectional": True}) for name in ("relu", "sigmoid", "identity")),
    ("GRU", {"reset_after": False, "bidirectional": True}),
    ("GRU", {"reset_after": False, "layer_norm": True}),
    ("LSTM", {"peepholes": True, "layer_norm": True, "proj_size": 4, "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"zoneout": (0.1, 0.5), "peepholes": True}),
]


@pytest.fixture(params=["reference", None], ids=["reference", "chosen"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """On the reference, and on whatever dispatch chooses here for each call."""
    with tt.use_backend(request.param):
        yield


def leaves(value: Any) -> list[Tensor]:
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in leaves(part)]


def make(name: str, options: dict[str, Any]) -> Any:
    # Evaluation: random masks would be different for a row alone.
    layer = getattr(tt, name)(D, H, **options).double().eval()
    scale = 1.3 if options.get("nonlinearity") in ("relu", "identity") else 3.0
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(scale)
    return layer


def poisoned(*, features: int = D) -> Tensor:
    x = torch.randn(T, B, features, dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        x[length:, row] = float("nan")
    return x


def state(layer: Any, batch: int = B) -> list[Tensor]:
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    h = torch.randn(rows, batch, getattr(layer, "proj_size", 0) or H, dtype=torch.float64)
    return [h, torch.randn(rows, batch, H, dtype=torch.float64)] if isinstance(layer, tt.LSTM) else [h]


def as_hx(parts: list[Tensor]) -> Any:
    return tuple(parts) if len(parts) > 1 else parts[0]


def gradients(total: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for g, i in zip(found, inputs, strict=True)]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_every_row_is_as_it_is_alone(name: str, options: dict[str, Any]) -> None:
    layer = make(name, options)
    x, hx = poisoned().requires_grad_(), [h.requires_grad_() for h in state(layer)]
    y, final = layer(x, as_hx(hx), lengths=LENGTHS)
    finals = leaves(final)
    coefficients = [torch.randn_like(value) for value in (y, *finals)]
    wanted = [x, *hx, *layer.parameters()]
    total = sum((v * w).sum() for v, w in zip((y, *finals), coefficients, strict=True))
    found = gradients(total, wanted)

    parts = []
    for row, length in enumerate(LENGTHS.tolist()):
        assert (y[length:, row] == 0).all()
        alone_hx = [h[:, row : row + 1] for h in hx]
        if length:
            alone_y, alone_final = layer(x[:length, row : row + 1], as_hx(alone_hx))
            torch.testing.assert_close(y[:length, row : row + 1], alone_y, **CLOSE)
            parts.append((alone_y * coefficients[0][:length, row : row + 1]).sum())
        else:
            alone_final = as_hx(alone_hx)
        for one, alone, w in zip(finals, leaves(alone_final), coefficients[1:], strict=True):
            torch.testing.assert_close(one[:, row : row + 1], alone, **CLOSE)
            parts.append((alone * w[:, row : row + 1]).sum())
    for one, alone in zip(found, gradients(sum(parts), wanted), strict=True):
        torch.testing.assert_close(one, alone, **CLOSE)
    for row, length in enumerate(LENGTHS.tolist()):
        assert (found[0][length:, row] == 0).all()


@pytest.mark.parametrize("name", LAYERS)
def test_rows_with_one_step_and_with_none_in_a_batch_of_one_step(name: str) -> None:
    layer = make(name, {"bidirectional": True, "num_layers": 2})
    hx = state(layer, 3)
    x = torch.randn(1, 3, D, dtype=torch.float64)
    x[:, 1] = float("nan")
    y, final = layer(x, as_hx(hx), lengths=torch.tensor([1, 0, 1]))
    for row in (0, 2):
        alone, last = layer(x[:, row : row + 1], as_hx([h[:, row : row + 1] for h in hx]))
        torch.testing.assert_close(y[:, row : row + 1], alone)
        torch.testing.assert_close([f[:, row : row + 1] for f in leaves(final)], leaves(last))
    assert (y[:, 1] == 0).all()
    assert all(torch.equal(f[:, 1], h[:, 1]) for f, h in zip(leaves(final), hx, strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_the_backward_direction_starts_at_each_row_s_last_real_step_with_weights_of_its_own(
    name: str,
) -> None:
    both, ahead, back = (make(name, {"bidirectional": b}) for b in (True, False, False))
    own = both.state_dict()
    ahead.load_state_dict({k: v for k, v in own.items() if not k.endswith("_reverse")})
    back.load_state_dict({k.removesuffix("_reverse"): v for k, v in own.items() if k.endswith("_reverse")})
    x, hx = poisoned(), state(both)
    y, final = both(x, as_hx(hx), lengths=LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        if not length:
            continue
        real = x[:length, row : row + 1]
        first, _ = ahead(real, as_hx([h[:1, row : row + 1] for h in hx]))
        second, last = back(real.flip(0), as_hx([h[1:, row : row + 1] for h in hx]))
        torch.testing.assert_close(y[:length, row : row + 1], torch.cat([first, second.flip(0)], -1), **CLOSE)
        torch.testing.assert_close([f[1:, row : row + 1] for f in leaves(final)], leaves(last), **CLOSE)


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str
)
@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_packed_sequences_are_torch_nn_s_and_lengths_are_packed_sequences(
    name: str, enforce_sorted: bool, options: dict[str, Any]
) -> None:
    layer = make(name, options)
    theirs = getattr(nn, name)(D, H, **options).double()
    theirs.load_state_dict(layer.state_dict())
    lengths = torch.tensor([7, 6, 4, 2, 1] if enforce_sorted else [4, 7, 1, 6, 2])
    x, hx = torch.randn(T, 5, D, dtype=torch.float64), as_hx(state(layer, 5))
    packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    found, expected = layer(packed, hx), theirs(packed, hx)
    assert isinstance(found[0], PackedSequence)
    torch.testing.assert_close(found[1], expected[1])
    for one, other in zip(found[0], expected[0], strict=True):
        assert (one is None) == (other is None)
        torch.testing.assert_close(one, other)
    y, final = layer(x.transpose(0, 1) if layer.batch_first else x, hx, lengths=lengths)
    padded, _ = pad_packed_sequence(found[0], batch_first=layer.batch_first)
    torch.testing.assert_close(y, padded)
    torch.testing.assert_close(final, found[1])


@pytest.mark.parametrize("cut", range(1, T))
@pytest.mark.parametrize("name", LAYERS)
def test_a_state_carried_over_a_cut_is_no_cut(name: str, cut: int) -> None:
    layer = make(name, {"num_layers": 2})
    x, hx = poisoned(), as_hx(state(layer))
    whole, last = layer(x, hx, lengths=LENGTHS)
    first, middle = layer(x[:cut], hx, lengths=LENGTHS.clamp(max=cut))
    second, final = layer(x[cut:], middle, lengths=(LENGTHS - cut).clamp(min=0))
    torch.testing.assert_close(torch.cat([first, second]), whole, **CLOSE)
    torch.testing.assert_close(final, last, **CLOSE)


@pytest.mark.parametrize("backend", ["aten", "reference"])
@pytest.mark.parametrize("name", LAYERS)
def test_lengths_that_are_all_full_are_no_lengths(name: str, backend: str) -> None:
    layer = getattr(tt, name)(D, H, bidirectional=True, backend=backend)
    x = torch.randn(T, B, D)
    torch.testing.assert_close(layer(x, lengths=torch.full((B,), T)), layer(x), rtol=0, atol=0)


def test_batch_first_and_lists_of_lengths() -> None:
    layer, turned = (
        make("LSTM", {"bidirectional": True}),
        make("LSTM", {"bidirectional": True, "batch_first": True}),
    )
    turned.load_state_dict(layer.state_dict())
    x = poisoned()
    y, final = layer(x, lengths=LENGTHS)
    y_turned, final_turned = turned(x.transpose(0, 1), lengths=LENGTHS.to(torch.int32))
    torch.testing.assert_close(y_turned.transpose(0, 1), y, rtol=0, atol=0)
    torch.testing.assert_close(final_turned, final, rtol=0, atol=0)
    torch.testing.assert_close(layer(x, lengths=LENGTHS.tolist()), (y, final), rtol=0, atol=0)


CELLS = [
    partial(tt.RNNCell, hidden_size=H),
    partial(tt.GRUCell, hidden_size=H, reset_after=False),
    partial(tt.LSTMCell, hidden_size=H, peepholes=True, proj_size=4),
    partial(tt.MinGRUCell, hidden_size=H),
    partial(tt.IndRNNCell, hidden_size=H),
    partial(tt.LayerNormLSTMCell, hidden_size=H),
]


@pytest.mark.parametrize("make_cell", CELLS, ids=lambda cell: cell.func.__name__)
def test_any_cell_as_a_layer_gives_every_row_as_it_is_alone(make_cell: Any) -> None:
    layer = tt.Recurrent(make_cell, D, num_layers=2, bidirectional=True).double()
    x = poisoned().requires_grad_()
    y, finals = layer(x, lengths=LENGTHS)
    (y.sum() + sum(v.sum() for v in leaves(finals))).backward()
    found = [x.grad, *(p.grad for p in layer.parameters())]
    assert all(g.isfinite().all() for g in found)
    x.grad = None
    layer.zero_grad()
    for row, length in enumerate(LENGTHS.tolist()):
        assert (y[length:, row] == 0).all()
        if length:
            alone, last = layer(x[:length, row : row + 1])
            torch.testing.assert_close(y[:length, row : row + 1], alone, **CLOSE)
            torch.testing.assert_close([f[row : row + 1] for f in leaves(finals)], leaves(last), **CLOSE)
            (alone.sum() + sum(v.sum() for v in leaves(last))).backward()
        else:
            assert not any(f[row].any() for f in leaves(finals))
    torch.testing.assert_close(found, [x.grad, *(p.grad for p in layer.parameters())], **CLOSE)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (torch.tensor([1.0] * B), "whole numbers of shape"),
        (torch.tensor([True] * B), "whole numbers of shape"),
        (torch.ones(B, 1, dtype=torch.int64), "whole numbers of shape"),
        (torch.ones(B - 1, dtype=torch.int64), "one number for each of the 6 rows of the batch, got 5"),
        (torch.tensor([T + 1] + [1] * (B - 1)), "between 0 and the 7 steps of the input, got 1 to 8"),
        (torch.tensor([-1] + [1] * (B - 1)), "between 0 and the 7 steps of the input, got -1 to 1"),
    ],
)
def test_impossible_lengths_are_refused(lengths: Tensor, words: str) -> None:
    x = torch.randn(T, B, D)
    for run in (tt.GRU(D, H), tt.Recurrent(tt.GRUCell(D, H)), partial(tt.scan, tt.GRUCell(D, H))):
        with pytest.raises(ValueError, match=words):
            run(x, lengths=lengths)


def test_lengths_where_they_have_no_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="give only its real steps"):
        tt.GRU(D, H)(torch.randn(T, D), lengths=torch.tensor([3]))
    packed = pack_padded_sequence(torch.randn(T, 2, D), torch.tensor([7, 2]))
    with pytest.raises(ValueError, match="a PackedSequence carries its lengths"):
        tt.GRU(D, H)(packed, lengths=torch.tensor([7, 2]))
