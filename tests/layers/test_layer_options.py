"""What the layers offer beyond torch.nn: a size for each layer, recurrent dropout, zoneout, starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import throughtime as tt

T, B, D, H = 7, 3, 5, 13
LAYERS = ["RNN", "GRU", "LSTM"]


@pytest.fixture(params=["reference", None], ids=["reference", "chosen"], autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """On the reference, and on whatever dispatch chooses here for each call."""
    with tt.use_backend(request.param):
        yield


def leaves(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in leaves(part)]


def large(layer: Any) -> Any:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    return layer.double()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_size_for_each_layer_is_layers_of_those_sizes_one_after_the_other(
    name: str, bidirectional: bool
) -> None:
    sizes, directions = [H, 4, 6], 2 if bidirectional else 1
    layer = large(getattr(tt, name)(D, sizes, 3, bidirectional=bidirectional))
    x = torch.randn(T, B, D, dtype=torch.float64)
    lengths = torch.tensor([7, 2, 5])
    rows = [size for size in sizes for _ in range(directions)]
    parts = [
        tuple(torch.randn(B, size, dtype=torch.float64) for size in rows)
        for _ in range(2 if name == "LSTM" else 1)
    ]
    y, final = layer(x, tuple(parts) if name == "LSTM" else parts[0], lengths=lengths)
    finals = final if name == "LSTM" else (final,)
    features = D
    for number, size in enumerate(sizes):
        one = getattr(tt, name)(features, size, bidirectional=bidirectional).double()
        own = {
            k.replace(f"_l{number}", "_l0"): v for k, v in layer.state_dict().items() if f"_l{number}" in k
        }
        one.load_state_dict(own)
        these = slice(number * directions, (number + 1) * directions)
        hx = [torch.stack(part[these]) for part in parts]
        x, last = one(x, tuple(hx) if name == "LSTM" else hx[0], lengths=lengths)
        for mine, theirs in zip(finals, last if name == "LSTM" else (last,), strict=True):
            torch.testing.assert_close(torch.stack(mine[these]), theirs)
        features = size * directions
    torch.testing.assert_close(y, x)


def test_sizes_with_a_projection_share_one_tensor_for_h() -> None:
    layer = tt.LSTM(D, [H, 6], 2, proj_size=4)
    y, (h, c) = layer(torch.randn(T, B, D))
    assert y.shape == (T, B, 4) and h.shape == (2, B, 4) and [v.shape for v in c] == [(B, H), (B, 6)]
    again, _ = layer(torch.randn(T, B, D), (h, c))
    assert again.shape == y.shape
    unbatched, (_, c) = layer(torch.randn(T, D))
    assert unbatched.shape == (T, 4) and [v.shape for v in c] == [(H,), (6,)]
    assert layer(torch.randn(T, D), (h[:, 0], c))[0].shape == (T, 4)


def test_equal_sizes_in_a_list_are_one_size() -> None:
    layer = tt.GRU(D, [H, H], 2)
    assert layer(torch.randn(T, B, D))[1].shape == (2, B, H)
    assert list(layer.state_dict()) == list(torch.nn.GRU(D, H, 2).state_dict())


def test_sizes_that_do_not_fit() -> None:
    assert tt.GRU(D, [H, 4]).num_layers == 2
    with pytest.raises(ValueError, match=r"one for each of the 3 layers, got 2 numbers: give 3 sizes"):
        tt.GRU(D, [H, 4], 3)
    with pytest.raises(ValueError, match="hidden_size must be greater than zero"):
        tt.GRU(D, [H, 0], 2)
    with pytest.raises(TypeError, match="hidden_size should be of type int"):
        tt.GRU(D, [H, 4.0], 2)
    layer = tt.GRU(D, [H, 4], 2)
    with pytest.raises(
        RuntimeError, match="hidden must be a tuple of 2 tensors, one for each layer and direction"
    ):
        layer(torch.randn(T, B, D), torch.zeros(2, B, H))
    with pytest.raises(RuntimeError, match=r"Expected hidden\[1\] size \(3, 4\), got \[3, 13\]"):
        layer(torch.randn(T, B, D), (torch.zeros(B, H), torch.zeros(B, H)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in LAYERS),
        ("GRU", {"reset_after": False}),
        ("GRU", {"reset_after": False, "layer_norm": True}),
        ("LSTM", {"layer_norm": True, "peepholes": True}),
    ],
    ids=str,
)
def test_recurrent_dropout_uses_one_mask_at_every_step(name: str, options: dict[str, Any]) -> None:
    layer = large(getattr(tt, name)(D, H, recurrent_dropout=0.4, **options))
    cell = getattr(tt, f"{name}Cell")(D, H, **options).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x, h0 = torch.randn(T, B, D, dtype=torch.float64), torch.randn(1, B, H, dtype=torch.float64)
    y, _ = layer(x, (h0, h0.cos()) if name == "LSTM" else h0)
    # The mask is what scales the hidden state on its way into W_hh: take it from the same seed, then step by hand.
    torch.manual_seed(5)
    y, _ = layer(x, (h0, h0.cos()) if name == "LSTM" else h0)
    torch.manual_seed(5)
    mask = cell.h_mask = torch.empty(B, H, dtype=torch.float64).bernoulli_(0.6).div_(0.6)
    assert 0 < (mask == 0).sum() < B * H and not torch.equal(mask[0], mask[1])
    state = tt.LSTMState(h0[0], h0[0].cos()) if name == "LSTM" else tt.HiddenState(h0[0])
    torch.testing.assert_close(y, tt.scan(cell, x, state)[0])
    # And what the mask does, without the cell's help: a unit it drops has no weight in W_hh (any gate of it).
    cell.h_mask = None
    with torch.no_grad():
        cell.weight_hh.mul_(mask[0])
    first = tuple(s[:1] for s in state) if name == "LSTM" else state[0][:1]
    stepped = cell(x[0, :1], first)
    torch.testing.assert_close(y[0, :1], stepped[0] if name == "LSTM" else stepped)


@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_dropout_keeps_the_mean_of_what_enters_the_recurrence_and_is_off_in_evaluation(
    name: str,
) -> None:
    dropping, plain = getattr(tt, name)(D, H, recurrent_dropout=0.5), getattr(tt, name)(D, H)
    plain.load_state_dict(dropping.state_dict())
    x = torch.randn(T, 1, D)
    torch.testing.assert_close(dropping.eval()(x), plain(x))
    dropping.train()
    with torch.no_grad():
        for layer in (dropping, plain):
            layer.weight_hh_l0.mul_(
                0.02
            )  # nearly linear in the mask, so that the mean over masks is exact up to the error of the mean
        h0 = torch.randn(1, 1, H)
        expected = plain(x[:1], (h0, h0) if name == "LSTM" else h0)[0]
        many = h0.expand(1, 20_000, H).contiguous()
        y, _ = dropping(x[:1].expand(1, 20_000, D), (many, many) if name == "LSTM" else many)
    standard_error = y.std(1) / 20_000**0.5
    assert (y.std(1) > 0).all()
    assert ((y.mean(1) - expected[:, 0]).abs() < 6 * standard_error + 1e-5).all()


@pytest.mark.parametrize("name", LAYERS)
def test_zoneout_in_training_keeps_old_values_exactly_and_the_rest_is_the_plain_step(name: str) -> None:
    layer = large(getattr(tt, name)(D, H, zoneout=0.3 if name != "LSTM" else (0.3, 0.6)))
    cell = getattr(tt, f"{name}Cell")(D, H).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x, h0 = torch.randn(50, B, D, dtype=torch.float64), torch.randn(1, B, H, dtype=torch.float64)
    hx = (h0, h0.cos()) if name == "LSTM" else h0
    steps = layer.trace(x, hx).steps["l0"]
    seen = [steps[field] for field in ("h", "c")[: len(leaves(hx))]]
    before = [torch.cat([h, s[:-1]]) for h, s in zip(leaves(hx), seen, strict=True)]
    stepped = [
        leaves(cell(x[t], tuple(b[t] for b in before) if name == "LSTM" else before[0][t])) for t in range(50)
    ]
    new = [torch.stack(part) for part in zip(*stepped, strict=True)]
    for old, after, plain, rate in zip(before, seen, new, (0.3, 0.6), strict=False):
        kept = after == old
        torch.testing.assert_close(after[~kept], plain[~kept])
        assert abs(kept.double().mean().item() - rate) < 0.04  # 1950 draws: three standard deviations
        assert not torch.equal(kept[0], kept[1])  # a new mask at each step


@pytest.mark.parametrize("name", LAYERS)
def test_zoneout_in_evaluation_is_the_expectation(name: str) -> None:
    rates = (0.3, 0.6) if name == "LSTM" else (0.3,)
    layer = large(getattr(tt, name)(D, H, zoneout=rates)).eval()
    cell = getattr(tt, f"{name}Cell")(D, H).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x = torch.randn(T, B, D, dtype=torch.float64)
    state = [torch.randn(B, H, dtype=torch.float64) for _ in rates]
    y, final = layer(x, tuple(s[None] for s in state) if name == "LSTM" else state[0][None])
    for t in range(T):
        new = leaves(cell(x[t], tuple(state) if name == "LSTM" else state[0]))
        state = [rate * old + (1 - rate) * n for rate, old, n in zip(rates, state, new, strict=True)]
        torch.testing.assert_close(y[t], state[0])
    torch.testing.assert_close([f[0] for f in leaves(final)], state)


@pytest.mark.parametrize("name", LAYERS)
def test_options_at_zero_are_the_plain_layer(name: str) -> None:
    plain = getattr(tt, name)(D, H, backend="reference")
    zero = getattr(tt, name)(D, H, zoneout=0.0, recurrent_dropout=0.0, layer_norm=False, backend="reference")
    zero.load_state_dict(plain.state_dict())
    x = torch.randn(T, B, D)
    torch.testing.assert_close(zero(x), plain(x), rtol=0, atol=0)
    assert tt.LSTM(D, H, zoneout=(0.0, 0.0)).call(x).extras == ()


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_start_as_their_cells_do(name: str) -> None:
    layer = getattr(tt, name)(D, H, 2, bidirectional=True, init="orthogonal", dtype=torch.float64)
    blocks = [block for n, p in layer.named_parameters() if "weight_hh" in n for block in p.detach().split(H)]
    assert len(blocks) == 4 * {"RNN": 1, "GRU": 3, "LSTM": 4}[name]
    for block in blocks:
        torch.testing.assert_close(block @ block.T, torch.eye(H, dtype=torch.float64))
    with pytest.raises(tt.InputError, match=r"Did you mean 'identity'"):
        getattr(tt, name)(D, H, init="identiy")


def test_the_forget_bias_of_every_layer_takes_that_layer_s_size() -> None:
    layer = tt.LSTM(D, [H, 4], 2, bidirectional=True, init="xavier", forget_bias=1.0)
    for number, size in enumerate((H, 4)):
        for suffix in ("", "_reverse"):
            bias = getattr(layer, f"bias_ih_l{number}{suffix}")
            assert bias[size : 2 * size].eq(1).all() and bias.sum() == size


@pytest.mark.parametrize(
    ("name", "options", "cell", "cell_options"),
    [
        ("RNN", {"nonlinearity": "sigmoid"}, tt.RNNCell, {"nonlinearity": "sigmoid"}),
        (
            "RNN",
            {"nonlinearity": "identity", "layer_norm": True},
            tt.RNNCell,
            {"nonlinearity": "identity", "layer_norm": True},
        ),
        ("GRU", {"reset_after": False}, tt.GRUCell, {"reset_after": False}),
        (
            "GRU",
            {"reset_after": False, "layer_norm": True},
            tt.GRUCell,
            {"reset_after": False, "layer_norm": True},
        ),
        ("LSTM", {"peepholes": True, "proj_size": 4}, tt.LSTMCell, {"peepholes": True, "proj_size": 4}),
        ("LSTM", {"layer_norm": True, "bias": False}, tt.LSTMCell, {"layer_norm": True, "bias": False}),
    ],
    ids=str,
)
def test_an_option_of_a_layer_is_that_option_of_its_cell(
    name: str, options: dict[str, Any], cell: Any, cell_options: dict[str, Any]
) -> None:
    layer, single = large(getattr(tt, name)(D, H, **options)), cell(D, H, **cell_options).double()
    single.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x = torch.randn(T, B, D, dtype=torch.float64)
    state = type(single.initial_state(B))(
        *(torch.randn_like(s, dtype=torch.float64) for s in single.initial_state(B))
    )
    y, final = layer(x, tuple(s[None] for s in state) if name == "LSTM" else state[0][None])
    expected, last = tt.scan(single, x, state)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close([f[0] for f in leaves(final)], list(last))
