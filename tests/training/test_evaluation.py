"""Evaluation: one loss for all targets, whatever the windows, and no trace left in the model or the random numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from throughtime.data import evaluation_windows
from throughtime.errors import InputError
from throughtime.models import ModelConfig
from throughtime.models.build import build
from throughtime.training import Evaluation, evaluate

V = 9


def summed(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=-100)


@pytest.fixture
def model():
    torch.manual_seed(1)
    made = build(ModelConfig(cell="gru", hidden=13, embedding=4, dropout=0.5), V).double()
    for parameter in made.parameters():
        parameter.data *= 4  # so that the state matters
    return made


def test_the_windows_do_not_matter(model):
    ids = torch.randint(V, (60,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits, _ = model.eval()(ids[:-1, None])
        expected = summed(logits, ids[1:, None]).item() / 59
    for steps in (1, 7, 59, 100):
        found = evaluate(model, evaluation_windows(ids, steps, 1), summed)
        assert found.count == 59
        assert found.loss == pytest.approx(expected, rel=1e-12)
    # The mean of the windows' means is another number.
    wrong = [evaluate(model, [w._replace(fresh=True)], summed).loss for w in evaluation_windows(ids, 7, 1)]
    assert sum(wrong) / len(wrong) != pytest.approx(expected, rel=1e-3)


def test_masked_targets_do_not_count(model):
    ids = torch.randint(V, (60,), generator=torch.Generator().manual_seed(2))
    found = evaluate(model, evaluation_windows(ids, 7, 8), summed)
    streams = [ids[start : min(start + 9, 60)] for start in range(0, 59, 8)]
    total = sum(summed(model.eval()(s[:-1, None])[0], s[1:, None]).item() for s in streams)
    assert (found.count, found.loss) == (59, pytest.approx(total / 59, rel=1e-12))


def test_it_leaves_no_trace(model):
    model.train()
    before = torch.get_rng_state()
    evaluate(model, evaluation_windows(torch.arange(9).repeat(3), 5, 2), summed)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_to_evaluate(model):
    with pytest.raises(InputError, match="at least one target to evaluate, got none"):
        evaluate(model, [], summed)


def test_the_three_dresses_of_a_loss():
    assert Evaluation(math.log(8), 5).bits == pytest.approx(3)
    assert Evaluation(math.log(8), 5).perplexity == pytest.approx(8)
    assert Evaluation(1e4, 5).perplexity == math.inf
