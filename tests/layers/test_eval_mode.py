"""Evaluation mode for a while: mixed modes before are the same mixed modes afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.layers.eval_mode import evaluating


def test_every_submodule_has_its_own_mode_again() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4), tt.LSTM(4, 5, 2, dropout=0.5), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(5))
    )
    model.train()
    model[0].eval()
    model[2][1].eval()  # frozen inside a part that trains
    before = [module.training for module in model.modules()]
    assert set(before) == {True, False}
    with evaluating(model) as inside:
        assert inside is model
        assert not any(module.training for module in model.modules())
        assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ZeroDivisionError), evaluating(model):
        _ = 1 / 0
    assert [module.training for module in model.modules()] == before
    model.eval()[0].train()
    with evaluating(model):
        pass
    assert not model.training and model[0].training
