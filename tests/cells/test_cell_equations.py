"""Every cell against its equation, written again in numpy from the literature, in float64.

The weights are large (the gates leave their linear part), the state is not zero, rows and units all differ, so that a gate, a
transpose or a term in the wrong place shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import throughtime as tt

B, D, H, T = 5, 3, 13, 7
# float64; a dozen operations a step on numbers of size one to ten.
CLOSE = {"rtol": 1e-11, "atol": 1e-11}

Array = np.ndarray[Any, Any]


def large(cell: torch.nn.Module) -> dict[str, Array]:
    """Draw every parameter from N(0, 1), and return them as numpy arrays by name."""
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.normal_()
    return {name: p.detach().numpy() for name, p in cell.named_parameters()}


def draw(*shape: int) -> tuple[Tensor, Array]:
    value = torch.randn(*shape, dtype=torch.float64)
    return value, value.numpy()


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def layer_norm(a: Array, gain: Array, shift: Array | float = 0.0) -> Array:
    centred = a - a.mean(-1, keepdims=True)
    return gain * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + shift


def rows(weight: Array, gate: int) -> Array:
    """One gate's block, as the course writes it: [D or H, H] for examples as rows, [H] for a bias."""
    return weight[gate * H : (gate + 1) * H].T


def agree(found: Any, *expected: Array) -> None:
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.detach(), torch.from_numpy(np.ascontiguousarray(other)), **CLOSE)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("name", "phi"),
    [
        ("tanh", np.tanh),
        ("relu", lambda a: np.maximum(a, 0)),
        ("sigmoid", sigmoid),
        ("identity", lambda a: a),
    ],
)
def test_rnn(name: str, phi: Any, bias: bool) -> None:
    cell = tt.RNNCell(D, H, bias, name, dtype=torch.float64)
    w = large(cell)
    (x, X), (h, Hp) = draw(B, D), draw(B, H)
    W_xh, W_hh = w["weight_ih"].T, w["weight_hh"].T
    b_h = w["bias_ih"] + w["bias_hh"] if bias else 0
    agree(cell(x, h), phi(X @ W_xh + Hp @ W_hh + b_h))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reset_after", [True, False])
def test_gru(reset_after: bool, bias: bool) -> None:
    cell = tt.GRUCell(D, H, bias, dtype=torch.float64, reset_after=reset_after)
    w = large(cell)
    (x, X), (h, Hp) = draw(B, D), draw(B, H)
    zero = np.zeros(3 * H)
    x_r, x_z, x_n = (X @ rows(w["weight_ih"], g) + rows(w.get("bias_ih", zero), g) for g in range(3))
    b_r, b_z, b_n = (rows(w.get("bias_hh", zero), g) for g in range(3))
    R = sigmoid(x_r + Hp @ rows(w["weight_hh"], 0) + b_r)
    Z = sigmoid(x_z + Hp @ rows(w["weight_hh"], 1) + b_z)
    W_hn = rows(w["weight_hh"], 2)
    candidate = np.tanh(x_n + (R * (Hp @ W_hn + b_n) if reset_after else (R * Hp) @ W_hn + b_n))
    agree(cell(x, h), Z * Hp + (1 - Z) * candidate)


def test_the_two_forms_of_the_gru_are_different_functions() -> None:
    torch_form, course_form = (tt.GRUCell(D, H, dtype=torch.float64, reset_after=r) for r in (True, False))
    large(torch_form)
    course_form.load_state_dict(torch_form.state_dict())
    (x, _), (h, _) = draw(B, D), draw(B, H)
    assert (torch_form(x, h) - course_form(x, h)).abs().max() > 0.1


def lstm_by_hand(w: dict[str, Array], X: Array, Hp: Array, C: Array) -> tuple[Array, Array]:
    """The LSTM with whichever of biases, peepholes, layer norm and projection `w` names."""
    a_x, a_h = X @ w["weight_ih"].T, Hp @ w["weight_hh"].T
    b_x, b_h = w.get("bias_ih", 0.0), w.get("bias_hh", 0.0)
    if "gain_ih" in w:
        a = layer_norm(a_x, w["gain_ih"], b_x) + layer_norm(a_h, w["gain_hh"], b_h)
    else:
        a = a_x + b_x + a_h + b_h
    a_i, a_f, a_g, a_o = (a[:, g * H : (g + 1) * H] for g in range(4))
    p = w.get("weight_peephole", np.zeros(3 * H))
    p_i, p_f, p_o = p[:H], p[H : 2 * H], p[2 * H :]
    I, F, G = sigmoid(a_i + p_i * C), sigmoid(a_f + p_f * C), np.tanh(a_g)
    C = F * C + I * G
    O = sigmoid(a_o + p_o * C)
    h = O * np.tanh(layer_norm(C, w["gain_c"], w.get("bias_c", 0.0)) if "gain_c" in w else C)
    return (h @ w["weight_hr"].T if "weight_hr" in w else h), C


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"peepholes": True},
        {"proj_size": 4},
        {"layer_norm": True},
        {"peepholes": True, "proj_size": 4, "layer_norm": True},
    ],
    ids=str,
)
def test_lstm(options: dict[str, Any], bias: bool) -> None:
    cell = tt.LSTMCell(D, H, bias, dtype=torch.float64, **options)
    w = large(cell)
    (x, X), (h, Hp), (c, C) = draw(B, D), draw(B, options.get("proj_size", H)), draw(B, H)
    agree(cell(x, (h, c)), *lstm_by_hand(w, X, Hp, C))


