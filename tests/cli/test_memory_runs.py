"""`throughtime flow`, `influence` and `evaluate` on runs of adding, copy and echo."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from throughtime.cli import main
from throughtime.cli.measured import names, read_prompt, sample
from throughtime.flow import Flow
from throughtime.runs import Run
from throughtime.tasks import MemoryTask

Fails = Callable[..., str]
QUICK = ["--steps", "6", "--hidden", "5", "--batch", "3", "--validation", "20", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each task, T = 11."""
    folder = tmp_path_factory.mktemp("memory")
    for problem in ("adding", "copy", "echo"):
        where = ["--length", "11", *QUICK, "--out", str(folder / problem)]
        assert main(["train", problem, *where]) == 0
    return {problem: folder / problem for problem in ("adding", "copy", "echo")}


@pytest.mark.parametrize(
    ("problem", "steps", "ends", "level"),
    [
        ("adding", 11, (10,), "0.1667 always saying 1"),  # one loss for a sequence, at its end
        ("copy", 31, tuple(range(21, 31)), "0.6708 blanks, then guessing"),  # where it is said again
        ("echo", 11, (8, 9, 10), "0.6616 knowing nothing"),  # the first eight targets are masked
    ],
)
def test_flow_sends_back_the_losses_that_need_memory(
    command, runs, tmp_path: Path, problem: str, steps: int, ends: tuple[int, ...], level: str
) -> None:
    ended = command("flow", runs[problem], "--batch", 5, "--json", tmp_path / "f.json")
    assert (ended.status, ended.err) == (0, "")
    assert f"5 x {steps} steps" in ended.out and level in ended.out
    found = Flow.from_json((tmp_path / "f.json").read_text())
    assert found.ends == ends
    assert len(found.symbols) == steps and set(found.symbols) <= set("+.abcdefgh_:01")
    # The loss it shows is that of the task.
    model, task = MemoryTask.restore(Run.open(runs[problem]))
    window = next(task.validation(task.steps, 5))
    with torch.no_grad():
        total = task.loss(model(window.inputs)[0], window.targets)
    targets = 5 if problem == "adding" else int((window.targets != -100).sum())
    assert found.loss == pytest.approx(float(total) / targets, rel=1e-5)


def test_symbols_are_those_of_the_sequence(runs) -> None:
    for problem, expected in (
        ("copy", r"[a-h]{10}_{10}:_{10}"),
        ("echo", r"[01]{11}"),
        ("adding", r"[.+]{11}"),
    ):
        chosen = sample(runs[problem])
        assert re.fullmatch(expected, "".join(chosen.symbols)), chosen.symbols
    task = MemoryTask.from_run(Run.open(runs["copy"]))
    inputs, shown, unknown = read_prompt(task, "ah_:", most=9)
    assert (inputs.tolist(), shown, unknown) == ([[0], [7], [8], [9]], ["a", "h", "_", ":"], [])
    assert names(MemoryTask.from_run(Run.open(runs["adding"])), torch.tensor([[0.5, 1.0], [0.5, 0.0]])) == [
        "+",
        ".",
    ]


def test_influence_draws_a_sequence_or_reads_a_prompt(command, fails: Fails, runs) -> None:
    drawn = command("influence", runs["adding"])
    assert drawn.status == 0 and drawn.out.splitlines()[0].count("+") == 2
    read = command("influence", runs["echo"], "--prompt", "0110")
    assert read.out.splitlines()[0].strip() == "0110"
    assert "symbols 01 of echo, got '2'" in fails("influence", runs["echo"], "--prompt", "012")
    assert "adding reads numbers" in fails("influence", runs["adding"], "--prompt", "1")
    assert "must be 1 to 400 symbols, got 401" in fails("influence", runs["echo"], "--prompt", "1" * 401)


def test_evaluate_gives_the_loss_of_the_trainings_own_validation(command, runs) -> None:
    for problem, run in runs.items():
        ended = command("evaluate", run, "--json")
        found = json.loads(ended.out)
        lines = (json.loads(line) for line in (run / "history.jsonl").read_text().splitlines())
        recorded = [line["loss"] for line in lines if line["kind"] == "evaluation"]
        assert found["task"] == problem and found["length"] == 11
        assert found["loss"] == pytest.approx(min(recorded), rel=1e-5)
        said = command("evaluate", run).out
        assert f"{found['loss']:.4f}" in said and "knowing nothing" in said


def test_options_of_text_are_refused(fails: Fails, runs) -> None:
    assert "--data is for runs of text" in fails("flow", runs["echo"], "--data", "book.txt")
    assert "--steps is for runs of text" in fails("flow", runs["adding"], "--steps", 5)
    assert "train with a longer --length" in fails("flow", runs["adding"], "--lags", 11)
    assert "--window is for runs of text" in fails("evaluate", runs["copy"], "--window", 3)
    assert "--weights is for runs of text" in fails("evaluate", runs["copy"], "--weights", "int8")
    assert "--data is for runs of text" in fails("evaluate", runs["copy"], "book.txt")
