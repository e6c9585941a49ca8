"""Tensors that are no plain memory, as input, state, weight or gradient: the numbers that they stand for, or an error.

What goes wrong here ends the process. So all calls are made in a program of their own (this file, run by itself), which forks for
each kind of tensor and prints a line for each call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.kernels.native import library

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")

PLACES = (
    "x",
    "x without a state",
    "h",
    "c",
    "weight",
    "weight by .data",
    "gradient",
    "gradient of a ragged batch",
)
# Those that torch can compute with, so that a layer must.
ANSWERED = ("zero", "two", "logging", "subclass", "functional", "fake", "tracked")
FORWARD = PLACES[:5]
# torch makes a parameter of it that it takes for a wrapper itself: any question about it may end the process.
LEFT_OUT = {("tracked", "weight by .data"), ("leaked", "weight by .data")}


class Subclass(torch.Tensor):
    """A tensor by another name."""


def kinds():
    """How to make each kind of tensor of plain numbers, and how to read it again."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.testing._internal.logging_tensor import LoggingTensor
    from torch.testing._internal.two_tensor import TwoTensor

    def freed(value):
        value = value.clone()
        value.untyped_storage().resize_(0)
        return value

    def leaked(value):
        """A batched tensor outside its vmap."""
        found = []
        torch.func.vmap(lambda x: (found.append(x), x)[1])(torch.stack([value, value]))
        return found[0]

    def tracked(value):
        """A tensor that torch.func.grad tracked, outside of it."""
        found = []
        torch.func.grad(lambda x: (found.append(x), x.sum())[1])(value)
        return found[0]

    def distributed(value):
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor, Replicate

        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        return DTensor.from_local(value, init_device_mesh("cpu", (1,)), [Replicate()])

    found = {
        "zero": lambda v: torch._efficientzerotensor(v.shape),
        "two": lambda v: TwoTensor(v, v.clone()),
        "logging": lambda v: LoggingTensor(v),
        "subclass": lambda v: v.as_subclass(Subclass),
        "functional": torch._to_functional_tensor,
        "fake": FakeTensorMode(allow_non_fake_inputs=True).from_tensor,
        "freed": freed,
        "sparse": lambda v: v.to_sparse(),
        "mkldnn": lambda v: v.to_mkldnn(),
        "quantized": lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8),
        "meta": lambda v: v.to("meta"),
        "nested": lambda v: torch.nested.nested_tensor(list(v)),
        "masked": lambda v: torch.masked.masked_tensor(v, torch.ones_like(v, dtype=torch.bool)),
        "uninitialized": lambda v: nn.parameter.UninitializedParameter(),
        "leaked": leaked,
        "tracked": tracked,
    }
    return found | ({"distributed": distributed} if torch.distributed.is_available() else {})


def plain(value):
    """The numbers of an answer, or None where it has none."""
    if type(value).__name__ in ("FakeTensor",) or value.device.type == "meta":
        return None
    for name in ("a", "elem", "to_local", "get_data"):
        if hasattr(value, name) and type(value) is not torch.Tensor and not isinstance(value, Subclass):
            value = getattr(value, name)() if callable(getattr(value, name)) else getattr(value, name)
    if torch._is_functional_tensor(value):
        torch._sync(value)
        value = torch._from_functional_tensor(value)
    return value.detach().to_dense().as_subclass(torch.Tensor).flatten().tolist()


