"""Sampled symbols: the distribution, the seed, what stops a row."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from throughtime.decoding.sampling import keep_top_k, keep_top_p, scale_by_temperature
from throughtime.kernels.native.generation.generator import Generator, GeneratorLayer, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"native: {unavailable()}")


TEMPERATURES, TOP_K, TOP_P = (0.5, 1.0, 3.0), (None, 1, 7, 1000), (None, 0.3, 0.9, 1.0)


# Every pair of values of two options, and every value of the third with each of theirs.
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(TEMPERATURES[(i + j) % 3], k, p) for i, k in enumerate(TOP_K) for j, p in enumerate(TOP_P)],
)
def test_samples_have_the_distribution_of_the_reference(
    temperature: float, top_k: int | None, top_p: float | None, assert_distributed: Any, constant: Any
) -> None:
    logits = torch.randn(150, generator=torch.Generator().manual_seed(2)) * 2
    state = constant(logits).initial()._replace(logits=logits[None])
    ids, _ = constant(logits).run(
        20_000, state, temperature=temperature, top_k=top_k, top_p=top_p, seed=11, banned=[4]
    )
    kept = scale_by_temperature(logits.double().index_fill(0, torch.tensor([4]), -math.inf), temperature)
    kept = kept if top_k is None else keep_top_k(kept, top_k)
    kept = kept if top_p is None else keep_top_p(kept, top_p)
    assert_distributed(torch.bincount(ids.flatten(), minlength=150), kept.softmax(-1))


@pytest.mark.parametrize("count", [1, 2])
def test_rows_and_steps_are_independent_samples_that_follow_the_model(
    count: int, network: Any, threads: Any, assert_distributed: Any
) -> None:
    """The pairs that 20,000 rows begin with have the probability that the reference gives to each pair."""
    model = network("gru", 5, 3, (6,))
    zero = model.native.initial(1)
    first = torch.zeros(5, dtype=torch.float64) + 0.2
    second = [model.logits(torch.tensor([[i]]), zero).logits[0].double().softmax(-1) for i in range(5)]
    with threads(count):
        ids, _ = model.native.run(2, model.native.initial(20_000), seed=3)
    assert_distributed(
        torch.bincount(ids[0] * 5 + ids[1], minlength=25),
        torch.cat(list(first[:, None] * torch.stack(second))),
    )


def test_exactly_k_of_equals_stay_and_a_nucleus_that_is_reached_takes_no_more(constant: Any) -> None:
    ids, _ = constant(torch.zeros(9)).run(500, top_k=3)
    assert set(ids.flatten().tolist()) == {0, 1, 2}
    logits = torch.tensor([0.125, 0.5, 0.0625, 0.25, 0.0625]).log()
    start = constant(logits).initial()._replace(logits=logits[None])
    for p, kept in ((0.01, {1}), (0.51, {1, 3}), (0.7, {1, 3}), (0.9, {0, 1, 2, 3}), (0.99, {0, 1, 2, 3, 4})):
        ids, _ = constant(logits).run(500, start, top_p=p)
        assert set(ids.flatten().tolist()) == kept


def test_extreme_temperatures(constant: Any) -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, -50.0])
    start = constant(logits).initial()._replace(logits=logits[None])
    for tiny in (1e-30, 1e-300):
        for top_p in (None, 0.99):
            assert set(
                constant(logits).run(50, start, temperature=tiny, top_p=top_p)[0].flatten().tolist()
            ) == {1}
    for top_p in (None, 0.99):  # all alike, but for what is banned
        ids, _ = constant(logits).run(300, start, temperature=1e300, top_p=top_p, banned=[0])
        assert set(ids.flatten().tolist()) == {1, 2, 3}


def test_random_numbers_are_philox() -> None:
    """Known answers of Philox4x32-10 (its authors' kat_vectors): with 65,536 equal symbols the id is the first 16 bits."""
    native = Generator(
        [GeneratorLayer("rnn", torch.zeros(1, 1), torch.zeros(1, 1))],
        torch.zeros(65536, 1),
        None,
        torch.zeros(65536, 1),
    )
    assert native.run(1, seed=0)[0].item() == 0x6627
    start = native.initial()._replace(position=0x0123)
    ids = {
        native.run(1, state, seed=seed)[0].item()
        for state in (native.initial(), start)
        for seed in (1, 2**63, -1)
    }
    assert len(ids) == 6


def test_a_seed_decides_the_text_however_it_is_divided(network: Any, assert_same_state: Any) -> None:
    model = network("lstm", 40, 9, (20, 20))
    start = model.start(3)
    whole, end = model.native.run(60, start, seed=5, top_p=0.9)
    parts, state = [], start
    for n in (1, 0, 7, 30, 22):
        ids, state = model.native.run(n, state, seed=5, top_p=0.9)
        parts.append(ids)
    assert torch.equal(torch.cat(parts), whole)
    assert_same_state(state, end, atol=0)
    assert not torch.equal(model.native.run(60, start, seed=6)[0], whole)
    assert all(not torch.equal(a, b) for a, b in pairwise(whole.t()))
    small = network("lstm", 40, 9, (20, 20))
    small.native._steps = lambda batch: 7  # type: ignore[method-assign]
    assert torch.equal(small.native.run(60, start, seed=5, top_p=0.9)[0], whole)


@pytest.mark.parametrize("count", [1, 2])
def test_a_row_that_stops_is_silent_and_the_others_go_on(count: int, network: Any, threads: Any) -> None:
    model = network("gru", 20, 5, (200,))
    start = model.start(6)
    free, _ = model.native.run(200, start, seed=2)
    with threads(count):
        ids, end = model.native.run(200, start, seed=2, stops=[3, 7])
    lengths = [
        next((t for t, i in enumerate(column) if i in (3, 7)), 199) + 1 for column in free.t().tolist()
    ]
    assert len(set(lengths)) > 2
    assert max(lengths) < 200
    assert ids.shape == (max(lengths), 6)
    assert end.position == max(lengths)
    for row, length in enumerate(lengths):
        assert torch.equal(ids[:length, row], free[:length, row])
        assert bool((ids[length:, row] == -1).all())
    model.native._steps = lambda batch: 5  # type: ignore[method-assign]
    assert torch.equal(model.native.run(200, start, seed=2, stops=[3, 7])[0], ids)
