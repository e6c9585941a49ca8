"""Which bfloat16 calls the native backend takes, in which arithmetic, and in which dtypes it answers."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from tests.kernels.instruction_sets import libraries
from tests.kernels.test_native_bf16 import B, D, T, assert_close
from torch.utils.flop_counter import FlopCounterMode

import throughtime as tt
from throughtime.kernels import dispatch
from throughtime.kernels.native import library
from throughtime.kernels.native.recurrence import precision

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")


def test_autocast_takes_what_other_layers_give():
    """bfloat16 inputs, states of either dtype; float64 it leaves alone."""
    layer, x = tt.GRU(D, 13), torch.randn(T, B, D)
    with tt.use_backend("native"), torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            for hx in (None, torch.randn(1, B, 13), torch.randn(1, B, 13, dtype=torch.bfloat16)):
                y, h = layer(x.to(dtype), hx)
                assert (y.dtype, h.dtype) == (torch.bfloat16, torch.float32)
        y, h = tt.GRU(D, 13).double()(x.double())
        assert (y.dtype, h.dtype) == (torch.float64, torch.float64)
        with pytest.raises(
            RuntimeError, match=r"x must be torch\.float64 on the CPU, as the other tensors are"
        ):
            tt.GRU(D, 13).double()(x)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_dispatch_leaves_graphs_and_modes_to_the_reference(name):
    layer = getattr(tt, name)(D, 13).bfloat16()
    x = torch.randn(T, B, D, dtype=torch.bfloat16)
    with FlopCounterMode(display=False):
        y, _ = layer(x)
    assert_close([y], [layer(x)[0]], 0.05)
    for call in (
        layer.call(x)._replace(transform="torch.compile"),
        layer.call(x)._replace(transform="torch.func"),
    ):
        with pytest.raises(tt.BackendError, match=call.transform):
            dispatch.choose(call, "native")


@pytest.mark.skipif(bool(os.environ.get("THROUGHTIME_ISA")), reason="the test needs the portable code")
@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("bf15", "THROUGHTIME_BF16 must be one of off, emulated, tiles, avx512, amx, got 'bf15'"),
        ("amx", "THROUGHTIME_BF16=amx cannot run on this processor with the portable code: leave it away"),
    ],
)
def test_an_arithmetic_that_is_not_there_is_a_reason(wanted, reason, monkeypatch):
    portable = libraries()[-1]
    assert portable.isa == "portable"
    monkeypatch.setenv("THROUGHTIME_BF16", wanted)
    monkeypatch.setattr(precision, "load", lambda: portable)
    precision.arithmetic.cache_clear()
    try:
        layer, x = tt.GRU(3, 5).bfloat16(), torch.zeros(2, 1, 3, dtype=torch.bfloat16)
        layer(x)
        reports = [tt.backends(layer.call(x)), tt.backends(tt.Call("gru")), tt.backends()]
    finally:
        monkeypatch.undo()
        precision.arithmetic.cache_clear()
    lines = [line for report in reports for line in str(report).splitlines() if line.startswith("native")]
    assert lines[0].startswith(f"native     no   {reason}")
    assert lines[1].startswith("native     yes ")  # float32 does not depend on it
    assert reason in lines[2]


def test_the_report_says_which_arithmetic_it_is():
    row = next(row for row in tt.backends().rows if row[0] == "native")
    assert row[2].endswith(f"; {precision.in_words()}") and "; bfloat16 and autocast " in row[2]


AVX512, AMX = precision.NAMES.index("avx512"), precision.NAMES.index("amx")


def test_the_library_chooses_what_was_tested_and_amx_only_by_name():
    for found in libraries():
        choose, can_run = found.handle.tt_bf16_choose, found.handle.tt_bf16_can_run
        for nothing in (None, b""):
            assert choose(nothing) == (AVX512 if can_run(AVX512) else 0)
        assert choose(b"amx") in ((-1, AMX) if can_run(AMX) else (-1,))  # the system may still refuse
        assert [can_run(number) for number in (-1, 0, 1, 2, 5)] == [0, 1, 1, 1, 0]
        if found.isa != "avx512":
            assert not can_run(AVX512) and not can_run(AMX)


@pytest.mark.parametrize(
    ("chosen", "amx", "words"),
    [
        (AVX512, 0, "bfloat16 and autocast with AVX-512-BF16"),
        (
            AVX512,
            1,
            "bfloat16 and autocast with AVX-512-BF16 (AMX is there but untested: THROUGHTIME_BF16=amx to try it)",
        ),
        (
            0,
            1,
            "bfloat16 and autocast in float32 arithmetic "
            "(AMX is there but untested: THROUGHTIME_BF16=amx to try it)",
        ),
        (AMX, 1, "bfloat16 and autocast with AMX"),
    ],
)
def test_the_report_on_a_processor_with_amx(chosen, amx, words, monkeypatch):
    handle = SimpleNamespace(
        tt_bf16_choose=lambda wanted: chosen, tt_bf16_can_run=lambda number: amx and number == AMX
    )
    monkeypatch.setattr(precision, "load", lambda: SimpleNamespace(handle=handle, isa="avx512"))
    precision.arithmetic.cache_clear()
    try:
        assert precision.in_words() == words
    finally:
        monkeypatch.undo()
        precision.arithmetic.cache_clear()
