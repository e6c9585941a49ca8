"""Tools that record a layer: torch.jit.trace and torch.export meet a backend that they can follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import throughtime as tt
from throughtime.kernels import aten

LAYERS = [tt.RNN, tt.GRU, tt.LSTM]
pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # the recorders warn of themselves, in words that change with torch


@pytest.mark.parametrize("layer", LAYERS)
def test_recorded_layers_compute_the_same(layer: Any) -> None:
    model, x = layer(3, 4, num_layers=2).eval(), torch.randn(5, 2, 3)
    other = torch.randn(5, 2, 3)
    for recorded in (torch.jit.trace(model, x), torch.export.export(model, (x,)).module()):
        torch.testing.assert_close(recorded(other), model(other))


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_trace_holds_for_any_number_of_steps(
    layer: Any, batch_first: bool, with_state: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own operation is recorded, not as many steps as the example had; also after calls that ran on another backend."""
    ran, run = [], aten.run
    monkeypatch.setattr(aten, "run", lambda *call: (ran.append(1), run(*call))[1])
    model = layer(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first).eval()

    def example(steps: int) -> tuple[Any, ...]:
        x, h = torch.randn(*((2, steps) if batch_first else (steps, 2)), 3), torch.randn(4, 2, 4)
        return (x, (h, h.cos()) if layer is tt.LSTM else h) if with_state else (x,)

    model(*example(5))
    ran.clear()
    traced = torch.jit.trace(model, example(5))
    assert ran
    for steps in (1, 4, 5, 23):
        arguments = example(steps)
        torch.testing.assert_close(traced(*arguments), model(*arguments))
