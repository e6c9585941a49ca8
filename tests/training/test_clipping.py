"""Clipping is its formula, exactly, and always tells the norm before."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from throughtime.errors import InputError
from throughtime.training.clipping import ClipNorm, ClipValue, NoClip, clip_norm_, clip_value_, parse


def parameters(*gradients: list[float]) -> list[torch.Tensor]:
    made = [torch.zeros(len(g), dtype=torch.float64) for g in gradients]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
    return [*made, torch.zeros(2)]  # one that no gradient reached


numbers = st.floats(-1e6, 1e6)


@settings(deadline=None)
@given(
    st.lists(numbers, min_size=1, max_size=5), st.lists(numbers, min_size=1, max_size=5), st.floats(1e-3, 1e3)
)
def test_by_norm(a, b, threshold):
    params = parameters(a, b)
    norm = math.sqrt(math.fsum(x * x for x in a + b))
    report = clip_norm_(params, threshold)
    assert report.item() == pytest.approx(norm, rel=1e-12)
    scale = min(1.0, threshold / norm) if norm else 1.0
    for parameter, before in zip(params, (a, b), strict=False):
        expected = torch.tensor(before, dtype=torch.float64) * scale
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=0)
        if scale == 1.0:
            assert parameter.grad.tolist() == before  # to the bit


def test_by_norm_one_norm_for_all_gradients_together():
    params = parameters([3.0], [4.0])
    assert clip_norm_(params, 1.0) == 5.0
    assert [p.grad.item() for p in params[:2]] == pytest.approx([0.6, 0.8], rel=1e-15)


@settings(deadline=None)
@given(st.lists(numbers, min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_by_value(gradient, threshold):
    params = parameters(gradient)
    report = clip_value_(params, threshold)
    assert report.item() == pytest.approx(math.sqrt(math.fsum(x * x for x in gradient)), rel=1e-12)
    assert params[0].grad.tolist() == [max(-threshold, min(threshold, x)) for x in gradient]


@pytest.mark.parametrize("clip", [ClipNorm(1.0), ClipValue(1.0), NoClip()])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_told(clip, bad):
    assert not math.isfinite(clip(parameters([1.0, bad], [2.0])).norm)


def test_whether_anything_was_changed():
    assert ClipNorm(5.0)(parameters([3.0], [4.0])).changed.item() is False
    assert ClipNorm(4.9)(parameters([3.0], [4.0])).changed.item() is True
    assert ClipValue(4.0)(parameters([3.0], [-4.0])).changed.item() is False
    assert ClipValue(3.9)(parameters([3.0], [-4.0])).changed.item() is True
    assert NoClip()(parameters([1e9])).changed.item() is False


@pytest.mark.parametrize(
    "clip", [clip_norm_, clip_value_, lambda p, t: ClipNorm(t)(p).norm, lambda p, t: ClipValue(t)(p).norm]
)
def test_one_tensor_is_taken_as_torch_takes_it(clip):
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert clip(weight, 2.5) == 5.0
    assert weight.grad.abs().max() <= 2.5
    assert NoClip()(weight).norm == weight.grad.norm()
    assert clip(iter([weight]), 2.5) > 0  # and an iterator, which can be read once


def test_no_gradient_at_all():
    assert clip_norm_([torch.zeros(3)], 1.0) == 0
    assert clip_value_([torch.zeros(3)], 1.0) == 0


def test_parse():
    assert parse("norm:1") == ClipNorm(1.0)
    assert parse("value:0.1") == ClipValue(0.1)
    assert parse("none") == NoClip()
    for spec in (
        "nrom:1",
        "norm",
        "norm:",
        "norm:x",
        "norm:0",
        "norm:-1",
        "norm:nan",
        "value:1:2",
        "none:1",
        "",
    ):
        with pytest.raises(InputError, match="norm:THRESHOLD, value:THRESHOLD or none"):
            parse(spec)
    with pytest.raises(InputError, match="Did you mean 'norm'"):
        parse("nrom:1")
    for function in (clip_norm_, clip_value_):
        with pytest.raises(InputError, match="must be above 0, got 0"):
            function([], 0)
