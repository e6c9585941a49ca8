"""Sentences as symbols and back, and texts that travel in a batch."""

from __future__ import annotations

import pytest
import torch

from throughtime.data.batch import Batch
from throughtime.data.tokens import Texts, Tokens, normalized, pack
from throughtime.data.vocabulary import Vocabulary

SENTENCES = [
    "Go on, Tom!",
    "Tom's dog isn't here.",
    "Va-t'en\u202f!",
    "  Où  est-il ?",
    "Go, go (now)...",
    "水は\u00a0どこ？",
]


@pytest.mark.parametrize("kind", ["word", "bpe", "char", "space"])
@pytest.mark.parametrize("lower", [False, True])
def test_natural_text_comes_back(kind: str, lower: bool) -> None:
    tokens = Tokens.build(kind, SENTENCES, size=300, lower=lower)
    for sentence in SENTENCES:
        symbols = tokens.encode(sentence)
        assert (
            tokens.decode(symbols) == normalized(sentence, lower) == normalized(tokens.decode(symbols), lower)
        )
        pieces = tokens.pieces(sentence)
        assert len(pieces) == len(symbols) and all(pieces)
        if kind != "bpe":  # whose symbols can be parts of a character
            assert "".join(pieces).replace(" ", "") == normalized(sentence, lower).replace(" ", "")
    assert (tokens.start, tokens.end, len(tokens)) == (
        len(tokens.vocabulary),
        len(tokens.vocabulary) + 1,
        len(tokens.vocabulary) + 2,
    )
    assert [tokens.name(number) for number in (tokens.start, tokens.end)] == ["<start>", "<end>"]
    again = Tokens(Vocabulary.from_json(tokens.vocabulary.to_json()), lower)
    assert [again.encode(each) for each in SENTENCES] == [tokens.encode(each) for each in SENTENCES]


def test_a_first_word_is_the_same_symbol_as_elsewhere() -> None:
    for kind in ("word", "space"):
        tokens = Tokens.build(kind, ["so it is", "it is so"])
        assert sorted(tokens.encode("so it is")) == sorted(tokens.encode("it is so"))


@pytest.mark.parametrize(
    ("kind", "known"), [("word", ["a", "b"]), ("space", ["a", "b"]), ("char", ["a", "b", " "])]
)
def test_what_is_rare_is_unknown(kind: str, known: list[str]) -> None:
    tokens = Tokens.build(kind, ["a b a", "b a c"], min_count=2)
    assert sorted(
        each.decode().strip() or " "
        for each in tokens.vocabulary.symbols
        if not each.startswith((b" <", b"<", b"\n"))
    ) == sorted(known)
    symbols = tokens.encode("a c")
    assert symbols[-1] == tokens.vocabulary.unknown
    assert tokens.decode(symbols, {len(symbols) - 1: "Zoë"}) == "a Zoë"
    assert tokens.pieces("a c")[-1] == "c"
    assert (
        len(Tokens.build(kind, ["a b a", "b a c"], min_count=9).vocabulary) <= 3
    )  # nothing is frequent enough
    assert len(Tokens.build("bpe", ["a b a"], min_count=9).encode("zz")) == 3  # bytes know everything


def test_texts_travel_in_a_batch() -> None:
    texts = [["a source", "one", "zwei\nLinien"], [], ["水", "b"]]
    packed = pack(texts)
    assert packed.dtype == torch.int32 and packed.shape[0] == 3
    context = Texts(torch.zeros(3, 4, dtype=torch.long), torch.tensor([4, 1, 2]), packed)
    batch = Batch.of(torch.zeros(2, 3), torch.zeros(2, 3), [2, 1, 2], context=context)
    assert batch.context.unpack() == [["a source", "one", "zwei Linien"], [], ["水", "b"]]
    assert batch.rows(torch.tensor([2, 1])).context.unpack() == [["水", "b"], []]
    assert pack([[], []]).shape == (2, 1)
