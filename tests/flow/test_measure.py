"""The measured gradient against closed forms, finite differences, brute force, and what must stay untouched."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.bptt.closed_form import linear_gradients
from throughtime.errors import InputError
from throughtime.flow import Flow, measure
from throughtime.flow.measurement.batch import objective


def linear(w: Any, **options: Any) -> tt.RNN:
    """h_t = W h_{t-1} + x_t."""
    w = torch.as_tensor(w, dtype=torch.float64)
    layer = tt.RNN(len(w), len(w), nonlinearity="identity", bias=False, dtype=torch.float64, **options)
    layer.weight_hh_l0.data.copy_(w)
    layer.weight_ih_l0.data.copy_(torch.eye(len(w)))
    return layer


def along(direction: Tensor) -> Any:
    return lambda outputs, targets: (outputs * direction).sum(-1)


def test_the_linear_network_has_the_gradient_of_the_closed_form() -> None:
    """Equation by equation: dL/dh_t of the whole loss, and dL_T/dh_{T-k} = W_qh W^k."""
    T, B, D, H, Q = 7, 3, 4, 13, 5
    layer = tt.RNN(D, H, nonlinearity="identity", bias=False, dtype=torch.float64)
    head = nn.Linear(H, Q, bias=False, dtype=torch.float64)
    layer.weight_hh_l0.data.mul_(3)
    x, h0 = torch.randn(T, B, D).double(), torch.randn(B, H).double()
    weight = torch.randn(T, B, Q, dtype=torch.float64)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = layer, head

        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            y, h = self.rnn(x, h)
            return self.head(y), h

    def loss(o: Tensor, w: Tensor) -> Tensor:
        return (o * w).sum(-1)

    found = measure(Net(), (x, weight), loss=loss, state=h0[None], ends=[5, 6], lags=5, products=False)
    assert list(found.layers) == ["rnn.l0"]
    exact = linear_gradients(
        layer.weight_ih_l0.data, layer.weight_hh_l0.data, head.weight.data, x, h0, weight / T
    )
    flow = found.layers["rnn.l0"]
    torch.testing.assert_close(flow.gradient_h, exact.h.norm(dim=-1).mean(1), rtol=1e-11, atol=0)
    power = [
        torch.cat([weight[t] @ head.weight.data @ layer.weight_hh_l0.data.matrix_power(k) for t in (5, 6)])
        for k in range(6)
    ]
    sizes = torch.stack(power).norm(dim=-1)
    torch.testing.assert_close(flow.lag_h.mean, sizes.mean(1), rtol=1e-11, atol=0)
    torch.testing.assert_close(flow.lag_h.high, sizes.quantile(0.75, dim=1), rtol=1e-11, atol=0)
    norm, gradient = found.parameters["rnn.weight_hh_l0"]
    assert norm == pytest.approx(float(layer.weight_hh_l0.detach().norm()))
    assert gradient == pytest.approx(float((exact.W_hh / B).norm()), rel=1e-10)


@pytest.mark.parametrize("a", [0.5, 0.9, 1.1, 2.0])
def test_a_scalar_network_halves_or_doubles_at_its_rate(a: float) -> None:
    found = measure(linear([[a]]), torch.randn(31, 2, 1), lags=25).layers["l0"]
    fit = found.lag_h.half_life
    expected = -math.log(2) / math.log(a)
    assert fit.steps == pytest.approx(expected, rel=1e-9)
    assert fit.low == pytest.approx(expected, rel=1e-6)
    assert fit.high == pytest.approx(expected, rel=1e-6)
    assert fit.r_squared == pytest.approx(1)
    assert found.lag_h.reach == (7 if a == 0.5 else None)  # 2^-7 < 0.01
    assert found.weights["W_hh"].radius == pytest.approx(a)


def test_a_scalar_tanh_network_is_the_product_of_its_slopes() -> None:
    layer = tt.RNN(1, 1, bias=False, dtype=torch.float64)
    layer.weight_hh_l0.data.fill_(1.7)
    x = torch.randn(9, 1, 1).double()
    with torch.no_grad():
        h = layer(x)[0][:, 0, 0]
    found = measure(layer, x, lags=4, ends=[8], products=False).layers["l0"]
    product = [math.prod(1.7 * (1 - float(h[8 - j]) ** 2) for j in range(k)) for k in range(5)]
    torch.testing.assert_close(found.lag_h.mean, torch.tensor(product).double(), rtol=1e-6, atol=0)
    assert found.gates["h"].slope_mean == pytest.approx(float((1 - h**2).mean()))


def test_an_orthogonal_matrix_keeps_the_gradient() -> None:
    for dtype in (torch.float32, torch.float64):
        layer = tt.RNN(5, 13, nonlinearity="identity", init="orthogonal", dtype=dtype)
        found = measure(layer, torch.randn(300, 2, 5, dtype=dtype), lags=200, ends=2, products=False).layers[
            "l0"
        ]
        assert found.lag_h.half_life.steps == math.inf
        assert found.lag_h.reach is None
        torch.testing.assert_close(found.lag_h.mean, torch.ones(201).double(), rtol=1e-4, atol=0)


def test_singular_value_two_and_gone_after_two_steps() -> None:
    found = measure(linear([[0.0, 2.0], [0.0, 0.0]]), torch.randn(31, 2, 2)).layers["l0"]
    assert found.lag_h.gone == 2
    assert found.lag_h.mean[2:].tolist() == [0.0] * (len(found.lag_h.mean) - 2)
    assert math.isnan(found.lag_h.half_life.steps)
    assert found.weights["W_hh"].radius == 0
    assert float(found.weights["W_hh"].singular_values[0]) == pytest.approx(2)


def test_a_nilpotent_matrix_in_another_basis_leaves_only_rounding() -> None:
    q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    shift = torch.diag(torch.ones(4, dtype=torch.float64), 1) * 1.5
    found = measure(linear(q @ shift @ q.T), torch.randn(31, 1, 5), products=False).layers["l0"]
    assert found.lag_h.gone == 5


def test_a_non_normal_matrix_grows_to_nineteen_and_decays() -> None:
    c = torch.tensor([1.0, 0.0], dtype=torch.float64)
    w = [[0.9, 5.0], [0.0, 0.9]]
    found = measure(linear(w), (torch.randn(131, 1, 2), None), loss=along(c), lags=130, ends=[130]).layers[
        "l0"
    ]
    assert float(found.lag_h.mean[10]) == pytest.approx(19.4, abs=0.05)
    assert float(found.lag_h.mean.max()) < 19.4
    assert float(found.lag_h.mean[130]) < 0.01
    assert found.lag_h.gone is None
    assert found.products is not None
    at = found.products.lags.tolist().index(10)
    exact = torch.linalg.matrix_norm(torch.tensor(w).double().matrix_power(10), 2)
    assert float(found.products.singular_values[at, 0]) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_finite_differences(kind: str) -> None:
    """Each number of the state after step T - k is moved, and the loss of step T looked at."""
    T, H, k, end = 8, 5, 4, 6
    net = getattr(tt, kind)(3, H, dtype=torch.float64)
    for p in net.parameters():
        p.data.mul_(2.5)
    x, c = torch.randn(T, 1, 3).double(), torch.randn(H).double()
    names = ("h", "c") if kind == "LSTM" else ("h",)
    found = measure(net, x, loss=lambda y, t: (y * c).sum(-1), lags=k, ends=[end], products=False).layers[
        "l0"
    ]
    with torch.no_grad():
        _, state = net(x[: end - k + 1])
    parts = list(state) if kind == "LSTM" else [state]

    o = net.trace(x).steps["l0"]["o"].detach()[end - k] if kind == "LSTM" else None

    def at(number: int, unit: int, step: float) -> float:
        moved = [p.clone() for p in parts]
        moved[number][0, 0, unit] += step
        if number == 1:  # dL/dc_t counts the way through h_t = o_t tanh(c_t) too: h moves with c
            moved[0] = o * moved[1].tanh()
        with torch.no_grad():
            y, _ = net(x[end - k + 1 : end + 1], tuple(moved) if kind == "LSTM" else moved[0])
        return float((y[-1, 0] * c).sum())

    for number, name in enumerate(names):
        slopes = torch.tensor([(at(number, u, 1e-5) - at(number, u, -1e-5)) / 2e-5 for u in range(H)])
        curve = found.lag_h if name == "h" else found.lag_c
        assert curve is not None
        assert float(curve.mean[k]) == pytest.approx(float(slopes.double().norm()), rel=1e-6)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_two_layers_in_both_directions_as_brute_force(kind: str) -> None:
    """Every layer, direction, part and lag, by a network written out with one cell call per step."""
    T, B, H, end, count = 10, 2, 5, 4, 5  # not the middle: there both running orders agree
    net = getattr(nn, kind)(3, H, 2, bidirectional=True).double()
    for p in net.parameters():
        p.data.mul_(2.5)
    x = torch.randn(T, B, 3).double()
    found = measure(net, x, loss=lambda y, t: y.square().sum(-1), lags=count - 1, ends=[end], products=False)
    cell_type = getattr(tt, f"{kind}Cell")
    states: dict[str, list[Any]] = {}
    below = x
    for layer in range(2):
        outputs = []
        for suffix in ("", "_reverse"):
            cell = cell_type(below.shape[-1], H, dtype=torch.float64)
            cell.load_state_dict(
                {
                    n: getattr(net, f"{n}_l{layer}{suffix}")
                    for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                }
            )
            state, kept = None, {}
            for t in range(T) if not suffix else reversed(range(T)):
                state = cell(below[t], state)
                kept[t] = state if kind == "LSTM" else (state,)
            states[f"l{layer}{suffix}"] = [kept[t] for t in range(T)]
            outputs.append(torch.stack([kept[t][0] for t in range(T)]))
        below = torch.cat(outputs, -1)
    loss = below.square().sum(-1)
    for name, each in states.items():
        sign = 1 if name.endswith("reverse") else -1
        for part, curve in enumerate((found.layers[name].lag_h, found.layers[name].lag_c)):
            if curve is None:
                assert part == 1 and kind != "LSTM"
                continue
            leaves = [each[end + sign * k][part] for k in range(count)]
            gradients = torch.autograd.grad(
                loss[end].sum(), leaves, retain_graph=True, materialize_grads=True, allow_unused=True
            )
            expected = torch.stack([g.norm(dim=-1).mean() for g in gradients])
            torch.testing.assert_close(curve.mean, expected, rtol=1e-9, atol=1e-15)
        gradients = torch.autograd.grad(
            loss.mean(), [s[0] for s in each], retain_graph=True, materialize_grads=True, allow_unused=True
        )
        expected = torch.stack([g.norm(dim=-1).mean() for g in gradients]) * B
        torch.testing.assert_close(found.layers[name].gradient_h, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recomputed_segments_give_the_same_numbers(kind: str) -> None:
    net = getattr(tt, kind)(3, 7, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(40, 2, 3).double()
    whole = measure(net, x, ends=2, products=False)
    chunks = measure(net, x, ends=2, products=False, segment=7)
    for name, layer in whole.layers.items():
        torch.testing.assert_close(chunks.layers[name].lag_h.mean, layer.lag_h.mean, rtol=1e-10, atol=0)
        torch.testing.assert_close(chunks.layers[name].gradient_h, layer.gradient_h, rtol=1e-10, atol=0)
    for name, norms in whole.parameters.items():
        assert chunks.parameters[name] == pytest.approx(norms, rel=1e-10)


def test_the_caller_stays_untouched() -> None:
    net = nn.LSTM(3, 7, 2, dropout=0.5).train()
    net(torch.randn(4, 2, 3))[0].sum().backward()
    before = copy.deepcopy(net)
    gradients = [p.grad.clone() for p in net.parameters()]  # type: ignore[union-attr]
    state, x = torch.get_rng_state(), torch.randn(12, 2, 3, generator=torch.Generator().manual_seed(1))
    first = measure(net, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training and type(net) is nn.LSTM
    for p, q, g in zip(net.parameters(), before.parameters(), gradients, strict=True):
        assert torch.equal(p, q) and torch.equal(p.grad, g) and p.dtype == torch.float32
    again = measure(net, x)
    assert torch.equal(first.layers["l1"].lag_h.mean, again.layers["l1"].lag_h.mean)
    ours = tt.LSTM(3, 7, 2)
    ours.load_state_dict(net.state_dict())
    same = measure(ours.eval(), x)
    assert torch.equal(first.layers["l0"].lag_h.mean, same.layers["l0"].lag_h.mean)
    frozen = measure(net.requires_grad_(False), x)
    assert torch.equal(first.layers["l0"].lag_h.mean, frozen.layers["l0"].lag_h.mean)


def test_gates_and_the_cell_state_path() -> None:
    net = tt.LSTM(3, 5, dtype=torch.float64)
    net.bias_ih_l0.data[5:10] += 2
    x = torch.randn(11, 3, 3).double()
    trace = net.trace(x).steps["l0"]
    found = measure(net, x, lags=4, ends=[7, 10], products=False).layers["l0"]
    for name in "ifgo":
        gate, seen = trace[name].detach(), found.gates[name]
        slope = 1 - gate**2 if name == "g" else gate * (1 - gate)
        assert seen.mean == pytest.approx(float(gate.mean()))
        assert seen.std == pytest.approx(float(gate.std(correction=0)))
        assert seen.slope_mean == pytest.approx(float(slope.mean()))
        assert seen.saturated == pytest.approx(
            float((slope < 0.1 * (1 if name == "g" else 0.25)).double().mean())
        )
        torch.testing.assert_close(seen.over_time.double(), gate.mean(1), rtol=1e-5, atol=1e-6)
        assert seen.first is not None
        torch.testing.assert_close(seen.first.double(), gate[:, 0], rtol=1e-5, atol=1e-6)
    assert found.gates["tanh(c)"].mean == pytest.approx(float(trace["c"].detach().tanh().mean()))
    f = trace["f"].detach()
    product = [torch.stack([f[t - k + 1 : t + 1].prod(0).mean() for t in (7, 10)]).mean() for k in range(5)]
    assert found.cell_path is not None
    torch.testing.assert_close(found.cell_path, torch.stack(product))


def test_where_the_gate_is_the_only_path_it_is_all_that_is_left() -> None:
    """A minGRU is linear in its state: the path past the weights and all paths together are the same."""
    found = measure(tt.Recurrent(tt.MinGRUCell(3, 7)), torch.randn(12, 2, 3), products=False).layers["l0"]
    assert found.cell_path_gradient is not None and found.cell == "MinGRUCell"
    torch.testing.assert_close(
        found.cell_path_gradient, found.lag_h.mean / found.lag_h.mean[0], rtol=1e-9, atol=0
    )
    assert "n" in found.gates and not math.isnan(found.gates["z"].slope_mean)


@pytest.mark.parametrize("cell", [tt.IndRNNCell, tt.LayerNormLSTMCell])
def test_any_cell_can_be_measured_stacked_in_both_directions(cell: Any) -> None:
    layer = tt.Recurrent(lambda size: cell(size, 7), 3, num_layers=2, bidirectional=True)
    found = measure(layer, torch.randn(12, 2, 3))
    assert list(found.layers) == ["l0", "l0_reverse", "l1", "l1_reverse"]
    assert all(bool((each.lag_h.mean > 0).all()) for each in found.layers.values())


def test_options_of_the_layers_are_in_the_measurement() -> None:
    """Zoneout's expectation is a path of its own: with rate r and a linear network, the factor is r + (1 - r) a."""
    layer = linear([[0.5]], zoneout=0.4)
    curve = measure(layer, torch.randn(12, 2, 1), lags=6, products=False).layers["l0"].lag_h
    # The output is the state after zoneout, so the loss sees it whole.
    torch.testing.assert_close(curve.mean, 0.7 ** torch.arange(7).double(), rtol=1e-12, atol=0)
    for net in (tt.LSTM(3, 7, proj_size=4), tt.GRU(3, 7, layer_norm=True), tt.GRU(3, 7, reset_after=False)):
        found = measure(net, torch.randn(12, 2, 3)).layers["l0"]
        assert bool((found.lag_h.mean > 0).all()) and found.weights


