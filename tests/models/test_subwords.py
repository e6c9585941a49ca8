"""Words and their character n-grams as one vector."""

from __future__ import annotations

import pytest
import torch

from throughtime.data import Vocabulary
from throughtime.data.ngrams import MOST, ngram_ids
from throughtime.models.embeddings import Subwords


def test_an_n_gram_has_one_number():
    card, cards, short = ngram_ids([" Card", "cards", "a"], 10_000)
    assert card.tolist() == ngram_ids(["card"], 10_000)[0].tolist()
    shared = set(card.tolist()) & set(cards.tolist()) - {0}
    assert len(shared) == 5  # <ca car ard <car card
    assert (card > 0).sum() == 7 and (short > 0).sum() == 1  # <a>
    assert int(ngram_ids(["x" * 99, "internationalization"], 7).max()) <= 7
    assert ngram_ids(["internationalization"], 99).shape == (1, MOST)
    assert ngram_ids([], 5).shape == (0, MOST)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3)])
def test_the_vector_is_the_word_and_the_mean_of_its_parts(shape):
    torch.manual_seed(1)
    module = Subwords(6, 9, 5).double().eval()
    ids = torch.cat([torch.randint(0, 6, (*shape, 1)), torch.randint(0, 10, (*shape, MOST))], -1)
    ids[0, 0, 1:] = 0  # no n-grams
    found = module(ids)
    assert found.shape == (*shape, 5)
    for t in range(shape[0]):
        for b in range(shape[1]):
            word, parts = int(ids[t, b, 0]), [int(number) for number in ids[t, b, 1:] if number]
            expected = module.words.weight[word] if word else torch.zeros(5).double()
            if parts:
                expected = expected + torch.stack([module.ngrams.weight[number] for number in parts]).mean(0)
            torch.testing.assert_close(found[t, b], expected, atol=1e-12, rtol=0)
    found.sum().backward()
    assert float(module.words.weight.grad[0].abs().sum()) == 0  # the unknown word has no vector of its own
    assert float(module.ngrams.weight.grad[0].abs().sum()) == 0


def test_words_are_left_out_in_training_alone():
    module = Subwords(3, 4, 2, dropout=0.5)
    ids = torch.zeros(400, 1, 1 + MOST, dtype=torch.long)
    ids[..., 0] = 1
    zero = (module(ids) == 0).all(-1).double().mean()
    assert 0.35 < float(zero) < 0.65
    assert torch.equal(module.eval()(ids), module.words.weight[1].expand(400, 1, 2))


@pytest.mark.parametrize(
    "text",
    ["", " ", "how do I", "e\u0301te\u0301  \t x\n\nनमस्ते दुनिया", "a\ud800b don't 1,5 <unk>", "日本語 text"],
)
def test_each_symbol_has_its_piece(text):
    for kind in ("word", "bpe"):
        vocabulary = Vocabulary.build(kind, "how do you do " * 9, 300 if kind == "bpe" else None)
        pieces = vocabulary.pieces(text)
        ids = vocabulary.encode(text).tolist()
        assert len(pieces) == len(ids)
        if kind == "word":
            assert "".join(pieces) == text.replace("\ud800", "?")
            known = {symbol.decode(): number for number, symbol in enumerate(vocabulary.symbols)}
            assert ids == [known.get(piece, 0) for piece in pieces]
