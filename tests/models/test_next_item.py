"""The model of the next item and its losses: against brute force in float64, over cuts, and with rows that start anew."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from throughtime.data import IGNORE, Batch
from throughtime.models import ranking_losses
from throughtime.models.build import layers, symbol_embedding
from throughtime.models.config import ModelConfig
from throughtime.models.next_item import NextItem, cross_entropies, next_item_loss
from throughtime.models.ranking_losses import bpr_max, full_softmax, sampled_softmax, top1_max

ITEMS = 11


def model_of(cell="gru", hidden=5, negatives=0, alpha=0.5, **settings):
    config = ModelConfig(cell=cell, hidden=hidden, embedding=settings.pop("embedding", hidden), **settings)
    embedding = symbol_embedding(config, ITEMS + 1)
    frequencies = torch.arange(ITEMS + 1, 0, -1).double()
    found = NextItem(
        embedding,
        layers(config, embedding.embedding_dim),
        config.outputs,
        frequencies,
        dropout=config.dropout,
        tied=config.tied,
        negatives=negatives,
        alpha=alpha,
    )
    torch.nn.init.normal_(found.head.bias)
    return found.double()


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def brute_force(name, r, drawn, same, log_expected, penalty):
    """The losses as they are printed, one target and one drawn item after the other."""
    others = [(s, e) for s, equal, e in zip(drawn, same, log_expected, strict=True) if not equal]
    if name == "sampled":
        total = math.exp(r) + sum(math.exp(s) / math.exp(e) for s, e in others)
        return -math.log(math.exp(r) / total)
    if not others:
        return 0.0
    weights = [math.exp(s) / sum(math.exp(o) for o, _ in others) for s, _ in others]
    pairs = list(zip(weights, [s for s, _ in others], strict=True))
    if name == "bpr-max":
        return -math.log(sum(w * sigmoid(r - s) for w, s in pairs)) + penalty * sum(
            w * s * s for w, s in pairs
        )
    return sum(w * (sigmoid(s - r) + sigmoid(s * s)) for w, s in pairs)


@pytest.mark.parametrize("name", ["sampled", "bpr-max", "top1-max"])
def test_losses_against_brute_force(name):
    n, k = 6, 6  # as many targets as drawn items
    right = (3 * torch.randn(n, dtype=torch.float64)).requires_grad_()
    drawn = (3 * torch.randn(n, k, dtype=torch.float64)).requires_grad_()
    same = torch.rand(n, k) < 0.3
    same[2] = True  # nothing but the target was drawn
    log_expected = torch.randn(k, dtype=torch.float64)

    def ours(right, drawn):
        if name == "sampled":
            return sampled_softmax(right, drawn, same, log_expected)
        return bpr_max(right, drawn, same, 0.3) if name == "bpr-max" else top1_max(right, drawn, same)

    found = ours(right, drawn)
    for i in range(n):
        expected = brute_force(
            name, right[i].item(), drawn[i].tolist(), same[i].tolist(), log_expected.tolist(), 0.3
        )
        assert found[i].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert torch.autograd.gradcheck(ours, (right, drawn))
    assert bool(torch.isfinite(torch.autograd.grad(found.sum(), drawn)[0]).all())


def test_a_sample_of_every_item_once_is_the_full_cross_entropy():
    hidden = torch.randn(4, 3, dtype=torch.float64)
    weight, bias = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    targets = torch.tensor([0, 6, 3, 3])
    scores = hidden @ weight.T + bias
    same = targets[:, None] == torch.arange(7)
    found = sampled_softmax(scores.gather(1, targets[:, None])[:, 0], scores, same, torch.zeros(7))
    torch.testing.assert_close(found.sum(), full_softmax(hidden, weight, bias, targets))


def test_the_corrected_sum_over_drawn_items_is_unbiased():
    """The mean over many draws of exp(loss + right score), which is the estimated denominator, is the exact one."""
    model = model_of(negatives=5).train()
    scores = torch.randn(ITEMS + 1, dtype=torch.float64)
    target, estimates, uncorrected = torch.tensor([2]), [], []
    ids = torch.zeros(1, 1, dtype=torch.int64)
    for _ in range(3000):
        outputs, _ = model(ids)
        drawn, same = scores[outputs.drawn][None], (target[:, None] == outputs.drawn)
        loss = sampled_softmax(scores[target], drawn, same, outputs.log_expected)
        estimates.append((loss + scores[target]).exp())
        uncorrected.append(
            (sampled_softmax(scores[target], drawn, same, 0 * outputs.log_expected) + scores[target]).exp()
        )
    mean, exact = torch.cat(estimates).mean(), scores.exp().sum()
    error = torch.cat(estimates).std() / math.sqrt(3000)
    assert abs(mean - exact) < 4 * error
    assert abs(torch.cat(uncorrected).mean() - exact) > 20 * error


def test_full_softmax_in_parts_is_the_whole(monkeypatch):
    hidden = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    bias, targets = torch.randn(5, dtype=torch.float64), torch.randint(5, (7,))
    whole = full_softmax(hidden, weight, bias, targets)
    expected = torch.autograd.grad(whole, (hidden, weight))
    monkeypatch.setattr(ranking_losses, "_MOST", 11)  # two targets at once
    parts = full_softmax(hidden, weight, bias, targets)
    torch.testing.assert_close(parts, whole)
    for mine, theirs in zip(torch.autograd.grad(parts, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("objective", ["softmax", "sampled", "bpr-max", "top1-max"])
def test_masked_targets_have_no_loss(objective):
    """T == B, padding and masks: the loss is the sum over the rows alone, of the same drawn items."""
    torch.manual_seed(3)
    model = model_of(negatives=0 if objective == "softmax" else 6, tied=True).train()
    ids, targets = torch.randint(ITEMS, (4, 4)), torch.randint(ITEMS + 1, (4, 4))
    targets[1, 2] = IGNORE
    lengths = torch.tensor([4, 2, 3, 1])
    batch = Batch.of(ids, targets, lengths)

    def loss(batch):
        torch.manual_seed(5)
        return next_item_loss(batch.run(model)[0], batch.targets, objective, 0.5)

    alone = sum(
        loss(Batch.of(ids[: lengths[b], b : b + 1], targets[: lengths[b], b : b + 1])) for b in range(4)
    )
    torch.testing.assert_close(loss(batch), alone)
    if objective == "softmax":
        scores = torch.where(batch.targets != IGNORE, cross_entropies(batch.run(model)[0], batch.targets), 0)
        torch.testing.assert_close(scores.sum(), loss(batch))
    nothing = batch._replace(targets=torch.full_like(targets, IGNORE))
    assert loss(nothing).item() == 0


def test_evaluation_draws_nothing_and_training_draws_by_frequency():
    model = model_of(negatives=4000, alpha=1.0)
    ids = torch.randint(ITEMS, (3, 2))
    state = torch.get_rng_state()
    outputs, _ = model.eval()(ids)
    assert outputs.drawn is None and torch.equal(torch.get_rng_state(), state)
    outputs, _ = model.train()(ids)
    chances = torch.arange(ITEMS + 1, 0, -1).double()
    chances /= chances.sum()
    found = outputs.drawn.bincount(minlength=ITEMS + 1) / 4000
    torch.testing.assert_close(found.double(), chances, atol=0.03, rtol=0)
    torch.testing.assert_close(outputs.log_expected, (4000 * chances[outputs.drawn]).log(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "mingru", "indrnn", "lnlstm"])
def test_a_cut_with_the_state_carried_is_no_cut(cell):
    model = model_of(cell, hidden=5, layers=2).eval()
    ids, lengths = torch.randint(ITEMS + 1, (7, 3)), torch.tensor([7, 2, 5])
    whole, _ = model(ids, lengths=lengths)
    first, state = model(ids[:3], lengths=lengths.clamp(max=3))
    second, _ = model(ids[3:], state, lengths=(lengths - 3).clamp(min=0))
    both = torch.cat([first.hidden, second.hidden])
    for b, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(both[:length, b], whole.hidden[:length, b])


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "mingru", "indrnn", "lnlstm"])
def test_a_row_that_starts_has_no_past(cell):
    """B == layers == H: the row is found by its axis, not by its size."""
    model = model_of(cell, hidden=3, layers=3).eval()
    before, ids = torch.randint(ITEMS, (4, 3)), torch.randint(ITEMS, (2, 3))
    _, state = model(before)
    starts = torch.zeros(2, 3, dtype=torch.bool)
    starts[0, 1] = True
    found, _ = model((ids, starts), state)
    fresh, carried = model(ids)[0], model(ids, state)[0]
    torch.testing.assert_close(found.hidden[:, 1], fresh.hidden[:, 1])
    torch.testing.assert_close(found.hidden[:, [0, 2]], carried.hidden[:, [0, 2]])
    assert not torch.allclose(found.hidden[:, 1], carried.hidden[:, 1])


def test_scores_are_one_tensor_to_pytrees():
    outputs, _ = model_of(tied=True)(torch.randint(ITEMS, (4, 3)))
    assert [each.shape for each in tree_leaves(outputs)] == [(4, 3, 5)]
    last = tree_map_only(torch.Tensor, lambda leaf: leaf[-1:], outputs)
    torch.testing.assert_close(last.of(last.hidden), outputs.of(outputs.hidden)[-1:])
    assert outputs.weight is not None and outputs.of(outputs.hidden).shape == (4, 3, ITEMS + 1)


def test_rows_are_the_scores_where_they_are_asked_for(monkeypatch):
    import throughtime.models.next_item as module

    outputs, _ = model_of()(torch.randint(ITEMS, (4, 3)))
    kept = torch.rand(4, 3) < 0.6
    expected = outputs.of(outputs.hidden)[kept]
    torch.testing.assert_close(torch.cat(list(outputs.rows(kept))), expected)
    monkeypatch.setattr(module, "_MOST", 2 * (ITEMS + 1))
    parts = list(outputs.rows(kept))
    assert len(parts) > 1
    torch.testing.assert_close(torch.cat(parts), expected)
    assert list(outputs.rows(torch.zeros_like(kept))) == []


def test_an_unknown_item_says_nothing_until_it_is_learned():
    config = ModelConfig(cell="gru", hidden=5, embedding=5, tied=True)
    embedding = symbol_embedding(config, ITEMS + 1)
    model = NextItem(embedding, layers(config, 5), 5, torch.ones(ITEMS + 1), tied=True)
    assert bool((model.embedding.weight[-1] == 0).all()) and bool((model.embedding.weight[0] != 0).all())
    assert "frequencies" not in model.state_dict()
    assert model.head.weight is model.embedding.weight
