"""Who runs a call, and why the others do not. A Call is plain data, so none of this needs the hardware."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import throughtime as tt
from throughtime.errors import BackendError, InputError
from throughtime.kernels import aten, dispatch
from throughtime.kernels.dispatch import AtenBackend, CudnnBackend, NativeBackend

CUDA = {"device": "cuda"}


class Ready(CudnnBackend):
    """The cudnn backend of a machine that has the device."""

    def unavailable(self) -> None:
        return None


@pytest.fixture(autouse=True)
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three backends that every machine has: whether the C++ library was built here must not matter."""
    monkeypatch.setattr(dispatch, "BACKENDS", tuple(b for b in dispatch.BACKENDS if b.name != "native"))


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch, without_native: None) -> None:
    monkeypatch.setattr(dispatch, "BACKENDS", (Ready(), *dispatch.BACKENDS[1:]))


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (tt.Call("lstm"), None),
        (tt.Call("rnn", dtype=torch.float64), None),
        (tt.Call("lstm", **CUDA), "aten runs on the CPU, this call is on cuda"),
        (tt.Call("lstm", device="meta"), "aten runs on the CPU, this call is on meta"),
        (tt.Call("gru", ragged=True), "aten runs full batches only"),
        (
            tt.Call("gru", extras=("layer_norm", "zoneout")),
            "aten has no kernel for gru with layer_norm, zoneout",
        ),
        (tt.Call("MinGRUCell"), "aten has no kernel for MinGRUCell"),
        (tt.Call("gru", transform="torch.compile"), "aten cannot run under torch.compile"),
        (tt.Call("lstm", autocast=True), "aten does not run an LSTM under autocast"),
        (tt.Call("gru", autocast=True), None),
        (tt.Call("gru", transform="torch.jit.trace"), None),
        (tt.Call("gru", unreadable="a tensor is a TwoTensor"), None),
        (
            tt.Call("gru", unreadable="a tensor is zeros without memory"),
            "aten reads memory, and a tensor is zeros",
        ),
    ],
    ids=str,
)
def test_what_aten_refuses_and_why(call: tt.Call, reason: str | None) -> None:
    found = AtenBackend().refusal(call)
    assert found is None if reason is None else found is not None and found.startswith(reason)
    assert dispatch.choose(call).name == ("aten" if reason is None else "reference")
    if found is not None:
        with pytest.raises(BackendError) as error:
            dispatch.choose(call, "aten")
        assert str(error.value) == f"backend 'aten' was asked for by name: {found}"


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (tt.Call("lstm", **CUDA), None),
        (tt.Call("lstm", ragged=True, dtype=torch.bfloat16, **CUDA), None),
        (tt.Call("lstm"), "cudnn runs on CUDA, this call is on cpu"),
        (tt.Call("lstm", dtype=torch.complex64, **CUDA), "cudnn has no recurrence for torch.complex64"),
        (tt.Call("lstm", ragged=True, empty_rows=True, **CUDA), "cudnn cannot run a row of length zero"),
        (
            tt.Call("rnn", extras=("nonlinearity=sigmoid",), **CUDA),
            "cudnn has no kernel for rnn with nonlinearity=sigmoid",
        ),
        (tt.Call("LeakyCell", **CUDA), "cudnn has no kernel for LeakyCell"),
        (tt.Call("lstm", transform="torch.func", **CUDA), "cudnn cannot run under torch.func"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("with_cuda")
def test_what_cudnn_refuses_and_why(call: tt.Call, reason: str | None) -> None:
    assert CudnnBackend().refusal(call) == reason
    chosen = dispatch.choose(call).name
    assert chosen == "cudnn" if reason is None else chosen != "cudnn"
    if reason is not None:
        with pytest.raises(BackendError) as error:
            dispatch.choose(call, "cudnn")
        assert str(error.value) == f"backend 'cudnn' was asked for by name: {reason}"


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (tt.Call("lstm"), None),
        (tt.Call("gru", ragged=True, empty_rows=True, dtype=torch.float64), None),
        (
            tt.Call(
                "lstm", ("layer_norm", "zoneout", "peepholes", "recurrent_dropout", "different hidden sizes")
            ),
            None,
        ),
        (tt.Call("gru", ("reset_after=False",), transform="torch.compile"), None),
        (tt.Call("lstm", **CUDA), "native runs on the CPU, this call is on cuda"),
        (tt.Call("MinGRUCell"), "native has no kernel for MinGRUCell"),
        (tt.Call("gru", ("layer_norm", "magic")), "native has no kernel for gru with magic"),
        (
            tt.Call("gru", dtype=torch.float16),
            "native computes in float32, float64 and bfloat16, this call is in float16",
        ),
        (tt.Call("gru", transform="torch.func"), "native cannot run under torch.func"),
        (tt.Call("gru", transform="torch.jit.trace"), "native cannot run under torch.jit.trace"),
        (
            tt.Call("gru", transform="torch.compile", dtype=torch.bfloat16),
            "native computes in float32 and float64 only under torch.compile, without autocast",
        ),
        (
            tt.Call("gru", unreadable="a tensor is a TwoTensor"),
            "native reads memory, and a tensor is a TwoTensor",
        ),
    ],
    ids=str,
)
def test_what_native_refuses_and_why(call: tt.Call, reason: str | None) -> None:
    assert NativeBackend().refusal(call) == reason


