"""Generation through the native loop: the same text, the same states and the same errors as symbol by symbol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from throughtime.data.char import CharVocabulary
from throughtime.errors import BackendError, InputError
from throughtime.kernels.dispatch import use_backend
from throughtime.kernels.native.generation.generator import unavailable
from throughtime.layers import GRU, LSTM, RNN
from throughtime.models.embeddings import OneHot
from throughtime.models.many_to_many import ManyToMany
from throughtime.runtime import Session, generate
from throughtime.runtime.native import generator_of, refusal

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"native: {unavailable()}")

VOCABULARY = CharVocabulary("abcdefghijk\n")  # and <unk>: 13 symbols
KINDS: dict[str, Callable[..., Any]] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}


def model(
    kind: str = "lstm", hidden: Any = 9, layers: int = 2, *, onehot: bool = False, **options: Any
) -> ManyToMany:
    torch.manual_seed(0)
    embedding: Any = OneHot(13) if onehot else nn.Embedding(13, 5)
    stack = KINDS[kind](
        embedding.embedding_dim, hidden, layers, dropout=0.5 if layers > 1 else 0.0, **options
    )
    made = ManyToMany(embedding, stack, hidden if isinstance(hidden, int) else hidden[-1], 13, dropout=0.5)
    for parameter in made.parameters():
        parameter.data.mul_(3)
    return made


def session(*arguments: Any, **options: Any) -> Session:
    return Session(model(*arguments, **options), VOCABULARY)


@pytest.mark.parametrize(
    "options", [{}, {"onehot": True}, {"bias": False}, {"layers": 1}, {"hidden": (9, 4)}], ids=str
)
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_and_the_state_after_it_are_those_of_the_reference(
    kind: str, options: dict[str, Any]
) -> None:
    native, reference = session(kind, **options), session(kind, **options)
    texts = [
        "".join(generate(one, "abc", length=60, temperature=0, backend=backend))
        for one, backend in ((native, "native"), (reference, "reference"))
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 60
    assert native.position == reference.position == 63
    torch.testing.assert_close(native.feed("d"), reference.feed("d"), atol=1e-4, rtol=1e-4)


def test_native_is_taken_where_it_can_run_and_the_session_goes_on_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, calls, forward = session(), [], ManyToMany.forward
    one.model.train()
    with monkeypatch.context() as patch:
        patch.setattr(ManyToMany, "forward", lambda *given: calls.append(1) or forward(*given))
        whole = "".join(generate(one, "ab", length=40, seed=4))
    assert one.model.training
    assert len(calls) == 1  # the prompt
    again = session()
    parts = "".join(generate(again, "ab", length=15, seed=4)) + "".join(generate(again, length=25, seed=4))
    assert parts == whole == "".join(generate(session(), "ab", length=40, seed=4, backend="native"))
    assert whole != "".join(generate(session(), "ab", length=40, seed=5))
    assert whole != "".join(generate(session(), "ab", length=40, seed=4, backend="reference"))
    assert len({"".join(generate(session(), "ab", length=40)) for _ in range(3)}) == 3
    state = torch.get_rng_state()
    "".join(generate(one, length=5))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_at_every_piece_the_session_stands_after_it(kind: str) -> None:
    one, other = session(kind), session(kind)
    other.feed("ab")
    for count, piece in enumerate(generate(one, "ab", length=70, seed=1), 1):
        other.feed(piece)
        if count in (1, 2, 16, 17, 40, 70):
            assert one.position == other.position == 2 + count
            torch.testing.assert_close(one.logits, other.logits, atol=1e-4, rtol=1e-4)
    assert count == 70


def test_looking_changes_nothing_and_feeding_is_heard() -> None:
    whole = "".join(generate(session(), "ab", length=50, seed=1))
    looked, text = session(), ""
    for piece in generate(looked, "ab", length=50, seed=1):
        text += piece
        looked.snapshot()
    assert text == whole
    # Fed in the middle of a chunk: what follows is what follows that.
    fed, by_hand = session(), session()
    pieces = generate(fed, "ab", length=50, temperature=0)
    text = next(pieces) + next(pieces)
    fed.feed("kkj")
    rest = "".join(pieces)
    assert len(rest) == 48
    by_hand.feed("ab" + text + "kkj")
    assert rest == "".join(generate(by_hand, length=48, temperature=0))


def test_a_snapshot_of_the_middle_can_be_gone_back_to() -> None:
    one = session("gru")
    pieces = generate(one, "ab", length=30, seed=1)
    next(pieces), next(pieces)
    here = one.snapshot()
    del pieces
    expected = one.feed("cd").clone()
    "".join(generate(one, length=20))
    one.restore(here)
    assert one.position == 4
    assert torch.equal(one.feed("cd"), expected)


def test_the_unknown_symbol_is_not_drawn_unless_asked() -> None:
    flat = model()
    nn.init.zeros_(flat.head.weight)
    nn.init.zeros_(flat.head.bias)
    text = "".join(generate(Session(flat, VOCABULARY), "a", length=300, seed=1, backend="native"))
    assert len(text) == 300
    assert set(text) == set("abcdefghijk\n")
    allowed = generate(
        Session(flat, VOCABULARY), "a", length=300, seed=1, allow_unknown=True, backend="native"
    )
    assert "<unk>" in "".join(allowed)
    only = "".join(generate(Session(flat, VOCABULARY), "a", length=50, top_k=2, seed=1))
    assert len(set(only)) == 2


def test_a_stop_string_ends_the_text_before_it() -> None:
    whole = "".join(generate(session(), "ab", length=60, seed=2))
    stop = whole[30:33]
    assert "".join(generate(session(), "ab", length=60, seed=2, stop=stop)) == whole[: whole.index(stop)]


def test_a_damaged_model_writes_as_far_as_it_can_and_then_says_so() -> None:
    damaged = model()
    with torch.no_grad():
        damaged.head.bias[3] = float("nan")
    with pytest.raises(InputError, match="diverged"):
        list(generate(Session(damaged, VOCABULARY), "ab", length=5))
    one = session()
    one.feed("ab")
    here = one.snapshot()
    with torch.no_grad():
        one.model.head.bias[3] = float("nan")
    pieces = generate(one, length=5, seed=0)
    next(pieces)  # from the logits of before
    assert one.position == here.position + 1
    with pytest.raises(InputError, match="diverged"):
        next(pieces)


def half(made: ManyToMany) -> ManyToMany:
    return made.double()


def hooked(made: ManyToMany) -> ManyToMany:
    made.head.register_forward_hook(lambda *_: None)
    return made


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Linear(2, 2), "this is a Linear"),
        (lambda: model("lstm", layer_norm=True), "LSTM with layer_norm"),
        (lambda: model("lstm", peepholes=True), "LSTM with peepholes"),
        (lambda: model("gru", reset_after=False), "GRU with reset_after=False"),
        (lambda: model("gru", zoneout=0.1), "GRU with zoneout"),
        (lambda: half(model()), "this model is in float64 on cpu"),
        (lambda: hooked(model()), "forward hooks"),
        (lambda: model("gru", backend="reference"), "backend 'reference' was asked for by name"),
        (lambda: ManyToMany(nn.Embedding(13, 5), nn.LSTM(5, 4), 4, 13), "these are LSTM"),
        (lambda: ManyToMany(nn.Embedding(14, 5), LSTM(5, 4), 4, 13), "as many embedded symbols as logits"),
        (lambda: ManyToMany(nn.Embedding(13, 5, max_norm=1.0), LSTM(5, 4), 4, 13), "max_norm"),
    ],
)
def test_a_model_that_it_cannot_run_is_run_as_before(make: Callable[[], nn.Module], reason: str) -> None:
    made = make()
    assert reason in str(refusal(made))
    with pytest.raises(BackendError):
        generator_of(made)
    if not isinstance(made, ManyToMany):
        return
    with pytest.raises(BackendError, match="backend 'native' was asked for by name: "):
        generate(Session(made, VOCABULARY), "a", backend="native")
    text = "".join(generate(Session(made, VOCABULARY), "a", length=20, seed=3))
    assert text == "".join(generate(Session(made, VOCABULARY), "a", length=20, seed=3, backend="reference"))


def test_a_demanded_backend_is_heard() -> None:
    assert refusal(model()) is None
    with use_backend("reference"):
        assert "'reference'" in str(refusal(model()))
    with pytest.raises(
        InputError, match=r"must be one of native, reference, got 'nativ'\. Did you mean 'native'"
    ):
        generate(session(), "a", backend="nativ")
