"""Checkpointing: the same gradient in less memory, and the schedule that recomputes the fewest steps."""

from __future__ import annotations

from functools import cache
from math import comb

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from throughtime import bptt
from throughtime.bptt.checkpointed import advances, split
from throughtime.errors import InputError


@cache
def fewest(units, slots):
    """The recursion itself: keep the state before unit k, backpropagate what is after it, then what is before."""
    if units == 1:
        return 0
    if slots == 1:
        return units * (units - 1) // 2
    return min(k + fewest(units - k, slots - 1) + fewest(k, slots) for k in range(1, units))


@pytest.mark.parametrize("slots", range(1, 9))
def test_the_closed_form_equals_the_recursion(slots):
    for units in range(1, 60):
        assert advances(units, slots) == fewest(units, slots)
        if units > 1 and slots > 1:
            k = split(units, slots)
            assert 1 <= k < units
            assert k + fewest(units - k, slots - 1) + fewest(k, slots) == fewest(units, slots)


def test_a_unit_is_run_at_most_r_times():
    """Ten slots and three repetitions reach 286 units: memory grows like a root of the length."""
    assert comb(13, 3) == 286
    assert advances(286, 10) <= 3 * 286
    assert advances(287, 10) - advances(286, 10) == 4


@pytest.mark.parametrize(
    ("window", "slots"), [(1, 1), (1, 2), (1, 3), (1, 7), (2, 2), (3, 1), (1, None), (2, None)]
)
def test_it_recomputes_as_many_steps_as_the_schedule_says(tanh, window, slots):
    plain, with_graph = [], []
    run = tanh.run

    def counting(x, state):
        (with_graph if torch.is_grad_enabled() else plain).append(len(x))
        return run(x, state)

    strategy = bptt.Checkpointed(window, slots)
    result = strategy.backward(counting, tanh.loss, tanh.x, tanh.target, tanh.state)
    assert sum(with_graph) == 7
    assert len(with_graph) == result.windows
    assert len(plain) == advances(result.windows, result.windows if slots is None else slots)


