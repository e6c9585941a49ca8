"""The fill-in model: what stands at a blank is never read by its own output, whatever the cell and however deep."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._pytree import tree_leaves

from throughtime.bptt import Checkpointed, Full, Randomized, Truncated
from throughtime.data.batch import Batch
from throughtime.errors import InputError
from throughtime.flow import influence, measure, snapshot
from throughtime.models.build import fill_blank, symbol_embedding
from throughtime.models.config import CELLS, ModelConfig
from throughtime.tasks.task import cross_entropy

T, B, V, H = 7, 4, 11, 5
LENGTHS = torch.tensor([7, 3, 1, 0])
EXACT = {"atol": 1e-12, "rtol": 0}  # float64


def loss(outputs, batch):
    return cross_entropy(outputs, batch.targets)


def build(**settings):
    torch.manual_seed(3)
    config = ModelConfig(**{"cell": "gru", "hidden": H, "embedding": 4, **settings})
    model = fill_blank(config, symbol_embedding(config, V), V).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.3)  # start and end are not zero
    return model


@pytest.fixture
def ids():
    return torch.randint(V, (T, B), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_another_word_in_a_blank_changes_nothing_there(cell, layers, bidirectional, ids):
    model = build(cell=cell, layers=layers, bidirectional=bidirectional)
    lengths = torch.tensor([7, 7, 5, 7])
    whole, _ = model(ids, lengths=lengths)
    for t in range(5):
        other = ids.clone()
        other[t] = (ids[t] + 1 + torch.arange(B)) % V
        changed = (model(other, lengths=lengths)[0] - whole).abs().amax((1, 2)) > 0
        assert not changed[t]
        assert bool(changed[t + 1])  # the next blank reads it
        assert t == 0 or bool(changed[t - 1]) == bidirectional


def test_the_leak_of_stacked_bidirectional_layers_would_be_seen(ids):
    """What the test above catches: two bidirectional layers over each other, their outputs shifted."""
    from throughtime.layers import GRU

    layer = GRU(4, H, 2, bidirectional=True).double()
    x = torch.randn(T, B, 4, dtype=torch.float64)

    def shifted(x):
        y, _ = layer(x)
        zero = torch.zeros_like(y[:1, :, :H])
        return torch.cat([torch.cat([zero, y[:-1, :, :H]]), torch.cat([y[1:, :, H:], zero])], dim=-1)

    other = x.clone()
    other[3] += 1
    assert bool((shifted(other) - shifted(x))[3].abs().max() > 0)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_it_is_its_equation(bidirectional, ids):
    model = build(bidirectional=bidirectional, layers=2)
    outputs, state = model(ids, lengths=LENGTHS)
    assert (state is None) == bidirectional
    for b, n in enumerate(LENGTHS.tolist()):
        x = model.embedding(ids[:n, b : b + 1])
        for t in range(n):
            left, _ = model.layers(torch.cat([model.start.expand(1, 1, 4), x[:t]]))
            features = left[-1, 0]
            if bidirectional:
                right, _ = model.backward_layers.layers(
                    torch.cat([model.end.expand(1, 1, 4), x[t + 1 :].flip(0)])
                )
                features = torch.cat([features, right[-1, 0]])
            torch.testing.assert_close(outputs[t, b], model.head(features), **EXACT)


@pytest.mark.parametrize("cell", CELLS)
def test_state_over_a_cut_is_no_cut(cell, ids):
    model = build(cell=cell, bidirectional=False)
    for lengths in (None, LENGTHS):
        whole, final = model(ids, None, lengths)
        state, parts = None, []
        for start, stop in ((0, 1), (1, 4), (4, 7)):
            own = None if lengths is None else (lengths - start).clamp(0, stop - start)
            y, state = model(ids[start:stop], state, own)
            parts.append(y)
        found = torch.cat(parts)
        for b, n in enumerate([T] * B if lengths is None else lengths.tolist()):
            torch.testing.assert_close(found[:n, b], whole[:n, b], **EXACT)
        for mine, theirs in zip(tree_leaves(state), tree_leaves(final), strict=True):
            torch.testing.assert_close(mine, theirs, **EXACT)
    with pytest.raises(InputError, match="reads both sides of a blank cannot continue from a state"):
        build(bidirectional=True)(ids, state)


@pytest.mark.parametrize("cell", ["lstm", "none", "cnn"])
def test_strategies(cell, ids):
    """Where nothing is cut the gradient is the full one; a cut loses some of it; random cuts keep its mean."""
    model = build(cell=cell, bidirectional=False, **({"layers": 2} if cell == "cnn" else {}))
    batch = Batch.of(ids, ids, LENGTHS)

    def gradient(strategy, **options):
        model.zero_grad()
        strategy.backward(lambda window, state: window.run(model, state), loss, batch, **options)
        return torch.cat(
            [
                torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                for p in model.parameters()
            ]
        )

    full = gradient(Full())
    for strategy in (Truncated(T), Checkpointed(2)):
        torch.testing.assert_close(gradient(strategy), full, **EXACT)
    assert not torch.allclose(gradient(Truncated(1)), full)
    generator = torch.Generator().manual_seed(1)
    samples = torch.stack([gradient(Randomized(3), generator=generator) for _ in range(150)])
    error = samples.std(0) / math.sqrt(len(samples))
    off = (samples.mean(0) - full).abs() / (error + 1e-12)
    assert bool((error > 1e-9).any()) and float(off[error > 1e-9].max()) < 5


def test_tied_weights(ids):
    model = build(tied=True, embedding=2 * H, bidirectional=True)
    assert model.head.weight is model.embedding.weight
    assert model(ids)[0].shape == (T, B, V)
    with pytest.raises(
        InputError, match="tied needs an embedding as wide as the last layer's output, 10, got 6"
    ):
        ModelConfig(hidden=H, embedding=H + 1, tied=True, bidirectional=True)


@pytest.mark.parametrize("cell", ["gru", "mingru", "cnn"])
def test_influence_has_a_zero_diagonal(cell, ids):
    both = influence(build(cell=cell, bidirectional=True), ids[:, :1]).matrix
    assert both.diagonal().count_nonzero() == 0
    everything = cell != "cnn"  # a relu may cut some
    assert bool((both + torch.eye(T) > 0).all()) or not everything
    assert bool((both.diagonal(1) > 0).any()) and bool((both.diagonal(-1) > 0).any())
    left = influence(build(cell=cell, bidirectional=False), ids[:, :1]).matrix
    assert left.triu().count_nonzero() == 0
    assert bool((left + torch.ones(T, T).triu() > 0).all()) or not everything


@pytest.mark.parametrize("cell", ["gru", "mingru"])
def test_flow_of_the_backward_stack_counts_from_the_blank(cell, ids):
    """Lag k of the stack that reads from the right is k steps further right: |d L_t / d g_{t+k}| by autograd."""
    model = build(cell=cell, bidirectional=True)
    batch = Batch.of(ids, ids, torch.tensor([7, 5, 7, 6]))
    found = measure(model, batch, lags=2, ends=[3], examples=B, products=False)
    (left, right) = found.layers.values()
    assert (left.reverse, right.reverse) == (False, True)
    sizes = []
    for b in (0, 2, 3):  # the row of 5 steps has no 3 lags to the right of step 3
        x = model.embedding(ids[: batch.lengths[b], b : b + 1]).detach()
        y, _ = model.layers(torch.cat([model.start.expand(1, 1, 4), x[:3]]))
        inputs = torch.cat([model.end.expand(1, 1, 4), x[4:].flip(0)]).detach()
        by_lag = []
        for lag in range(3):
            stop = len(inputs) - lag
            shift = torch.zeros(1, 1, H, dtype=torch.float64, requires_grad=True)
            g, state = model.backward_layers.layers(inputs[:stop])
            g = g + shift
            state = state + shift if cell == "gru" else tuple(type(s)(s[0] + shift[0]) for s in state)
            if lag:
                g, _ = model.backward_layers.layers(inputs[stop:], state)
            logits = model.head(torch.cat([y[-1], g[-1]], dim=-1))
            one = torch.nn.functional.cross_entropy(logits, ids[3, b : b + 1])
            by_lag.append(float(torch.autograd.grad(one, shift)[0].norm()))
        sizes.append(by_lag)
    expected = torch.tensor(sizes, dtype=torch.float64).mean(0)
    torch.testing.assert_close(right.lag_h.mean, expected, rtol=1e-6, atol=1e-9)
    layers = snapshot(model, loss, batch, None)
    assert list(layers) == ["layers.l0", "backward_layers.layers.l0_reverse"]


def test_flow_refuses_what_has_no_recurrence(ids):
    for cell in ("none", "cnn"):
        with pytest.raises(InputError, match="the model has no recurrence") as error:
            measure(build(cell=cell), Batch.of(ids, ids))
        assert "\n" not in str(error.value)
