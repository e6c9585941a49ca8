"""How parameters start: torch.nn's values for the same seed, orthogonal and identity blocks, the forget gate's bias."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import throughtime as tt
from throughtime.cells.init import SCHEMES

D, H = 3, 13
CELLS = [tt.RNNCell, tt.GRUCell, tt.LSTMCell]


def blocks(weight: torch.Tensor) -> list[torch.Tensor]:
    return list(weight.detach().split(H))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_torch_start_has_torch_nn_values_for_the_same_seed(cell: Any, bias: bool) -> None:
    torch.manual_seed(7)
    theirs = getattr(torch.nn, cell.__name__)(D, H, bias)
    torch.manual_seed(7)
    ours = cell(D, H, bias)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("cell", CELLS)
def test_orthogonal_start(cell: Any) -> None:
    made = cell(D, H, init="orthogonal", dtype=torch.float64)
    parts = blocks(made.weight_hh)
    assert len(parts) == {"RNNCell": 1, "GRUCell": 3, "LSTMCell": 4}[cell.__name__]
    for part in parts:
        torch.testing.assert_close(part @ part.T, torch.eye(H, dtype=torch.float64), rtol=0, atol=1e-12)
    assert all(not torch.equal(part, parts[0]) for part in parts[1:])
    assert not made.bias_ih.any() and not made.bias_hh.any()


@pytest.mark.parametrize("cell", CELLS)
def test_identity_start(cell: Any) -> None:
    made = cell(D, H, init="identity")
    for part in blocks(made.weight_hh):
        assert torch.equal(part, torch.eye(H))
    assert 0 < made.weight_ih.abs().max() < 0.006
    assert not made.bias_ih.any() and not made.bias_hh.any()


@pytest.mark.parametrize("cell", CELLS)
def test_xavier_start_takes_the_size_of_one_gate(cell: Any) -> None:
    made = cell(40, H, init="xavier")
    bound = math.sqrt(6 / (40 + H))  # of the whole matrix of four gates it would be sqrt(6 / (40 + 4 * H))
    assert 0.9 * bound < made.weight_ih.abs().max() <= bound
    assert not made.bias_ih.any() and not made.bias_hh.any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_forget_bias_is_added_to_the_forget_gate_alone(scheme: str) -> None:
    torch.manual_seed(3)
    plain = tt.LSTMCell(D, H, init=scheme)
    torch.manual_seed(3)
    remembering = tt.LSTMCell(D, H, init=scheme, forget_bias=1.5)
    added = remembering.bias_ih - plain.bias_ih
    expected = torch.zeros(4 * H)
    expected[H : 2 * H] = 1.5  # i, f, g, o
    torch.testing.assert_close(added.detach(), expected)
    for name in ("weight_ih", "weight_hh", "bias_hh"):
        assert torch.equal(getattr(remembering, name), getattr(plain, name))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("cell", CELLS)
def test_layer_norm_starts_as_the_plain_norm_in_every_scheme(cell: Any, scheme: str) -> None:
    for name, value in cell(D, H, layer_norm=True, init=scheme).named_parameters():
        if name.startswith("gain"):
            assert (value == 1).all(), name
        if name.startswith("bias"):
            assert (value == 0).all(), name
        if name.startswith("weight"):
            assert value.any(), name


def test_reset_parameters_starts_again_from_the_cell_s_own_scheme() -> None:
    cell = tt.LSTMCell(D, H, init="identity", forget_bias=2.0)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.fill_(9.0)
    cell.reset_parameters()
    assert torch.equal(cell.weight_hh[:H], torch.eye(H))
    assert cell.bias_ih[H : 2 * H].eq(2.0).all() and not cell.bias_ih[:H].any()


def test_what_cannot_be_started() -> None:
    with pytest.raises(
        tt.InputError, match=r"init must be one of torch, .*'ortogonal'. Did you mean 'orthogonal'"
    ):
        tt.GRUCell(D, H, init="ortogonal")
    with pytest.raises(tt.InputError, match=r"forget_bias=1.0 needs biases, got bias=False"):
        tt.LSTMCell(D, H, bias=False, forget_bias=1.0)
    with pytest.raises(tt.InputError, match=r"Unknown nonlinearity 'rellu'.*Did you mean 'relu'"):
        tt.RNNCell(D, H, nonlinearity="rellu")
    with pytest.raises(ValueError, match="proj_size has to be smaller than hidden_size"):
        tt.LSTMCell(D, H, proj_size=H)
