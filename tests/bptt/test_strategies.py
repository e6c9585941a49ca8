"""What holds for every strategy."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from throughtime import bptt
from throughtime.data.batch import tensors

EXACT = [
    bptt.Full(),
    bptt.Truncated(7),
    bptt.Truncated(40),
    bptt.Truncated(9, stride=3),
    bptt.RandomWindow(7, 9),
    bptt.Checkpointed(),
    bptt.Checkpointed(2),
    bptt.Checkpointed(1, slots=1),
    bptt.Checkpointed(1, slots=3),
    bptt.Checkpointed(3, slots=50),
]
INEXACT = [bptt.Truncated(3), bptt.Truncated(4, stride=2), bptt.RandomWindow(2, 3), bptt.Randomized(2.5)]
ALL = [
    *EXACT[:2],
    *EXACT[3:-1],
    *INEXACT,
]  # a window longer than T, and more slots than units, change nothing else


@pytest.mark.parametrize("strategy", EXACT, ids=str)
def test_the_exact_ones_agree_with_autograd(problem, strategy, gradient_of, autograd):
    gradient, result = gradient_of(problem, strategy, reduction="sum")
    expected = autograd(problem)
    # 1e-12 of the largest entry: float64 with sums in another order.
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12 * expected.abs().max().item())
    y, _ = problem.run(problem.x, problem.state)
    torch.testing.assert_close(result.loss, problem.loss(y, problem.target).detach(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("strategy", INEXACT, ids=str)
def test_the_others_differ(problem, strategy, gradient_of, autograd):
    gradient, _ = gradient_of(problem, strategy, reduction="sum", generator=torch.Generator().manual_seed(1))
    expected = autograd(problem)
    assert (gradient - expected).norm() > 0.01 * expected.norm()


def test_the_exact_ones_agree_with_finite_differences(tanh, gradient_of):
    eps, differences = 1e-6, []
    with torch.no_grad():
        for parameter in tanh.parameters:
            for i in range(parameter.numel()):
                losses = []
                for sign in (1, -1):
                    parameter.view(-1)[i] += sign * eps
                    losses.append(tanh.loss(tanh.run(tanh.x, tanh.state)[0], tanh.target))
                    parameter.view(-1)[i] -= sign * eps
                differences.append((losses[0] - losses[1]) / (2 * eps))
    # 1e-7 of the largest entry: rounding of the loss over eps, which is more than the eps^2 of the formula.
    expected = torch.stack(differences)
    for strategy in EXACT:
        gradient, _ = gradient_of(tanh, strategy, reduction="sum")
        torch.testing.assert_close(
            gradient, expected, rtol=0, atol=1e-7 * expected.abs().max().item(), msg=str(strategy)
        )


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_values_cross_every_border(problem, strategy, gradient_of):
    """Loss, final state and count are those of one long run, whatever happens to the gradient."""
    _, result = gradient_of(problem, strategy)
    y, state = problem.run(problem.x, problem.state)
    torch.testing.assert_close(result.loss, problem.loss(y, problem.target).detach() / 56, rtol=1e-13, atol=0)
    torch.testing.assert_close(tensors(result.state), tensors(bptt.detach(state)), rtol=1e-12, atol=1e-14)
    assert result.count == 7 * 2 * 4
    assert not any(t.requires_grad for t in [result.loss, *tensors(result.state)])


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_the_module_may_make_the_first_state(problem, strategy, gradient_of):
    gradient, _ = gradient_of(problem, strategy, state=None)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_mean_divides_once_by_the_count_of_the_whole_batch(tanh, strategy, gradient_of):
    options = [{"generator": torch.Generator().manual_seed(3)} for _ in range(3)]
    total, summed = gradient_of(tanh, strategy, reduction="sum", **options[0])
    mean, averaged = gradient_of(tanh, strategy, **options[1])
    counted, given = gradient_of(tanh, strategy, count=11, **options[2])
    torch.testing.assert_close(mean, total / 56, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(counted, total / 11, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(averaged.loss * 56, summed.loss)
    assert (summed.count, averaged.count, given.count) == (56, 56, 11)


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_masked_targets_count_nothing_in_uneven_windows(strategy):
    """Windows of 3, 3 and 1 steps with 1, 6 and 0 unmasked targets: the mean of their means is another number."""
    torch.manual_seed(0)
    lstm, head = nn.LSTM(3, 13).double(), nn.Linear(13, 5).double()
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    targets = torch.randint(5, (7, 2))
    targets[:3] = -100
    targets[1, 1] = 4
    targets[6] = -100

    def run(x, state):
        y, state = lstm(x, state)
        return head(y), state

    def loss(y, target):
        return nn.functional.cross_entropy(y.flatten(0, 1), target.flatten(), reduction="sum")

    count = bptt.count_targets(targets)
    assert count == 7
    result = strategy.backward(run, loss, x, targets, count=count)
    expected = nn.functional.cross_entropy(run(x, None)[0].flatten(0, 1), targets.flatten())
    torch.testing.assert_close(result.loss, expected.detach(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_gradients_accumulate_like_loss_backward(tanh, strategy):
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        strategy.backward(tanh.run, tanh.loss, tanh.x, tanh.target, tanh.state, generator=generator)
    twice, tanh.W_hh.grad = tanh.W_hh.grad, None
    generator = torch.Generator().manual_seed(3)
    strategy.backward(tanh.run, tanh.loss, tanh.x, tanh.target, tanh.state, generator=generator)
    torch.testing.assert_close(twice, 2 * tanh.W_hh.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_another_backward_takes_the_place_of_loss_backward(problem, strategy, gradient_of):
    """A loss scaler's factor reaches every path exactly once: also the state's gradient that is handed on."""
    plain, _ = gradient_of(problem, strategy, generator=torch.Generator().manual_seed(3))
    calls = []

    def scaled(loss: Tensor, **options: bool) -> None:
        calls.append(loss.shape)
        (8 * loss).backward(**options)

    options = {"backward": scaled, "generator": torch.Generator().manual_seed(3)}
    gradient, result = gradient_of(problem, strategy, **options)
    torch.testing.assert_close(gradient, 8 * plain, rtol=1e-12, atol=1e-14)
    assert calls == [torch.Size([])] * result.windows


@pytest.mark.parametrize("strategy", EXACT, ids=str)
def test_what_comes_out_of_a_graph_gets_its_gradient(tanh, strategy):
    """A learned initial state and an encoder before the network, both with a graph of their own."""
    encoder = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    start = (tanh.state / 2).requires_grad_()
    y, _ = tanh.run(tanh.x @ encoder, torch.sinh(start))
    expected = torch.autograd.grad(tanh.loss(y, tanh.target), [encoder, start])
    inputs, state = tanh.x @ encoder, torch.sinh(start)
    strategy.backward(tanh.run, tanh.loss, inputs, tanh.target, state, reduction="sum")
    torch.testing.assert_close([encoder.grad, start.grad], list(expected), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("strategy", [s for s in INEXACT if not isinstance(s, bptt.Randomized)], ids=str)
def test_cut_windows_share_an_encoder(tanh, strategy):
    """The encoder's graph is walked once, after all windows: the first backward pass does not use it up."""
    encoder = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    features = torch.tanh(tanh.x @ encoder)
    strategy.backward(tanh.run, tanh.loss, features, tanh.target, tanh.state.clone().requires_grad_())
    assert encoder.grad.abs().min() > 0


