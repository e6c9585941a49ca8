"""Greedy, sampled and beam search against enumeration of all sequences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from throughtime.decoding import Limits, beam, greedy, sample, select
from throughtime.decoding.search import largest
from throughtime.errors import InputError

END, START = 0, 1


class Table:
    """A model whose next symbol depends on all symbols so far, through a recurrent state [1, N, H]."""

    def __init__(self, symbols: int, seed: int, sharp: float = 3.0) -> None:
        torch.manual_seed(seed)
        self.embedding = torch.randn(symbols, 6)
        self.recurrent, self.head = torch.randn(6, 6), torch.randn(6, symbols) * sharp
        self.rows_run = 0

    def step(self, state: Tensor, symbols: Tensor) -> tuple[Tensor, Tensor]:
        self.rows_run += len(symbols)
        state = (state @ self.recurrent + self.embedding[symbols]).tanh()
        return state[0] @ self.head, state

    def state(self, rows: int, seed: int = 5) -> Tensor:
        return torch.randn(1, rows, 6, generator=torch.Generator().manual_seed(seed))

    def score(self, state: Tensor, symbols: list[int]) -> float:
        """Log P of symbols and the end after them."""
        total, last = 0.0, torch.tensor([START])
        for symbol in [*symbols, END]:
            logits, state = self.step(state, last)
            total += float(logits[0].log_softmax(-1)[symbol])
            last = torch.tensor([symbol])
        return total

    def best(
        self, state: Tensor, longest: int, penalty: float, shortest: int = 0
    ) -> list[tuple[float, list[int]]]:
        """All sequences by their score."""
        symbols = range(1, len(self.embedding))
        every = (
            list(each) for n in range(shortest, longest + 1) for each in itertools.product(symbols, repeat=n)
        )
        return sorted(
            ((self.score(state, each) / ((6 + len(each)) / 6) ** penalty, each) for each in every),
            reverse=True,
        )


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("shortest", [0, 2])
def test_a_wide_beam_is_exhaustive(penalty, shortest):
    model, longest = Table(4, 3), 4
    state = model.state(3)
    found = beam(
        model.step, state, torch.full((3,), START), Limits(END, longest, shortest), width=400, n_best=7,
        length_penalty=penalty,
    )  # fmt: skip
    for row, hypotheses in enumerate(found):
        expected = model.best(state[:, row : row + 1], longest, penalty, shortest)[:7]
        assert [each.symbols for each in hypotheses] == [symbols for _, symbols in expected]
        assert [each.score for each in hypotheses] == pytest.approx(
            [score for score, _ in expected], abs=1e-4
        )


def test_a_narrow_beam_can_miss_the_best_and_a_wider_one_finds_it():
    worse = 0
    for seed in range(20):
        model = Table(5, seed, sharp=1.5)
        state, start, limits = model.state(4, seed), torch.full((4,), START), Limits(END, 5)
        one = [each.score for each in greedy(model.step, state, start, limits)]
        wide = [each[0].score for each in beam(model.step, state, start, limits, width=200, length_penalty=0)]
        assert all(a <= b + 1e-5 for a, b in zip(one, wide, strict=True))
        worse += sum(a < b - 1e-3 for a, b in zip(one, wide, strict=True))
    assert worse > 5


@pytest.mark.parametrize("seed", range(8))
def test_width_one_is_greedy(seed):
    model = Table(7, seed)
    state, start, limits = model.state(5, seed), torch.full((5,), START), Limits(END, [3, 9, 1, 6, 12])
    one = greedy(model.step, state, start, limits)
    for each, (other,) in zip(
        one, beam(model.step, state, start, limits, width=1, length_penalty=0), strict=True
    ):
        assert each.symbols == other.symbols
        assert each.ended == other.ended
        assert each.score == pytest.approx(other.score, abs=1e-4)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_batch_decodes_what_each_row_decodes_alone(width):
    model = Table(9, 1, sharp=1.0)
    state, start, lengths = model.state(6), torch.full((6,), START), [4, 11, 7, 1, 9, 2]
    together = beam(model.step, state, start, Limits(END, lengths), width=width, n_best=width)
    alone = [
        beam(model.step, state[:, n : n + 1], start[:1], Limits(END, lengths[n]), width=width, n_best=width)[
            0
        ]
        for n in range(6)
    ]
    assert [[h.symbols for h in row] for row in together] == [[h.symbols for h in row] for row in alone]
    drawn = sample(model.step, state, start, Limits(END, lengths), seeds=range(6), temperature=1.3)
    single = [
        sample(
            model.step, state[:, n : n + 1], start[:1], Limits(END, lengths[n]), seeds=[n], temperature=1.3
        )[0]
        for n in range(6)
    ]
    assert [each.symbols for each in drawn] == [each.symbols for each in single]


def test_rows_that_ended_are_not_run_again():
    model = Table(5, 2)
    model.head[:, END] = 0
    lengths = [1, 1, 1, 8]
    model.rows_run = 0
    found = greedy(model.step, model.state(4), torch.full((4,), START), Limits(END, lengths, banned=()))
    assert model.rows_run <= sum(len(each.symbols) + 1 for each in found)


def test_what_may_be_written():
    model = Table(8, 4, sharp=1.0)
    state, start = model.state(3), torch.full((3,), START)
    for found in (
        [greedy(model.step, state, start, Limits(END, 6, 3, banned=[2, 3]))],
        beam(model.step, state, start, Limits(END, 6, 3, banned=[2, 3]), width=4, n_best=4),
        [sample(model.step, state, start, Limits(END, 6, 3, banned=[2, 3]), seeds=[1, 2, 3], top_p=0.9)],
    ):
        for each in itertools.chain.from_iterable(found):
            assert 3 <= len(each.symbols) <= 6
            assert not {END, 2, 3} & set(each.symbols)
    allowed = torch.zeros(3, 8, dtype=torch.bool)
    allowed[0, 4], allowed[1, 5], allowed[2, 6] = True, True, True
    found = beam(model.step, state, start, Limits(END, 5, 1, allowed=allowed), width=3)
    assert [set(each[0].symbols) for each in found] == [{4}, {5}, {6}]


def test_a_forced_end_is_told():
    model = Table(4, 0)
    model.head = torch.zeros(6, 4)
    model.head[:, END] = 0.0
    step = lambda state, symbols: (torch.tensor([[-50.0, 0.0, 1.0, 0.0]]).expand(len(symbols), 4), state)  # noqa: E731
    start = torch.full((2,), START)
    assert [each.ended for each in greedy(step, model.state(2), start, Limits(END, 3))] == [False, False]
    found = beam(step, model.state(2), start, Limits(END, 3), width=2, length_penalty=0)
    assert all(not each[0].ended and each[0].symbols == [2, 2, 2] for each in found)


def test_coverage_lowers_the_score_of_what_was_not_attended_to():
    from typing import NamedTuple

    class State(NamedTuple):
        attention: Tensor  # [N, S]

    def step(state, symbols):
        # Symbol 2 attends to both source steps, symbol 3 (a little likelier) to the first alone.
        weights = torch.where((symbols == 2)[:, None], torch.tensor([0.5, 0.5]), torch.tensor([0.999, 0.001]))
        logits = torch.tensor([0.0, -9.0, 1.0, 1.1]).expand(len(symbols), 4)
        return logits, State(weights)

    start = torch.tensor([START])
    first = State(torch.full((1, 2), 0.5))
    plain = beam(step, first, start, Limits(END, 2, 2), width=4)[0][0]
    covering = beam(step, first, start, Limits(END, 2, 2), width=4, coverage_penalty=5.0)[0][0]
    assert plain.symbols == [3, 3]
    assert 2 in covering.symbols


def test_largest_is_topk():
    torch.manual_seed(0)
    for size, count in ((7, 3), (64, 5), (1000, 4), (1003, 1), (4096, 20), (777, 6)):
        values = torch.randn(5, size)
        values[0, : size // 2] = float("-inf")
        top, places = largest(values, count)
        assert torch.equal(top, values.topk(count, dim=1).values)
        assert torch.equal(values.gather(1, places), top)
        assert all(len(set(row)) == count for row in places.tolist())


def test_select_gathers_every_part_of_a_state():
    state = {"h": torch.arange(12.0).view(2, 3, 2), "pair": (torch.arange(6.0).view(3, 2), [None, 4])}
    rows = torch.tensor([2, 0, 2, 1])
    found = select(state, rows)
    assert torch.equal(found["h"], state["h"][:, rows])
    assert torch.equal(found["pair"][0], state["pair"][0][rows])
    assert found["pair"][1] == [None, 4]


def test_refusals():
    model = Table(5, 0)
    state, start = model.state(2), torch.full((2,), START)
    with pytest.raises(InputError, match="max_length must be at least 1"):
        greedy(model.step, state, start, Limits(END, [3]))
    with pytest.raises(InputError, match="min_length"):
        greedy(model.step, state, start, Limits(END, 3, 4))
    with pytest.raises(InputError, match="n_best"):
        beam(model.step, state, start, Limits(END, 3), width=2, n_best=3)
    with pytest.raises(InputError, match="penalties"):
        beam(model.step, state, start, Limits(END, 3), length_penalty=-1)
    with pytest.raises(InputError, match="excluded"):
        greedy(model.step, state, start, Limits(END, 3, 2, banned=[1, 2, 3, 4]))
    with pytest.raises(InputError, match="coverage_penalty needs a model with attention"):
        beam(model.step, state, start, Limits(END, 3), coverage_penalty=1.0)
    with pytest.raises(InputError, match="seeds"):
        sample(model.step, state, start, Limits(END, 3), seeds=[1])
    bad = lambda state, symbols: (torch.full((len(symbols), 5), math.nan), state)  # noqa: E731
    for search in (greedy, beam):
        with pytest.raises(InputError, match="NaN"):
            search(bad, state, start, Limits(END, 3))