def test_text_batch_first_and_one_loss_for_a_sequence() -> None:
    class Classifier(nn.Module):
        def __init__(self, last: bool) -> None:
            super().__init__()
            self.embedding, self.last = nn.Embedding(9, 4), last
            self.rnn, self.head = nn.GRU(4, 7, batch_first=True), nn.Linear(7, 9)

        def forward(self, ids: Tensor) -> Tensor:
            y = self.head(self.rnn(self.embedding(ids))[0])
            return y[:, -1] if self.last else y

    ids, net = torch.randint(0, 9, (3, 12)), Classifier(False)
    found = measure(net, (ids, ids), symbols=tuple("abcdefghijkl"))
    assert (found.steps, found.examples) == (12, 3) and found.symbols[1] == "b"
    assert found.loss == pytest.approx(
        float(nn.functional.cross_entropy(net(ids).detach().flatten(0, 1), ids.flatten())), rel=1e-5
    )
    assert measure(net, (ids, ids), examples=2).examples == 2
    last = measure(Classifier(True), (ids, ids[:, 0]))
    assert last.ends == (11,) and len(last.layers["rnn.l0"].lag_h.mean) == 12
    assert last.layers["rnn.l0"].gradient_h.argmax() == 11


def test_masked_targets_do_not_count() -> None:
    net = nn.Sequential()
    net.add_module("rnn", tt.RNN(3, 5))
    x, targets = torch.randn(8, 2, 3), torch.randint(0, 5, (8, 2))
    targets[7, 0] = targets[2] = -100
    first = measure(tt.RNN(3, 5, nonlinearity="relu"), (x, targets), ends=[7], lags=3, products=False)
    assert bool((first.layers["l0"].lag_h.low == first.layers["l0"].lag_h.high).all())  # one example is left
    with pytest.raises(InputError, match=r"at the ends \[2\] every target is masked"):
        measure(tt.RNN(3, 5), (x, targets), ends=[2], lags=1)


