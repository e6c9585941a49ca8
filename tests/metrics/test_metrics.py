"""Metrics against values worked out by hand; masked targets never count; totals add up."""

import math

import pytest
import torch

from throughtime.data.batch import IGNORE, Batch
from throughtime.errors import InputError
from throughtime.metrics import (
    Accuracy,
    Bits,
    BitsPerCharacter,
    ConfusionMatrix,
    MacroF1,
    MeanLoss,
    Perplexity,
)

NO_LOSS = torch.tensor(0.0)
# Targets 0 0 0 1 1 2, predictions 0 0 1 1 0 0, of four classes; class 3 never occurs.
TARGETS, PREDICTIONS = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 0]
COUNTS = [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
# F1: class 0: 4 / (4 + 2 + 1) = 4/7; class 1: 2 / (2 + 1 + 1) = 1/2; class 2: 0; class 3 is not counted.
MACRO_F1 = (4 / 7 + 1 / 2 + 0) / 3


def scores(predictions, dtype=torch.float32):
    return torch.nn.functional.one_hot(torch.tensor(predictions), 4).to(dtype)


def per_sequence(targets):
    return Batch.of(torch.zeros(3, len(targets)), torch.tensor(targets), per_sequence=True)


def test_a_class_for_each_sequence():
    batch, outputs = per_sequence(TARGETS), scores(PREDICTIONS)
    accuracy, matrix, f1 = Accuracy(), ConfusionMatrix(4), MacroF1("abcd")
    for metric in (accuracy, matrix, f1):
        assert math.isnan(metric.value())
        metric.update(outputs, batch, NO_LOSS)
    assert accuracy.value() == matrix.value() == 0.5
    assert matrix.totals.tolist() == f1.totals.tolist() == COUNTS
    assert f1.value() == pytest.approx(MACRO_F1, rel=1e-15)
    assert matrix.table(["a", "b", "c", "d"]) == [
        ["target", "a", "b", "c", "d", "recall"],
        ["a", "2", "1", "0", "0", "0.667"],
        ["b", "1", "1", "0", "0", "0.500"],
        ["c", "1", "0", "0", "0", "0.000"],
        ["d", "0", "0", "0", "0", ""],
    ]
    with pytest.raises(InputError, match="expected 4 labels"):
        matrix.table(["a"])


def test_a_class_for_each_step_with_padding_that_is_nan():
    # T = B = 3: row 0 has 3 steps, row 1 has 2, row 2 has 1; the same six pairs as above.
    targets = torch.tensor([[0, 1, 2], [0, 1, 7], [0, 7, 7]])
    outputs = torch.full((3, 3, 4), float("nan"))
    for place, prediction in zip(((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (0, 2)), PREDICTIONS, strict=True):
        outputs[place] = scores([prediction])[0]
    batch = Batch.of(torch.zeros(3, 3), targets, [3, 2, 1])
    assert batch.num_targets == 6
    accuracy, matrix = Accuracy(), ConfusionMatrix(4)
    for metric in (accuracy, matrix):
        metric.update(outputs, batch, NO_LOSS)
    assert accuracy.value() == 0.5 and matrix.totals.tolist() == COUNTS


def test_totals_of_parts_add_up():
    whole, first, second = (ConfusionMatrix(4) for _ in range(3))
    whole.update(scores(PREDICTIONS), per_sequence(TARGETS), NO_LOSS)
    first.update(scores(PREDICTIONS[:2]), per_sequence(TARGETS[:2]), NO_LOSS)
    second.update(scores(PREDICTIONS[2:]), per_sequence(TARGETS[2:]), NO_LOSS)
    first.totals += second.totals
    assert torch.equal(first.totals, whole.totals)


def test_a_perfect_and_an_absent_class():
    f1 = MacroF1("abcd")
    f1.update(scores([1, 1]), per_sequence([1, 1]), NO_LOSS)
    assert f1.value() == 1.0
    f1 = MacroF1("abcd")
    f1.update(scores([1, 3]), per_sequence([1, 1]), NO_LOSS)  # class 3 is predicted once, and counts
    assert f1.value() == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize("metric", [Accuracy(), ConfusionMatrix(4)])
def test_shapes_that_do_not_fit_are_refused(metric):
    with pytest.raises(InputError, match=r"got \[5, 4\] for \[6\]"):
        metric.update(scores(PREDICTIONS[:5]), per_sequence(TARGETS), NO_LOSS)
    with pytest.raises(InputError, match=r"class numbers as targets, got torch.float32"):
        metric.update(scores([1]), per_sequence([1.0]), NO_LOSS)


def test_a_class_outside_the_matrix_is_refused():
    with pytest.raises(InputError, match="targets must be classes 0 to 3, got 4 to 4"):
        ConfusionMatrix(4).update(scores([1]), per_sequence([4]), NO_LOSS)


def test_losses_are_means_over_unmasked_targets():
    batch = Batch.of(torch.zeros(2, 2), torch.tensor([[0, 2], [1, IGNORE]]))
    loss = torch.tensor(6 * math.log(2))  # over three targets: 2 ln 2 each, so 2 bits
    mean, perplexity, bits = MeanLoss(), Perplexity(), Bits()
    of_characters = BitsPerCharacter(torch.tensor([1, 1, 4]))
    for metric in (mean, perplexity, bits, of_characters):
        assert math.isnan(metric.value())
        metric.update(None, batch, loss)
        assert not metric.higher_is_better and metric.better(1.0, than=2.0)
    assert mean.value() == pytest.approx(2 * math.log(2))
    assert perplexity.value() == pytest.approx(4.0)
    assert bits.value() == pytest.approx(2.0)
    assert of_characters.value() == pytest.approx(1.0)  # 6 bits for 1 + 1 + 4 characters
    perplexity.update(None, batch, torch.tensor(1e6))
    assert perplexity.value() == float("inf")


def test_the_loss_of_a_window_is_divided_by_the_windows_own_targets():
    batch = Batch.of(torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.int64))
    mean = MeanLoss()
    mean.update(None, batch.window(0, 3), torch.tensor(12.0))
    mean.update(None, batch.window(3, 4), torch.tensor(4.0))
    assert mean.value() == 2.0


def test_float64_outputs_are_compared_in_float64():
    outputs = torch.tensor([[1.0, 1.0 + 1e-12, 0.0, 0.0]], dtype=torch.float64)  # equal in float32
    accuracy = Accuracy()
    accuracy.update(outputs, per_sequence([1]), NO_LOSS)
    assert accuracy.value() == 1.0
