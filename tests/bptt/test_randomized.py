"""Randomized truncation is unbiased: every pattern of cuts, weighed by its probability, and by sampling."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from throughtime import bptt
from throughtime.bptt import randomized
from throughtime.errors import InputError

FORMS = [
    bptt.Randomized(2.5),
    bptt.Randomized(1.2),
    bptt.Randomized(3, "polynomial"),
    bptt.Randomized(1.7, "polynomial", alpha=2.5),
    bptt.Randomized(5, every=2),
    bptt.Randomized(4.5, "polynomial", every=2),
]


def expectation(problem, strategy, gradient_of, monkeypatch):
    """Sum the gradient over all patterns of cuts, each times its probability."""
    borders = -(-len(problem.x) // strategy.every) - 1
    mean, mass = 0, 0
    for pattern in product([True, False], repeat=borders):
        probability, delta, drawn = 1.0, 0, iter(pattern)
        for cut in pattern:
            delta += 1  # borders since the last cut
            c = strategy.cut_probability(delta)
            probability *= c if cut else 1 - c
            delta = 0 if cut else delta

        def uniform(count, generator, drawn=drawn):
            return [0.0 if next(drawn) else 1 - 1e-9 for _ in range(count)]

        monkeypatch.setattr(randomized, "_uniform", uniform)
        gradient, result = gradient_of(problem, strategy, reduction="sum")
        assert result.windows == sum(pattern) + 1
        assert next(drawn, None) is None  # one number for each border
        mean, mass = mean + probability * gradient, mass + probability
    assert abs(mass - 1) < 1e-12
    return mean


@pytest.mark.parametrize("strategy", FORMS, ids=str)
def test_its_expectation_over_all_patterns_is_the_full_gradient(
    small, strategy, gradient_of, autograd, monkeypatch
):
    found = expectation(small, strategy, gradient_of, monkeypatch)
    torch.testing.assert_close(found, autograd(small), rtol=0, atol=1e-10)


@pytest.mark.parametrize("strategy", FORMS, ids=str)
def test_without_the_weights_it_is_biased(small, strategy, gradient_of, autograd, monkeypatch):
    """Cutting at random places is not enough."""
    monkeypatch.setattr(randomized, "scale_gradient", lambda state, factor: state)
    error = expectation(small, strategy, gradient_of, monkeypatch) - autograd(small)
    assert error.norm() > 1e-2 * autograd(small).norm()


@pytest.mark.parametrize(
    ("strategy", "biased"),
    [(bptt.Randomized(4), False), (bptt.Randomized(4, "polynomial"), False), (bptt.RandomWindow(1, 7), True)],
    ids=str,
)
def test_its_sampled_mean_is_within_its_standard_errors(small, strategy, biased, gradient_of, autograd):
    generator = torch.Generator().manual_seed(20)
    samples = torch.stack(
        [gradient_of(small, strategy, reduction="sum", generator=generator)[0] for _ in range(300)]
    )
    distance = (samples.mean(0) - autograd(small)) / (samples.std(0) / 300**0.5 + 1e-12)
    if biased:
        assert distance.abs().max() > 8
    else:  # 4.5 standard errors for the largest of 33 entries: one seed in some thousands is outside by chance
        assert distance.abs().max() < 4.5


def test_only_the_state_is_reweighted_not_an_output_that_is_the_same_tensor(small, gradient_of, monkeypatch):
    """No cut at all: the loss of each step counts once, and d borders back its weight is (1 / (1 - c))^d."""
    monkeypatch.setattr(randomized, "_uniform", lambda count, generator: [1 - 1e-9] * count)
    gradient, _ = gradient_of(small, bptt.Randomized(4), reduction="sum")
    expected = 0
    states = [small.state]
    for t in range(6):
        states.append(small.step(small.x[t], states[-1].detach()))
    for t in range(6):  # the loss of step t, through copies of its ancestors
        h = small.state
        for k in range(t + 1):
            h = small.step(small.x[k], h if k == 0 else randomized.scale_gradient(h, 4 / 3))
        loss = small.loss([h], small.target[t : t + 1])
        grads = torch.autograd.grad(loss, small.parameters)
        expected = expected + torch.cat([g.flatten() for g in grads])
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("strategy", FORMS, ids=str)
def test_the_same_seed_gives_the_same_bits(tanh, strategy, gradient_of):
    def draw(seed):
        before = torch.get_rng_state()
        gradient, _ = gradient_of(tanh, strategy, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(before, torch.get_rng_state())
        return gradient

    assert torch.equal(draw(1), draw(1))
    assert len({tuple(draw(seed).tolist()) for seed in range(8)}) > 1
    torch.manual_seed(1)
    default, _ = gradient_of(tanh, strategy)
    assert torch.equal(default, draw(1))


@pytest.mark.parametrize("seed", range(6))
def test_the_graph_reaches_no_further_than_the_last_cut(live_graphs, seed, monkeypatch):
    problem, graphs = live_graphs
    parts = []
    run = problem.run

    def recording(x, state):
        parts.append(state.requires_grad)
        return run(x, state)

    bptt.Randomized(2.5).backward(
        recording, problem.loss, problem.x, problem.target, problem.state,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    longest = max(len(run) + 1 for run in "".join("x" if grad else " " for grad in parts).split(" "))
    assert graphs.peak == longest
    assert graphs.alive == 0


@pytest.mark.parametrize("form", ["step", "polynomial"])
@pytest.mark.parametrize(("mean_length", "every"), [(35, 1), (2, 1), (40, 8)])
def test_mean_length_is_the_mean_distance_between_cuts(form, mean_length, every):
    strategy = bptt.Randomized(mean_length, form, every=every)
    survival, blocks = 1.0, 0.0
    for delta in range(1, 20_000):
        blocks += survival
        survival *= 1 - strategy.cut_probability(delta)
    assert abs(blocks * every - mean_length) < 1e-3 * mean_length  # the tail of n^-3 beyond 20,000


def test_the_polynomial_form_gives_far_gradients_smaller_weights():
    def weight(form):
        total = 1.0
        for delta in range(1, 400):
            total /= 1 - bptt.Randomized(35, form).cut_probability(delta)
        return total

    assert weight("step") > 1e4
    assert weight("polynomial") < 1e3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean_length": 1}, r"mean_length must be above every \(1 steps\), got 1"),
        ({"mean_length": 5, "every": 5}, r"mean_length must be above every \(5 steps\), got 5"),
        ({"mean_length": 5, "every": 0}, "every must be at least 1 step, got 0"),
        ({"mean_length": float("nan")}, "mean_length must be above every"),
        ({"mean_length": 5, "form": "polynomal"}, "Did you mean 'polynomial'?"),
        ({"mean_length": 5, "form": "polynomial", "alpha": 2}, "alpha must be above 2"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(InputError, match=message):
        bptt.Randomized(**options)
