"""The verdict follows what was measured, and each remedy it names does what it says when one measures again."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import throughtime as tt
from throughtime.flow import Flow, measure
from throughtime.flow.fit import gone_from, half_life, stays_below
from throughtime.flow.result import LagCurve
from throughtime.flow.verdict import Verdict, judge


def of(layer: Any, steps: int = 60, features: int = 5, scale: float = 1.0) -> Flow:
    x = scale * torch.randn(steps, 3, features, generator=torch.Generator().manual_seed(1))
    return measure(layer, x, products=False)


def verdict(flow: Flow) -> Verdict:
    return judge(next(iter(flow.layers.values())))


def linear(w: Any) -> tt.RNN:
    w = torch.as_tensor(w)
    layer = tt.RNN(5, len(w), nonlinearity="identity")
    layer.weight_hh_l0.data.copy_(w)
    return layer


def test_the_verdict_is_the_products_not_the_singular_values() -> None:
    cut, hump = of(linear([[0.0, 2.0], [0.0, 0.0]])), of(linear([[0.9, 5.0], [0.0, 0.9]]), 160)
    assert verdict(cut) is Verdict.GONE
    assert "gone after 2 steps" in cut.explain()
    assert "singular value 2 but spectral radius 0." in cut.explain()
    assert verdict(hump) is Verdict.HUMP
    assert "first grows, to" in hump.explain() and "and then dies" in hump.explain()
    assert "explodes" not in hump.explain() + cut.explain()


@pytest.mark.parametrize(
    ("a", "expected", "words"),
    [
        (0.8, Verdict.VANISHES, "halves every 3.1 steps; after 25 steps 0.38 % is left, and from lag 21 on"),
        (1.0, Verdict.KEEPS, "keeps its size: after 44 steps 100 % is left"),
        (1.25, Verdict.EXPLODES, "doubles every 3.1 steps: after 44 steps it is 1.84e+04 times as large"),
    ],
)
def test_numbers_of_a_scaled_identity(a: float, expected: Verdict, words: str) -> None:
    found = of(linear(a * torch.eye(4)))
    assert verdict(found) is expected
    assert words in found.explain()


def vanishing(mean: torch.Tensor) -> str:
    """What is said of a curve."""
    share = 0.01
    curve = LagCurve(
        torch.arange(len(mean)), mean, mean, mean, half_life(mean), stays_below(mean, share), share
    )
    found = of(tt.RNN(5, 4))
    layer = replace(found.layers["l0"], lag_h=curve)
    assert judge(layer) is Verdict.VANISHES
    return replace(found, layers={"l0": layer}).explain()


def test_a_curve_that_bends_is_not_told_by_one_half_life() -> None:
    k = torch.arange(41, dtype=torch.float64)
    even = 2 ** (-k / 4)
    assert "The gradient halves every 4 steps; after 25 steps 1.3 % is left, and from lag 27 on" in vanishing(
        even
    )
    steep = torch.where(k == 0, 1.0, 0.008 * even)
    assert "falls to 1 % within 1 step, then halves every 4 steps; after 25 steps 0.011 %" in vanishing(steep)
    early = torch.where(k < 3, 2 ** (-3 * k), 0.005 * 2 ** (-(k - 3) / 5))
    said = vanishing(early)
    assert "falls to 1 % within 3 steps, then halves every 5 steps" in said and "over all lags)" in said
    assert "from lag" not in said
    flat = torch.where(k < 3, 2 ** (-3 * k), torch.tensor(0.005, dtype=torch.float64))
    assert "falls to 1 % within 3 steps, and then falls no further" in vanishing(flat)
    late = torch.where(k < 30, 1.0, 2 ** (-4 * (k - 29)))
    assert "falls more slowly at first: to 1 % it takes 31 steps" in vanishing(late)


def test_saturated_units_are_told_and_layer_norm_helps_as_it_says() -> None:
    torch.manual_seed(2)
    layer = tt.RNN(5, 33)
    found = of(layer, scale=40.0)
    said = found.explain()
    assert "the units are saturated" in said and "layer_norm=True" in said
    torch.manual_seed(2)
    after = of(tt.RNN(5, 33, layer_norm=True), scale=40.0)
    assert after.layers["l0"].gates["h"].slope_mean > 2 * found.layers["l0"].gates["h"].slope_mean


def test_orthogonal_and_relu_with_identity_reach_further_as_it_says() -> None:
    found = of(tt.RNN(5, 33))
    assert (
        'init="orthogonal"' in found.explain()
        and 'nonlinearity="relu" with init="identity"' in found.explain()
    )
    half = found.layers["l0"].lag_h.half_life.steps
    better = of(tt.RNN(5, 33, init="orthogonal")).layers["l0"].lag_h.half_life.steps
    assert better > 1.3 * half
    kept = of(tt.RNN(5, 33, nonlinearity="relu", init="identity")).layers["l0"].lag_h.half_life.steps
    assert kept > 10 * half


def test_a_forget_bias_lengthens_the_memory_as_it_says() -> None:
    torch.manual_seed(3)
    found = of(tt.LSTM(5, 33))
    assert "forget_bias=1 (--forget-bias 1)" in found.explain() and "f averages 0.50" in found.explain()
    torch.manual_seed(3)
    after = of(tt.LSTM(5, 33, forget_bias=1.0))
    assert after.layers["l0"].lag_h.half_life.steps > 1.3 * found.layers["l0"].lag_h.half_life.steps
    assert after.layers["l0"].straight[20] > 10 * found.layers["l0"].straight[20]  # type: ignore[index]


def test_a_gru_is_told_how_much_z_keeps_and_the_bias_it_names_helps() -> None:
    gru = tt.GRU(5, 33)
    found = of(gru)
    assert "z keeps 0.5" in found.explain() and "gru.bias_ih_l0.data[H : 2 * H] += 1" in found.explain()
    gru.bias_ih_l0.data[33:66] += 1
    after = of(gru)
    assert after.layers["l0"].lag_h.half_life.steps > 1.3 * found.layers["l0"].lag_h.half_life.steps


def test_a_network_that_diverged_and_a_layer_that_nothing_reads() -> None:
    broken = tt.RNN(5, 4)
    broken.weight_hh_l0.data[0, 0] = math.nan
    found = of(broken)
    assert verdict(found) is Verdict.BROKEN
    assert "not a finite number" in found.explain()

    class Unread(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = tt.RNN(5, 4), tt.LSTM(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.b(x)
            y: torch.Tensor = self.a(x)[0]
            return y

    unread = of(Unread())
    assert judge(unread.layers["b.l0"]) is Verdict.SILENT
    assert "b.l0 (lstm, 4 units): No gradient reaches this layer" in unread.explain()


def test_what_is_not_finite_is_named_and_a_sound_network_is_not_blamed() -> None:
    x = torch.randn(30, 3, 5, generator=torch.Generator().manual_seed(1))
    layer = tt.RNN(5, 4)

    def said(inputs: torch.Tensor, loss: Any) -> str:
        return measure(layer, inputs, loss=loss, products=False).explain()

    def negative_log(outputs: Any, _: Any) -> Any:  # NaN, but its slope 1 / x is not
        return (outputs.sum(-1) - 100).log()

    def ratio(outputs: Any, _: Any) -> Any:
        return outputs.sum(-1) * 0 / (outputs.sum(-1) * 0)

    def root(outputs: Any, _: Any) -> Any:
        return (0 * outputs.sum(-1)).sqrt()

    by_loss, by_slope, only_loss = said(x, ratio), said(x, root), said(x, negative_log)
    assert "nor is the loss, though all weights and states are: look at the loss function" in by_loss
    assert "The gradient is finite all the same: look at the loss function" in only_loss
    assert "halves every" in only_loss
    assert "though weights and loss are" in by_slope and "the loss function has no slope" in by_slope
    broken = x.clone()
    broken[3, 1, 2] = math.nan
    by_input = said(broken, None)
    assert "look for NaN in the inputs" in by_input
    for each in (by_loss, by_slope, by_input):
        assert "diverged" not in each and "Try" not in each
    layer.weight_hh_l0.data[0, 0] = math.nan
    diverged = said(x, None)
    assert "the network has diverged" in diverged and "a smaller step size" in diverged


def test_the_table_has_a_line_for_each_layer() -> None:
    lines = repr(of(tt.GRU(5, 7, 2, bidirectional=True))).splitlines()
    assert lines[1].split()[:2] == ["layer", "cell"]
    assert [line.split()[0] for line in lines[2:]] == ["l0", "l0_reverse", "l1", "l1_reverse"]


def test_the_fit_finds_the_slope_under_noise_and_its_interval_holds_it() -> None:
    held = 0
    for seed in range(40):
        noise = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        fit = half_life(torch.exp(-math.log(2) / 8 * torch.arange(50).double() + 0.3 * noise))
        assert fit.steps == pytest.approx(8, rel=0.25)
        assert 0.8 < fit.quality < 1
        held += fit.low <= 8 <= fit.high
    assert held >= 34


def test_the_fit_leaves_out_what_is_no_slope() -> None:
    curve = 0.5 ** torch.arange(12).double()
    assert half_life(torch.cat([curve, torch.full((3,), 1e-300).double()])).lags == 11
    assert half_life(torch.cat([curve, torch.tensor([math.inf, 1.0]).double()])).steps == pytest.approx(1)
    assert half_life(torch.cat([1e9 * curve[:1], curve[1:]])).steps == pytest.approx(
        1
    )  # lag 0 is another matter
    assert math.isnan(half_life(curve[:3]).steps)
    assert half_life(torch.ones(9).double()).steps == math.inf


def test_a_cut_is_told_from_a_decay() -> None:
    curve = 1e-9 ** torch.arange(12).double()
    assert gone_from(curve) is None
    assert gone_from(torch.tensor([1.0, 2.0, 1e-16, 1e-17]).double()) == 2
    assert gone_from(torch.tensor([1.0, 0.0, 0.0, 1.0]).double()) is None
    assert gone_from(torch.tensor([1.0, math.nan, 0.0]).double()) is None
    assert stays_below(torch.tensor([1.0, 0.001, 0.5, 0.004]), 0.01) == 3
    assert stays_below(torch.tensor([1.0, 0.5]), 0.01) is None