def test_which_tensors_are_no_plain_memory() -> None:
    dense = torch.randn(3, 4)
    assert (
        dispatch.unreadable([dense, None, torch.nn.Parameter(dense), dense.t(), torch.zeros(0), dense[:0]])
        == ""
    )
    assert (
        dispatch.unreadable([dense, torch._efficientzerotensor((2,))]) == "a tensor is zeros without memory"
    )
    assert dispatch.unreadable([dense, dense.to_sparse()]) == "a tensor is not dense"
    assert dispatch.unreadable([dense.to("meta")]) == ""  # another device is another reason
    subclass = type("Named", (torch.Tensor,), {})
    assert dispatch.unreadable([dense.as_subclass(subclass)]) == "a tensor is a Named"
    freed = dense.clone()
    freed.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"must have memory, got a tensor \[3, 4\] whose storage is empty"):
        dispatch.unreadable([dense, freed])


def test_a_machine_without_the_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reason = "torch sees no CUDA device"
    assert CudnnBackend().unavailable() == reason
    assert dispatch.choose(tt.Call("lstm", **CUDA)).name == "reference"
    with pytest.raises(BackendError, match=reason):
        dispatch.choose(tt.Call("lstm", **CUDA), "cudnn")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with torch.backends.cudnn.flags(enabled=False):
        assert CudnnBackend().unavailable() == "torch.backends.cudnn.enabled is False"


def test_the_reference_refuses_nothing() -> None:
    everything = tt.Call("X", ("y",), "meta", torch.complex64, True, True, "torch.func", True, True)
    assert dispatch.choose(everything).name == "reference"


def test_a_block_demands_a_backend_nests_and_restores_after_errors() -> None:
    call = tt.Call("lstm")
    with tt.use_backend("reference"):
        assert dispatch.choose(call).name == "reference"
        with tt.use_backend("aten"):
            assert dispatch.choose(call).name == "aten"
        assert dispatch.choose(call).name == "reference"
        with tt.use_backend(None):
            assert dispatch.choose(call).name == "aten"
        with pytest.raises(KeyError), tt.use_backend("aten"):
            raise KeyError
        assert dispatch.choose(call).name == "reference"
        assert dispatch.choose(call, "aten").name == "aten"
    assert dispatch.choose(call).name == "aten"


def test_a_block_is_of_its_own_thread() -> None:
    seen: list[str] = []
    with tt.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(dispatch.choose(tt.Call("lstm")).name))
        thread.start()
        thread.join()
    assert seen == ["aten"]


