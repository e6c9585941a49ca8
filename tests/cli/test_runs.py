"""`throughtime runs`: what is there, and how two of them differ."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from throughtime.runs import Run


def table(text: str) -> dict[str, list[str]]:
    """Rows by their first column; columns are two or more spaces apart."""
    rows = [[cell for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if row}


@pytest.fixture(scope="module")
def folder(runs) -> Path:
    """The folder of the runs of all tasks."""
    return runs["text"].parent


def best(run: Path) -> dict[str, float]:
    records = [
        record for record in Run.open(run).history() if record["kind"] == "evaluation" and record["best"]
    ]
    return records[-1]


def test_a_folder_is_listed(command, runs, folder: Path) -> None:
    ended = command("runs", folder)
    assert (ended.status, ended.err) == (0, "")
    rows = table(ended.out)
    assert set(rows) == {"run", *(str(run) for run in runs.values())}
    main = {"text": "bits_per_character", "classify": "accuracy", "intent": "accuracy"}
    for task, run in runs.items():
        found = rows[str(run)]
        assert found[0] == task
        assert found[1] == {"text": "lstm 13", "classify": "lstm 8", "intent": "gru 8", "echo": "rnn 5"}.get(
            task, "gru 5"
        )
        assert found[2] == ("40" if task == "text" else "6")
        name = main.get(task, "loss")
        assert found[3] == f"{name} {best(run)['metrics'].get(name, best(run)['loss']):.4g}"
    listed = json.loads(command("runs", folder, "--json").out)
    assert [row["run"] for row in listed] == sorted(str(run) for run in runs.values())
    assert {row["task"] for row in listed} == set(runs)


def test_a_damaged_run_does_not_hide_the_others(command, runs, tmp_path: Path) -> None:
    kept, config, history = (
        shutil.copytree(runs["echo"], tmp_path / name) for name in ("kept", "config", "history")
    )
    (config / "config.toml").write_text("[")
    (history / "history.jsonl").write_text('{"kind": "training", "step": null}\n{}\n')
    ended = command("runs", tmp_path)
    assert ended.status == 0 and set(table(ended.out)) == {"run", str(kept)}
    first, second = ended.err.splitlines()
    assert str(config) in first and str(history) in second


def test_without_a_folder_it_is_runs(command, quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*quick["echo"], "--steps", 1).status == 0
    assert "runs/echo11-rnn5" in command("runs").out


def test_two_runs_are_compared_by_what_differs(command, quick, runs, tmp_path: Path) -> None:
    other, picture = tmp_path / "other", tmp_path / "c.png"
    assert command(*quick["classify"], "--hidden", 9, "--lr", 0.01, "--steps", 4, "--out", other).status == 0
    ended = command("runs", runs["classify"], other, "--png", picture)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.endswith(f"Written: {picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = table(ended.out)
    assert rows["model.hidden"] == ["8", "9"]
    assert rows["training.lr"] == ["0.003", "0.01"]
    assert rows["training.steps"] == rows["steps"] == ["6", "4"]
    assert not {"training.batch", "classify.data", "task", "command", "best loss"} & set(rows)
    assert rows["best validation loss"] == [f"{best(run)['loss']:.4g}" for run in (runs["classify"], other)]
    assert rows["best accuracy"] == [
        f"{best(run)['metrics']['accuracy']:.4g}" for run in (runs["classify"], other)
    ]
    found = json.loads(command("runs", runs["classify"], other, "--json").out)
    assert {row[""]: row[str(other)] for row in found}["model.hidden"] == "9"


def test_runs_of_different_tasks_are_compared(command, runs) -> None:
    rows = table(command("runs", runs["text"], runs["echo"], runs["classify"]).out)
    assert rows["task"] == ["text", "echo", "classify"]
    assert rows["model.cell"] == ["lstm", "rnn", "lstm"]


def test_what_is_no_run_is_one_line(fails, runs, tmp_path: Path) -> None:
    assert "no such folder" in fails("runs", tmp_path / "none")
    assert "there is no run in" in fails("runs", tmp_path)
    assert "no such run" in fails("runs", runs["text"], tmp_path / "none")
    assert "not a run" in fails("runs", runs["text"], tmp_path)
    assert "--png draws the histories of runs that are compared" in fails(
        "runs", runs["text"].parent, "--png", "c.png"
    )
    assert "must end in .png" in fails("runs", runs["text"], runs["echo"], "--png", tmp_path / "c.txt")
