"""Temperature, thresholds and what they give, against brute force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from throughtime.data import IGNORE, Batch
from throughtime.errors import InputError
from throughtime.metrics import CalibrationError, Coverage, Precision
from throughtime.metrics.calibration import binomial_cdf, choose_threshold, fit_temperature
from throughtime.models.calibrated import CalibratedLinear


def examples(n, classes=5, temperature=2.0):
    """Logits, and targets drawn from softmax(logits / temperature)."""
    logits = 3 * torch.randn(n, classes, dtype=torch.float64)
    return logits, torch.multinomial((logits / temperature).softmax(1), 1).squeeze(1)


def smoothed_loss(logits, targets, temperature):
    """The cross-entropy by hand: each target keeps 1 - 1 / (N + 1), the rest is spread."""
    n, classes = logits.shape
    weights = torch.full((n, classes), 1 / (n + 1) / classes, dtype=torch.float64)
    weights[torch.arange(n), targets] += 1 - 1 / (n + 1)
    return -(weights * (logits / temperature).log_softmax(1)).sum().item()


@pytest.mark.parametrize("true", [0.5, 1.0, 4.0])
def test_the_temperature_is_that_of_the_least_loss(true):
    logits, targets = examples(211, temperature=true)
    found = fit_temperature(logits, targets)
    least = smoothed_loss(logits, targets, found)
    for factor in (0.9, 0.99, 0.999, 1.001, 1.01, 1.1):
        assert smoothed_loss(logits, targets, factor * found) > least
    assert found == pytest.approx(true, rel=0.35)


def test_a_temperature_does_not_go_to_zero_where_all_are_right():
    logits = torch.eye(3, dtype=torch.float64).repeat(3, 1)
    found = fit_temperature(logits, torch.arange(3).repeat(3))
    assert 0.05 < found < 1
    # 9 examples: the smoothed target of the right class is 0.9 + 0.1 / 3.
    assert float((torch.tensor([1.0, 0, 0]) / found).softmax(0)[0]) == pytest.approx(0.9 + 0.1 / 3, abs=1e-6)
    with pytest.raises(InputError, match="at least one example"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize("precision", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_the_threshold_has_the_largest_coverage_of_all_that_are_precise(n, precision):
    for _ in range(20):
        confidence = torch.randint(0, 12, (n,)).double() / 12  # with equal ones
        right = torch.rand(n) < 0.4 + 0.6 * confidence
        found = choose_threshold(confidence, right, precision)
        best = 0
        for threshold in confidence.unique().tolist():
            answered = confidence >= threshold
            if right[answered].double().mean() >= precision:
                best = max(best, int(answered.sum()))
        answered = confidence >= found
        assert int(answered.sum()) == best
        assert not best or right[answered].double().mean() >= precision


def test_thresholds_at_the_ends():
    confidence = torch.tensor([0.2, 0.9, 0.5])
    assert choose_threshold(confidence, torch.tensor([False, False, False]), 0.9) == math.inf
    assert choose_threshold(confidence, torch.tensor([True, True, True]), 0.9) == pytest.approx(0.2)
    assert choose_threshold(confidence, torch.tensor([False, True, True]), 0.9) == pytest.approx(0.35)
    assert choose_threshold(torch.zeros(0), torch.zeros(0, dtype=torch.bool), 0.9) == math.inf
    assert choose_threshold(torch.zeros(0), torch.zeros(0, dtype=torch.bool), 0.9, 0.8) == math.inf


def test_a_certain_threshold_keeps_its_promise_and_an_uncertain_one_does_not():
    """Confidences u are uniform and answers right with probability (1 + u) / 2: precision from t on is (3 + t) / 4."""
    broken = {None: 0, 0.8: 0}
    answered = 0
    for _ in range(100):
        u = torch.rand(500)
        right = torch.rand(500) < (1 + u) / 2
        for certainty in broken:
            threshold = choose_threshold(u, right, 0.9, certainty)
            broken[certainty] += (3 + min(threshold, 1.0)) / 4 < 0.9
            answered += certainty is not None and threshold < 1
    assert broken[0.8] <= 20  # of 100
    assert broken[None] > 20  # so the promise is worth something
    assert answered > 20


def test_so_many_right_answers_are_needed():
    def all_right(n):
        return choose_threshold(torch.linspace(0.1, 0.9, n), torch.ones(n, dtype=torch.bool), 0.95, 0.8)

    assert all_right(80) == math.inf
    assert all_right(100) < 1


def test_the_binomial_distribution():
    for n, k, p in ((7, 2, 0.3), (13, 0, 0.05), (5, 5, 0.4)):
        expected = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
        assert binomial_cdf(k, n, p) == pytest.approx(expected, rel=1e-12)
    assert binomial_cdf(40, 10_000, 0.004) == pytest.approx(0.542, abs=0.01)


class Model(nn.Module):
    """A model with a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.head = CalibratedLinear(2, 4)
        self.head.calibrate(1.0, threshold)


