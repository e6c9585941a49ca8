"""Sampling against distributions worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from throughtime.errors import InputError
from throughtime.runtime import draw, greedy, keep_top_k, keep_top_p, scale_by_temperature

# Probabilities that are exact in binary, not in order.
HALVES = torch.tensor([0.125, 0.5, 0.0625, 0.25, 0.0625], dtype=torch.float64)


def probabilities(logits: Tensor) -> list[float]:
    return logits.softmax(-1).tolist()


def frequencies(logits: Tensor, **options: Any) -> Tensor:
    """Of 40,000 draws: their standard error is at most 0.0025."""
    rows = logits.expand(40_000, -1)
    ids = draw(rows, generator=torch.Generator().manual_seed(7), **options)
    return torch.bincount(ids, minlength=logits.shape[-1]) / 40_000


def test_temperature_raises_probabilities_to_a_power() -> None:
    squared = HALVES**2 / (HALVES**2).sum()
    assert probabilities(scale_by_temperature(HALVES.log(), 0.5)) == pytest.approx(
        squared.tolist(), rel=1e-12
    )
    root = HALVES.sqrt() / HALVES.sqrt().sum()
    assert probabilities(scale_by_temperature(HALVES.log(), 2.0)) == pytest.approx(root.tolist(), rel=1e-12)


def test_a_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    assert probabilities(scale_by_temperature(torch.tensor([1e30, 2e30, -1e30]), 1e-30)) == [0, 1, 0]


def test_top_k_keeps_the_k_largest_and_their_ratios() -> None:
    assert probabilities(keep_top_k(HALVES.log(), 2)) == pytest.approx([0, 2 / 3, 0, 1 / 3, 0], rel=1e-12)
    assert keep_top_k(HALVES.log(), 99).tolist() == HALVES.log().tolist()
    assert int(keep_top_k(torch.zeros(3, 7), 2).isfinite().sum()) == 6  # among equals too


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.01, [0, 1, 0, 0, 0]),
        (0.5, [0, 1, 0, 0, 0]),  # exactly reached: no further symbol
        (0.5001, [0, 2 / 3, 0, 1 / 3, 0]),
        (0.75, [0, 2 / 3, 0, 1 / 3, 0]),
        (0.8, [1 / 7, 4 / 7, 0, 2 / 7, 0]),
        (0.9, [2 / 15, 8 / 15, 1 / 15, 4 / 15, 0]),  # the first of two equals
        (1.0, HALVES.tolist()),
    ],
)
def test_top_p_keeps_the_smallest_nucleus(p: float, expected: list[float]) -> None:
    assert probabilities(keep_top_p(HALVES.log(), p)) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=9), st.floats(0.01, 1.0))
def test_a_nucleus_is_enough_and_none_of_it_is_superfluous(values: list[float], p: float) -> None:
    logits = torch.tensor(values, dtype=torch.float64)
    kept = keep_top_p(logits, p).isfinite()
    chosen = logits.softmax(-1)[kept]
    assert float(chosen.sum()) >= p - 1e-12
    if p < 1:
        assert float(chosen.sum() - chosen.min()) < p + 1e-12
    assert float(logits[kept].min()) >= float(logits[~kept].max() if (~kept).any() else -math.inf)


def test_rows_are_filtered_each_by_its_own_values() -> None:
    rows = torch.stack([HALVES, HALVES.flip(0)]).log()
    for keep in (lambda x: keep_top_k(x, 2), lambda x: keep_top_p(x, 0.8)):
        assert torch.equal(keep(rows)[0], keep(rows[0]))
        assert torch.equal(keep(rows)[1], keep(rows[1]))
        assert not torch.equal(keep(rows)[0], keep(rows)[1])


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    torch.testing.assert_close(frequencies(HALVES.log()).double(), HALVES, atol=0.01, rtol=0)
    found = frequencies(HALVES.log(), top_k=3, top_p=0.7)  # 4:2:1, of which 4 + 2 reach 0.7
    assert found.tolist() == pytest.approx([0, 2 / 3, 0, 1 / 3, 0], abs=0.01)
    # Temperature comes first: at 0.5 the weights are 64:16:4:1:1, and 64 of 86 is already over 0.7.
    assert frequencies(HALVES.log(), temperature=0.5, top_p=0.7).tolist() == [0, 1, 0, 0, 0]


def test_zero_temperature_takes_the_likeliest_and_leaves_the_generator_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert int(draw(HALVES.log(), temperature=0, generator=generator)) == int(greedy(HALVES)) == 1
    assert torch.equal(generator.get_state(), before)


def test_a_seed_decides_the_draws_and_their_shape_is_that_of_the_rows() -> None:
    rows = torch.randn(2, 3, 13, generator=torch.Generator().manual_seed(0))
    first = draw(rows, generator=torch.Generator().manual_seed(1))
    assert first.shape == (2, 3)
    assert torch.equal(first, draw(rows, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(first, draw(rows, generator=torch.Generator().manual_seed(2)))


def test_what_is_excluded_is_never_drawn() -> None:
    logits = torch.tensor([5.0, -math.inf, 4.0, -math.inf])
    assert set(frequencies(logits).nonzero().flatten().tolist()) == {0, 2}
    assert set(frequencies(logits, top_k=3, top_p=0.9999).nonzero().flatten().tolist()) == {0, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be a positive number .or 0 for greedy., got -1.0"),
        ({"temperature": math.nan}, "got nan"),
        ({"temperature": math.inf}, "got inf"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must lie above 0 and be at most 1, got 0.0"),
        ({"top_p": 1.1}, "got 1.1"),
        ({"top_p": math.nan}, "got nan"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw(HALVES.log(), **options)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_of_a_diverged_model_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="diverged"):
        draw(torch.tensor([0.0, bad]))


def test_nothing_left_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="nothing left"):
        draw(torch.full((2, 3), -math.inf))
    with pytest.raises(InputError, match="or 0 for greedy"):
        scale_by_temperature(HALVES, 0)
