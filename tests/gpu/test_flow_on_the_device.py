"""Gradient flow and influence on the device, against the CPU: the same numbers, and the same sentences."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime as tt
from throughtime.data.batch import Batch
from throughtime.flow import Flow, explain, gradient_reach, influence, measure, snapshot

T, B, D, H = 16, 5, 3, 9
LENGTHS = torch.tensor([10, 16, 12, 16, 9])
MODELS: dict[str, Any] = {
    "RNN": lambda: tt.RNN(D, H),
    "GRU": lambda: tt.GRU(D, H, 2),
    "LSTM": lambda: tt.LSTM(D, H, bidirectional=True),
    "LSTM, peepholes": lambda: tt.LSTM(D, H, peepholes=True, layer_norm=True),
    "torch.nn.GRU": lambda: nn.GRU(D, H),
    "IndRNN": lambda: tt.Recurrent(tt.IndRNNCell(D, H)),
}
FORMS = ["full", "lengths on the CPU", "lengths on the device", "packed", "batch"]


def close(got: Any, wanted: Any, path: str = "flow") -> None:
    """The same structure, and the same numbers up to rounding; products of Jacobians start from random vectors of the device."""
    if isinstance(wanted, dict):
        assert list(got) == list(wanted), path
        for key in wanted:
            if key not in ("seconds", "products"):
                close(got[key], wanted[key], f"{path}.{key}")
    elif isinstance(wanted, list):
        assert len(got) == len(wanted), path
        for number, (one, other) in enumerate(zip(got, wanted, strict=True)):
            close(one, other, f"{path}[{number}]")
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, rel=1e-5, abs=1e-10, nan_ok=True), path
    else:
        assert got == wanted, path


def given(form: str, x: Tensor, device: torch.device) -> tuple[Any, dict[str, Any]]:
    """The batch and the keywords of a call; the padding holds NaN where there is one."""
    if form == "full":
        return x.to(device), {}
    x = x.masked_fill((torch.arange(T)[:, None] >= LENGTHS)[..., None], float("nan")).to(device)
    if form == "packed":
        return pack_padded_sequence(x, LENGTHS, enforce_sorted=False), {}
    if form == "batch":
        return Batch.of(x, None, LENGTHS), {}
    return x, {"lengths": LENGTHS.to(device) if form == "lengths on the device" else LENGTHS}


def model_of(name: str) -> Any:
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.7)
    return model.double()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_a_measurement_is_as_on_the_cpu(name: str, form: str, device: torch.device) -> None:
    if name == "torch.nn.GRU" and form not in ("full", "packed"):
        pytest.skip("torch.nn's layers take no lengths")
    exact, x = model_of(name), torch.randn(T, B, D, dtype=torch.float64)
    model = copy.deepcopy(exact).to(device)
    flows: list[Flow] = []
    for each, place in ((model, device), (exact, torch.device("cpu"))):
        batch, keywords = given(form, x, place)
        flows.append(measure(each, batch, lags=6, ends=2, **keywords))
    got, wanted = flows
    close(json.loads(got.to_json()), json.loads(wanted.to_json()))
    assert explain(got) == explain(wanted)
    for layer, expected in wanted.layers.items():
        found = got.layers[layer].products
        assert found is not None and expected.products is not None
        assert torch.equal(found.lags, expected.products.lags)
        # Largest values alone: they are computed to a hundredth, from other random vectors.
        torch.testing.assert_close(
            found.singular_values[:, 0], expected.products.singular_values[:, 0], rtol=0.03, atol=0
        )
        assert found.lyapunov.shape == expected.products.lyapunov.shape
        assert not bool(found.lyapunov.isnan().any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_measuring_leaves_the_model_as_it_was(dtype: torch.dtype, device: torch.device) -> None:
    model = tt.LSTM(D, H, device=device, dtype=dtype).train()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    measure(model, torch.randn(T, B, D, device=device, dtype=dtype), lags=4, ends=1)
    after = torch.rand(3, device=device)
    torch.manual_seed(1)
    torch.randn(T, B, D, device=device, dtype=dtype)
    assert torch.equal(after, torch.rand(3, device=device))
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.device.type == device.type
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("directions", [None, 3])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["GRU", "LSTM", "LSTM, peepholes"])
def test_influence_is_as_on_the_cpu(
    name: str, form: str, directions: int | None, device: torch.device
) -> None:
    exact, x = model_of(name), torch.randn(T, B, D, dtype=torch.float64)
    model = copy.deepcopy(exact).to(device)
    found = []
    for each, place in ((model, device), (exact, torch.device("cpu"))):
        batch, keywords = given(form, x, place)
        found.append(influence(each, batch, examples=2, directions=directions, **keywords).matrix)
    assert found[0].device.type == "cpu"
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("form", ["full", "batch"])
def test_a_snapshot_is_as_on_the_cpu(form: str, device: torch.device) -> None:
    exact, x = model_of("GRU"), torch.randn(T, B, D, dtype=torch.float64)
    model, target = copy.deepcopy(exact).to(device), torch.randn(T, B, H, dtype=torch.float64)

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        known = batch.targets.isfinite()
        return ((outputs - batch.targets.nan_to_num()) * known).square().sum()

    shots = []
    for each, place in ((model, device), (exact, torch.device("cpu"))):
        inputs = given("lengths on the CPU" if form == "batch" else form, x, place)[0]
        batch = Batch.of(inputs, target.to(place), LENGTHS if form == "batch" else None)
        shots.append({name: one.record() for name, one in snapshot(each, loss, batch, None).items()})
    close(*shots, "snapshot")
    assert all(one["r_squared"] is not None for one in shots[1].values())


def test_the_reach_is_as_on_the_cpu(device: torch.device) -> None:
    exact, x = model_of("GRU"), torch.randn(T, B, D, dtype=torch.float64)
    model, target = copy.deepcopy(exact).to(device), torch.randn(T, B, H, dtype=torch.float64)

    def loss(y: Tensor, wanted: Tensor) -> Tensor:
        return (y - wanted).square().sum()

    got, wanted = (
        gradient_reach(each, loss, x.to(place), target.to(place), lags=6, ends=2)
        for each, place in ((model, device), (exact, torch.device("cpu")))
    )
    torch.testing.assert_close(got.norms, wanted.norms, rtol=1e-9, atol=0)
    assert (got.reach, got.half_life) == (wanted.reach, wanted.half_life)