def test_an_unknown_backend_is_named_with_the_nearest() -> None:
    for make in (lambda: tt.LSTM(3, 5, backend="refrence"), lambda: tt.use_backend("refrence").__enter__()):
        with pytest.raises(
            InputError, match=r"backend must be one of cudnn, .*reference, .* Did you mean 'reference'"
        ):
            make()


def ran_by(monkeypatch: pytest.MonkeyPatch, layer: Any, *args: Any, **keywords: Any) -> str:
    """The backend that a layer's call went to: whether torch's fused recurrences were called."""
    called: list[str] = []
    original = aten.run
    monkeypatch.setattr(aten, "run", lambda *a: (called.append("aten"), original(*a))[1])
    layer(*args, **keywords)
    monkeypatch.setattr(aten, "run", original)
    return called[0] if called else "reference"


def test_a_layer_s_own_backend_goes_before_the_block_s(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(7, 3, 5)
    assert ran_by(monkeypatch, tt.LSTM(5, 13), x) == "aten"
    assert ran_by(monkeypatch, tt.LSTM(5, 13, backend="reference"), x) == "reference"
    with tt.use_backend("reference"):
        assert ran_by(monkeypatch, tt.LSTM(5, 13), x) == "reference"
        assert ran_by(monkeypatch, tt.LSTM(5, 13, backend="aten"), x) == "aten"
    with (
        tt.use_backend("aten"),
        pytest.raises(BackendError, match="aten has no kernel for lstm with peepholes"),
    ):
        tt.LSTM(5, 13, peepholes=True)(x)
    assert ran_by(monkeypatch, tt.LSTM(5, 13), x, lengths=torch.tensor([7, 2, 0])) == "reference"


@pytest.mark.parametrize(
    ("layer", "extras"),
    [
        (tt.RNN(5, 13), ()),
        (tt.RNN(5, 13, nonlinearity="relu"), ()),
        (tt.RNN(5, 13, nonlinearity="sigmoid"), ("nonlinearity=sigmoid",)),
        (tt.GRU(5, 13, reset_after=False), ("reset_after=False",)),
        (tt.LSTM(5, 13, proj_size=4), ()),
        (tt.LSTM(5, 13, peepholes=True, layer_norm=True), ("layer_norm", "peepholes")),
        (tt.LSTM(5, 13, zoneout=(0.0, 0.1), recurrent_dropout=0.1), ("recurrent_dropout", "zoneout")),
        (tt.GRU(5, [13, 4], 2), ("different hidden sizes",)),
        (tt.GRU(5, 13, 2, init="orthogonal", dropout=0.5), ()),
    ],
)
def test_a_layer_describes_its_call(layer: Any, extras: tuple[str, ...]) -> None:
    call = layer.call(torch.randn(7, 3, 5))
    projected = layer.proj_size > 0
    assert call == tt.Call(type(layer).__name__.lower(), extras, projected=projected)
    assert dispatch.choose(call).name == ("reference" if extras else "aten")
    ragged = layer.call(torch.randn(7, 3, 5, device="meta", dtype=torch.float64), torch.tensor([7, 0, 2]))
    assert ragged == tt.Call(
        call.cell, extras, "meta", torch.float64, ragged=True, empty_rows=True, projected=projected
    )
    assert not layer.call(torch.randn(7, 3, 5), torch.tensor([7, 1, 2])).empty_rows


def test_the_report_says_who_runs_and_why_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    report = tt.backends()
    assert [row[:2] for row in report.rows] == [("cudnn", False), ("aten", True), ("reference", True)]
    lines = str(report).splitlines()
    assert len(lines) == 4 and repr(report) == str(report)
    assert "no" in lines[1] and lines[1].endswith("torch sees no CUDA device")
    explained = tt.backends(tt.LSTM(5, 13, peepholes=True).call(torch.randn(7, 3, 5)))
    assert [row[1] for row in explained.rows] == [False, False, True]
    assert explained.rows[1][2] == "aten has no kernel for lstm with peepholes"
