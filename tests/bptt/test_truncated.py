"""Truncation: against loops that say what it means, step by step."""

from __future__ import annotations

import pytest
import torch

from throughtime import bptt
from throughtime.errors import InputError


def walk(problem, h, start, stop):
    """Unroll steps start..stop-1 from h; return h and every state after it."""
    states = [h]
    for t in range(start, stop):
        states.append(problem.step(problem.x[t], states[-1]))
    return states


def sliding_by_definition(problem, window, stride):
    """For each block, unroll again from the (constant) state at most `window` steps before its end."""
    with torch.no_grad():
        states = walk(problem, problem.state, 0, len(problem.x))
    total = [torch.zeros_like(p) for p in problem.parameters]
    for first in range(0, len(problem.x), stride):
        stop = min(first + stride, len(problem.x))
        start = max(0, first + stride - window)
        outputs = walk(problem, states[start], start, stop)[1:]
        loss = problem.loss(outputs[first - start :], problem.target[first:stop])
        for into, gradient in zip(total, torch.autograd.grad(loss, problem.parameters), strict=True):
            into += gradient
    return torch.cat([g.flatten() for g in total])


@pytest.mark.parametrize("window", [1, 2, 3, 5, 6])
def test_it_is_the_loop_with_a_detach_after_every_window(tanh, window, gradient_of):
    gradient, result = gradient_of(tanh, bptt.Truncated(window), reduction="sum")
    for p in tanh.parameters:
        p.grad = None
    h = tanh.state
    for start in range(0, 7, window):
        y, h = tanh.run(tanh.x[start : start + window], h.detach())
        tanh.loss(y, tanh.target[start : start + window]).backward()
    expected = torch.cat([p.grad.flatten() for p in tanh.parameters])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0)
    assert result.windows == -(-7 // window)


@pytest.mark.parametrize(
    ("window", "stride"), [(2, 1), (3, 1), (6, 1), (4, 2), (6, 2), (6, 3), (3, 3), (8, 4)]
)
def test_sliding_agrees_with_its_definition(tanh, window, stride, gradient_of):
    gradient, result = gradient_of(tanh, bptt.Truncated(window, stride), reduction="sum")
    expected = sliding_by_definition(tanh, window, stride)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)
    assert result.windows == -(-7 // stride)


def test_sliding_by_more_steps_reaches_the_full_gradient(tanh, gradient_of, autograd):
    full = autograd(tanh)
    strategies = [bptt.Truncated(2), bptt.Truncated(2, 1), bptt.Truncated(4, 1), bptt.Truncated(7, 1)]
    errors = [(gradient_of(tanh, s, reduction="sum")[0] - full).norm().item() for s in strategies]
    assert errors[0] > 0.01 * full.norm()
    assert errors[3] < 1e-12 * full.norm()
    assert len(set(errors)) == 4


def test_a_detach_in_the_middle_of_the_graph_does_not_slide(tanh, autograd):
    """Detaching the state of `window` steps ago before each backward cuts nothing.

    The step that followed it holds its own edge into the graph, so that the gradient of every loss still goes all the way
    back; and in place, torch refuses.
    """

    def recipe(detach):
        window, states = 3, [tanh.state]
        for t in range(7):
            states.append(tanh.step(tanh.x[t], states[-1]))
            if len(states) > window:
                states[-1 - window] = detach(states[-1 - window])
            tanh.loss([states[-1]], tanh.target[t : t + 1]).backward(retain_graph=True)
        return torch.cat([p.grad.flatten() for p in tanh.parameters])

    with pytest.raises(RuntimeError, match="detached in-place"):
        recipe(torch.Tensor.detach_)
    for p in tanh.parameters:
        p.grad = None
    gradient, right = recipe(torch.Tensor.detach), sliding_by_definition(tanh, 3, 1)
    torch.testing.assert_close(gradient, autograd(tanh), rtol=1e-10, atol=1e-9)
    assert (gradient - right).norm() > 0.01 * right.norm()


def test_any_state_slides(gradient_of, problem):
    """Tuples and nested pytrees: sliding by single steps over T = 7 equals Full."""
    gradient, _ = gradient_of(problem, bptt.Truncated(7, 1))
    expected, _ = gradient_of(problem, bptt.Full())
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


def test_a_state_that_requires_grad_is_reached_from_the_first_window_only(tanh):
    start = tanh.state.clone().requires_grad_()
    bptt.Truncated(4, 2).backward(tanh.run, tanh.loss, tanh.x, tanh.target, start, reduction="sum")
    y, _ = tanh.run(tanh.x[:4], start)
    (expected,) = torch.autograd.grad(tanh.loss(y, tanh.target[:4]), start)
    torch.testing.assert_close(start.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("strategy", "steps"),
    [(bptt.Full(), 7), (bptt.Truncated(3), 3), (bptt.Truncated(1), 1), (bptt.Truncated(4, 2), 4),
     (bptt.Truncated(3, 1), 3), (bptt.RandomWindow(2, 3), 3)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_graph_of_a_window_is_gone_before_the_next(live_graphs, strategy, steps, requires_grad):
    problem, graphs = live_graphs
    state = problem.state.clone().requires_grad_(requires_grad)
    generator = torch.Generator().manual_seed(1)
    strategy.backward(problem.run, problem.loss, problem.x, problem.target, state, generator=generator)
    assert graphs.peak == steps
    assert graphs.alive == 0


def test_random_windows_have_random_lengths_from_the_generator(tanh):
    def lengths(seed):
        seen = []

        def run(x, state):
            seen.append(len(x))
            return tanh.run(x, state)

        x, target = tanh.x.repeat(30, 1, 1), tanh.target.repeat(30, 1, 1)
        before = torch.get_rng_state()
        bptt.RandomWindow(2, 5).backward(
            run, tanh.loss, x, target, tanh.state, generator=torch.Generator().manual_seed(seed)
        )
        assert torch.equal(before, torch.get_rng_state())
        return seen

    assert lengths(1) == lengths(1) != lengths(2)
    assert set(lengths(1)[:-1]) == {2, 3, 4, 5}
    assert sum(lengths(1)) == 210


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bptt.Truncated(0), "window must be at least 1 step, got 0"),
        (lambda: bptt.Truncated(4, 0), "stride must be at least 1 step, got 0"),
        (lambda: bptt.Truncated(35, 4), "window 35 and stride 4: take window 36"),
        (lambda: bptt.Truncated(4, 8), "window 4 and stride 8: take window 8"),
        (lambda: bptt.RandomWindow(0, 3), "1 <= low <= high, got 0 and 3"),
        (lambda: bptt.RandomWindow(5, 3), "1 <= low <= high, got 5 and 3"),
    ],
)
def test_impossible_sizes(make, message):
    with pytest.raises(InputError, match=message):
        make()
