"""What is wrong is seen, and not measured."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from throughtime.bench import compare, describe
from throughtime.bench.machine import sentence
from throughtime.bench.recurrences import CELLS, Shape, data, parse_shape
from throughtime.bench.verify import check, outputs_and_gradients, worst_error

SHAPE = Shape(4, 3, 5, 7)


@pytest.mark.parametrize("cell", CELLS)
def test_every_wrong_weight_is_seen(cell):
    """Each output and gradient depends on what it should: a change of any one parameter is far above the limit."""
    x, dy = data(SHAPE)
    layer = CELLS[cell][0](SHAPE.features, SHAPE.hidden)
    right = outputs_and_gradients(layer, x, dy)
    assert worst_error(outputs_and_gradients(layer, x, dy), right) == 0
    states = 1 + (cell == "LSTM")
    assert len(right) == 1 + states + 1 + states + len(list(layer.parameters()))
    assert [value.shape for value in right[2 + 2 * states :]] == [p.shape for p in layer.parameters()]
    for parameter in layer.parameters():
        with torch.no_grad():
            parameter.view(-1)[3] += 0.01
        assert worst_error(outputs_and_gradients(layer, x, dy), right) > 1e-4
        with torch.no_grad():
            parameter.view(-1)[3] -= 0.01


def test_a_wrong_gradient_alone_is_seen():
    values = [torch.ones(3), torch.tensor([1000.0, 1e-3])]
    assert worst_error([values[0], values[1] * 1.001], values) == pytest.approx(1e-3, rel=1e-3)
    assert worst_error([values[0] + 0.1, values[1]], values) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("wrong", [1e-3, float("nan"), float("inf")])
def test_what_is_wrong_is_not_measured(wrong):
    with pytest.raises(ArithmeticError, match="RNN is wrong, so it is not measured"):
        check("RNN", wrong, 1e-4)


def test_nan_in_a_result_is_nan_in_the_error():
    error = worst_error([torch.tensor([float("nan"), 1.0]), torch.ones(1)], [torch.ones(2), torch.ones(1)])
    assert error != error


def test_other_shapes_are_an_error():
    with pytest.raises(ValueError, match=r"expected shape \[3\], got \[1\]"):
        worst_error([torch.ones(1)], [torch.ones(3)])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_a_comparison_has_all_that_is_shown(cell, train):
    result = compare(cell, SHAPE, train=train, seconds=0, least=1, peak=1e9)
    assert set(result["timings"]) == set(result["errors"]) == {"ours", "torch"}
    assert result["ratio"] == result["timings"]["torch"]["median"] / result["timings"]["ours"]["median"]
    flops = 2 * 4 * 3 * CELLS[cell][2] * 7 * (5 + 7) * (3 if train else 1)
    assert result["gflops"] * 1e9 == pytest.approx(flops / result["timings"]["ours"]["median"])
    assert result["fraction_of_peak"] == pytest.approx(result["gflops"])
    assert result["mode"] == ("training" if train else "inference")


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1,2,0,4", "1,2,-3,4"])
def test_a_shape_that_is_none_is_refused(text):
    with pytest.raises(tt.InputError, match="a shape must be T,B,D,H"):
        parse_shape(text)


def test_the_description_names_no_machine():
    import platform

    machine = describe()
    assert machine["threads"] == torch.get_num_threads()
    words = sentence(machine)
    assert torch.__version__ in words
    assert platform.node() not in words.replace(",", " ").split()