def test_denormal_numbers_are_counted_as_float32_would_have_them() -> None:
    from throughtime.flow.measurement.measure import _denormal_fraction

    g = torch.tensor([1.0, 1e-37, 1e-39, -1e-44, 1e-46, 0.0], dtype=torch.float64)
    assert _denormal_fraction(g) == 2 / 4
    layer = linear([[0.1]])
    found = measure(
        layer, (torch.randn(60, 1, 1), None), loss=lambda y, t: y[-1].sum(-1), lags=50, products=False
    )
    assert 0.1 < found.layers["l0"].denormal_fraction < 0.25


def test_text_and_back() -> None:
    found = measure(tt.LSTM(3, 7), torch.randn(12, 2, 3), symbols="abc")
    again = Flow.from_json(found.to_json())
    assert again.to_json() == found.to_json() and repr(again) == repr(found)
    assert torch.equal(again.layers["l0"].lag_h.mean, found.layers["l0"].lag_h.mean)
    gone = measure(linear([[0.0, 2.0], [0.0, 0.0]]), torch.randn(12, 2, 2))
    assert math.isnan(Flow.from_json(gone.to_json()).layers["l0"].lag_h.half_life.steps)
    for text in (
        "nothing",
        "{}",
        '{"format": 2, "flow": {}}',
        '{"format": 1}',
        '{"format": 2, "flow": null}',
    ):
        with pytest.raises(InputError, match=r"measurement"):
            Flow.from_json(text)


