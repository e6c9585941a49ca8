"""Jacobian products against closed forms, whole matrices, and finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from throughtime.cells import GRUCell, LSTMCell, RNNCell
from throughtime.cells.contract import Cell, HiddenState
from throughtime.errors import InputError
from throughtime.flow.measurement.jacobian import products, spaced
from throughtime.kernels.reference import unroll


def linear(w: Tensor) -> RNNCell:
    """`h_t = W h_{t-1} + x_t`."""
    cell = RNNCell(len(w), len(w), bias=False, nonlinearity="identity", dtype=torch.float64)
    with torch.no_grad():
        cell.weight_hh.copy_(w)
        cell.weight_ih.copy_(torch.eye(len(w)))
    return cell


def watched(cell: Any, x: Tensor, state: Any) -> tuple[list[Any], list[Tensor]]:
    """What `products` reads."""
    states: list[Any] = []
    inputs: list[Tensor] = []

    def observe(t: int, before: Any, u: Tensor, after: Any) -> None:
        states.append(before)
        inputs.append(u)

    with torch.no_grad():
        unroll(cell, x, state, observe=observe)
    return states, inputs


def of(w: list[list[float]] | Tensor, lags: int, steps: int | None = None, **options: Any) -> Any:
    """Products of a linear network, which do not depend on where it is."""
    w = torch.as_tensor(w, dtype=torch.float64)
    steps = steps or lags
    x = torch.randn(steps, 3, len(w), dtype=torch.float64)
    states, inputs = watched(linear(w), x, HiddenState(torch.ones(3, len(w), dtype=torch.float64)))
    return products(linear(w), states, inputs, lags=lags, ends=[steps - 1], **options)


def test_a_linear_network_gives_the_powers_of_its_matrix() -> None:
    torch.manual_seed(0)
    w = torch.randn(13, 13, dtype=torch.float64) / 4
    found = of(w, lags=7, steps=9, largest=13)
    assert found.lags.tolist() == [1, 2, 3, 4, 5, 6, 7]
    for k in range(1, 8):
        expected = torch.linalg.svdvals(torch.linalg.matrix_power(w, k))
        torch.testing.assert_close(found.singular_values[k - 1], expected, rtol=1e-8, atol=1e-10)


def test_an_orthogonal_matrix_keeps_every_direction() -> None:
    torch.manual_seed(1)
    q = torch.linalg.qr(torch.randn(13, 13, dtype=torch.float64)).Q
    found = of(q, lags=50)
    torch.testing.assert_close(found.singular_values, torch.ones_like(found.singular_values))
    torch.testing.assert_close(found.lyapunov, torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(found.lyapunov_error.max()) < 1e-12


def test_a_nilpotent_matrix_is_gone_after_two_steps_though_its_singular_value_is_two() -> None:
    found = of([[0.0, 2.0], [0.0, 0.0]], lags=4)
    assert found.singular_values.tolist() == [[2.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert bool((found.lyapunov < -30).all())


def test_a_matrix_with_spectral_radius_below_one_can_grow_first() -> None:
    found = of([[0.9, 5.0], [0.0, 0.9]], lags=200)
    largest = dict(zip(found.lags.tolist(), found.singular_values[:, 0].tolist(), strict=True))
    # [[a, b], [0, a]]^k = [[a^k, k a^(k-1) b], [0, a^k]]
    assert largest[10] == pytest.approx(19.4, abs=0.05)
    assert max(largest.values()) == pytest.approx(largest[10], rel=0.06)
    power = torch.linalg.matrix_power(torch.tensor([[0.9, 5.0], [0.0, 0.9]], dtype=torch.float64), 200)
    assert largest[200] == pytest.approx(float(torch.linalg.svdvals(power)[0]), rel=1e-9)
    assert largest[200] < 1e-6
    # All exponents together are log |det|, whatever the directions.
    assert float(found.lyapunov.sum()) == pytest.approx(2 * math.log(0.9), abs=1e-9)


def test_a_scalar_tanh_network_in_closed_form() -> None:
    w, steps = 1.7, 60
    cell = RNNCell(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_hh.fill_(w)
        cell.weight_ih.fill_(0.8)
    torch.manual_seed(2)
    x = torch.randn(steps, 2, 1, dtype=torch.float64)
    states, inputs = watched(cell, x, HiddenState(torch.tensor([[0.3], [-0.6]], dtype=torch.float64)))
    found = products(cell, states, inputs, lags=20, ends=[30, 59])
    h, slopes = states[0].h[:, 0], []
    for t in range(steps):
        h = torch.tanh(w * h + 0.8 * x[t, :, 0])
        slopes.append(w * (1 - h * h))
    factors = torch.stack(slopes).log()  # [T, 2]
    for k in (1, 2, 5, 20):
        expected = torch.stack([factors[end - k + 1 : end + 1].sum(0) for end in (30, 59)]).mean().exp()
        assert float(found.singular_values[k - 1, 0]) == pytest.approx(float(expected), rel=1e-10)
    each = factors[6:].mean(0)  # the first tenth is left out
    assert float(found.lyapunov[0]) == pytest.approx(float(each.mean()), rel=1e-10)
    assert float(found.lyapunov_error[0]) == pytest.approx(float(each.std() / 2**0.5), rel=1e-10)


def gated(kind: str, hidden: int, gain: float = 2.0) -> tuple[Cell, list[Any], list[Tensor]]:
    """A cell with large weights, run from a state that is not zero."""
    torch.manual_seed(3)
    cell: Any = {"rnn": RNNCell, "gru": GRUCell, "lstm": LSTMCell}[kind](5, hidden, dtype=torch.float64)
    with torch.no_grad():
        for p in cell.parameters():
            p.mul_(gain)
    start = [torch.randn(3, hidden, dtype=torch.float64) for _ in cell.initial_state(3)]
    x = torch.randn(41, 3, 5, dtype=torch.float64)
    states, inputs = watched(cell, x, type(cell.initial_state(3))(*start))
    return cell, states, inputs


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_products_are_finite_differences_of_the_network(kind: str) -> None:
    cell, states, inputs = gated(kind, 5)
    lags, end, step = 6, 9, 1e-6
    found = products(cell, states, inputs, lags=lags, ends=[end], largest=99)
    assert found.singular_values.shape == (lags, 10 if kind == "lstm" else 5)
    logs = []
    for example in range(3):
        start = torch.cat([part[example] for part in states[end - lags + 1]])

        def after(flat: Tensor, example: int = example) -> Tensor:
            state: Any = type(states[0])(*flat.reshape(len(states[0]), 1, -1))
            for t in range(end - lags + 1, end + 1):
                state = cell.step(state, inputs[t][example : example + 1])
            return torch.cat([part[0] for part in state])

        with torch.no_grad():
            columns = [
                (after(start + step * e) - after(start - step * e)) / (2 * step)
                for e in torch.eye(len(start), dtype=torch.float64)
            ]
        logs.append(torch.linalg.svdvals(torch.stack(columns, 1)).log())
    expected = torch.stack(logs).mean(0).exp()
    big = expected > 1e-5 * expected[0]
    torch.testing.assert_close(found.singular_values[-1][big], expected[big], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("gain", [1.0, 4.0])
@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_whole_jacobians_and_products_with_vectors_agree(kind: str, gain: float) -> None:
    cell, states, inputs = gated(kind, 31, gain)
    options: dict[str, Any] = {"lags": 32, "ends": [33, 40], "largest": 4, "pairs": 5}
    whole = products(cell, states, inputs, **options)
    free = products(cell, states, inputs, dense=0, **options)
    assert free.lags.tolist() == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32]
    expected = whole.singular_values[[k - 1 for k in free.lags.tolist()]]
    torch.testing.assert_close(free.singular_values, expected, rtol=2e-3, atol=0)
    torch.testing.assert_close(free.lyapunov, whole.lyapunov)


def test_all_exponents_together_are_the_mean_of_log_det() -> None:
    cell, states, inputs = gated("lstm", 3, 1.0)
    found = products(cell, states, inputs, lags=3, ends=[5], exponents=6)
    logs = []
    for state, u in zip(states[4:], inputs[4:], strict=True):
        for b in range(3):

            def after(flat: Tensor, u: Tensor = u, b: int = b) -> Tensor:
                return torch.cat(cell.step(type(states[0])(*flat.reshape(2, 1, -1)), u[b : b + 1])).flatten()

            flat = torch.cat([part[b] for part in state])
            logs.append(torch.linalg.slogdet(torch.autograd.functional.jacobian(after, flat)).logabsdet)
    assert float(found.lyapunov.sum()) == pytest.approx(float(torch.stack(logs).mean()), rel=1e-9)
    assert found.lyapunov.tolist() == sorted(found.lyapunov.tolist(), reverse=True)


@pytest.mark.parametrize("dense", [128, 0])
def test_products_beyond_the_range_of_a_float_are_carried_as_logarithms(dense: int) -> None:
    """The squares that a norm is made of, 1e-560 and 1e560, are no float64 numbers."""
    small = of(torch.diag(torch.tensor([1e-4, 5e-5, 1e-5])), lags=70, dense=dense, largest=2)
    assert float(small.singular_values[-1, 0]) == pytest.approx(1e-280, rel=1e-6)
    large = of(torch.diag(torch.tensor([1e4, 5e3, 1e3])), lags=70, dense=dense, largest=2)
    assert float(large.singular_values[-1, 0]) == pytest.approx(1e280, rel=1e-6)
    assert float(large.lyapunov[0]) == pytest.approx(math.log(1e4), rel=1e-3)


def test_one_example_has_no_standard_error() -> None:
    cell, states, inputs = gated("gru", 7)
    one = [type(s)(*[part[:1] for part in s]) for s in states]
    found = products(cell, one, [u[:1] for u in inputs], lags=4, ends=[7])
    assert found.lyapunov_error.isnan().all()


def test_lags_are_dense_first_and_then_even_on_a_log_scale() -> None:
    assert spaced(7, 64) == [1, 2, 3, 4, 5, 6, 7]
    assert spaced(90, 64) == list(range(1, 91))
    assert spaced(20, 2) == [1, 2, 3, 4, 6, 8, 11, 16, 20]
    assert len(spaced(5000, 64)) < 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ends": [2]}, r"between lags - 1 = 4 and the last step 40, got \[2\]"),
        ({"ends": [41]}, r"got \[41\]"),
        ({"ends": []}, r"got \[\]"),
        ({"lags": 0}, "lags must be at least 1, got 0"),
        ({"largest": 0}, "largest must be at least 1"),
        ({"pairs": 0}, "pairs must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    cell, states, inputs = gated("rnn", 5)
    with pytest.raises(InputError, match=message):
        products(cell, states, inputs, **{"lags": 5, "ends": [7], **options})
    with pytest.raises(InputError, match="got 41 and 40"):
        products(cell, states, inputs[1:], lags=5, ends=[7])


def test_a_long_trajectory_has_the_exponent_of_a_short_one() -> None:
    cell = linear(torch.diag(torch.tensor([0.9, 0.5], dtype=torch.float64)))
    state = HiddenState(torch.ones(2, 2, dtype=torch.float64))
    u = torch.zeros(2, 2, dtype=torch.float64)
    found = products(cell, [state] * 1500, [u] * 1500, lags=4, ends=[1499], exponents=1)
    assert float(found.lyapunov[0]) == pytest.approx(math.log(0.9), rel=1e-9)
