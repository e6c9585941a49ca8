"""`throughtime train adding | copy | echo` and `throughtime compare remedies`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from throughtime.runs import Run

Fails = Callable[..., str]
QUICK = ["--steps", "6", "--hidden", "5", "--batch", "3", "--validation", "20", "--device", "cpu"]


@pytest.mark.parametrize(
    ("problem", "levels"),
    [
        ("adding", "0.1667 always saying 1, 0.0000 remembering"),
        ("copy", "0.6708 blanks, then guessing, 0.0000 remembering"),  # 10 ln 8 / 31
        ("echo", "0.6616 knowing nothing, 0.5192 knowing 3 steps back, 0.4545 knowing 3 and 8 steps back"),
    ],
)
def test_every_loss_stands_beside_those_that_mean_something(
    command, tmp_path: Path, problem: str, levels: str
) -> None:
    run = tmp_path / "run"
    ended = command("train", problem, "--length", 11, *QUICK, "--out", run)
    assert (ended.status, ended.err) == (0, "")
    steps = 31 if problem == "copy" else 11
    assert f"{problem}, T = 11: {steps} steps a sequence" in ended.out
    assert ended.out.count(levels) == 2
    first = levels.split()[0]
    for line in ended.out.splitlines():
        if line.startswith("step "):
            assert f"(knowing nothing {first}, optimum " in line
    assert "step 6, validation: loss" in ended.out
    assert "knowing nothing" in ended.out.splitlines()[-2]
    found = tomllib.loads((run / "config.toml").read_text())
    assert (found["memory"]["problem"], found["memory"]["length"]) == (problem, 11)
    assert found["training"]["window"] == steps
    assert Run.open(run).load_model()


def test_options_reach_the_settings_and_resume_holds_to_them(command, fails: Fails, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (
        "--length 9 --validation 20 --cell lstm --hidden 7 --layers 2 --init orthogonal --forget-bias 1 --bptt truncated:4 "
        "--clip value:0.1 --optimizer sgd --lr 0.5 --schedule constant --batch 2 --steps 3 --seed 7 --device cpu "
        "--evaluate-every 2 --checkpoint-seconds 9"
    )
    assert command("train", "adding", *options.split(), "--out", run).status == 0
    found = tomllib.loads((run / "config.toml").read_text())
    model = found["model"]
    assert (model["cell"], model["hidden"], model["layers"], model["init"], model["forget_bias"]) == (
        "lstm", 7, 2, "orthogonal", 1.0,
    )  # fmt: skip
    training = found["training"]
    assert (training["bptt"], training["clip"], training["lr"], training["seed"]) == (
        "truncated:4", "value:0.1", 0.5, 7,
    )  # fmt: skip
    assert command("train", "adding", "--resume", "--out", run, "--hidden", 7).status == 0
    assert "--hidden contradicts the run" in fails("train", "adding", "--resume", "--out", run, "--hidden", 8)
    assert "use 'throughtime train adding'" in fails("train", "copy", "--resume", "--out", run)
    assert "--resume needs the run" in fails("train", "adding", "--resume")
    assert "--config cannot be given" in fails(
        "train", "adding", "--resume", "--out", run, "--config", run / "config.toml"
    )


def test_a_runs_own_file_trains_the_same_again(command, fails: Fails, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert command("train", "echo", "--length", 11, *QUICK, "--out", first).status == 0
    config = first / "config.toml"
    assert command("train", "echo", "--config", config, "--out", second).status == 0
    ours, theirs = Run.open(first).load_model(), Run.open(second).load_model()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert "use 'throughtime train echo'" in fails(
        "train", "copy", "--config", config, "--out", tmp_path / "c"
    )
    third = tmp_path / "third"
    assert command("train", "echo", "--config", config, "--minutes", 0.001, "--out", third).status == 0
    training = tomllib.loads((third / "config.toml").read_text())["training"]
    assert "steps" not in training and training["minutes"] == 0.001


def test_a_run_without_a_name_gets_one_that_is_free(command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("adding7-gru5", "adding7-gru5-2"):
        ended = command("train", "adding", "--length", 7, *QUICK)
        assert f"runs/{name}" in ended.out
        assert Run.open(tmp_path / "runs" / name).load_model()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["adding", "--length", "1"], "length must be at least 2"),
        (["echo", "--length", "8"], "length must be at least 9"),
        (["copy", "--length", "0"], "--length must be at least 1"),
        (["adding", "--cell", "lst"], "Did you mean 'lstm'"),
        (["adding", "--cell", "gru", "--forget-bias", "1"], "--forget-bias 1.0 is a setting of lstm"),
        (["adding", "--bptt", "ful"], "Did you mean 'full'"),
        (["adding", "--steps", "3", "--minutes", "1"], "the end is one of steps, epochs and minutes"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_there_is_a_run(
    fails: Fails, tmp_path: Path, arguments: list[str], line: str
) -> None:
    run = tmp_path / "run"
    assert line in fails("train", *arguments, "--out", run)
    assert not run.exists()


def test_text_commands_refuse_such_a_run_in_one_line(command, fails: Fails, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert command("train", "adding", "--length", 7, *QUICK, "--out", run).status == 0
    assert "is not the run of a language model" in fails("generate", run)


REMEDIES = ["compare", "remedies", "--length", "5", "--steps", "2", "--seeds", "1", "--jobs", "1"]


@pytest.mark.filterwarnings("default")  # matplotlib may warn of its own dependencies
def test_the_remedies_in_a_table_a_file_and_a_picture(command, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "deep" / "folder"
    ended = command(*REMEDIES, "--out", out)
    assert ended.status == 0, ended.err
    for name in ("RNN tanh, orthogonal", "GRU", "LSTM, forget bias 1", "T = 5", "half-life in steps"):
        assert name in ended.out
    assert ended.err.count("\n") == 8 and "100%" in ended.err
    kept = json.loads((out / "remedies.json").read_text())
    assert len(kept["trials"]) == 8 and kept["complete"]
    assert (out / "remedies.md").read_text().count("\n| ") >= 9
    assert (out / "remedies.png").stat().st_size > 10_000


def test_the_remedies_as_json(command, fails: Fails, tmp_path: Path) -> None:
    found = json.loads(command(*REMEDIES, "--json").out)
    assert [trial["length"] for trial in found["trials"]] == [5] * 8
    assert all(trial["start"]["left"] >= 0 for trial in found["trials"])
    assert "--length must be at least 4 steps each, got 3" in fails("compare", "remedies", "--length", 3)
    (tmp_path / "file").write_text("x")
    assert "cannot write to" in fails(*REMEDIES, "--out", tmp_path / "file")