@pytest.mark.parametrize("bias", [True, False])
def test_rnn_with_layer_norm(bias: bool) -> None:
    cell = tt.RNNCell(D, H, bias, dtype=torch.float64, layer_norm=True)
    w = large(cell)
    (x, X), (h, Hp) = draw(B, D), draw(B, H)
    a_x = layer_norm(X @ w["weight_ih"].T, w["gain_ih"], w.get("bias_ih", 0.0))
    a_h = layer_norm(Hp @ w["weight_hh"].T, w["gain_hh"], w.get("bias_hh", 0.0))
    agree(cell(x, h), np.tanh(a_x + a_h))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_with_layer_norm(reset_after: bool, bias: bool) -> None:
    cell = tt.GRUCell(D, H, bias, dtype=torch.float64, reset_after=reset_after, layer_norm=True)
    w = large(cell)
    (x, X), (h, Hp) = draw(B, D), draw(B, H)
    gates, candidate = slice(None, 2 * H), slice(2 * H, None)

    def normalised(a: Array, which: str, part: slice) -> Array:
        shift = w[f"bias_{which}"][part] if bias else 0.0
        return layer_norm(a, w[f"gain_{which}"][part], shift)

    a_x, W_hh = X @ w["weight_ih"].T, w["weight_hh"]
    rz = sigmoid(normalised(a_x[:, gates], "ih", gates) + normalised(Hp @ W_hh[gates].T, "hh", gates))
    R, Z = rz[:, :H], rz[:, H:]
    if reset_after:
        from_h = R * normalised(Hp @ W_hh[candidate].T, "hh", candidate)
    else:
        from_h = normalised((R * Hp) @ W_hh[candidate].T, "hh", candidate)
    n = np.tanh(normalised(a_x[:, candidate], "ih", candidate) + from_h)
    agree(cell(x, h), Z * Hp + (1 - Z) * n)


def test_indrnn() -> None:
    cell = tt.IndRNNCell(D, H).double()
    w = large(cell)
    (x, X), (h, Hp) = draw(B, D), draw(B, H)
    expected = np.maximum(X @ w["linear.weight"].T + w["linear.bias"] + w["weight_hh"] * Hp, 0)
    assert (expected > 0).any() and (expected == 0).any()
    agree(cell(x, tt.HiddenState(h)), expected)


def test_mingru() -> None:
    cell = tt.MinGRUCell(D, H).double()
    w = large(cell)
    (x, X), (h, Hp) = draw(B, D), draw(B, H)
    a = X @ w["linear.weight"].T + w["linear.bias"]
    Z, N = sigmoid(a[:, :H]), a[:, H:]
    agree(cell(x, tt.HiddenState(h)), (1 - Z) * Hp + Z * N)


def test_layer_norm_lstm_cell_is_lstm_cell_with_layer_norm() -> None:
    written, option = (
        tt.LayerNormLSTMCell(D, H).double(),
        tt.LSTMCell(D, H, dtype=torch.float64, layer_norm=True),
    )
    w = {name: torch.from_numpy(value) for name, value in large(option).items()}
    copied = {
        "ih.weight": w["weight_ih"], "hh.weight": w["weight_hh"],
        "norm_ih.weight": w["gain_ih"], "norm_ih.bias": w["bias_ih"],
        "norm_hh.weight": w["gain_hh"], "norm_hh.bias": w["bias_hh"],
        "norm_c.weight": w["gain_c"], "norm_c.bias": w["bias_c"],
    }  # fmt: skip
    assert copied.keys() == written.state_dict().keys()
    written.load_state_dict(copied)
    x, state = (
        torch.randn(T, B, D).double(),
        tt.LSTMState(torch.randn(B, H).double(), torch.randn(B, H).double()),
    )
    torch.testing.assert_close(tt.scan(written, x, state), tt.scan(option, x, state), **CLOSE)


@pytest.mark.parametrize("reset_after", [True, False])
def test_a_gru_contains_the_plain_rnn_when_it_resets_nothing_and_keeps_nothing(reset_after: bool) -> None:
    gru, rnn = (
        tt.GRUCell(D, H, dtype=torch.float64, reset_after=reset_after),
        tt.RNNCell(D, H, dtype=torch.float64),
    )
    large(gru)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            gates, candidate = getattr(gru, name).split((2 * H, H))
            gates.zero_()
            getattr(rnn, name).copy_(candidate)
        gru.bias_ih[:H] = 800.0  # sigmoid(800) is 1 in float64: R = 1
        gru.bias_ih[H : 2 * H] = -800.0  # Z = 0
    x, h = torch.randn(T, B, D).double(), tt.HiddenState(torch.randn(B, H).double())
    torch.testing.assert_close(tt.scan(gru, x, h), tt.scan(rnn, x, h), **CLOSE)
    with torch.no_grad():
        gru.bias_ih[H : 2 * H] = 800.0  # Z = 1 keeps the old state, whatever comes
    torch.testing.assert_close(tt.scan(gru, x, h)[1], h, **CLOSE)


def test_an_output_depends_on_every_input_up_to_its_own_step_and_on_none_after() -> None:
    cell = tt.RNNCell(D, H, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda x: tt.scan(cell, x.unsqueeze(1))[0].squeeze(1))(
        torch.randn(T, D).double()
    )
    influence = jacobian.abs().sum(dim=(1, 3))
    assert ((influence > 0) == torch.ones(T, T).tril().bool()).all()


def test_sequences_of_any_length_use_the_same_parameters() -> None:
    cell = tt.LSTMCell(D, H)
    count = sum(p.numel() for p in cell.parameters())
    assert count == 4 * H * (D + H + 2)
    for steps in (1, T, 50):
        assert tt.scan(cell, torch.randn(steps, B, D))[0].shape == (steps, B, H)
    assert sum(p.numel() for p in cell.parameters()) == count