def batches(sizes):
    found = []
    for size in sizes:
        targets = torch.randint(0, 4, (size,))
        targets[0] = IGNORE
        outputs = 2 * torch.randn(size, 4)
        outputs[0] = float("nan")  # a masked target's outputs mean nothing
        found.append((outputs, Batch.of(torch.zeros(3, size), targets, per_sequence=True)))
    return found


def test_metrics_are_those_of_all_texts_together():
    can, threshold = [True, False, True, True], 0.6
    data = batches([5, 9, 3])
    metrics = [Coverage(can), Precision(can), CalibrationError()]
    halves = [Coverage(can), Precision(can), CalibrationError()]
    for metric in (*metrics, *halves):
        metric.begin(Model(threshold))
    for number, (outputs, batch) in enumerate(data):
        for whole, half in zip(metrics, halves, strict=True):
            whole.update(outputs, batch, torch.zeros(()))
            if number:
                half.update(outputs, batch, torch.zeros(()))
    rows = [
        (row.double().softmax(0), int(target))
        for outputs, batch in data
        for row, target in zip(outputs, batch.targets, strict=True)
        if int(target) != IGNORE
    ]
    assert len(rows) == 14
    answered = [(p, t) for p, t in rows if p.max() >= threshold and can[int(p.argmax())]]
    assert 0 < len(answered) < 14
    assert metrics[0].value() == len(answered) / 14
    assert metrics[1].value() == sum(int(p.argmax()) == t for p, t in answered) / len(answered)
    error = 0.0
    for low, high in itertools.pairwise(torch.linspace(0, 1, 16, dtype=torch.float64).tolist()):
        inside = [(p, t) for p, t in rows if low < float(p.max()) <= high]
        if inside:
            right = sum(int(p.argmax()) == t for p, t in inside) / len(inside)
            error += abs(right - sum(float(p.max()) for p, _ in inside) / len(inside)) * len(inside) / 14
    assert metrics[2].value() == pytest.approx(error, rel=1e-12)
    # Totals of parts add up.
    outputs, batch = data[0]
    for whole, half in zip(metrics, halves, strict=True):
        part = type(half)(can) if isinstance(half, Coverage) else CalibrationError()
        part.begin(Model(threshold))
        part.update(outputs, batch, torch.zeros(()))
        half.totals += part.totals
        assert half.value() == pytest.approx(whole.value(), rel=1e-14)


def test_nothing_answered_and_nothing_measured():
    outputs, batch = batches([6])[0]
    for metric in (Coverage(), Precision(), CalibrationError()):
        assert math.isnan(metric.value())
    coverage, precision = Coverage(), Precision()
    for metric in (coverage, precision):
        metric.begin(Model(math.inf))
        metric.update(outputs, batch, torch.zeros(()))
    assert coverage.value() == 0 and math.isnan(precision.value())
    coverage = Coverage()
    coverage.begin(nn.Linear(1, 1))  # a model without a threshold answers everything
    coverage.update(outputs, batch, torch.zeros(()))
    assert coverage.value() == 1


def test_the_head_divides_by_its_temperature_and_rounds_its_threshold_down():
    head = CalibratedLinear(3, 4)
    x = torch.randn(5, 3)
    plain = nn.functional.linear(x, head.weight, head.bias)
    assert torch.equal(head(x), plain) and not head.calibrated
    head.calibrate(2.0, 1 / 3)
    assert torch.equal(head(x), plain / 2) and head.calibrated
    assert float(head.threshold) <= 1 / 3 < float(torch.nextafter(head.threshold, torch.tensor(1.0)))
    assert {"temperature", "threshold"} <= head.state_dict().keys()
    assert all(name in ("weight", "bias") for name, _ in head.named_parameters())
