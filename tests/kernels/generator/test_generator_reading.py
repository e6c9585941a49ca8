"""Symbols read and continued greedily: the states and the symbols are the reference's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from throughtime.kernels.native.generation.generator import Generator, GeneratorLayer, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"native: {unavailable()}")

KINDS = ("rnn", "gru", "lstm")

# symbols, features (None: one-hot), sizes, batch: tiny, odd, around a panel, layers of different sizes, more rows than a tile.
SHAPES = [
    (1, 1, (1,), 1),
    (13, 5, (7,), 1),
    (65, 16, (64,), 1),
    (70, None, (33, 5), 3),
    (5, 3, (16, 31, 8), 4),
    (129, 20, (50, 50), 17),
    (64, None, (65,), 7),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_reads_and_continues_greedily_as_the_reference_does(
    kind: str, shape: Any, bias: bool, network: Any, assert_same_state: Any
) -> None:
    *sizes, batch = shape
    torch.manual_seed(1)
    model = network(kind, *sizes, bias=bias)
    start, ids = model.start(batch), torch.randint(sizes[0], (6, batch))
    found, wanted = model.native.feed(ids, start), model.logits(ids, start)
    assert_same_state(found, wanted)
    sampled, end = model.native.run(12, found, temperature=0)
    for row in sampled:
        assert torch.equal(row, wanted.logits.argmax(-1))
        wanted = model.logits(row[None], wanted)
    assert_same_state(end, wanted, atol=1e-3)


@pytest.mark.parametrize("nonlinearity", ["relu", "sigmoid", "identity"])
def test_other_nonlinearities(nonlinearity: str, network: Any, assert_same_state: Any) -> None:
    model = network("rnn", 13, 5, (9, 70), nonlinearity=nonlinearity)
    start, ids = model.start(2), torch.randint(13, (3, 2))
    assert_same_state(model.native.feed(ids, start), model.logits(ids, start), atol=1e-3)


def test_a_table_that_would_be_too_large_is_left_out(
    monkeypatch: pytest.MonkeyPatch, network: Any, assert_same_state: Any
) -> None:
    for kind in KINDS:
        with monkeypatch.context() as patch:
            patch.setattr("throughtime.kernels.native.generation.packing._TABLE_BYTES", 0)
            model = network(kind, 29, 7, (18, 5))
        assert model.native._table is None
        start, ids = model.start(5), torch.randint(29, (4, 5))
        assert_same_state(model.native.feed(ids, start), model.logits(ids, start))


def test_among_equals_the_first_is_the_likeliest() -> None:
    native = Generator([GeneratorLayer("rnn", torch.zeros(1, 3), torch.zeros(1, 1))], torch.zeros(3, 1))
    assert native.run(3, temperature=0)[0].flatten().tolist() == [0, 0, 0]
    assert native.run(3, temperature=0, banned=[0])[0].flatten().tolist() == [1, 1, 1]


@pytest.mark.parametrize(("sizes", "batch"), [((256,), 1), ((200, 130), 1), ((150, 150), 5), ((24,), 16)])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(
    kind: str, sizes: tuple[int, ...], batch: int, network: Any, threads: Any, assert_same_state: Any
) -> None:
    """Divided by units (one row, and some rows of a large model) and by rows (many)."""
    model = network(kind, 900, 10, sizes)
    start, found = model.start(batch), []
    for count in (1, 2, 2):
        with threads(count):
            found.append(model.native.run(100, start, seed=1))
    for ids, state in found[1:]:
        assert torch.equal(ids, found[0][0])
        assert_same_state(state, found[0][1], atol=0)


def test_the_state_and_the_weights_of_the_caller_are_not_changed(network: Any) -> None:
    model = network("lstm", 64, 8, (64,))
    start = model.start(2)
    before = [v.clone() for v in (*start.model, start.logits)]
    first, end = model.native.run(20, start, seed=1)
    kept = [v.clone() for v in (*end.model, end.logits)]
    model.native.run(20, end, seed=1)
    assert all(map(torch.equal, before, (*start.model, start.logits)))
    assert all(map(torch.equal, kept, (*end.model, end.logits)))
    strange = start._replace(
        logits=start.logits.t().contiguous().t(), model=tuple(v.mT.contiguous().mT for v in start.model)
    )
    assert torch.equal(model.native.run(20, strange, seed=1)[0], first)
    model.head.zero_()
    assert torch.equal(model.native.run(20, start, seed=1)[0], first)


def test_the_caller_keeps_his_denormals(constant: Any) -> None:
    tiny = torch.tensor([1e-40])
    constant(torch.zeros(3)).run(5)
    assert (tiny * 0.5).item() != 0
