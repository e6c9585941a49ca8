"""The reach of the gradient against closed forms, brute force, and inputs that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from throughtime.errors import InputError
from throughtime.flow import gradient_reach


def orthogonal(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q


def linear_rnn(w: Tensor) -> Any:
    """`h_t = h_{t-1} W^T + x_t`, one step or many; y is every h."""

    def run(x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        h = x.new_zeros(x.shape[1:]) if h is None else h
        outputs = []
        for u in x:
            h = h @ w.T + u
            outputs.append(h)
        return torch.stack(outputs), h

    return run


def read_out(c: Tensor) -> Any:
    return lambda y, target: ((y * c).sum(-1) * target).sum()


@pytest.mark.parametrize("a", [0.5, 0.9, 1.0, 1.2])
def test_a_scaled_orthogonal_matrix_gives_powers_of_the_scale(a: float) -> None:
    torch.manual_seed(0)
    w, c = a * orthogonal(13), torch.randn(13, dtype=torch.float64)
    x = torch.randn(31, 3, 13, dtype=torch.float64)
    found = gradient_reach(linear_rnn(w), read_out(c), x, torch.ones(31, 3), lags=17, ends=3)
    expected = c.norm() * a ** torch.arange(1, 18, dtype=torch.float64)
    torch.testing.assert_close(found.norms, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.low, found.high, rtol=1e-12, atol=0)
    assert found.lags.tolist() == list(range(1, 18))
    # 0.5^(k-1) < 0.01 first at k = 8; strictly below one half of lag 1: lag 3, lag 2 being equal to it.
    assert (found.reach, found.half_life) == ((8, 3) if a == 0.5 else (None, 8 if a == 0.9 else None))


def test_the_measured_product_decides_not_the_singular_values() -> None:
    """[[0, 2], [0, 0]] has singular value 2 and square zero; [[.9, 5], [0, .9]] grows, then dies."""
    nilpotent = torch.tensor([[0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    x = torch.zeros(130, 1, 2, dtype=torch.float64)
    one = torch.tensor([1.0, 1.0], dtype=torch.float64)
    found = gradient_reach(linear_rnn(nilpotent), read_out(one), x, torch.ones(130, 1), lags=4)
    assert found.norms.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert found.reach == 2
    hump = torch.tensor([[0.9, 5.0], [0.0, 0.9]], dtype=torch.float64)
    found = gradient_reach(linear_rnn(hump), read_out(one), x, torch.ones(130, 1), lags=120, ends=[120])
    assert float(found.norms.max()) > 3 * float(found.norms[0])
    assert int(found.norms.argmax()) > 5
    assert found.reach is not None
    assert found.reach > 60


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_every_lag_is_what_autograd_gives_for_the_unrolled_network(kind: str) -> None:
    """One backward through the whole network per lag, from a state that is not zero."""
    torch.manual_seed(1)
    steps, batch, hidden, layers = 9, 3, 7, 2
    net = getattr(torch.nn, kind)(5, hidden, layers).double()
    for p in net.parameters():
        p.data.mul_(3.0)
    x = torch.randn(steps, batch, 5, dtype=torch.float64)
    weight = torch.rand(steps, batch, dtype=torch.float64) + 0.5
    h0 = torch.randn(layers, batch, hidden, dtype=torch.float64)
    start = (h0, torch.randn_like(h0)) if kind == "LSTM" else h0
    lags, ends = 4, [5, 8]
    found = gradient_reach(net, read_out(torch.tensor(2.0)), x, weight, start, lags=lags, ends=ends)
    assert all(p.grad is None for p in net.parameters())

    expected = []
    for k in range(1, lags + 1):
        sizes = []
        for end in ends:
            with torch.no_grad():
                _, state = net(x[: end - k + 1], start)
            parts = [s.clone().requires_grad_() for s in (state if kind == "LSTM" else (state,))]
            y, _ = net(x[end - k + 1 : end + 1], tuple(parts) if kind == "LSTM" else parts[0])
            (2.0 * y[-1].sum(-1) * weight[end]).sum().backward()
            sizes.append(sum(p.grad.square().sum((0, 2)) for p in parts).sqrt())
        expected.append(torch.cat(sizes))
    sizes = torch.stack(expected)
    torch.testing.assert_close(found.norms, sizes.mean(1), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found.low, sizes.quantile(0.25, dim=1), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found.high, sizes.quantile(0.75, dim=1), rtol=1e-10, atol=1e-14)


def test_frozen_parameters_and_eval_mode_measure_the_same() -> None:
    torch.manual_seed(2)
    net = torch.nn.LSTM(5, 7)
    x, ones = torch.randn(9, 2, 5), torch.ones(9, 2)
    found = gradient_reach(net, read_out(torch.tensor(1.0)), x, ones, lags=5)
    frozen = gradient_reach(net.eval().requires_grad_(False), read_out(torch.tensor(1.0)), x, ones, lags=5)
    assert torch.equal(found.norms, frozen.norms)
    assert float(found.norms.min()) > 0


def test_no_more_than_the_lags_are_in_the_graph() -> None:
    """Every call that builds a graph is one step long, and there are `lags` of them for each end."""
    calls: list[tuple[int, bool]] = []
    step = linear_rnn(0.5 * orthogonal(3))

    def run(x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        calls.append((len(x), torch.is_grad_enabled()))
        return step(x, h)

    x = torch.zeros(1000, 1, 3, dtype=torch.float64)
    gradient_reach(run, read_out(torch.ones(3).double()), x, torch.ones(1000, 1), lags=6, ends=[300, 999])
    assert [length for length, graph in calls if graph] == [1] * 12
    assert sum(length for length, graph in calls if not graph) == 999 - 6 + 1
    assert max(length for length, _ in calls) <= 256


def test_a_model_that_ignores_its_state_reaches_nothing() -> None:
    def run(x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        return x, torch.zeros(2, 3) if h is None else h

    found = gradient_reach(run, read_out(torch.ones(3)), torch.ones(7, 2, 3), torch.ones(7, 2), lags=4)
    assert found.norms.tolist() == [0.0] * 4


def test_a_gradient_that_is_not_a_number_never_counts_as_vanished() -> None:
    w = torch.full((2, 2), float("nan"), dtype=torch.float64)
    x = torch.ones(7, 1, 2, dtype=torch.float64)
    found = gradient_reach(linear_rnn(w), read_out(torch.ones(2).double()), x, torch.ones(7, 1), lags=4)
    assert found.reach is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lags": 0}, "lags must be at least 1, got 0"),
        ({"lags": 7}, "at least lags \\+ 1 = 8 steps, got 7"),
        ({"lags": 3, "ends": [2]}, "between lags = 3 and the last step 6, got \\[2\\]"),
        ({"lags": 3, "ends": [7]}, "got \\[7\\]"),
        ({"lags": 3, "ends": []}, "got \\[\\]"),
        ({"lags": 3, "ends": 0}, "ends must be at least 1"),
        ({"lags": 3, "fraction": 1.0}, "fraction must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], message: str) -> None:
    x = torch.zeros(7, 1, 2, dtype=torch.float64)
    run, loss = linear_rnn(torch.eye(2).double()), read_out(torch.ones(2).double())
    with pytest.raises(InputError, match=message):
        gradient_reach(run, loss, x, torch.ones(7, 1), **options)


def test_unequal_lengths_and_a_state_without_a_batch_axis_are_refused() -> None:
    x = torch.zeros(7, 4, 2, dtype=torch.float64)
    with pytest.raises(InputError, match="inputs' 7 steps, got 6"):
        gradient_reach(linear_rnn(torch.eye(2).double()), read_out(x[0, 0]), x, torch.ones(6, 4), lags=3)

    def run(x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        h = torch.ones(3) if h is None else h
        return x.sum() * h, 2 * h

    with pytest.raises(InputError, match=r"must be \[..., 4, H\].*got \[3\]"):
        gradient_reach(run, lambda y, t: y.sum(), x, torch.ones(7, 4), lags=3)