def test_a_half_precision_loss_is_summed_in_float32():
    """2048 + 1 is 2048 in float16."""
    w = torch.ones((), requires_grad=True)
    x = torch.cat([torch.full((1,), 2048.0), torch.ones(9)])
    result = bptt.Truncated(1).backward(
        lambda x, s: ((w * x).half(), s), lambda y, t: y.sum(), x, x, reduction="sum"
    )
    assert result.loss.dtype == torch.float32
    assert result.loss == 2057


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_strategies_are_frozen_values(strategy):
    assert isinstance(strategy, bptt.Strategy)
    assert strategy == dataclasses.replace(strategy)
    assert hash(strategy) == hash(dataclasses.replace(strategy))
    assert "\n" not in strategy.describe()
    with pytest.raises(dataclasses.FrozenInstanceError):
        strategy.window = 3


def test_count_targets():
    targets = torch.tensor([[1, -100], [-1, 2]])
    assert bptt.count_targets(targets) == 3
    assert bptt.count_targets({"a": targets, "b": (torch.tensor([0.5, float("nan")]), None)}) == 4


def test_detach_keeps_the_structure():
    lstm = nn.LSTM(3, 5)
    _, state = lstm(torch.randn(4, 2, 3))
    h, c = bptt.detach(state)
    assert not h.requires_grad
    assert not c.requires_grad
    assert h.data_ptr() == state[0].data_ptr()
    assert bptt.detach(None) is None