def call(make, place, backend, warm):
    """The numbers of the outputs (or the gradient of x) with one tensor of this kind in this place."""
    torch.manual_seed(0)
    layer = tt.LSTM(5, 8, backend=backend)
    x, h, c = torch.randn(4, 2, 5), torch.randn(1, 2, 8), torch.randn(1, 2, 8)
    if warm:
        layer(x)
        assert layer._direct is not None
    if place == "x":
        y, _ = layer(make(x), (h, c))
    elif place == "x without a state":
        y, _ = layer(make(x))
    elif place == "h":
        y, _ = layer(x, (make(h), c))
    elif place == "c":
        y, _ = layer(x, (h, make(c)))
    elif place == "weight":
        value = make(layer.weight_hh_l0.data)
        layer.weight_hh_l0 = value if isinstance(value, nn.Parameter) else nn.Parameter(value)
        y, _ = layer(x, (h, c))
    elif place == "weight by .data":
        layer.weight_hh_l0.data = make(layer.weight_hh_l0.data)
        y, _ = layer(x, (h, c))
    else:
        x.requires_grad_()
        lengths = torch.tensor([3, 4]) if "ragged" in place else None
        y, _ = layer(x, (h, c), lengths=lengths)
        (y,) = torch.autograd.grad(y, x, make(torch.randn(y.shape)))
    return y


def outcome(kind, place, backend, warm):
    try:
        return {"numbers": plain(call(kinds()[kind], place, backend, warm))}
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error).split("\n")[0]}


def main():
    """A line of JSON for each call: (kind, place, backend, warm, outcome)."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for kind in kinds():
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            for place in PLACES:
                if (kind, place) in LEFT_OUT:
                    continue
                for backend, warm in ((None, False), (None, True), ("native", False), ("native", True)):
                    print(json.dumps([kind, place, backend, warm]), end=" ", flush=True)
                    print(json.dumps(outcome(kind, place, backend, warm)), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"crashed": status}), flush=True)


@pytest.fixture(scope="module")
def outcomes():
    """{(kind, place, backend, warm): outcome} of all calls."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, timeout=600)
    decode, found = json.JSONDecoder(), {}
    for line in done.stdout.splitlines():
        key, end = decode.raw_decode(line)
        found[tuple(key)] = json.loads(line[end:])
    return found


def expected(kind, place):
    """What the plain numbers give; zeros for the zero tensor."""
    return plain(
        call((lambda v: torch.zeros_like(v)) if kind == "zero" else (lambda v: v), place, "native", False)
    )


@pytest.mark.parametrize("kind", kinds())
def test_the_numbers_or_an_error(kind, outcomes):
    for place in PLACES:
        if (kind, place) in LEFT_OUT:
            continue
        wanted = expected(kind, place)
        for backend in (None, "native"):
            found = [outcomes.get((kind, place, backend, warm)) for warm in (False, True)]
            for one in found:
                assert one is not None and "crashed" not in one, f"{kind} as {place}: it crashed"
                if one.get("numbers") is not None:
                    assert one["numbers"] == pytest.approx(wanted, rel=1e-5, abs=1e-6), f"{kind} as {place}"
            # A tracked gradient is read or refused, as a view in the graph has unwrapped it or not.
            assert found[0].keys() == found[1].keys() or (kind, place) == ("tracked", "gradient"), (
                f"{kind} as {place}: after a first call it is another outcome"
            )


@pytest.mark.parametrize("kind", ANSWERED)
def test_what_torch_computes_with_is_computed_with(kind, outcomes):
    for place in (*FORWARD, "gradient"):
        if kind in ("functional", "tracked") and place == "gradient":
            continue  # without memory, and without an operation that could be called for it outside its transform
        for warm in (False, True):
            assert "numbers" in outcomes[kind, place, None, warm], (place, outcomes[kind, place, None, warm])


@pytest.mark.parametrize("kind", [*ANSWERED[:-1], "sparse", "mkldnn", "masked"])
def test_native_asked_for_by_name_says_why_not(kind, outcomes):
    for place in FORWARD:
        for warm in (False, True):
            found = outcomes[kind, place, "native", warm]
            assert found.get("error") == "BackendError", (place, found)
            assert "asked for by name: native reads memory, and a tensor is " in found["message"]


def test_a_freed_tensor_is_an_error_in_one_line(outcomes):
    """Torch's own kernels would read it; of a ragged batch's gradient torch says so itself."""
    for place in PLACES[:-1]:
        for backend in (None, "native"):
            for warm in (False, True):
                found = outcomes["freed", place, backend, warm]
                assert "must have memory" in found["message"] and "was it freed?" in found["message"], found


if __name__ == "__main__":
    main()
