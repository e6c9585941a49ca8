"""`throughtime compare bptt` and `throughtime compare remedies`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from throughtime.studies import remedies, strategies_run
from throughtime.studies.workers import run_cases

SMALL = ["compare", "bptt", "--quick", "--window", "3", "--steps", "4", "--draws", "4", "--jobs", "1"]
SMALL += ["--strategy", "full", "--strategy", "polynomial:W"]


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    """No measurement of memory: it takes a process for each strategy. Its own test is elsewhere."""

    def here(work, cases, jobs, *, process_each=False):
        return iter((n, 1.5) for n in range(len(cases))) if process_each else run_cases(work, cases, jobs)

    monkeypatch.setattr(strategies_run, "run_cases", here)


def test_strategies_as_a_table_a_file_and_a_picture(command, text: Path, tmp_path: Path):
    out = tmp_path / "new" / "folder"
    ended = command(*SMALL, "--data", text, "--length", "3", "--task-window", "5", "--out", out)
    assert ended.status == 0, ended.err
    assert "book.txt: gru, 32 units, 12 steps an update" in ended.out
    rows = [line for line in ended.out.splitlines() if "full  " in line or "polynomial:" in line]
    assert [word for row in rows[-6:] for word in row.split() if word in ("polynomial:3", "polynomial:5")]
    assert "bias: distance of the mean gradient" in ended.out
    assert "comparing: " in ended.err and "% done" in ended.err
    kept = json.loads((out / "bptt.json").read_text())
    assert [result["strategy"] for result in kept["results"]] == [
        "full",
        "polynomial:3",
        "full",
        "polynomial:5",
    ]
    assert all(len(result["trainings"]) == 1 for result in kept["results"])
    assert (out / "bptt.md").read_text().count("\n| ") == 5
    assert (out / "bptt.png").stat().st_size > 10_000


def test_strategies_as_one_json_object(command, text: Path):
    ended = command(*SMALL, "--data", text, "--task", "none", "--json", "--cell", "rnn", "--seeds", 2)
    values = json.loads(ended.out)
    assert values["complete"] and [problem["name"] for problem in values["problems"]] == ["text"]
    assert values["settings"]["cell"] == "rnn"
    assert [one["seed"] for one in values["results"][1]["trainings"]] == [0, 1]


def test_ctrl_c_keeps_the_finished_strategies(command, text: Path, tmp_path: Path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(strategies_run, "learn", interrupted)
    ended = command(*SMALL, "--data", text, "--task", "none", "--out", tmp_path)
    assert ended.status == 130
    assert ended.err.endswith("throughtime: stopped after 2 gradients and 0 trainings\n")
    assert json.loads((tmp_path / "bptt.json").read_text())["complete"] is False
    assert "no bias is seen over 4 draws" in ended.out


def test_strategies_that_cannot_be_compared_are_one_line(fails, text: Path, tmp_path: Path):
    assert "Did you mean 'copy'?" in fails("compare", "bptt", "--task", "coppy")
    assert "bptt must read truncated:WINDOW" in fails("compare", "bptt", "--strategy", "truncated")
    assert "no such file" in fails("compare", "bptt", "--quick", "--data", tmp_path / "no.txt")
    text_in_the_way = tmp_path / "file"
    text_in_the_way.write_text("")
    assert "choose another --out" in fails("compare", "bptt", "--quick", "--out", text_in_the_way)


REMEDIES = ["compare", "remedies", "--length", "5", "--steps", "2", "--seeds", "1", "--jobs", "1"]


@pytest.mark.filterwarnings("default")  # matplotlib may warn of its own dependencies
def test_remedies_as_a_table_a_file_and_a_picture(command, tmp_path: Path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "folder"
    ended = command(*REMEDIES, "--out", out)
    assert ended.status == 0, ended.err
    assert "adding problem, T = 5: 8 remedies, 32 units" in ended.out
    for name in ("RNN tanh, orthogonal", "GRU", "LSTM, forget bias 1", "T = 5", "half-life in steps"):
        assert name in ended.out
    assert "comparing: " in ended.err and "RNN tanh, T = 5: not learned" in ended.err
    kept = json.loads((out / "remedies.json").read_text())
    assert len(kept["trials"]) == 8 and kept["complete"]
    page = (out / "remedies.md").read_text()
    assert page.count("\n| ") >= 9 and "T = 5: learned by none" in page
    assert (out / "remedies.png").stat().st_size > 10_000


def test_remedies_as_one_json_object(command, fails, tmp_path: Path):
    found = json.loads(command(*REMEDIES, "--json").out)
    assert [trial["length"] for trial in found["trials"]] == [5] * 8
    assert all(trial["start"]["fraction_left"] >= 0 for trial in found["trials"])
    assert "--length must be at least 4, got 3" in fails("compare", "remedies", "--length", 3)
    (tmp_path / "file").write_text("x")
    assert "cannot write to" in fails(*REMEDIES, "--out", tmp_path / "file")


def test_ctrl_c_before_the_first_result_writes_nothing(command, tmp_path: Path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(remedies, "run_trial", interrupted)
    ended = command(*REMEDIES, "--out", tmp_path)
    assert ended.status == 130 and ended.err.endswith("throughtime: stopped before the first result\n")
    assert list(tmp_path.iterdir()) == []
