"""The many-to-many model: what it computes, and that its state is all that one call hands to the next."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from throughtime.errors import InputError
from throughtime.models.build import many_to_many, symbol_embedding
from throughtime.models.config import CELLS, ModelConfig
from throughtime.models.embeddings import Continuous, OneHot
from throughtime.models.many_to_many import ManyToMany

T, B, V, H = 7, 3, 11, 13


def build(config, symbols):
    return many_to_many(config, symbol_embedding(config, symbols), symbols)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


@pytest.fixture
def ids():
    return torch.randint(V, (T, B))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_two_calls_with_the_state_between_are_one_call(cell, layers, ids):
    model = build(ModelConfig(cell=cell, hidden=H, layers=layers, embedding=5), V).double()
    whole, final = model(ids)
    first, state = model(ids[:3])
    second, end = model(ids[3:], state)
    assert whole.shape == (T, B, V)
    torch.testing.assert_close(torch.cat([first, second]), whole, atol=1e-12, rtol=0)  # float64 rounding
    for a, b in zip(tree_leaves(end), tree_leaves(final), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    assert torch.allclose(model(ids[3:])[0], whole[3:]) == (cell == "none")  # else the state matters


def test_it_is_its_equation(ids):
    config = ModelConfig(cell="lstm", hidden=H, layers=2, embedding=5, forget_bias=1.0)
    model = build(config, V).double()
    torchs = nn.LSTM(5, H, num_layers=2).double()
    torchs.load_state_dict(model.layers.state_dict())
    state = tuple(torch.randn(2, B, H, dtype=torch.float64) for _ in range(2))
    outputs, final = torchs(model.embedding(ids), state)
    logits, ours = model(ids, state)
    torch.testing.assert_close(logits, outputs @ model.head.weight.T + model.head.bias, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours, final, atol=1e-12, rtol=0)


def test_onehot_is_an_embedding_with_the_identity(ids):
    onehot = OneHot(V).double()
    expected = torch.eye(V, dtype=torch.float64)[ids]
    assert torch.equal(onehot(ids), expected)
    assert onehot(ids).dtype == torch.float64
    assert not onehot.state_dict()
    model = build(ModelConfig(cell="gru", hidden=H, embedding="onehot"), V)
    assert model.layers.input_size == V
    assert model(ids)[0].shape == (T, B, V)


def test_sizes_of_each_layer_and_of_both_directions(ids):
    model = build(ModelConfig(hidden=(6, H), embedding=5), V)
    assert model.head.in_features == H
    logits, state = model(ids)
    again, _ = model(ids, state)
    assert logits.shape == again.shape == (T, B, V)
    assert build(ModelConfig(hidden=H, bidirectional=True), V).head.in_features == 2 * H


@pytest.mark.parametrize("cell", ["gru", "indrnn"])
def test_a_bidirectional_model_has_nothing_to_carry(cell, ids):
    model = build(ModelConfig(cell=cell, hidden=H, bidirectional=True), V)
    logits, state = model(ids)
    assert model.bidirectional
    assert state is None
    changed = ids.clone()
    changed[-1] = (changed[-1] + 1) % V
    assert not torch.allclose(model(changed)[0][0], logits[0])  # it reads what comes after
    with pytest.raises(InputError, match="its backward direction starts at the end; pass None"):
        model(ids, torch.zeros(2, B, H))


def test_tied_weights_are_one_tensor(ids):
    model = build(ModelConfig(hidden=H, embedding=H, tied=True), V)
    assert model.head.weight is model.embedding.weight
    untied = build(ModelConfig(hidden=H, embedding=H), V)
    count = [sum(p.numel() for p in m.parameters()) for m in (model, untied)]
    assert count[0] == count[1] - V * H
    with pytest.raises(InputError, match=r"weight of shape \[11, 13\], got \[11, 5\]"):
        ManyToMany(nn.Embedding(V, 5), nn.GRU(5, H), H, V, tied=True)
    with pytest.raises(InputError, match="got none"):
        ManyToMany(OneHot(V), nn.GRU(V, H), H, V, tied=True)


def test_dropout_before_the_head_and_between_layers(ids):
    model = build(ModelConfig(hidden=H, dropout=0.5), V)  # one layer: torch would warn if it were given to it
    assert model.layers.dropout == 0
    assert not torch.equal(model(ids)[0], model(ids)[0])
    assert torch.equal(model.eval()(ids)[0], model(ids)[0])
    assert build(ModelConfig(hidden=H, layers=2, dropout=0.5), V).layers.dropout == 0.5


def test_every_option_reaches_its_layer(ids):
    lstm = build(
        ModelConfig(hidden=H, peepholes=True, forget_bias=2.0, zoneout=0.1, recurrent_dropout=0.2), V
    ).layers
    assert (lstm.peepholes, lstm.forget_bias, lstm.zoneout, lstm.recurrent_dropout) == (
        True,
        2.0,
        (0.1, 0.1),
        0.2,
    )
    gru = build(ModelConfig(cell="gru", hidden=H, reset_before=True, layer_norm=True), V).layers
    assert (gru.reset_after, gru.layer_norm) == (False, True)
    rnn = build(ModelConfig(cell="rnn", hidden=H, nonlinearity="relu", init="identity"), V).layers
    assert (rnn.nonlinearity, rnn.init) == ("relu", "identity")
    assert torch.equal(rnn.weight_hh_l0, torch.eye(H))


def test_padding_does_not_change_a_row_or_its_state(ids):
    """Also where T == B."""
    for steps in (T, B):
        model = build(ModelConfig(cell="lstm", hidden=H, layers=2, embedding=5), V).double()
        lengths = torch.tensor([steps, 2, 0])
        outputs, state = model(ids[:steps], lengths=lengths)
        for b, length in enumerate(lengths.tolist()):
            if length:
                alone, own = model(ids[:length, b : b + 1])
                torch.testing.assert_close(outputs[:length, b : b + 1], alone, atol=1e-12, rtol=0)
                for mine, theirs in zip(tree_leaves(state), tree_leaves(own), strict=True):
                    torch.testing.assert_close(mine[:, b : b + 1], theirs, atol=1e-12, rtol=0)
            else:
                assert all((leaf[:, b] == 0).all() for leaf in tree_leaves(state))


def test_numbers_instead_of_symbols():
    model = many_to_many(ModelConfig(cell="gru", hidden=H), Continuous(3), 2)
    assert model(torch.randn(T, B, 3))[0].shape == (T, B, 2)
    with pytest.raises(InputError, match="input must have 3 features, got 2"):
        model(torch.randn(T, B, 2))


def test_sizes_that_no_model_has():
    with pytest.raises(InputError, match="a vocabulary must have at least 1 symbol, got 0"):
        build(ModelConfig(), 0)
    with pytest.raises(InputError, match="indrnn has one size for all layers"):
        build(ModelConfig(cell="indrnn", hidden=(4, 5)), V)


def test_settings_import_no_torch():
    modules = ", ".join(
        f"throughtime.{name}" for name in ("options", "models", "training", "tasks", "tasks.registry")
    )
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
