"""Every gradient of the reference against finite differences in float64: every option, ragged rows, both directions, twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import throughtime as tt

T, B, D, H = 5, 3, 2, 3
LENGTHS = torch.tensor([4, 5, 1])

CASES: list[tuple[str, dict[str, Any]]] = [
    *(("RNN", {"nonlinearity": name}) for name in ("tanh", "relu", "sigmoid", "identity")),
    ("RNN", {"layer_norm": True}),
    ("GRU", {}),
    ("GRU", {"reset_after": False}),
    ("GRU", {"reset_after": False, "layer_norm": True, "recurrent_dropout": 0.4}),
    ("GRU", {"zoneout": 0.4, "bias": False}),
    ("LSTM", {}),
    ("LSTM", {"peepholes": True, "proj_size": 2}),
    ("LSTM", {"layer_norm": True}),
    ("LSTM", {"zoneout": (0.3, 0.4), "recurrent_dropout": 0.4}),
    ("LSTM", {"num_layers": 2, "dropout": 0.4}),
]
RANDOM = {"zoneout", "recurrent_dropout", "dropout"}
# Training and evaluation are one function where nothing is random.
CASES_AND_MODES = [
    (*case, training)
    for case in CASES
    for training in ((False, True) if RANDOM & case[1].keys() else (True,))
]


def leaves(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in leaves(part)]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("name", "options", "training"), CASES_AND_MODES, ids=str)
def test_gradients_by_finite_differences(
    name: str, options: dict[str, Any], training: bool, ragged: bool
) -> None:
    layer = (
        getattr(tt, name)(D, H, bidirectional=True, backend="reference", **options).double().train(training)
    )
    rows = 2 * layer.num_layers
    states = [torch.randn(rows, B, layer.proj_size or H, dtype=torch.float64)]
    states += [torch.randn(rows, B, H, dtype=torch.float64)] * (name == "LSTM")
    parts = [
        torch.randn(T, B, D, dtype=torch.float64),
        *states,
        *(2 * p.detach() for p in layer.parameters()),
    ]
    names = [key for key, _ in layer.named_parameters()]

    # One vector in and out: finite differences of all inputs, states and parameters at once.
    def run(vector: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same masks at every call
        values = vector.split([part.numel() for part in parts])
        x, *rest = (value.view(part.shape) for value, part in zip(values, parts, strict=True))
        hx, weights = rest[: len(states)], rest[len(states) :]
        if ragged:
            padding = torch.arange(T)[:, None] >= LENGTHS
            x = x.masked_fill(padding[..., None], float("nan"))
        inputs = (x, tuple(hx) if name == "LSTM" else hx[0])
        called = torch.func.functional_call(
            layer, dict(zip(names, weights, strict=True)), inputs, {"lengths": LENGTHS if ragged else None}
        )
        return torch.cat([value.flatten() for value in leaves(called)])

    vector = torch.cat([part.flatten() for part in parts]).requires_grad_()
    assert torch.autograd.gradcheck(run, vector, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, vector, fast_mode=True)


@pytest.mark.parametrize(
    "make", [tt.MinGRUCell, tt.IndRNNCell, tt.LayerNormLSTMCell], ids=lambda c: c.__name__
)
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_the_other_cells(make: Any, reverse: bool) -> None:
    torch.manual_seed(1)  # seed 0 puts a unit of the IndRNN within 1e-6 of the kink of its relu
    cell = make(D, H).double()
    names, weights = zip(*cell.named_parameters(), strict=True)
    state = tuple(torch.randn_like(s, dtype=torch.float64).requires_grad_() for s in cell.initial_state(B))

    class Scan(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Tensor, *state: Tensor) -> Any:
            started = type(cell.initial_state(B))(*state)
            return tt.scan(self.cell, x, started, lengths=LENGTHS, reverse=reverse)

    def run(x: Tensor, *rest: Tensor) -> Any:
        parameters = dict(zip((f"cell.{n}" for n in names), rest[len(state) :], strict=True))
        return tuple(leaves(torch.func.functional_call(Scan(), parameters, (x, *rest[: len(state)]))))

    inputs = (torch.randn(T, B, D, dtype=torch.float64).requires_grad_(), *state, *weights)
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_single_precision_second_derivatives_agree_between_the_backends(name: str) -> None:
    layers = [getattr(tt, name)(D, H, backend=backend) for backend in ("aten", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    x, found = torch.randn(T, B, D), []
    for layer in layers:
        moved = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(moved)[0].pow(2).sum(), moved, create_graph=True)
        first.pow(2).sum().backward()
        found.append([moved.grad, *(p.grad for p in layer.parameters())])
    # float32, two backward passes over T steps.
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
