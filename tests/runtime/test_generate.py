"""Generation: what is drawn, what is reported, and how it streams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from throughtime.data import Vocabulary
from throughtime.data.char import CharVocabulary
from throughtime.errors import InputError
from throughtime.runtime import Session, generate

VOCABULARY = CharVocabulary("abcdefghijk\n")  # and <unk>: 13 symbols


class Successor(nn.Module):
    """The symbol after id i is i + 1 (mod V), by a margin; the state counts steps and changes nothing."""

    def __init__(self, size: int, margin: float = 50.0) -> None:
        super().__init__()
        self.size, self.margin = size, margin

    def forward(self, ids: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits = torch.zeros(*ids.shape, self.size).scatter(
            -1, ((ids + 1) % self.size)[..., None], self.margin
        )
        return logits, (torch.zeros(1, 1) if state is None else state) + len(ids)


def session(size: int = 13, margin: float = 50.0, vocabulary: Vocabulary = VOCABULARY) -> Session:
    return Session(Successor(size, margin), vocabulary)


def test_the_text_follows_the_prompt_and_does_not_repeat_it() -> None:
    assert "".join(generate(session(), "xya", length=4)) == "bcde"
    assert list(generate(session(), "a", length=3, temperature=0)) == ["b", "c", "d"]
    assert list(generate(session(), "a", length=0)) == []


def test_each_symbol_comes_before_the_next_is_computed() -> None:
    one = session()
    pieces = generate(one, "ab", length=5)
    assert one.position == 2
    assert next(pieces) == "c"
    assert one.position == 3


def test_two_calls_go_on_where_one_would() -> None:
    one = session()
    assert "".join(generate(one, "a", length=3)) + "".join(generate(one, length=3)) == "bcdefg"


def test_the_unknown_symbol_is_not_drawn_unless_asked() -> None:
    assert "".join(generate(session(), "\n", length=1, allow_unknown=True)) == "<unk>"
    assert "<unk>" not in "".join(generate(session(), "\n", length=200, seed=1))
    assert "<unk>" not in "".join(generate(session(margin=0.0), "a", length=300, seed=1))
    assert "<unk>" in "".join(generate(session(margin=0.0), "a", length=300, seed=1, allow_unknown=True))
    assert next(generate(session(), "\n", length=1, temperature=0)) != "<unk>"


def test_unknown_symbols_of_the_prompt_are_reported_once_and_read_as_unknown() -> None:
    reports: list[list[str]] = []
    text = "".join(generate(session(), "a?!?", length=2, on_unknown=reports.append))
    assert reports == [["?", "!"]]
    assert text == "ab"  # what follows <unk>, id 0
    generate(session(), "abc", on_unknown=reports.append)
    assert len(reports) == 1


def test_nothing_to_go_on_from_starts_after_a_newline_or_the_most_frequent_symbol() -> None:
    # "\n" is the last id, so the likeliest next one is <unk>, which is banned: any other symbol may come.
    one = session()
    next(generate(one, length=1, seed=0))
    assert one.position == 2
    assert "".join(generate(session(13, 50.0, CharVocabulary("abcdefghijkl")), length=3)) == "bcd"


def test_a_seed_decides_the_text() -> None:
    texts = ["".join(generate(session(margin=1.0), "a", length=50, seed=seed)) for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]
    state = torch.get_rng_state()
    unseeded = {"".join(generate(session(margin=0.0), "a", length=50)) for _ in range(3)}
    assert len(unseeded) == 3
    assert torch.equal(torch.get_rng_state(), state)  # torch's own generator is left alone


@pytest.mark.parametrize(
    ("stop", "expected"),
    [("d", ["b", "c"]), ("cde", ["b"]), ("b", []), ("eg", list("bcdefg")), ("gh", list("bcdefg"))],
)
def test_a_stop_string_ends_the_text_before_it(stop: str, expected: list[str]) -> None:
    pieces = list(generate(session(), "a", length=6, stop=stop))
    assert "".join(pieces) == "".join(expected)
    assert all(pieces)


def test_a_stop_string_may_overlap_itself() -> None:
    """The start of "aab" has come twice when the text is "aaab"."""
    from throughtime.runtime.generate import _until

    assert "".join(_until("aab", iter("aaab..."))) == "a"
    assert "".join(_until("aab", iter("xaaxaa"))) == "xaaxaa"
    assert "".join(_until("abab", iter(["xab", "ab"]))) == "x"
    assert "".join(_until("abab", iter(["xab", "aab", "ab"]))) == "xaba"


def test_a_character_of_several_bytes_comes_whole() -> None:
    """Byte pairs that split "é" and "時": the pieces are characters, and together the text."""
    vocabulary = Vocabulary.build("bpe", "abc", 256)
    text = "a é時b"
    order = vocabulary.encode(text)
    assert len(order) == 8

    class Recital(nn.Module):
        def forward(self, ids: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
            at = torch.zeros(1, 1) if state is None else state
            logits = torch.zeros(len(ids), 1, 256)
            logits[:, :, order[min(int(at), 7)]] = 99.0
            return logits, at + 1

    pieces = list(generate(Session(Recital(), vocabulary), "x", length=8, temperature=0))
    assert pieces == list(text)
    pieces = list(generate(Session(Recital(), vocabulary), "x", length=3, temperature=0))
    assert pieces == ["a", " ", "�"]  # cut inside a character: said so, not dropped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": -1}, "length must be 0 or more, got -1"),
        ({"temperature": -0.1}, "temperature must be"),
        ({"top_k": 0}, "top_k must be"),
        ({"top_p": 2.0}, "top_p must"),
        ({"stop": ""}, "stop must be"),
        ({"seed": 2**64}, "seed must be a 64-bit"),
    ],
)
def test_values_out_of_range_are_refused_at_the_call(options: dict[str, Any], message: str) -> None:
    one = session()
    with pytest.raises(InputError, match=message):
        generate(one, "a", **options)
    assert one.position == 0
