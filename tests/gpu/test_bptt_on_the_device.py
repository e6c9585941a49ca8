"""Every BPTT strategy on the device, against the same strategy and the same cuts on the CPU: all gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime import bptt
from throughtime.bench.verify import worst_error
from throughtime.data.batch import Batch

T, B, D, H, Q = 11, 3, 4, 13, 5
LENGTHS = torch.tensor([6, 11, 9])
LIMIT = 1e-9
STRATEGIES = [
    "full",
    "truncated:3",
    "truncated:4/2",
    "randomized:3",
    "randomized:4/2",
    "polynomial:3",
    "random_window:2-4",
    "checkpointed",
    "checkpointed:2/3",
]
LAYERS: dict[str, Any] = {
    "GRU": lambda: tt.GRU(D, H, 2),
    "LSTM": lambda: tt.LSTM(D, H, 2),
    "LSTM with layer norm": lambda: tt.LSTM(D, H, layer_norm=True, peepholes=True),
    "IndRNN": lambda: tt.Recurrent(tt.IndRNNCell(D, H)),
}


class Model(nn.Module):
    """A recurrent layer with a head; it takes lengths."""

    def __init__(self, layer: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer, self.head, self.dropout = layer, nn.Linear(H, Q), nn.Dropout(dropout)

    def forward(self, x: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        y, state = self.layer(x, state) if lengths is None else self.layer(x, state, lengths=lengths)
        return self.head(self.dropout(y)), state


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error; masked targets are NaN."""
    known = targets.isfinite()
    return ((outputs - targets.nan_to_num()) * known).square().sum()


def batch_loss(outputs: Tensor, window: Batch) -> Tensor:
    return loss(outputs, window.targets)


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(T, B, D, dtype=torch.float64), torch.randn(T, B, Q, dtype=torch.float64)


def leaves(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in leaves(part)]


def step(
    model: nn.Module, strategy: bptt.Strategy, form: str, x: Tensor, target: Tensor
) -> tuple[list[Tensor], int]:
    """Loss, final state, and the gradients of the input and the weights, on the model's device; and the number of parts."""
    device = next(model.parameters()).device
    x, target = x.to(device).requires_grad_(form != "windows"), target.to(device)
    model.zero_grad()
    generator = torch.Generator().manual_seed(3)  # on the CPU: both devices get the same cuts
    keywords: dict[str, Any] = {"generator": generator}
    if form == "batch":
        batch = Batch.of(x, target, LENGTHS)
        result = strategy.backward(
            lambda window, state: window.run(model, state), batch_loss, batch, **keywords
        )
    elif form == "windows":
        windows = list(zip(x.split(4), target.split(4), strict=True))
        result = strategy.backward(model, loss, windows, count=T * B * Q, **keywords)
    else:
        lengths = {"full": None, "lengths on the CPU": LENGTHS, "lengths on the device": LENGTHS.to(device)}[
            form
        ]
        result = strategy.backward(model, loss, x, target, lengths=lengths, **keywords)
    gradients = [value.grad for value in (x, *model.parameters()) if value.requires_grad]
    assert all(gradient is not None for gradient in gradients)
    found = [result.loss, *leaves(result.state), *(g for g in gradients if g is not None)]
    assert all(value.device.type == device.type for value in found)
    return [value.detach().cpu() for value in found], result.windows


@pytest.mark.parametrize("form", ["full", "lengths on the CPU", "lengths on the device", "batch", "windows"])
@pytest.mark.parametrize("text", STRATEGIES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_strategy_is_as_on_the_cpu(name: str, text: str, form: str, device: torch.device) -> None:
    exact = Model(LAYERS[name]()).double()
    model, strategy = copy.deepcopy(exact).to(device), bptt.parse(text)
    x, target = data()
    with tt.use_backend("reference"):
        wanted, parts = step(exact, strategy, form, x, target)
    got, found = step(model, strategy, form, x, target)
    assert found == parts
    assert worst_error(got, wanted) < LIMIT


@pytest.mark.parametrize("text", ["randomized:3", "polynomial:3", "random_window:2-4"])
def test_a_generator_on_the_device_decides_the_cuts(text: str, device: torch.device) -> None:
    model, strategy = Model(tt.GRU(D, H)).double().to(device), bptt.parse(text)
    x, target = (value.to(device) for value in data())
    parts = []
    for seed in (1, 1, 2, 3, 4):
        generator = torch.Generator(device).manual_seed(seed)
        parts.append(
            (strategy.backward(model, loss, x, target, generator=generator).windows, generator.get_state())
        )
    assert parts[0][0] == parts[1][0]
    assert torch.equal(parts[0][1], parts[1][1])
    assert len({number for number, _ in parts}) > 1


def test_what_is_recomputed_drops_the_same(device: torch.device) -> None:
    """Dropout in the windows of a checkpointed pass, against the same windows without recomputation."""
    model = Model(tt.GRU(D, H), dropout=0.5).double().to(device)
    x, target = (value.to(device) for value in data())
    windows = list(zip(x.split(2), target.split(2), strict=True))
    results = []
    for strategy in (bptt.Full(), bptt.Checkpointed(2, 3), bptt.Checkpointed(2)):
        torch.manual_seed(7)
        model.zero_grad()
        strategy.backward(model, loss, windows, count=T * B * Q)
        results.append([p.grad.cpu() for p in model.parameters() if p.grad is not None])
    torch.manual_seed(8)
    model.zero_grad()
    bptt.Full().backward(model, loss, windows, count=T * B * Q)
    other = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
    assert worst_error(results[1], results[0]) < LIMIT
    assert worst_error(results[2], results[0]) < LIMIT
    assert worst_error(other, results[0]) > 1e-3  # another seed drops something else
