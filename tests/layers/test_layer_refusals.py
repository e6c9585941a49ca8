"""Mistakes, refused with torch.nn's type and words where torch.nn has any, and named where it has not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import throughtime as tt

T, B, D, H = 7, 3, 5, 13
LAYERS = ["RNN", "GRU", "LSTM"]
BACKENDS = [row[0] for row in tt.backends().rows if row[1] and row[0] != "cudnn"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "x", "hx"),
    [
        ("LSTM", (T, B, D, 1), None),
        ("GRU", (T, B, D, 1), None),
        ("RNN", (T, B, D + 1), None),
        ("RNN", (T, D + 1), None),
        ("RNN", (0, B, D), None),
        ("RNN", (0, D), None),
        ("GRU", (T, B, D), (1, B + 1, H)),
        ("GRU", (T, B, D), (2, B, H)),
        ("GRU", (T, B, D), (B, H)),
        ("GRU", (T, D), (1, B, H)),
        ("LSTM", (T, B, D), ((1, B, H - 1), (1, B, H))),
        ("LSTM", (T, B, D), ((1, B, H), (1, 1, H))),
        ("LSTM", (T, B, D), ((1, B, H), (B, H))),
        ("LSTM", (T, D), ((1, B, H), (1, B, H))),
    ],
)
def test_wrong_shapes_are_refused_with_torch_nn_s_type_and_words(
    name: str, x: Any, hx: Any, backend: str
) -> None:
    ours = getattr(tt, name)(D, H, backend=backend).double()
    theirs = getattr(nn, name)(D, H).double()
    made = (torch.zeros(x, dtype=torch.float64),)
    if hx is not None:
        zeros = [torch.zeros(s, dtype=torch.float64) for s in (hx if name == "LSTM" else (hx,))]
        made += (tuple(zeros) if name == "LSTM" else zeros[0],)
    with pytest.raises((RuntimeError, ValueError)) as expected:
        theirs(*made)
    with pytest.raises(expected.type) as found:
        ours(*made)
    assert str(found.value) == str(expected.value)


def test_mistakes_that_torch_nn_answers_with_an_index_error_are_named() -> None:
    x, h = torch.zeros(T, B, D), torch.zeros(1, B, H)
    with pytest.raises(ValueError, match=r"hx must be \(h, c\), got 3 tensors"):
        tt.LSTM(D, H)(x, (h, h, h))
    with pytest.raises(ValueError, match=r"hx must be \(h, c\), got 1 tensors"):
        tt.LSTM(D, H)(x, h)
    with pytest.raises(TypeError, match=r"hidden must be one tensor \[1, B, 13\], got tuple"):
        tt.GRU(D, H)(x, (h, h))


@pytest.mark.parametrize("name", LAYERS)
def test_an_unknown_argument_is_never_swallowed(name: str) -> None:
    layer = getattr(tt, name)
    for wrong in (
        "layernorm",
        "options_",
        {"RNN": "peepholes", "GRU": "peepholes", "LSTM": "reset_after"}[name],
    ):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'"):
            layer(D, H, **{wrong: True})
    if name != "LSTM":
        with pytest.raises(ValueError, match="proj_size argument is only supported for LSTM, not RNN or GRU"):
            layer(D, H, proj_size=2)
        with pytest.raises(ValueError, match="forget_bias is for the LSTM's forget gate"):
            layer(D, H, forget_bias=1.0)


def test_impossible_rates_are_refused() -> None:
    for rate in (1.0, -0.1, 2, True, "0.5"):
        with pytest.raises(ValueError, match=r"zoneout must be a number in \[0, 1\)"):
            tt.GRU(D, H, zoneout=rate)
        with pytest.raises(ValueError, match=r"recurrent_dropout must be a number in \[0, 1\)"):
            tt.GRU(D, H, recurrent_dropout=rate)
    with pytest.raises(
        ValueError, match=r"zoneout must be one number for each of \('h',\), got \(0.1, 0.2\)"
    ):
        tt.GRU(D, H, zoneout=(0.1, 0.2))
    for rate in (1.5, -0.1, True, "0.5"):
        with pytest.raises(ValueError, match="dropout should be a number in range"):
            tt.GRU(D, H, 2, dropout=rate)


@pytest.mark.parametrize(
    "make", [lambda: tt.LSTM(D, H, dropout=0.5), lambda: tt.Recurrent(tt.MinGRUCell(D, H), dropout=0.5)]
)
def test_a_dropout_that_does_nothing_warns_at_the_caller_s_line(make: Any) -> None:
    with pytest.warns(
        UserWarning, match="dropout option adds dropout after all but last recurrent layer"
    ) as seen:
        make()
    assert seen[0].filename == __file__


@pytest.mark.parametrize("layer", [tt.RNN, tt.GRU, tt.LSTM])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64])
def test_a_state_of_another_dtype_is_refused_before_anything_reads_it(layer: Any, dtype: torch.dtype) -> None:
    model, zero = layer(3, 4), torch.zeros(1, 2, 4, dtype=dtype)
    hx = (zero, zero) if layer is tt.LSTM else zero
    with pytest.raises(RuntimeError, match=r"must have the input's dtype, torch\.float32"):
        model(torch.randn(5, 2, 3), hx)


def test_a_parameter_of_another_dtype_is_refused_before_anything_reads_it() -> None:
    model = tt.LSTM(3, 4)
    model.weight_hh_l0.data = model.weight_hh_l0.data.double()
    with pytest.raises(RuntimeError):
        model(torch.randn(5, 2, 3))
