"""Each head's loss against scipy or a loop, its gradient against finite differences, and what it draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from throughtime.errors import InputError
from throughtime.models.heads import NegativeBinomial, Normal, Quantiles, StudentT, make_head, pinball

ZERO = torch.zeros(7, 1, dtype=torch.float64)
ONES = torch.ones(7, dtype=torch.float64)


def test_pinball_is_the_loop() -> None:
    quantiles, targets = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    levels = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    found = pinball(quantiles, targets, levels)
    for i in range(5):
        for j in range(3):
            y, q, a = float(targets[i]), float(quantiles[i, j]), float(levels[j])
            assert float(found[i, j]) == pytest.approx(
                a * (y - q) if y >= q else (1 - a) * (q - y), rel=1e-12
            )


def test_the_pinball_loss_is_least_at_the_quantile() -> None:
    targets = torch.randn(4001, dtype=torch.float64)
    grid = torch.linspace(-2, 2, 801, dtype=torch.float64)
    for level in (0.1, 0.5, 0.9):
        losses = [pinball(each.expand(4001, 1), targets, torch.tensor([level])).mean() for each in grid]
        best = float(grid[torch.stack(losses).argmin()])
        assert best == pytest.approx(float(targets.quantile(level)), abs=0.01)


def test_quantiles_are_moved_by_their_center_at_each_step() -> None:
    head = Quantiles(3, (0.25, 0.5, 0.75))
    raw, center = torch.randn(2, 7, 9, dtype=torch.float64), torch.randn(2, 7, 3, dtype=torch.float64)
    parameters = head.parameters(raw, center, ONES)
    assert float(parameters[1, 4, 5]) == pytest.approx(float(raw[1, 4, 5] + center[1, 4, 1]))
    targets = torch.randn(2, 7, 3, dtype=torch.float64)
    levels = torch.tensor(head.levels, dtype=torch.float64)
    one = 2 * pinball(parameters[1, 4, 3:6], targets[1, 4, 1], levels).mean()
    assert float(head.loss(parameters, targets)[1, 4, 1]) == pytest.approx(float(one))


def test_distributions_are_scipys() -> None:
    raw = 2 * torch.randn(7, 3, dtype=torch.float64)
    center, scale = torch.randn(7, 1, dtype=torch.float64), torch.rand(7, dtype=torch.float64) * 9 + 1
    z = torch.randn(7, dtype=torch.float64)
    location, width = Normal().parameters(raw[:, :2], center, scale).unbind(-1)
    found = Normal().loss(torch.stack([location, width], -1), z)
    np.testing.assert_allclose(found, -stats.norm(location, width).logpdf(z), rtol=1e-10)
    parameters = StudentT().parameters(raw, center, scale)
    location, width, freedom = parameters.unbind(-1)
    assert bool((freedom > 2).all())
    np.testing.assert_allclose(
        StudentT().loss(parameters, z), -stats.t(freedom, location, width).logpdf(z), rtol=1e-10
    )
    counts = torch.tensor([0, 1, 2, 5, 40, 3, 0], dtype=torch.float64)
    parameters = NegativeBinomial().parameters(raw[:, :2], center, scale)
    mean, shape = parameters.unbind(-1)
    softplus = raw[:, :2].exp().log1p() + 1e-4
    torch.testing.assert_close(mean, scale * softplus[:, 0])  # of the series' size, as Salinas et al. have it
    torch.testing.assert_close(shape, softplus[:, 1] / scale.sqrt())
    theirs = stats.nbinom(1 / shape, 1 / (1 + shape * mean))
    np.testing.assert_allclose(NegativeBinomial().loss(parameters, counts), -theirs.logpmf(counts), rtol=1e-8)
    np.testing.assert_allclose(theirs.mean(), mean, rtol=1e-8)
    np.testing.assert_allclose(theirs.var(), mean + shape * mean**2, rtol=1e-8)


@pytest.mark.parametrize(("name", "size"), [("normal", 2), ("student", 3), ("negbin", 2), ("quantiles", 6)])
def test_gradients_are_those_of_finite_differences(name: str, size: int) -> None:
    head = make_head(name, 2, (0.1, 0.5, 0.9))
    raw = torch.randn(4, size, dtype=torch.float64, requires_grad=True)
    center = torch.randn(4, 2, dtype=torch.float64)
    targets = torch.tensor([0.0, 3, 1, 7], dtype=torch.float64)
    if name == "quantiles":
        targets = torch.stack([targets, targets + 1.3], dim=-1)
    scale = torch.full((4,), 3.0, dtype=torch.float64)
    torch.autograd.gradcheck(
        lambda x: head.loss(head.parameters(x, center, scale), targets), raw, atol=1e-6, rtol=1e-4
    )


@pytest.mark.parametrize("name", ["normal", "student", "negbin"])
def test_draws_have_the_distributions_quantiles(name: str) -> None:
    head = make_head(name, 1, ())
    raw = torch.tensor([0.4, 0.9, 2.0], dtype=torch.float64)[: head.size]
    parameters = head.parameters(raw, torch.tensor([0.7]), torch.tensor(6.0)).expand(40_000, -1)
    drawn = head.sample(parameters)
    a, b = (float(each) for each in parameters[0, :2])
    exact = {
        "normal": lambda: stats.norm(a, b),
        "student": lambda: stats.t(float(parameters[0, -1]), a, b),
        "negbin": lambda: stats.nbinom(1 / b, 1 / (1 + a * b)),
    }[name]()
    for level in (0.1, 0.5, 0.9):
        assert float((drawn <= float(exact.ppf(level))).double().mean()) == pytest.approx(
            float(exact.cdf(exact.ppf(level))), abs=0.01
        )


def test_an_unknown_head_comes_with_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'student'"):
        make_head("studet", 3, (0.5,))