def test_progress_is_told_to_the_end() -> None:
    told: list[tuple[int, int]] = []
    measure(
        tt.RNN(3, 5, 2), torch.randn(12, 2, 3), ends=3, progress=lambda *a: told.append(a), products=False
    )
    assert told == [(n, 7) for n in range(1, 8)]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = tt.RNN(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.rnn(x)[0])[0]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Linear(3, 3), {}, "no recurrent layer to measure"),
        (Twice(), {}, "'rnn' ran more than once"),
        (nn.Sequential(tt.RNN(3, 3)), {"lengths": [12, 5]}, "whose forward takes an argument lengths"),
        (tt.RNN(3, 3), {"lengths": [13, 5]}, "lengths must lie between 0 and T = 12"),
        (tt.RNN(3, 3), {"lengths": [4, 5], "lags": 5}, "lags = 5 needs 6 steps .* got 5"),
        (tt.RNN(3, 3), {"lags": 12}, r"lags = 12 needs 13 steps .* got 12"),
        (tt.RNN(3, 3), {"ends": [12]}, r"ends must be steps from 0 to 11, got \[12\]"),
        (tt.RNN(3, 3), {"ends": 0}, "ends must be at least 1"),
        (tt.RNN(3, 3, bidirectional=True), {"lags": 6}, "lags = 6 needs 7 steps"),
        (tt.RNN(3, 3), {"fraction": 1.0}, "fraction must lie between"),
        (tt.RNN(3, 3), {"examples": 0}, "examples must be at least 1"),
        (tt.RNN(3, 3), {"loss": lambda y, t: y.mean()}, "the loss must be one value"),
        (tt.RNN(3, 3), {"loss": lambda y, t: y.detach().sum(-1)}, "does not depend on the model"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(model: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        measure(model, torch.randn(12, 2, 3), **options)
    assert "\n" not in str(caught.value)


def test_a_single_step_has_no_way_back() -> None:
    with pytest.raises(InputError, match=r"at least 2 steps, got 1: .* give a longer sequence"):
        measure(tt.RNN(3, 3), torch.randn(1, 2, 3))


def test_progress_through_the_products_ends_with_all() -> None:
    told: list[tuple[int, int]] = []
    measure(tt.GRU(3, 5, 2), torch.randn(24, 2, 3), ends=3, progress=lambda *a: told.append(a))
    done = [n for n, _ in told]
    assert done == sorted(set(done)) and told[-1][0] == told[-1][1]
    assert len(done) > 20  # and not one leap at the end of each layer


def test_targets_without_a_default_loss_are_refused() -> None:
    x = torch.randn(12, 2, 3)
    with pytest.raises(InputError, match="give loss="):
        measure(tt.RNN(3, 3), (x, torch.randn(12, 2)))
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([12, 5]))
    with pytest.raises(InputError, match="a PackedSequence has lengths of its own"):
        measure(tt.RNN(3, 3), packed, lengths=[12, 5])


def test_a_mean_over_examples_counts_each_example_whole() -> None:
    y = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    each = objective(y, None, lambda o, t: o.sum(-1), torch.full((3,), 4), 4)
    mean = objective(y, None, lambda o, t: o.sum(-1).mean(1), torch.full((3,), 4), 4)
    for row in range(4):
        (a,) = torch.autograd.grad(each.losses[row].sum(), y, retain_graph=True)
        (b,) = torch.autograd.grad(mean.losses[row].sum(), y, retain_graph=True)
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(each.mean(), mean.mean())


def test_a_field_with_a_default_may_be_missing() -> None:
    found = measure(tt.GRU(3, 5), torch.randn(12, 2, 3), products=False)
    kept = json.loads(found.to_json())
    for gate in kept["flow"]["layers"]["l0"]["gates"].values():
        del gate["first"]
    again = Flow.from_json(json.dumps(kept)).layers["l0"].gates["z"]
    assert again.first is None
    torch.testing.assert_close(again.over_time, found.layers["l0"].gates["z"].over_time, rtol=1e-5, atol=0)


def test_json_is_strict_and_restores_what_is_not_finite() -> None:
    found = measure(linear([[0.0, 2.0], [0.0, 0.0]]), torch.randn(12, 2, 2))
    assert found.layers["l0"].products is not None and bool(
        found.layers["l0"].products.lyapunov.isinf().any()
    )
    odd = replace(found, loss=math.nan, parameters={"a": (math.inf, -math.inf), "b": (math.nan, 1.0)})

    def refuse(word: str) -> None:
        raise AssertionError(word)

    text = odd.to_json()
    plain = json.loads(text, parse_constant=refuse)["flow"]
    assert plain["loss"] is None
    assert plain["parameters"] == {"a": ["inf", "-inf"], "b": [None, 1.0]}
    assert plain["layers"]["l0"]["lag_h"]["half_life"]["steps"] is None
    assert "-inf" in plain["layers"]["l0"]["products"]["lyapunov"]["values"]
    again = Flow.from_json(text)
    assert again.to_json() == text
    assert math.isnan(again.loss) and again.parameters["a"] == (math.inf, -math.inf)
    assert math.isnan(again.layers["l0"].lag_h.half_life.steps)


@pytest.mark.parametrize("first", ["flow.measurement.measure", "flow.explanation.explain"])
def test_the_public_names_are_functions_in_every_import_order(first: str) -> None:
    code = (
        f"import importlib; importlib.import_module('throughtime.{first}')\n"
        "import throughtime as tt\n"
        "from throughtime.flow import explain, influence, measure, snapshot\n"
        "import throughtime.flow.explanation.explain, throughtime.flow.measurement.influence\n"
        "for each in (explain, influence, measure, snapshot):\n"
        "    assert type(each).__name__ == 'function' and getattr(tt.flow, each.__name__) is each\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
