"""Generation with quantized weights: the text of a model whose weights are those, and an error where it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from throughtime.data.char import CharVocabulary
from throughtime.errors import BackendError, InputError
from throughtime.kernels.native.generation.generator import unavailable
from throughtime.layers import GRU, LSTM, RNN
from throughtime.models.embeddings import OneHot
from throughtime.models.many_to_many import ManyToMany
from throughtime.runtime import Session, generate, with_quantized_weights
from throughtime.runtime.native import generator_of

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"native: {unavailable()}")

VOCABULARY = CharVocabulary("abcdefghijk\n")  # and <unk>: 13 symbols
KINDS: dict[str, Callable[..., Any]] = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
QUANTIZED = ("bf16", "int8")


def model(
    kind: str = "lstm", layers: int = 2, *, onehot: bool = False, tied: bool = False, **options: Any
) -> ManyToMany:
    torch.manual_seed(0)
    embedding: Any = OneHot(13) if onehot else nn.Embedding(13, 9 if tied else 5)
    stack = KINDS[kind](embedding.embedding_dim, 9, layers, **options)
    made = ManyToMany(embedding, stack, 9, 13, tied=tied)
    for parameter in made.parameters():
        parameter.data.mul_(3 if not tied else 1.5)
    return made.eval()


@pytest.mark.parametrize("weights", QUANTIZED)
@pytest.mark.parametrize("options", [{}, {"layers": 1}, {"onehot": True}, {"tied": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_text_and_state_are_those_of_the_model_with_quantized_weights(
    kind: str, options: dict[str, Any], weights: str
) -> None:
    made = model(kind, **options)
    native = Session(made, VOCABULARY)
    reference = Session(with_quantized_weights(made, weights), VOCABULARY)
    texts = [
        "".join(generate(native, "abc", length=60, temperature=0, weights=weights)),
        "".join(generate(reference, "abc", length=60, temperature=0, backend="reference")),
    ]
    assert texts[0] == texts[1]
    assert native.position == reference.position == 63
    torch.testing.assert_close(native.logits, reference.logits, atol=1e-4, rtol=1e-4)
    # It goes on from where it stands, and starts from nothing too.
    more = [
        "".join(generate(one, prompt, length=20, temperature=0, **how))
        for one, how in ((native, {"weights": weights}), (reference, {"backend": "reference"}))
        for prompt in ("dk", "")
    ]
    assert more[:2] == more[2:]
    fresh = [Session(made, VOCABULARY), Session(with_quantized_weights(made, weights), VOCABULARY)]
    assert next(generate(fresh[0], temperature=0, weights=weights)) == next(generate(fresh[1], temperature=0))


@pytest.mark.parametrize("weights", QUANTIZED)
@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_is_read_with_the_quantized_weights(kind: str, weights: str) -> None:
    made = model(kind)
    sessions = [Session(made, VOCABULARY) for _ in range(2)]
    sessions.append(Session(with_quantized_weights(made, weights), VOCABULARY))
    generate(sessions[0], "abcdefgh" * 5, weights=weights)
    for one in sessions[1:]:
        one.feed("abcdefgh" * 5)
    logits = [one.logits for one in sessions]
    torch.testing.assert_close(logits[0], logits[2], atol=1e-4, rtol=1e-4)
    assert float((logits[0] - logits[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("weights", QUANTIZED)
def test_the_model_and_a_tied_embedding_keep_their_weights(weights: str) -> None:
    made = model(tied=True)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    quantized = with_quantized_weights(made, weights)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert made.head.weight is made.embedding.weight
    changed = {name for name, value in quantized.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"layers.weight_hh_l0", "layers.weight_hh_l1", "layers.weight_ih_l1", "head.weight"}


def test_float32_is_a_plain_copy() -> None:
    made = model()
    same = with_quantized_weights(made, "float32")
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), same.parameters(), strict=True))


@pytest.mark.parametrize("weights", QUANTIZED)
def test_a_seed_decides_the_text(weights: str) -> None:
    made = model("gru")
    texts = [
        "".join(generate(Session(made, VOCABULARY), "ab", length=80, seed=seed, weights=weights))
        for seed in (5, 5, 6)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("weights", QUANTIZED)
def test_what_cannot_be_generated_with_quantized_weights_is_an_error(weights: str) -> None:
    """Never float32 in their place."""
    for made, reason in (
        (model("lstm", layer_norm=True), "LSTM with layer_norm"),
        (model("lstm", peepholes=True), "LSTM with peepholes"),
        (model("gru").double(), "this model is in float64 on cpu"),
    ):
        one = Session(made, VOCABULARY)
        with pytest.raises(BackendError, match=f"weights '{weights}' were asked for: .*{reason}"):
            generate(one, "a", weights=weights)
        assert one.position == 0
        with pytest.raises(BackendError, match=reason):
            with_quantized_weights(made, weights)
    with pytest.raises(BackendError, match="backend 'reference' was asked for: leave one out"):
        generate(Session(model(), VOCABULARY), "a", weights=weights, backend="reference")


def test_another_form_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"weights must be one of float32, bf16, int8, got 'int80'\. Did you"
    ):
        generate(Session(model(), VOCABULARY), "a", weights="int80")
    with pytest.raises(InputError, match="weights must be one of"):
        with_quantized_weights(model(), "bf15")
    with pytest.raises(InputError, match="weights must be one of"):
        generator_of(model(), "half")
