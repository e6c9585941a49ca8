"""Generation timed with every side in a process of its own."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # `benchmarks` is not installed: it is run from a checkout

from benchmarks.plan import QUICK

from benchmarks import apart, generation, generators, onnx_peer


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_one_row_is_timed_in_processes_of_their_own_too():
    results = generation.measure(QUICK._replace(generated=((1, 13),)))
    peers = {"torch.nn"} | ({"onnxruntime"} if onnx_peer.missing() is None else set())
    assert [result["batch"] for result in results if "apart" in result] == [1, 1]
    for result in results:
        assert {"ours", "torch.nn", "cells"} <= set(result["timings"])  # in one process
        if "apart" not in result:
            continue
        found = result["apart"]
        assert set(found["timings"]) == {"ours", *peers}
        assert all(error <= apart.LIMIT for error in found["errors"].values())
        symbol = {name: each["median"] / found["tokens"][name] for name, each in found["timings"].items()}
        assert found["ratios"] == pytest.approx({name: symbol[name] / symbol["ours"] for name in peers})
        for timing in found["timings"].values():
            assert timing["kept"] + timing["rejected"] == apart.ROUNDS * QUICK.least
    head, rows = generation.table(results)
    column = head.index("torch.nn / ours, own processes")
    assert [bool(row[column]) for row in rows] == ["apart" in result for result in results]
    del results[0]["apart"]  # as in results that were kept before there were such figures
    assert generation.table(results)[1][0][column] == ""


def test_every_side_generates_what_the_weights_say():
    weights = generators.Weights("GRU", 2, 7).eval()
    ids = torch.randint(generators.SYMBOLS, (5, 1))
    wanted = generators.make("torch.nn", weights, 1).probabilities(ids)
    for name in ("ours", "cells", *(["onnxruntime"] if onnx_peer.missing() is None else [])):
        torch.testing.assert_close(
            generators.make(name, weights, 1).probabilities(ids), wanted, atol=1e-5, rtol=1e-4
        )


def test_a_process_that_ends_is_not_waited_for():
    side = apart.OwnProcess("onnxrantime", 1)
    with pytest.raises(RuntimeError, match="the process of onnxrantime ended with status 1"):
        side.ask(["LSTM", 1, 5, 1, 4])
    side.end()


def test_a_wrong_side_is_not_timed(monkeypatch, capsys):
    monkeypatch.setattr(apart, "LIMIT", -1.0)
    monkeypatch.setattr(sys, "argv", ["serve", "cells", "1"])
    monkeypatch.setattr(sys, "stdin", io.StringIO('["LSTM", 1, 5, 1, 4]\n'))
    apart.serve()
    answer = capsys.readouterr().out
    streams = SimpleNamespace(stdin=io.StringIO(), stdout=io.StringIO(answer))
    monkeypatch.setattr(apart.subprocess, "Popen", lambda *_, **__: streams)
    with pytest.raises(ArithmeticError, match=r"cells: .* is wrong, so it is not measured"):
        apart.OwnProcess("cells", 1).ask(["LSTM", 1, 5, 1, 4])
