"""Tools that record a layer: torch.jit.trace and torch.export meet a backend that they can follow."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt


@pytest.mark.parametrize("layer", [tt.RNN, tt.GRU, tt.LSTM])
@pytest.mark.filterwarnings("ignore")  # the recorders warn of themselves, in words that change with torch
def test_recorded_layers_compute_the_same(layer):
    model, x = layer(3, 4, num_layers=2).eval(), torch.randn(5, 2, 3)
    other = torch.randn(5, 2, 3)
    for recorded in (torch.jit.trace(model, x), torch.export.export(model, (x,)).module()):
        torch.testing.assert_close(recorded(other), model(other))
