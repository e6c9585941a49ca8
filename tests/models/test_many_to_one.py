"""The many-to-one model: each pooling is its formula over a row's own steps, whatever the padding holds."""

from __future__ import annotations

import pytest
import torch

from throughtime.data.batch import Batch
from throughtime.errors import InputError
from throughtime.models.build import many_to_one, symbol_embedding
from throughtime.models.config import CELLS, POOLINGS, ModelConfig
from throughtime.models.embeddings import Continuous

T, B, V, H, Q = 7, 4, 11, 5, 3
LENGTHS = [7, 3, 1, 0]


def build(**settings):
    config = ModelConfig(**{"cell": "gru", "hidden": H, "embedding": 4, **settings})
    return many_to_one(config, symbol_embedding(config, V), Q).double()


@pytest.fixture
def ids():
    torch.manual_seed(3)
    return torch.randint(V, (T, B))


def pooled(model, y):
    """By hand, of one row's outputs [t, H]."""
    if len(y) == 0:
        return torch.zeros(y.shape[1], dtype=y.dtype)
    if model.pooling == "last":
        half = y.shape[1] // 2
        return torch.cat([y[-1, :half], y[0, half:]]) if model.bidirectional else y[-1]
    if model.pooling == "mean":
        return y.mean(0)
    if model.pooling == "max":
        return y.max(0).values
    scores = (torch.tanh(y @ model.attention.weight.T + model.attention.bias) @ model.query.weight.T)[:, 0]
    return sum(weight * each for weight, each in zip(scores.softmax(0), y, strict=True))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("steps", [T, B])  # T == B: lengths and steps look alike
def test_each_row_alone_gives_the_same(pooling, bidirectional, steps, ids):
    model = build(pooling=pooling, bidirectional=bidirectional)
    ids, lengths = ids[:steps], torch.tensor(LENGTHS).clamp(max=steps)
    outputs, _ = model(ids, lengths=lengths)
    assert outputs.shape == (B, Q)
    for b, length in enumerate(lengths.tolist()):
        y = (
            model.layers(model.embedding(ids[:length, b : b + 1]))[0][:, 0]
            if length
            else torch.zeros(0, H).double()
        )
        row = pooled(model, y) if length else torch.zeros(model.head.in_features, dtype=torch.float64)
        torch.testing.assert_close(outputs[b], model.head(row), atol=1e-12, rtol=0)
    whole, _ = model(ids)
    torch.testing.assert_close(whole[0], outputs[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_is_never_read(pooling):
    config = ModelConfig(cell="lstm", hidden=H, pooling=pooling)
    model = many_to_one(config, Continuous(2), Q).double()
    x = torch.randn(T, B, 2, dtype=torch.float64)
    found = []
    for padding in (0.0, float("nan"), float("inf")):
        for b, length in enumerate(LENGTHS):
            x[length:, b] = padding
        model.zero_grad()
        outputs, state = model(x, lengths=torch.tensor(LENGTHS))
        outputs.sum().backward()
        found.append([outputs, *state, *(parameter.grad.clone() for parameter in model.parameters())])
    for one, *others in zip(*found, strict=True):
        assert one.isfinite().all()
        assert all(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("cell", CELLS)
def test_with_pooling_last_windows_are_the_whole_sequence(cell, ids):
    model = build(cell=cell, layers=2)
    batch = Batch.of(ids, torch.arange(B), LENGTHS, per_sequence=True)
    whole, _ = batch.run(model)
    state, found = None, {}
    for start, stop in ((0, 2), (2, 3), (3, 7)):
        window = batch.window(start, stop)
        outputs, state = window.run(model, state)
        for b in range(B):
            if window.targets[b] >= 0:
                assert b not in found
                found[b] = outputs[b]
    torch.testing.assert_close(torch.stack([found[b] for b in range(B)]), whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("settings", [{"pooling": "mean"}, {"pooling": "attention"}, {"bidirectional": True}])
def test_the_others_need_the_whole_sequence(settings, ids):
    model = build(**settings)
    assert model.reads_whole and not build().reads_whole
    with pytest.raises(InputError, match="cannot continue from a state"):
        model(ids, torch.zeros(1, B, H))


def test_an_unknown_pooling_is_refused():
    with pytest.raises(InputError, match=r"pooling must be one of last, mean, max, attention, got 'avg'"):
        ModelConfig(pooling="avg")
