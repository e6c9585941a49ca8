"""Calls, shared cores, randomized truncation and CUDA: what is kept is what was measured, and what is wrong is not measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))  # `benchmarks` is not installed: it is run from a checkout

from benchmarks.plan import QUICK

from benchmarks import calls, gpu, randomized, shared
from throughtime.bench.recurrences import CELLS, Shape

ONE = QUICK._replace(calls_busy=(0,), shared_busy=(0,))


def test_the_arithmetic_of_a_call():
    """By hand: a 2-layer GRU of 5 features and 7 units, 4 steps of 3 rows."""
    case = calls.Case(calls.INFERENCE, "GRU", 2, Shape(4, 3, 5, 7))
    asked = []

    def bandwidth(size):
        asked.append(size)
        return 1e6

    operations = 2 * 4 * 3 * 3 * 7 * (5 + 7) + 2 * 4 * 3 * 3 * 7 * (7 + 7)
    read = 4 * (3 * 7 * 5 + 4 * 3 * 7 * 7) + 4 * (3 * 7 * 7 + 4 * 3 * 7 * 7)
    found = calls.arithmetic(case, 1e9, bandwidth)
    assert found["operations"] == pytest.approx(operations / 1e9)
    assert found["reading"] == pytest.approx(read / 1e6) == found["seconds"]
    assert asked == [4 * 3 * 7 * (5 + 7 + 7 + 7)]
    found = calls.arithmetic(case._replace(mode=calls.TRAINING), 1e3, bandwidth)
    assert found["operations"] == pytest.approx(3 * operations / 1e3) == found["seconds"]
    assert found["reading"] == pytest.approx(2 * read / 1e6)


def test_calls_keep_what_is_shown():
    results = calls.measure(QUICK, 1e9)
    cases = {(r["mode"], r["cell"], r["layers"], *r["shape"]) for r in results}
    assert len(cases) == 2 * (2 * len(QUICK.calls) + len(QUICK.short))
    assert len(results) == 2 * len(cases)
    assert {result["busy"] for result in results} == {0, 1}
    for result in results:
        median = {name: timing["median"] for name, timing in result["timings"].items()}
        assert result["ratios"]["torch"] == pytest.approx(median["torch"] / median["ours"])
        assert result["beyond"] == pytest.approx(median["ours"] - result["arithmetic"]["seconds"])
        assert all(error < 1e-4 for error in result["errors"].values())
        timing = result["timings"]["ours"]
        assert timing["disturbed"] is False or result["busy"] == 0
    head, rows = calls.table(results)
    assert len(rows) == len(cases)
    assert head.count("ours") == head.count("ours, 1 busy") == 1
    assert "Inference, 1 busy: geometric mean" in calls.summary(results)


def test_a_state_that_is_not_carried_is_seen(monkeypatch):
    """As is a call that writes over what an earlier one returned."""

    class Forgetful(CELLS["GRU"][0]):
        def forward(self, input, hx=None, **keywords):
            return super().forward(input, None, **keywords)

    class Reused(CELLS["GRU"][0]):
        kept = None

        def forward(self, input, hx=None, **keywords):
            y, hx = super().forward(input, hx, **keywords)
            self.kept = y if self.kept is None else self.kept.copy_(y)
            return self.kept, hx

    for wrong in (Forgetful, Reused):
        monkeypatch.setitem(CELLS, "GRU", (wrong, nn.GRU, 3))
        with pytest.raises(ArithmeticError, match=r"GRU .* of ours is wrong, so it is not measured"):
            calls.measure(ONE._replace(short=()), 1e9)


def test_shared_keeps_what_is_shown_and_leaves_the_threads_as_they_were():
    before = torch.get_num_threads()
    results = shared.measure(QUICK)
    assert torch.get_num_threads() == before
    assert [(r["what"], r["busy"]) for r in results] == [
        (what, number) for what in (shared.TRAINING, shared.GENERATION) for number in (0, 1)
    ]
    for result in results:
        median = {name: timing["median"] for name, timing in result["timings"].items()}
        for name, ratio in result["two_over_one"].items():
            assert ratio == pytest.approx(median[f"{name} 2"] / median[f"{name} 1"])
        assert ("torch" in result["two_over_one"]) == ("ratio" in result) == (result["what"] == "training")
        assert all(timing["rejected"] == 0 for timing in result["timings"].values())
    assert shared.summary(results).startswith("0 busy: with two threads at most ")


def test_every_side_runs_with_its_number_of_threads():
    seen = []
    shared._time(ONE, {"ours": lambda: seen.append(torch.get_num_threads())})
    assert set(seen) == {1, 2}


def test_randomized_is_compared_on_the_same_cuts(monkeypatch):
    results = randomized.measure(QUICK)
    for result in results:
        median = {name: timing["median"] for name, timing in result["timings"].items()}
        assert set(result["over_full"]) == {"truncated:35", "randomized:35", "polynomial:35"}
        for name, ratio in result["over_full"].items():
            assert ratio == pytest.approx(median[name] / median["full"])
        assert all(error < 1e-4 for error in result["errors"].values())
    assert "from H = 256 on" not in randomized.summary(results)
    wide = [{**results[0], "shape": [350, 16, 256, 256], "over_full": {"randomized:35": 1.05}}, results[1]]
    assert randomized.summary(wide).endswith("and from H = 256 on at most 1.05 times.")
    # Other cuts are another gradient.
    monkeypatch.setattr(
        randomized, "STRATEGIES", {"full": randomized.STRATEGIES["full"], "randomized:35": Drifting(2)}
    )
    with pytest.raises(ArithmeticError, match="randomized:35 of LSTM"):
        randomized.measure(QUICK)


class Drifting(randomized.bptt.Randomized):
    """Ignores the seed that it is given."""

    def backward(self, *arguments, generator, **keywords):
        return super().backward(*arguments, **keywords)


def test_the_suite_for_cuda_runs_but_for_the_device():
    """The same code on the CPU: every cell, option and mode is verified and timed."""
    results = gpu.measure(QUICK, device="cpu")
    assert {(r["cell"], r["option"]) for r in results if r["mode"] == "training"} == {
        *((cell, gpu.PLAIN) for cell in CELLS),
        *((cell, name) for name, (cells, _) in gpu.OPTIONS.items() for cell in cells),
    }
    assert {r["cell"] for r in results if r["mode"] == "inference"} == set(CELLS)
    for result in results:
        median = {name: timing["median"] for name, timing in result["timings"].items()}
        assert result["ratio"] == pytest.approx(median["torch"] / median["ours"])
    head, rows = gpu.table(results)
    assert all(len(row) == len(head) for row in rows)
    assert gpu.summary(results).startswith("Plain layers: torch.nn / ours ")
