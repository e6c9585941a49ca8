"""`throughtime bench`."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from throughtime import bench

QUICK = ["--seconds", "0.001", "--shape", "4,3,5,7"]


@pytest.fixture(autouse=True)
def small_peak(monkeypatch):
    """The products that the peak is measured with take seconds; small ones do as well here."""
    monkeypatch.setattr(bench, "gemm_peak", functools.partial(bench.gemm_peak, 64))


def test_every_cell_is_shown_in_training_and_inference(command):
    ended = command("bench", *QUICK)
    assert ended.status == 0, ended.err
    lines = ended.out.splitlines()
    assert "GEMM peak" in lines[0]
    assert torch.__version__ in lines[0]
    rows = [line.split()[:3] for line in lines if "4,3,5,7" in line]
    assert rows == [[c, "4,3,5,7", m] for c in ("RNN", "GRU", "LSTM") for m in ("training", "inference")]
    assert lines[-1].startswith("Geometric mean of torch.nn / ours: ")


def test_json_is_one_object(command):
    ended = command("bench", *QUICK, "--shape", "2,1,3,3", "--cell", "GRU", "--json")
    report = json.loads(ended.out)
    assert [result["shape"] for result in report["results"]] == [[4, 3, 5, 7]] * 2 + [[2, 1, 3, 3]] * 2
    assert {result["cell"] for result in report["results"]} == {"GRU"}
    assert report["gemm_gflops"] > 0
    assert report["machine"]["threads"] == torch.get_num_threads()


def test_threads_are_set_for_the_command_alone(command):
    before = torch.get_num_threads()
    report = json.loads(command("bench", *QUICK, "--cell", "RNN", "--threads", before + 1, "--json").out)
    assert report["machine"]["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_what_cannot_be_measured_is_one_line(fails):
    assert fails("bench", "--shape", "4,3,5") == (
        "a shape must be T,B,D,H, four whole numbers above 0, got '4,3,5'"
    )
    assert fails("bench", "--cell", "LTSM").endswith("got 'LTSM'. Did you mean 'LSTM'?")
