"""torch's fused recurrences against the reference: full batches, the packed path that CUDA takes, reduced precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import throughtime as tt
from throughtime.kernels import aten

T, B, D, H = 7, 4, 5, 13
LENGTHS = torch.tensor([4, 7, 1, 5])
LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "bias": False}),
    ("GRU", {}),
    ("LSTM", {}),
    ("LSTM", {"proj_size": 4}),
]


def leaves(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in leaves(part)]


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize(("name", "options"), LAYERS, ids=str)
def test_it_runs_what_the_reference_runs(name: str, options: dict[str, Any], lengths: Tensor | None) -> None:
    # The packed path is CUDA's; its operations are torch's own and run on the CPU too, so the sorting, the states and the
    # padding are tested without the device.
    layer = getattr(tt, name)(D, H, 2, bidirectional=True, backend="reference", **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(2)
    x = torch.randn(T, B, D, dtype=torch.float64)
    if lengths is not None:
        for row, length in enumerate(lengths):
            x[length:, row] = float("nan")
    states = [torch.randn(4, B, layer.proj_size or H, dtype=torch.float64)]
    states += [torch.randn(4, B, H, dtype=torch.float64)] * (name == "LSTM")
    wanted = [x.requires_grad_(), *(s.requires_grad_() for s in states), *layer.parameters()]

    y, finals = aten.run(layer._stack(), x, states, lengths)
    found = [y, *finals]
    expected = leaves(layer(x, tuple(states) if name == "LSTM" else states[0], lengths=lengths))
    torch.testing.assert_close(found, expected)
    coefficients = [torch.randn_like(value) for value in expected]
    both = [
        torch.autograd.grad(sum((v * w).sum() for v, w in zip(values, coefficients, strict=True)), wanted)
        for values in (found, expected)
    ]
    torch.testing.assert_close(both[0], both[1])


@pytest.mark.parametrize("backend", ["aten", "reference"])
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_autocast_runs_forward_and_backward(name: str, backend: str) -> None:
    layer, x = getattr(tt, name)(D, H, 2, bidirectional=True), torch.randn(T, B, D)
    expected = layer(x)[0]
    layer.backend = backend
    if (name, backend) == ("LSTM", "aten"):
        with torch.autocast("cpu", torch.bfloat16):
            with pytest.raises(tt.BackendError, match="aten does not run an LSTM under autocast"):
                layer(x)
            layer.backend = None  # left to dispatch, another backend runs it
            y, _ = layer(x)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = layer(x)
    # bfloat16 keeps eight bits: 2^-8 a step, some steps long.
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.03)
    y.float().pow(2).sum().backward()
    assert all(
        p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all()
        for p in layer.parameters()
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RNN", {"zoneout": 0.3}),
        ("GRU", {"reset_after": False, "layer_norm": True}),
        ("LSTM", {"zoneout": 0.3, "peepholes": True, "layer_norm": True, "proj_size": 4}),
        ("LSTM", {"recurrent_dropout": 0.3}),
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_autocast_with_every_option_and_lengths(name: str, options: dict[str, Any], training: bool) -> None:
    layer, x = getattr(tt, name)(D, H, 2, bidirectional=True, **options).train(training), torch.randn(T, B, D)
    lengths = torch.tensor([4, 7, 0, 5])
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = layer(x, lengths=lengths)
        traced = layer.trace(x, lengths=lengths)
    assert y.isfinite().all() and all(v.isfinite().all() for s in traced.steps.values() for v in s.values())
    y.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(
    "make", [tt.MinGRUCell, tt.IndRNNCell, tt.LayerNormLSTMCell], ids=lambda c: c.__name__
)
def test_autocast_runs_every_cell(make: Any) -> None:
    cell, x = make(D, H), torch.randn(T, B, D)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = tt.scan(cell, x, lengths=LENGTHS)
    torch.testing.assert_close(y.float(), tt.scan(cell, x, lengths=LENGTHS)[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_modules_of_reduced_precision_run_on_the_reference(name: str, dtype: torch.dtype) -> None:
    layer, x = getattr(tt, name)(D, H, 2, bidirectional=True, backend="reference"), torch.randn(T, B, D)
    expected, _ = layer(x, lengths=LENGTHS)
    y, state = layer.to(dtype)(x.to(dtype), lengths=LENGTHS)
    assert {value.dtype for value in leaves((y, state))} == {dtype}
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.03)
    y.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
