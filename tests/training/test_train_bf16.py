"""`--precision bf16`: it trains on the layers' fast backend, resumes to the same bits, and evaluates."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from throughtime.kernels import dispatch
from throughtime.kernels.native import library
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import train

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("settings", [{}, {"dropout": 0.3, "layers": 2, "layer_norm": True}], ids=str)
def test_it_resumes_to_the_same_bits(cell, settings, make, weights, without_times, Recording):
    reference = make("reference", precision="bf16", cell=cell, **settings)
    result = train(*reference)
    task, config, run = make("a run", precision="bf16", cell=cell, **settings)
    report = Recording(lambda progress: os.kill(os.getpid(), signal.SIGINT) if progress.step == 1 else None)
    with pytest.raises(Interrupted):
        train(task, config, run, report=report)
    resumed = train(task, config, run, resume=True)
    assert resumed.loss == result.loss
    assert weights(run) == weights(reference[2])
    assert without_times(run.history()) == without_times(reference[2].history())


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_it_learns_what_float32_learns_and_runs_on_native(cell, make, monkeypatch):
    calls, choose = [], dispatch.choose

    def watch(call, demanded=None):
        chosen = choose(call, demanded)
        calls.append((call.autocast, chosen.name))
        return chosen

    monkeypatch.setattr(dispatch, "choose", watch)
    task, config, run = make(precision="bf16", cell=cell, steps=60)
    result = train(task, config, run)
    assert set(calls) == {(True, "native")}  # windows and validations
    assert all(value.dtype == torch.float32 for value in run.load_model().values())
    exact = train(*make("fp32", cell=cell, steps=60))
    assert result.loss != exact.loss
    assert result.loss == pytest.approx(exact.loss, rel=0.01)  # bfloat16 has 8 bits
    losses = [record["loss"] for record in run.history() if "lr" in record]
    assert losses[-1] < losses[0] - 0.1
