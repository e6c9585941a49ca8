"""The explanation follows the measurement, and each piece of advice does what it says when one measures again."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

import throughtime as tt
from throughtime import bptt
from throughtime.flow import Flow, measure
from throughtime.flow.explanation.pattern import Pattern, advice, pattern_of
from throughtime.flow.measurement.fit import gone_from, half_life, stays_below
from throughtime.flow.result import LagCurve
from throughtime.models import ModelConfig
from throughtime.training.config import clip_of


def of(layer: Any, steps: int = 60, features: int = 5, scale: float = 1.0) -> Flow:
    x = scale * torch.randn(steps, 3, features, generator=torch.Generator().manual_seed(1))
    return measure(layer, x, products=False)


def pattern(flow: Flow) -> Pattern:
    return pattern_of(next(iter(flow.layers.values())))


def linear(w: Any) -> tt.RNN:
    w = torch.as_tensor(w)
    layer = tt.RNN(5, len(w), nonlinearity="identity")
    layer.weight_hh_l0.data.copy_(w)
    return layer


def test_the_pattern_is_the_products_not_the_singular_values() -> None:
    cut, hump = of(linear([[0.0, 2.0], [0.0, 0.0]])), of(linear([[0.9, 5.0], [0.0, 0.9]]), 160)
    assert pattern(cut) is Pattern.CUT_OFF
    assert "gone after 2 steps" in cut.explain()
    assert "singular value 2 but spectral radius 0." in cut.explain()
    assert pattern(hump) is Pattern.HUMP
    assert "first grows, to" in hump.explain() and "and then decays" in hump.explain()
    assert "explodes" not in hump.explain() + cut.explain()


@pytest.mark.parametrize(
    ("a", "expected", "words"),
    [
        (
            0.8,
            Pattern.DECAYS,
            "decays: half-life 3.1 steps; after 25 steps 0.38 % is left, and from lag 21 on",
        ),
        (1.0, Pattern.KEEPS, "keeps its size: after 44 steps 100 % is left"),
        (
            1.25,
            Pattern.GROWS,
            "explodes: doubling time 3.1 steps; after 44 steps it is 1.84e+04 times as large",
        ),
    ],
)
def test_numbers_of_a_scaled_identity(a: float, expected: Pattern, words: str) -> None:
    found = of(linear(a * torch.eye(4)))
    assert pattern(found) is expected
    assert words in found.explain()


def curve_of(mean: torch.Tensor) -> LagCurve:
    return LagCurve(
        torch.arange(len(mean)),
        mean,
        mean,
        mean,
        half_life(mean),
        stays_below(mean, 0.01),
        0.01,
        gone_from(mean),
    )


def said_of(mean: Any, expected: Pattern = Pattern.DECAYS) -> str:
    """What is said of a curve."""
    found = of(tt.RNN(5, 4), steps=9)
    layer = replace(found.layers["l0"], lag_h=curve_of(torch.as_tensor(mean).double()))
    assert pattern_of(layer) is expected
    return replace(found, layers={"l0": layer}).explain()


def test_a_curve_that_bends_is_not_described_by_one_half_life() -> None:
    k = torch.arange(41, dtype=torch.float64)
    even = 2 ** (-k / 4)
    assert "decays: half-life 4 steps; after 25 steps 1.3 % is left, and from lag 27 on" in said_of(even)
    steep = torch.where(k == 0, 1.0, 0.008 * even)
    said = said_of(steep)
    assert (
        "falls to 1 % within 1 step, and then decays with half-life 4 steps; after 25 steps 0.011 %" in said
    )
    early = torch.where(k < 3, 2 ** (-3 * k), 0.005 * 2 ** (-(k - 3) / 5))
    said = said_of(early)
    assert (
        "falls to 1 % within 3 steps, and then decays with half-life 5 steps" in said
        and "Over all lags: " in said
    )
    assert "from lag" not in said
    flat = torch.where(k < 3, 2 ** (-3 * k), torch.tensor(0.005, dtype=torch.float64))
    assert "falls, to 1 % within 3 steps, but not exponentially: after 25 steps 0.5 % is left" in said_of(
        flat, Pattern.FALLS
    )
    late = torch.where(k < 30, 1.0, 2 ** (-4 * (k - 29)))
    said = said_of(late, Pattern.FALLS)
    assert (
        "falls, to 1 % within 31 steps, but not exponentially: after 25 steps 100 % is left, after 40 steps"
        in said
    )


def test_growth_and_decay_need_a_slope_that_is_not_zero() -> None:
    k = torch.arange(30, dtype=torch.float64)
    # Rises to 3.87 and falls again.
    hump = 1 + 2.87 * torch.exp(-(((k - 14) / 5) ** 2))
    said = said_of(hump, Pattern.HUMP)
    assert "first grows, to 3.87 times its size at lag 14, and then decays: after 29 steps" in said
    assert "explodes" not in said and "doubling" not in said
    # Grows, then levels off.
    level = 4 - 3 * torch.exp(-k / 3)
    said = said_of(level, Pattern.RISES)
    assert (
        "grows to 4 times its size at lag 2" in said
        and "not exponentially" in said
        and "explodes" not in said
    )
    # Up and down: no trend.
    wave = 1 + 0.9 * torch.cos(k / 2)
    said = said_of(wave, Pattern.IRREGULAR)
    assert "no clear trend: over 29 steps it lies between" in said
    assert "half-life" not in said.split("l0 (")[1].split("Try")[0]
    said = said_of(1 + 0.05 * torch.cos(k), Pattern.KEEPS)
    assert "keeps its size: after 29 steps" in said
    assert "explodes: doubling time 5 steps; after 29 steps it is" in said_of(2 ** (k / 5), Pattern.GROWS)


def test_an_interval_stands_beside_the_number_that_it_belongs_to() -> None:
    generator = torch.Generator().manual_seed(0)
    scatter = 0.1 * torch.randn(50, dtype=torch.float64, generator=generator)
    said = said_of(torch.exp(-math.log(2) / 6 * torch.arange(50).double() + scatter))
    found = re.search(r"half-life (\S+) steps, 95 % interval (\S+) to (\S+) \(R² (?:0\.9\d|1\.00)\);", said)
    assert found is not None
    steps, low, high = map(float, found.groups())
    assert low < steps < high and low > 5 and high < 7


def test_saturated_units_are_told_and_layer_norm_helps_as_it_says() -> None:
    torch.manual_seed(2)
    layer = tt.RNN(5, 33)
    found = of(layer, scale=40.0)
    said = found.explain()
    assert "The units are saturated" in said and "layer_norm=True" in said
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
    assert "forget_bias=1 (--forget-bias 1)" in found.explain() and "mean f 0.50" in found.explain()
    torch.manual_seed(3)
    after = of(tt.LSTM(5, 33, forget_bias=1.0))
    assert after.layers["l0"].lag_h.half_life.steps > 1.3 * found.layers["l0"].lag_h.half_life.steps
    assert after.layers["l0"].cell_path_gradient[20] > 10 * found.layers["l0"].cell_path_gradient[20]  # type: ignore[index]


def test_a_gru_is_told_how_much_z_keeps_and_the_bias_it_names_helps() -> None:
    gru = tt.GRU(5, 33)
    found = of(gru)
    assert "z keeps only 0.5" in found.explain() and "gru.bias_ih_l0.data[H : 2 * H] += 1" in found.explain()
    gru.bias_ih_l0.data[33:66] += 1
    after = of(gru)
    assert after.layers["l0"].lag_h.half_life.steps > 1.3 * found.layers["l0"].lag_h.half_life.steps


def test_a_network_that_diverged_and_a_layer_that_nothing_reads() -> None:
    broken = tt.RNN(5, 4)
    broken.weight_hh_l0.data[0, 0] = math.nan
    found = of(broken)
    assert pattern(found) is Pattern.NOT_FINITE
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
    assert pattern_of(unread.layers["b.l0"]) is Pattern.ZERO
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
    assert "nor is the loss, though all weights and states are: check the loss function" in by_loss
    assert "The gradient is finite all the same: check the loss function" in only_loss
    assert "half-life" in only_loss
    assert "though weights and loss are" in by_slope and "the loss function has no derivative" in by_slope
    broken = x.clone()
    broken[3, 1, 2] = math.nan
    by_input = said(broken, None)
    assert "look for NaN in the inputs" in by_input
    for each in (by_loss, by_slope, by_input):
        assert "diverged" not in each and "Try" not in each
    layer.weight_hh_l0.data[0, 0] = math.nan
    diverged = said(x, None)
    assert "the network has diverged" in diverged and "a smaller learning rate" in diverged


def test_the_table_has_a_line_for_each_layer() -> None:
    lines = repr(of(tt.GRU(5, 7, 2, bidirectional=True))).splitlines()
    assert lines[1].split()[:2] == ["layer", "cell"]
    assert [line.split()[0] for line in lines[2:]] == ["l0", "l0_reverse", "l1", "l1_reverse"]


def test_the_fit_finds_the_slope_under_scatter_and_its_interval_holds_it() -> None:
    held = 0
    for seed in range(40):
        scatter = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        fit = half_life(torch.exp(-math.log(2) / 8 * torch.arange(50).double() + 0.3 * scatter))
        assert fit.steps == pytest.approx(8, rel=0.25)
        assert 0.8 < fit.r_squared < 1
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


def check_sentences(flow: Flow) -> None:
    """Every number of steps is positive, every interval holds its number, and every claim agrees with the curve itself."""
    text = flow.explain()
    assert "nan" not in text.lower() and "inf" not in text.replace("infinite", "")
    assert not re.search(r"(every|half-life|doubling time|interval|to|after|lag|within) -", text), text
    for number, low, high in re.findall(
        r"(\S+) steps, 95 % interval (\S+) to (more than 10,000|[\d.e+]+)", text
    ):
        top = math.inf if high.startswith("more") else float(high)
        assert 0 < float(low) <= float(number) <= top
    for number in re.findall(r"(?:half-life|doubling time) (\S+) steps", text):
        assert 0 < float(number) < 1e5
    for layer in flow.layers.values():
        said = text.split(f"{layer.name} (")[1].split("\n\n")[0]
        relative = (layer.lag_h.mean / layer.lag_h.mean[0]).tolist()
        last, fit = relative[-1], layer.lag_h.half_life
        if "explodes" in said:
            assert fit.steps < 0 and fit.low < 0 and fit.high < 0 and fit.r_squared >= 0.5
            assert last >= 2 and max(relative[len(relative) // 2 :]) > max(relative[: len(relative) // 2])
        if "The gradient decays" in said or "Over all lags: half-life" in said:
            assert fit.steps > 0 and fit.low > 0 and fit.high > 0 and last <= 0.5
        if "first grows" in said:
            top = max(relative)
            assert top >= 2 and last <= top / 2
        if "grows to" in said:
            assert max(relative) >= 2
        if "keeps" in said.split("Of dL")[0]:
            assert all(0.5 <= value <= 2 for value in relative)
        for steps, percent in re.findall(r"after (\d+) steps? (\S+) % is left", said.split("Of dL")[0]):
            assert 100 * relative[int(steps)] == pytest.approx(float(percent), rel=0.06)
        for steps, times in re.findall(r"after (\d+) steps? it is (\S+) times", said):
            assert relative[int(steps)] == pytest.approx(float(times), rel=0.01) and float(times) > 1


CELLS: list[tuple[str, Any, dict[str, Any]]] = [
    ("tanh", tt.RNN, {}),
    ("relu", tt.RNN, {"nonlinearity": "relu", "init": "identity"}),
    ("relu of torch", tt.RNN, {"nonlinearity": "relu"}),
    ("gru", tt.GRU, {}),
    ("lstm", tt.LSTM, {}),
    ("lstm, bias 1", tt.LSTM, {"forget_bias": 1.0}),
    ("lstm, bias 3", tt.LSTM, {"forget_bias": 3.0}),
]


@pytest.mark.parametrize(("kind", "options"), [each[1:] for each in CELLS], ids=[each[0] for each in CELLS])
def test_no_sentence_is_impossible(kind: Any, options: dict[str, Any]) -> None:
    for seed, (layers, steps) in enumerate([(1, 10), (2, 20), (1, 45), (2, 10), (1, 20), (2, 45), (1, 120)]):
        torch.manual_seed(seed)
        layer = kind(4, 9, layers, **options)
        x = torch.randn(steps, 2, 4, generator=torch.Generator().manual_seed(seed))
        for gain in (1.0, 1.7):
            with torch.no_grad():
                for name, p in layer.named_parameters():
                    if name.startswith("weight_hh"):
                        p.mul_(gain)
            check_sentences(measure(layer, x, products=False, ends=3))


def test_no_sentence_is_impossible_of_any_curve() -> None:
    found = of(tt.RNN(5, 4), steps=9)
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for number in range(400):
        lags = 4 + number % 60
        k = torch.arange(lags, dtype=torch.float64)
        rate, bend, wave, scatter = torch.randn(4, dtype=torch.float64, generator=generator).tolist()
        logs = 0.2 * rate * k + bend * torch.tanh(k / 5) + wave * torch.cos(k / 3)
        logs = logs + 0.3 * scatter * torch.randn(lags, dtype=torch.float64, generator=generator)
        layer = replace(found.layers["l0"], lag_h=curve_of(logs.exp()))
        seen.add(pattern_of(layer))
        check_sentences(replace(found, layers={"l0": layer}))
    assert seen >= {
        Pattern.DECAYS,
        Pattern.GROWS,
        Pattern.HUMP,
        Pattern.RISES,
        Pattern.KEEPS,
        Pattern.IRREGULAR,
    }


def test_advice_is_accepted_by_what_it_names() -> None:
    """Each option of the command line exists and takes its value, each argument makes a layer."""
    from typer.main import get_command

    from throughtime.cli.app import app

    command: Any = get_command(app)
    known = {o for p in command.commands["train"].get_command(None, "text").params for o in p.opts}
    layers: dict[str, Any] = {
        "rnn": tt.RNN(5, 4),
        "gru": tt.GRU(5, 4),
        "lstm": tt.LSTM(5, 4),
        "indrnn": tt.Recurrent(tt.IndRNNCell(5, 4)),
        "mingru": tt.Recurrent(tt.MinGRUCell(5, 4)),
        "lnlstm": tt.Recurrent(tt.LayerNormLSTMCell(5, 4)),
    }
    texts: dict[tuple[str, str], None] = {}
    for name, layer in layers.items():
        base = of(layer, steps=9).layers["l0"]
        for pattern, flat, keeps in product(Pattern, (0.0, 0.9), (0.3, 0.7, 0.95)):
            gates = {
                n: replace(g, mean=keeps, saturated=flat, slope_mean=0.9 - flat)
                for n, g in base.gates.items()
            }
            for text in advice(replace(base, gates=gates), pattern):
                texts[name, text] = None
    assert len(texts) > 20
    for cell, text in texts:
        options = dict(re.findall(r"(--[a-z-]+)(?: ([^\s,;)]+))?", text))
        if options.get("--cell") and text.count("--cell") > 1:  # "--cell gru, --cell lstm"
            options.pop("--cell")
        settings: dict[str, Any] = {"cell": cell}
        for option, value in options.items():
            assert option in known, text
            if option == "--clip":
                clip_of(value)
            elif option == "--bptt":
                bptt.parse(value)
            else:
                name = option[2:].replace("-", "_")
                settings[name] = True if not value else float(value) if name == "forget_bias" else value
        ModelConfig(**settings)  # refuses what the cell does not have
        arguments = dict(re.findall(r"\b(init|nonlinearity|layer_norm|forget_bias)=(\"\w+\"|\w+)", text))
        if arguments:
            kind = {"rnn": tt.RNN, "gru": tt.GRU, "lstm": tt.LSTM}[settings["cell"]]
            kind(
                5,
                4,
                **{
                    n: v.strip('"') if '"' in v else {"True": True}.get(v) or float(v)
                    for n, v in arguments.items()
                },
            )
        if "clip_norm_" in text:
            model = tt.RNN(5, 4)
            model(torch.randn(3, 2, 5))[0].sum().backward()
            assert "throughtime.clip_norm_(model.parameters(), 1.0)" in text
            tt.clip_norm_(model.parameters(), 1.0)
