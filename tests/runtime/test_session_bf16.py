"""Sessions and generation with bfloat16 models: the layers run on native where it was built, the state is carried in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from throughtime.data.char import CharVocabulary
from throughtime.layers import GRU, LSTM, RNN
from throughtime.models.many_to_many import ManyToMany
from throughtime.runtime import Session, generate

VOCABULARY = CharVocabulary("abcdefghijkl")  # and <unk>: 13 symbols
LAYERS = {"rnn": RNN, "gru": GRU, "lstm": LSTM}


def models(kind: str, scale: float = 2.0) -> tuple[ManyToMany, ManyToMany]:
    """A bfloat16 model, and the same numbers in float64 on the reference."""
    torch.manual_seed(2)
    pair = []
    for backend in (None, "reference"):
        made = ManyToMany(nn.Embedding(13, 5), LAYERS[kind](5, 17, 2, backend=backend), 17, 13)
        pair.append(made.bfloat16())
    with torch.no_grad():
        for parameter in pair[0].parameters():
            parameter.mul_(scale)
    pair[1].load_state_dict(pair[0].state_dict())
    return pair[0], pair[1].double()


@pytest.mark.parametrize("kind", LAYERS)
def test_logits_of_pieces_are_those_of_the_whole(kind: str) -> None:
    model, exact = models(kind)
    text = "abcabclkjihgfedc"
    session = Session(model, VOCABULARY)
    for piece in (text[:5], text[5:6], text[6:]):
        last = session.feed(piece)
    wanted = Session(exact, VOCABULARY).feed(text)
    # A state is quantized once for each call, to 8 bits.
    assert last.dtype == torch.bfloat16
    torch.testing.assert_close(last.double(), wanted, rtol=0, atol=0.04 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", LAYERS)
def test_generation_goes_on_where_one_call_would(kind: str) -> None:
    model, _ = models(kind, 5.0)
    whole = list(generate(Session(model, VOCABULARY), "abc", length=12, temperature=0))
    session = Session(model, VOCABULARY)
    parts = list(generate(session, "abc", length=5, temperature=0))
    before = session.snapshot()
    parts += list(generate(session, length=7, temperature=0))
    assert parts == whole
    session.restore(before)
    assert list(generate(session, length=7, temperature=0)) == whole[5:]
    assert len(set(whole)) > 3
