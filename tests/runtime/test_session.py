"""A session's logits are those of one long call, however the symbols are divided over calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from throughtime.data.char import CharVocabulary
from throughtime.errors import InputError
from throughtime.runtime import Session, generate

VOCABULARY = CharVocabulary("abcdefghijkl")  # and <unk>: 13 symbols


class Tiny(nn.Module):
    """Embedding, recurrent layers with dropout, head: torch's own parts, weights large."""

    def __init__(self, kind: str = "LSTM", *, bidirectional: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 5)
        self.rnn = getattr(nn, kind)(5, 7, 2, dropout=0.5, bidirectional=bidirectional)
        self.head = nn.Linear(14 if bidirectional else 7, 13)
        for p in self.parameters():
            p.data.mul_(3)

    def forward(self, ids: Tensor, state: object = None) -> tuple[Tensor, object]:
        y, state = self.rnn(self.embed(ids), state)
        return self.head(y), state


@pytest.fixture
def model() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(alphabet="abcdefghijkl?", min_size=1, max_size=5), min_size=1, max_size=6))
def test_calls_join_to_one(pieces: list[str]) -> None:
    for kind in ("RNN", "GRU", "LSTM"):
        torch.manual_seed(1)
        session = Session(Tiny(kind), VOCABULARY)
        for piece in pieces:
            last = session.feed(piece)
        text = "".join(pieces)
        with torch.no_grad():
            expected, _ = session.model.eval()(VOCABULARY.encode(text).unsqueeze(1), None)
        torch.testing.assert_close(last, expected[-1, 0], atol=1e-5, rtol=1e-5)  # float32, another order
        assert session.position == len(text)
        assert torch.equal(session.logits, last)


def test_a_prompt_longer_than_a_piece_is_one_sequence(model: Tiny) -> None:
    ids = torch.randint(13, (2500,), generator=torch.Generator().manual_seed(2))
    whole = Session(model, VOCABULARY)
    parts = Session(model, VOCABULARY)
    for part in ids.split(499):
        parts.feed(part)
    torch.testing.assert_close(whole.feed(ids), parts.logits, atol=1e-5, rtol=1e-5)


def test_a_snapshot_is_a_place_to_go_back_to(model: Tiny) -> None:
    session = Session(model, VOCABULARY)
    session.feed("abc")
    here = session.snapshot()
    there = session.feed("def").clone()
    for _ in range(2):  # more than once
        session.restore(here)
        assert session.position == 3
        assert torch.equal(session.feed("def"), there)
    session.feed("abc")
    assert not torch.equal(session.logits, there)
    session.reset()
    assert (session.logits, session.position) == (None, 0)
    session.feed("abc")
    assert torch.equal(session.feed("def"), there)


def test_a_snapshot_shares_nothing_with_the_session(model: Tiny) -> None:
    session = Session(model, VOCABULARY)
    session.feed("abc")
    expected = session.snapshot()
    taken = session.snapshot()
    session.restore(taken)
    for leaf in (*taken.model, taken.logits):
        leaf.fill_(float("nan"))
    again = session.snapshot()
    for ours, theirs in zip((*again.model, again.logits), (*expected.model, expected.logits), strict=True):
        assert torch.equal(ours, theirs)


def test_a_snapshot_can_be_trained_from(model: Tiny) -> None:
    """What inference mode makes cannot be saved for backward; a copy made outside it can."""
    session = Session(model, VOCABULARY)
    session.feed("abc")
    outputs, _ = model(torch.tensor([[1]]), session.snapshot().model)
    outputs.sum().backward()
    assert model.rnn.weight_hh_l0.grad is not None


def test_a_model_in_training_is_read_without_dropout_and_handed_back_as_it_was(model: Tiny) -> None:
    model.train()
    model.head.eval()
    session = Session(model, VOCABULARY)
    assert torch.equal(session.feed("abc"), Session(model, VOCABULARY).feed("abc"))
    assert model.training
    assert model.rnn.training
    assert not model.head.training


def test_nothing_is_written_to_the_mode_of_a_model_in_eval_mode(
    model: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads can share it: none of them can see it in training mode because of another."""
    model.eval()
    written: list[str] = []
    write = nn.Module.__setattr__

    def counted(module: nn.Module, name: str, value: object) -> None:
        written.append(name)
        write(module, name, value)

    monkeypatch.setattr(nn.Module, "__setattr__", counted)
    session = Session(model, VOCABULARY)
    session.feed("abc")
    list(generate(session, "d", length=3))
    assert written == []
    model.train()  # it would be seen
    assert set(written) == {"training"}


def test_dropout_left_in_training_mode_inside_a_model_in_eval_mode_is_off(model: Tiny) -> None:
    model.eval()
    model.rnn.train()
    assert torch.equal(Session(model, VOCABULARY).feed("abc"), Session(model, VOCABULARY).feed("abc"))
    assert model.rnn.training


def test_a_model_that_fails_is_handed_back_too(model: Tiny) -> None:
    session = Session(model, VOCABULARY)
    session.feed("abc")
    before = session.snapshot()

    def fail(*_: object) -> None:
        raise RuntimeError("as a test has it")

    handle = model.head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="as a test has it"):
        session.feed("d")
    handle.remove()
    assert model.rnn.training
    assert session.position == 3
    assert torch.equal(session.logits, before.logits[0])


def test_a_model_of_something_else_than_the_next_symbol_is_refused(model: Tiny) -> None:
    model.head = nn.Linear(7, 4)
    session = Session(model, VOCABULARY)
    with pytest.raises(InputError, match=r"with logits \[3, 1, 13\], got \[3, 1, 4\]"):
        session.feed("abc")
    assert session.position == 0


def test_a_bidirectional_model_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match=r"cannot run from left to right.*come after"):
        Session(Tiny(bidirectional=True), VOCABULARY)


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ("", "one or more symbols"),
        ([], "one or more symbols"),
        (torch.zeros(3, 1).long(), r"got shape \[3, 1\]"),
        ([0, 13], "between 0 and 12, got 0 to 13"),
        ([-1], "got -1 to -1"),
        ([0.5], "whole numbers, got torch.float32"),
    ],
)
def test_what_cannot_be_fed_is_refused(model: Tiny, symbols: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Session(model, VOCABULARY).feed(symbols)


def test_what_the_vocabulary_does_not_know_is_read_as_unknown(model: Tiny) -> None:
    make: Callable[[], Session] = lambda: Session(model, VOCABULARY)  # noqa: E731
    assert torch.equal(make().feed("a?"), make().feed([1, 0]))