@pytest.mark.parametrize(
    ("strategy", "steps"),
    [
        (bptt.Checkpointed(1, slots=1), 1),
        (bptt.Checkpointed(1, slots=3), 1),
        (bptt.Checkpointed(2, slots=2), 2),
        (bptt.Checkpointed(), 3),
        (bptt.Checkpointed(2), 4),
    ],
    ids=str,
)
def test_one_unit_has_a_graph_at_a_time(live_graphs, strategy, steps):
    problem, graphs = live_graphs
    strategy.backward(problem.run, problem.loss, problem.x, problem.target, problem.state)
    assert graphs.peak == steps
    assert graphs.alive == 0
    windows = ((problem.x[t : t + 1], problem.target[t : t + 1]) for t in range(7))
    strategy.backward(problem.run, problem.loss, windows, state=problem.state, reduction="sum")
    assert graphs.peak <= max(steps, 3)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_it_keeps_no_more_states_than_slots(tanh, slots):
    """Every state that `run` returns is counted; kept are the slots, and the current one."""
    alive = peak = 0

    class State:
        def __init__(self, h):
            nonlocal alive, peak
            self.h = h
            alive += 1
            peak = max(peak, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    from torch.utils._pytree import register_pytree_node

    register_pytree_node(State, lambda s: ([s.h], None), lambda children, _: State(children[0]))
    run = tanh.run

    def wrapped(x, state):
        y, h = run(x, state.h)
        return y, State(h)

    def most(slots, steps):
        nonlocal peak
        peak = 0
        x, target = tanh.x.repeat(9, 1, 1)[:steps], tanh.target.repeat(9, 1, 1)[:steps]
        bptt.Checkpointed(1, slots).backward(wrapped, tanh.loss, x, target, State(tanh.state))
        return peak

    assert most(slots, 60) - most(1, 60) == slots - 1  # T is not in it
    assert alive == 0


def test_dropout_is_recomputed_with_the_same_mask():
    torch.manual_seed(4)
    lstm = nn.LSTM(3, 13, num_layers=2, dropout=0.5).double()
    x, target = torch.randn(7, 2, 3).double(), torch.randn(7, 2, 13).double()
    pieces = [(x[t : t + 2], target[t : t + 2]) for t in range(0, 7, 2)]

    def gradient(strategy, inputs):
        lstm.zero_grad()
        torch.manual_seed(11)
        result = strategy.backward(lstm, lambda y, t: ((y - t) ** 2).sum(), inputs, reduction="sum")
        return torch.cat([p.grad.flatten() for p in lstm.parameters()]), result, torch.rand(3)

    expected, full, after = gradient(bptt.Full(), pieces)
    for strategy in [bptt.Checkpointed(2), bptt.Checkpointed(2, 1), bptt.Checkpointed(2, 2)]:
        found, result, then = gradient(strategy, pieces)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(result.loss, full.loss, rtol=1e-13, atol=0)
        torch.testing.assert_close(result.state, full.state, rtol=1e-13, atol=1e-15)
        assert torch.equal(after, then)  # the random state afterwards is that of one forward pass


def test_a_loss_that_draws_does_not_shift_the_dropout():
    torch.manual_seed(4)
    w = torch.randn(3, 3, requires_grad=True)
    x = torch.randn(6, 2, 3)
    masks = {}

    def run(x, state):
        drop = torch.rand(len(x), 2, 3) < 0.5
        masks.setdefault(x.data_ptr(), []).append(drop)
        state = torch.tanh((x * drop).sum(0) @ w + (0 if state is None else state))
        return state, state

    for pieces in [1, 2]:
        masks.clear()
        inputs = [(x[t : t + pieces], x[t : t + pieces]) for t in range(0, 6, pieces)]
        bptt.Checkpointed(1, None).backward(
            run, lambda y, t: (y * torch.rand(())).sum(), inputs, reduction="sum"
        )
        assert max(len(seen) for seen in masks.values()) == 2
        assert all(torch.equal(seen[0], again) for seen in masks.values() for again in seen)


def test_autocast_is_the_same_in_every_run():
    torch.manual_seed(4)
    cell, x = nn.Linear(16, 13), torch.randn(7, 2, 3)
    seen = []

    def run(x, h):
        h = torch.zeros(2, 13) if h is None else h
        outputs = []
        for x_t in x:
            h = torch.tanh(cell(torch.cat([x_t, h.float()], dim=-1)))
            outputs.append(h.float())
        seen.append(h.dtype)
        return torch.stack(outputs), h

    def gradient(strategy):
        cell.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            strategy.backward(run, lambda y, t: (y**2).sum(), x, x)
        return cell.weight.grad.clone()

    expected = gradient(bptt.Full())
    found = gradient(bptt.Checkpointed(1, slots=2))
    assert set(seen) == {torch.bfloat16}
    assert seen.count(torch.bfloat16) > 7
    # bfloat16 has 8 bits; Full adds the steps up in bfloat16, where units add up in float32.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * expected.abs().max().item())


@given(
    steps=st.integers(1, 60),
    state_bytes=st.integers(1, 50),
    step_bytes=st.integers(1, 50),
    spare=st.integers(0, 3000),
)
def test_for_budget_is_the_best_that_fits(steps, state_bytes, step_bytes, spare):
    budget = 3 * state_bytes + step_bytes + spare

    def cost(strategy):
        units = -(-steps // strategy.window)
        return advances(units, strategy.slots) * strategy.window

    def fits(strategy):
        return (strategy.slots + 2) * state_bytes + strategy.window * step_bytes <= budget

    chosen = bptt.Checkpointed.for_budget(budget, steps, state_bytes=state_bytes, step_bytes=step_bytes)
    assert fits(chosen)
    others = [bptt.Checkpointed(w, s) for w in range(1, steps + 1) for s in range(1, -(-steps // w) + 1)]
    assert cost(chosen) == min(cost(other) for other in others if fits(other))


def test_for_budget_in_numbers():
    """LSTM of 512 units, batch 32, float32, 10,000 steps: full BPTT would keep 4.6 GB."""
    state, step = 2 * 32 * 512 * 4, 7 * 32 * 512 * 4
    assert bptt.Checkpointed.for_budget(
        10**10, 10_000, state_bytes=state, step_bytes=step
    ) == bptt.Checkpointed(10_000, 1)
    small = bptt.Checkpointed.for_budget(50 * 10**6, 10_000, state_bytes=state, step_bytes=step)
    units = -(-10_000 // small.window)
    assert advances(units, small.slots) * small.window < 2 * 10_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bptt.Checkpointed(0), "window must be at least 1 step, got 0"),
        (lambda: bptt.Checkpointed(1, 0), "slots must be at least 1"),
        (
            lambda: bptt.Checkpointed.for_budget(10, 9, state_bytes=3, step_bytes=2),
            "at least 11 bytes .* got 10",
        ),
        (
            lambda: bptt.Checkpointed.for_budget(10, 0, state_bytes=3, step_bytes=2),
            "steps must be at least 1",
        ),
    ],
)
def test_impossible_sizes(make, message):
    with pytest.raises(InputError, match=message):
        make()
