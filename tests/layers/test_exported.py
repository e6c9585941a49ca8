"""torch.export of the layers: a program with native operators that serves any length, and can be kept in a file."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.export import Dim

import throughtime as tt
from throughtime.kernels.native import library

pytestmark = [
    pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}"),
    # torch itself uses what it has deprecated while it traces.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
T, B, D, H = 7, 3, 5, 13


def operators(program: Any) -> int:
    return sum(node.target == torch.ops.throughtime.recurrence.default for node in program.graph.nodes)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_a_program_serves_any_length_and_any_batch(name: str, strict: bool) -> None:
    layer = getattr(tt, name)(D, H, num_layers=2, bidirectional=True).eval()
    shapes = {"input": {0: Dim("steps"), 1: Dim("rows")}}
    program = torch.export.export(layer, (torch.randn(T, B, D),), dynamic_shapes=shapes, strict=strict)
    assert operators(program) == operators(program.run_decompositions()) == 4
    for steps, rows in ((4, 5), (31, 2)):
        x = torch.randn(steps, rows, D)
        torch.testing.assert_close(program.module()(x), layer(x))


def test_a_program_takes_lengths_and_a_state_and_can_be_trained() -> None:
    layer = tt.LSTM(D, H)
    shapes = {
        "input": {0: Dim("steps"), 1: Dim("rows")},
        "lengths": {0: Dim("rows")},
        "hx": ({1: Dim("rows")},) * 2,
    }
    example = (torch.randn(T, B, D), (torch.randn(1, B, H), torch.randn(1, B, H)))
    program = torch.export.export(
        layer, example, {"lengths": torch.tensor([4, 7, 0])}, dynamic_shapes=shapes
    ).module()
    x, state, lengths = torch.randn(9, 4, D), (torch.randn(1, 4, H), torch.randn(1, 4, H)), [9, 2, 5, 0]
    keywords = {"lengths": torch.tensor(lengths)}
    results = []
    for run, owner in ((layer, layer), (program, program)):
        y, (h, c) = run(x, state, **keywords)
        weights = dict(owner.named_parameters())
        gradients = torch.autograd.grad(
            y.sin().sum() + h.sum() + c.sum(), [weights[n] for n in sorted(weights)]
        )
        results.append([y, h, c, *gradients])
    torch.testing.assert_close(results[1], results[0])


def test_a_saved_program_runs_in_another_process(tmp_path: Any) -> None:
    layer, x = tt.GRU(D, H, num_layers=2).eval(), torch.randn(T, B, D)
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / "layer.pt2")
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch, throughtime.layers; torch.set_num_threads(1); folder = sys.argv[1];"
        "y = torch.export.load(folder + '/layer.pt2').module()(torch.load(folder + '/x.pt'));"
        "torch.save([v.detach() for v in y], folder + '/y.pt')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(torch.equal(a, b) for a, b in zip(torch.load(tmp_path / "y.pt"), layer(x), strict=True))
