"""bf16 and int8 weights: the generator computes what the reference computes from the quantized values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from throughtime.errors import InputError
from throughtime.kernels.native.generation.generator import (
    Generator,
    GeneratorLayer,
    SamplingError,
    unavailable,
)
from throughtime.kernels.native.generation.packing import quantize

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"native: {unavailable()}")

QUANTIZED = ("bf16", "int8")

# symbols, features (None: one-hot), sizes, batch: every remainder of H by 4, one row and many, around a panel and a tile.
SHAPES = [
    (1, 1, (1,), 1),
    (13, 5, (7,), 1),
    (65, 16, (64,), 1),
    (70, None, (34,), 16),
    (129, 20, (50, 13), 16),
    (5, 3, (16, 31), 1),
]


@pytest.mark.parametrize("weights", QUANTIZED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_logits_and_greedy_symbols_are_those_of_the_quantized_weights(
    kind: str, shape: Any, weights: str, network: Any, assert_same_state: Any
) -> None:
    *sizes, batch = shape
    torch.manual_seed(1)
    model = network(kind, *sizes, weights=weights)
    start, ids = model.start(batch), torch.randint(sizes[0], (6, batch))
    found, wanted = model.native.feed(ids, start), model.logits(ids, start)
    assert_same_state(found, wanted)
    sampled, end = model.native.run(12, found, temperature=0)
    for row in sampled:
        assert torch.equal(row, wanted.logits.argmax(-1))
        wanted = model.logits(row[None], wanted)
    assert_same_state(end, wanted, atol=1e-3)


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_quantization_has_an_effect(kind: str, network: Any) -> None:
    """Else the test above would pass with weights that were never quantized."""
    state = dict.fromkeys(("float32", *QUANTIZED))
    for weights in state:
        model = network(kind, 20, 6, (33, 9), weights=weights)
        torch.manual_seed(1)
        state[weights] = model.native.feed(torch.arange(8), model.start(1)).logits
    for weights in QUANTIZED:
        assert 1e-3 < float((state[weights] - state["float32"]).abs().max()) < 3


@pytest.mark.parametrize("weights", QUANTIZED)
def test_an_input_that_is_not_folded_is_quantized_too(
    weights: str, monkeypatch: pytest.MonkeyPatch, network: Any, assert_same_state: Any
) -> None:
    for kind in ("rnn", "gru", "lstm"):
        with monkeypatch.context() as patch:
            patch.setattr("throughtime.kernels.native.generation.packing._TABLE_BYTES", 0)
            model = network(kind, 29, 7, (18, 5), weights=weights)
        assert model.native._table is None
        for batch in (1, 5):
            start, ids = model.start(batch), torch.randint(29, (4, batch))
            assert_same_state(model.native.feed(ids, start), model.logits(ids, start))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("weights", QUANTIZED)
def test_samples_follow_the_quantized_model(
    weights: str, count: int, network: Any, threads: Any, assert_distributed: Any
) -> None:
    """The pairs that 20,000 rows begin with have the probability that the reference gives to each pair."""
    model = network("lstm", 5, 3, (6,), weights=weights)
    zero = model.native.initial(1)
    first = torch.zeros(5, dtype=torch.float64) + 0.2
    second = [model.logits(torch.tensor([[i]]), zero).logits[0].double().softmax(-1) for i in range(5)]
    with threads(count):
        ids, _ = model.native.run(2, model.native.initial(20_000), seed=3)
    assert_distributed(
        torch.bincount(ids[0] * 5 + ids[1], minlength=25),
        torch.cat(list(first[:, None] * torch.stack(second))),
    )


@pytest.mark.parametrize("weights", QUANTIZED)
@pytest.mark.parametrize(("sizes", "batch"), [((256,), 1), ((150, 150), 5), ((24,), 16)])
@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_threads_change_no_bit(
    kind: str,
    sizes: tuple[int, ...],
    batch: int,
    weights: str,
    network: Any,
    threads: Any,
    assert_same_state: Any,
) -> None:
    model = network(kind, 900, 10, sizes, weights=weights)
    start, found = model.start(batch), []
    for count in (1, 2):
        with threads(count):
            found.append(model.native.run(50, start, seed=1))
    assert torch.equal(found[0][0], found[1][0])
    assert_same_state(found[0][1], found[1][1], atol=0)


def test_int8_has_one_scale_for_each_row_and_the_nearest_of_255_values() -> None:
    weight = torch.tensor([[1.0, -2.54, 0.01, 0.0], [0.0, 0.0, 0.0, 0.0], [3e-5, 1e-6, -1e-6, 2e-5]])
    values, scale = quantize(weight, "int8")
    assert scale is not None
    torch.testing.assert_close(scale, torch.tensor([0.02, 0.0, 3e-5 / 127]))
    assert values.dtype == torch.int8
    assert values.tolist() == [[50, -127, 0, 0], [0, 0, 0, 0], [127, 4, -4, 85]]
    large = torch.randn(50, 70) * torch.logspace(-8, 8, 50)[:, None]
    values, scale = quantize(large, "int8")
    assert int(values.min()) == -127
    off = (quantize(large, "int8").dequantize() - large).abs() / scale[:, None]
    assert 0.4 < float(off.max()) <= 0.5001
    assert torch.isfinite(quantize(torch.full((2, 3), 1e-44), "int8").dequantize()).all()


def test_bf16_is_the_nearest_and_ties_go_to_even() -> None:
    weight = torch.tensor([[1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8, 0.0, 3e38]])
    found = quantize(weight, "bf16").dequantize()
    assert found[0, :5].tolist() == [1.0, 1 + 2**-6, 1 + 2**-7, -1.0, 0.0]
    large = torch.randn(50, 70)
    assert float(((quantize(large, "bf16").dequantize() - large) / large).abs().max()) <= 2**-8


@pytest.mark.parametrize("weights", QUANTIZED)
def test_damaged_weights_are_reported_and_not_hidden_by_quantization(weights: str) -> None:
    for bad in (math.nan, math.inf):
        hh = torch.zeros(3, 3)
        hh[1, 2] = bad
        layer = GeneratorLayer("rnn", torch.ones(3, 4), hh)
        native = Generator([layer], torch.ones(4, 3), weights=weights)
        with pytest.raises(SamplingError, match="diverged"):
            native.run(5)


def test_another_form_is_refused() -> None:
    layer = GeneratorLayer("rnn", torch.zeros(3, 4), torch.zeros(3, 3))
    with pytest.raises(InputError, match="weights must be one of float32, bf16, int8, got 'int4'"):
        Generator([layer], torch.zeros(4, 3), weights="int4")
