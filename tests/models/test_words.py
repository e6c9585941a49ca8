"""Words as vectors: characters of each word alone, padding, pretrained vectors, word dropout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from throughtime.bptt import Truncated
from throughtime.bptt.inputs import check_module, parts_over_time
from throughtime.data.words import COLUMNS
from throughtime.errors import InputError
from throughtime.flow.measurement.model_copy import layers_of
from throughtime.models import ModelConfig
from throughtime.models.build import layers, word_embedding
from throughtime.models.crf import CRF
from throughtime.models.tagger import Tagger
from throughtime.models.words import CharacterEncoder, PretrainedVectors, WordEncoder, unique_rows

KINDS = ("lstm", "cnn")
CHARACTERS, LONGEST = 9, 6
VECTORS = torch.arange(12.0).view(4, 3)


def words_of(*shape):
    """Rows of numbers, the characters of words of 0 to LONGEST characters."""
    rows = torch.randint(1, 4, (*shape, COLUMNS + LONGEST))
    rows[..., COLUMNS:] = torch.randint(1, CHARACTERS, (*shape, LONGEST))
    lengths = torch.randint(0, LONGEST + 1, (*shape, 1))
    rows[..., COLUMNS:][torch.arange(LONGEST).expand(*shape, -1) >= lengths] = 0
    return rows


def encoder_of(kind="lstm", **options):
    characters = CharacterEncoder(kind, CHARACTERS, 5, 8)
    return WordEncoder(nn.Embedding(4, 7), PretrainedVectors(4, 3, VECTORS), characters, **options).double()


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_among_others_is_what_it_is_alone(kind):
    encoder = CharacterEncoder(kind, CHARACTERS, 5, 8).double()
    ids = words_of(11)[:, COLUMNS:]
    ids[3] = 0
    together = encoder(ids)
    for row, expected in zip(ids, together, strict=True):
        length = int((row > 0).sum())
        alone = encoder(row[None, :length]) if length else torch.zeros(1, 8)
        torch.testing.assert_close(alone[0].double(), expected, atol=1e-12, rtol=0)
    assert not together[3].any() and together.unique(dim=0).shape[0] > 5
    assert torch.equal(encoder(torch.zeros(2, LONGEST, dtype=torch.int64)), torch.zeros(2, 8).double())


def test_characters_decide_and_so_does_their_order():
    encoder = CharacterEncoder("lstm", CHARACTERS, 5, 8)
    ids = torch.tensor([[1, 2, 3], [3, 2, 1], [1, 2, 4]])
    found = encoder(ids)
    assert not torch.allclose(found[0], found[1]) and not torch.allclose(found[0], found[2])


@pytest.mark.parametrize("kind", KINDS)
def test_equal_words_share_one_vector_and_its_gradient(kind):
    encoder, tokens = encoder_of(kind), words_of(5, 3)
    tokens[2, 1] = tokens[4, 0] = tokens[0, 2]
    found = encoder(tokens)
    assert found.shape == (5, 3, encoder.embedding_dim)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    together = [parameter.grad.clone() for parameter in encoder.parameters()]
    encoder.zero_grad()
    for t in range(5):
        for b in range(3):
            (encoder(tokens[t : t + 1, b : b + 1]) * weights[t, b]).sum().backward()
    for expected, parameter in zip(together, encoder.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected, atol=1e-12, rtol=0)


def test_unique_rows():
    rows = torch.randint(0, 2, (50, 4))
    first, inverse = unique_rows(rows)
    assert torch.equal(first[inverse], rows) and len(first) == len(rows.unique(dim=0))
    assert unique_rows(rows[:0])[0].shape == (0, 4)


def test_two_rows_with_one_number_are_told_apart(monkeypatch):
    monkeypatch.setattr("throughtime.models.words.random.Random.getrandbits", lambda self, bits: 1)
    rows = torch.tensor([[1, 2], [2, 1], [1, 2]])  # equal sums
    first, inverse = unique_rows(rows)
    assert torch.equal(first[inverse], rows) and len(first) == 2


def test_word_dropout_is_for_training_and_leaves_the_characters():
    encoder, tokens = encoder_of(word_dropout=0.999), words_of(6, 4)
    unknown = tokens.clone()
    unknown[..., 0] = 0
    assert torch.equal(encoder(tokens), encoder(unknown))
    encoder.eval()
    assert not torch.equal(encoder(tokens), encoder(unknown))


def test_pretrained_vectors():
    frozen, trained = PretrainedVectors(4, 3, VECTORS), PretrainedVectors(4, 3, VECTORS, train=True)
    numbers = torch.tensor([[0, 4], [1, 0]])
    none = torch.zeros(3)
    assert torch.equal(frozen(numbers).flatten(0, 1), torch.stack([none, VECTORS[3], VECTORS[0], none]))
    assert [len(list(each.parameters())) for each in (frozen, trained)] == [0, 1]
    trained(numbers).sum().backward()
    assert not trained.vectors.grad[0].any() and trained.vectors.grad[4].all()
    empty = PretrainedVectors(4, 3)
    with pytest.raises(InputError, match="the model has no word vectors yet"):
        empty(numbers)
    empty.load_state_dict(frozen.state_dict())
    assert torch.equal(empty(numbers), frozen(numbers))
    with pytest.raises(InputError, match=r"vectors must be \[4, 3\]"):
        PretrainedVectors(4, 3, VECTORS[:2])


def test_vectors_behind_a_vocabulary():
    rows = torch.tensor([0, 3, 1, 0, 2])
    embedding = word_embedding(ModelConfig(embedding=2), 5, rows, PretrainedVectors(4, 3, VECTORS))
    ids = torch.tensor([[1, 0], [4, 4]])
    found = embedding(ids)
    assert embedding.embedding_dim == 5 and found.shape == (2, 2, 5)
    assert torch.equal(found[..., :2], embedding.embedding(ids))
    assert found[0, 0, 2:].tolist() == VECTORS[2].tolist() and not found[0, 1, 2:].any()
    with pytest.raises(InputError, match=r"rows must be \[4\]"):
        word_embedding(ModelConfig(embedding=2), 4, rows, PretrainedVectors(4, 3, VECTORS))


def test_layers_inside_a_step_are_not_the_sequence_s():
    config = ModelConfig(hidden=5)
    encoder = encoder_of()
    model = Tagger(encoder, layers(config, encoder.embedding_dim), 5, 4)
    assert set(layers_of(model)) == {"layers"}
    names = {name for name, _ in parts_over_time(model)}
    assert "embedding.words" in names and not any(name.startswith("embedding.characters") for name in names)
    check_module(model, Truncated(2), None)  # the characters' layer is bidirectional, and never cut
    whole = Tagger(encoder, layers(ModelConfig(hidden=5, bidirectional=True), encoder.embedding_dim), 10, 4)
    with pytest.raises(InputError, match="bidirectional"):
        check_module(whole, Truncated(2), None)


def test_a_model_with_a_crf_carries_no_state():
    encoder = encoder_of()
    crf = CRF(4)
    model = Tagger(encoder, layers(ModelConfig(hidden=5), encoder.embedding_dim), 5, 4, crf=crf).double()
    outputs, state = model(words_of(3, 2), None, torch.tensor([3, 1]))
    assert outputs.emissions.shape == (3, 2, 4) and outputs.crf is crf and state is None
    with pytest.raises(InputError, match="cannot continue from a state"):
        model(words_of(3, 2), (torch.zeros(1, 2, 5),))
