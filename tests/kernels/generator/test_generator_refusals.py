"""What the native loop cannot draw, and what it does not take."""

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
    State,
    unavailable,
)

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"native: {unavailable()}")


def test_what_cannot_be_sampled_is_reported_with_how_far_it_came(constant: Any) -> None:
    native = constant(torch.tensor([0.0, math.nan]))
    with pytest.raises(SamplingError, match="diverged") as caught:
        native.run(5)
    assert caught.value.num_sampled == 1  # the first was sampled from the initial logits
    assert native.run(1)[0].shape == (1, 1)
    for bad in (math.nan, math.inf):
        with pytest.raises(SamplingError, match="diverged"):
            native.run(1, native.initial()._replace(logits=torch.tensor([[0.0, bad]])), temperature=0)
    assert (
        native.run(1, native.initial()._replace(logits=torch.tensor([[0.0, math.nan]])), banned=[1])[0].item()
        == 0
    )
    with pytest.raises(SamplingError, match="nothing left"):
        native.run(1, banned=[0, 1])


def test_a_failure_is_the_same_with_two_threads(network: Any, threads: Any) -> None:
    model = network("rnn", 300, 5, (30,))
    start = model.start(16)
    start.model[0, 11] = math.nan
    for count in (1, 2):
        with threads(count), pytest.raises(SamplingError) as caught:
            model.native.run(400, start)
        assert caught.value.num_sampled == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": -1}, "n must be 0 or more, got -1"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must lie above 0"),
        ({"seed": 2**64}, "seed must be a 64-bit"),
        ({"banned": [3]}, "banned must lie between 0 and 2, got 3 to 3"),
        ({"stops": [-1]}, "stops must lie between 0 and 2, got -1 to -1"),
        ({"state": State(torch.zeros(1, 1, 2), torch.zeros(1, 3))}, "shapes"),
        ({"state": State(torch.zeros(1, 1, 1), torch.zeros(1, 4))}, "shapes"),
        ({"state": State(torch.zeros(1, 2, 1), torch.zeros(1, 3))}, "shapes"),
        ({"state": State(torch.zeros(2, 1, 1), torch.zeros(1, 3))}, "shapes"),
        ({"state": State((), torch.zeros(1, 3))}, "shapes"),
        ({"state": State(torch.zeros(1, 1, 1), torch.zeros(3))}, "shapes"),
        ({"state": State(None, torch.zeros(1, 3))}, "shapes"),
        ({"state": State(3, torch.zeros(1, 3))}, "shapes"),
        ({"state": State([[1.0]], torch.zeros(1, 3))}, "shapes"),
        ({"state": State(torch.zeros(1, 1, 1).double(), torch.zeros(1, 3))}, "float32"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str, constant: Any) -> None:
    with pytest.raises(InputError, match=message):
        constant(torch.zeros(3)).run(**{"n": 2, **options})


def test_shapes_that_do_not_fit_are_refused() -> None:
    layer = GeneratorLayer("gru", torch.zeros(12, 5), torch.zeros(12, 4))
    head = torch.zeros(7, 4)
    good = torch.zeros(7, 5)
    Generator([layer], head, None, good)
    for arguments, message in (
        (([], head), "at least one layer"),
        (([layer], head), r"weight_ih must be \[12, 7\]"),
        (([layer], torch.zeros(7, 3), None, good), r"head_weight must be \[7, 4\]"),
        (([layer], head, torch.zeros(6), good), r"head_bias must be \[7\]"),
        (([layer], head, None, torch.zeros(6, 5)), r"embedding must be \[7, 5\]"),
        (([layer, layer], head, None, good), r"layer 1's weight_ih must be \[12, 4\]"),
        (([layer._replace(weight_hh=torch.zeros(11, 4))], head, None, good), r"weight_hh must be \[12, 4\]"),
        (([layer._replace(bias_hh=torch.zeros(4))], head, None, good), r"bias_hh must be \[12\]"),
        (([layer._replace(kind="gruu")], head, None, good), "kind must be one of"),
        (([layer._replace(nonlinearity="sin")], head, None, good), "nonlinearity must be one of"),
        (([layer, layer._replace(kind="lstm")], head, None, good), "must be of one kind, got gru, lstm"),
        (([layer], head.double(), None, good), "computes in float32 on the CPU, head_weight is float64"),
        (([layer], torch.zeros(0, 4), None, torch.zeros(0, 5)), "nothing empty"),
    ):
        with pytest.raises(InputError, match=message):
            Generator(*arguments)  # type: ignore[arg-type]
    native = Generator([layer], head, None, good)
    for ids in (torch.tensor([7]), torch.tensor([-1]), torch.zeros(2), torch.zeros(2, 2, 2).long()):
        with pytest.raises(InputError, match="ids must"):
            native.feed(ids, native.initial(1))
    assert native.feed(torch.zeros(0, dtype=torch.int64)).position == 0
