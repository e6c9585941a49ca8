"""Where the data of a training is from: validation and test files, limits, bad rows, weights of another run, patience."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import throughtime as tt
from throughtime.runs import Run

Fails = Callable[..., str]
SIZES = [
    "--hidden",
    "8",
    "--embedding",
    "5",
    "--batch",
    "8",
    "--steps",
    "6",
    "--device",
    "cpu",
    "--no-baselines",
]


@pytest.fixture
def csv_file(tmp_path: Path) -> Callable[[str, int], Path]:
    """A CSV file of so many rows in which a mood decides the label."""

    def write(name: str, rows: int, *more: str) -> Path:
        lines = [f"{'good' if n % 2 else 'bad'} {name} {n},{'yes' if n % 2 else 'no'}" for n in range(rows)]
        file = tmp_path / f"{name}.csv"
        file.write_text("\n".join(["text,label", *lines, *more]) + "\n")
        return file

    return write


def test_a_text_has_validation_and_test_files_of_its_own(
    command, text: Path, tmp_path: Path, small, line: str
) -> None:
    (tmp_path / "v.txt").write_text(line * 3)
    (tmp_path / "t.txt").write_text(line[:40])
    run = tmp_path / "run"
    options = ["--validation", tmp_path / "v.txt", "--test", tmp_path / "t.txt", "--steps", 2]
    ended = command("train", "text", text, *small, *options, "--out", run)
    assert ended.status == 0, ended.err
    assert "2,600 characters to train on, 195 for validation, 40 for test" in ended.out
    rows = [line.split()[0] for line in ended.out.splitlines() if "this model" in line]
    assert rows == ["validation", "test"]
    assert [Path(source.path).name for source in Run.open(run).assets.sources] == [
        "book.txt",
        "t.txt",
        "v.txt",
    ]
    assert "39 characters" in command("evaluate", run, "--split", "test").out
    assert "194 characters" in command("evaluate", run).out


def test_a_text_has_a_test_fraction_at_its_end(command, text: Path, tmp_path: Path, small) -> None:
    run = tmp_path / "run"
    options = ["--validation", 0.2, "--test", 0.1, "--limit", 1000, "--steps", 2]
    ended = command("train", "text", text, *small, *options, "--out", run)
    assert "700 characters to train on, 200 for validation, 100 for test" in ended.out
    trained = tt.load(run)
    ids = {split: trained.task.ids(trained.assets, split) for split in ("train", "validation", "test")}
    assert trained.assets.vocabulary.decode(torch.cat(list(ids.values()))) == text.read_text()[:1000]


def test_a_classifier_has_validation_and_test_files_of_its_own(command, csv_file, tmp_path: Path) -> None:
    files = {name: csv_file(name, rows) for name, rows in (("data", 30), ("check", 10), ("final", 4))}
    run = tmp_path / "run"
    options = ["--validation", files["check"], "--test", files["final"]]
    ended = command("train", "classify", "--data", files["data"], *SIZES, *options, "--out", run)
    assert ended.status == 0, ended.err
    assert "30 texts to train on, 10 for validation, 4 for test; 2 labels" in ended.out
    assert "4 texts" in command("evaluate", run, "--split", "test").out
    assert {name: len(part) for name, part in Run.open(run).assets.splits.items()} == {
        "train": 30, "validation": 10, "test": 4,
    }  # fmt: skip


def test_a_classifier_has_fractions_and_a_limit(command, csv_file, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--validation", 0.2, "--test", 0.3, "--limit", 40]
    ended = command("train", "classify", "--data", csv_file("data", 90), *SIZES, *options, "--out", run)
    assert "20 texts to train on, 8 for validation, 12 for test" in ended.out
    ended = command(
        "train", "classify", "--data", csv_file("data", 90), *SIZES, "--test", 0, "--out", tmp_path / "two"
    )
    assert "81 texts to train on, 9 for validation, 0 for test" in ended.out
    assert "has no test part" in command("evaluate", tmp_path / "two", "--split", "test").err


def test_texts_that_are_in_two_files_are_said(command, csv_file, tmp_path: Path) -> None:
    data = csv_file("data", 30)
    ended = command("train", "classify", "--data", data, *SIZES, "--test", data, "--out", tmp_path / "run")
    assert ended.status == 0, ended.err
    said = next(line for line in ended.out.splitlines() if line.startswith("data"))
    assert "also" in said or "both" in said or "same" in said, said


def test_a_label_that_is_not_trained_on_is_refused(fails: Fails, csv_file, tmp_path: Path) -> None:
    test = csv_file("final", 4, "so so,maybe")
    said = fails(
        "train", "classify", "--data", csv_file("data", 30), *SIZES, "--test", test, "--out", tmp_path / "run"
    )
    assert "the test part has labels that the model cannot give ('maybe')" in said
    assert not (tmp_path / "run").exists()


def test_bad_rows_are_refused_or_left_out_and_counted(
    command, fails: Fails, csv_file, tmp_path: Path
) -> None:
    data = csv_file("data", 30, "one field", ",yes", "a,b,c")
    arguments = ["train", "classify", "--data", data, *SIZES, "--out", tmp_path / "run"]
    said = fails(*arguments)
    assert said.startswith(f"{data}:32: expected 2 fields (text, label), got 1: ")
    assert "--skip-bad" in said
    assert not (tmp_path / "run").exists()
    ended = command(*arguments, "--skip-bad")
    assert ended.status == 0, ended.err
    assert "24 texts to train on, 3 for validation, 3 for test" in ended.out
    assert f"{data}: 3 bad rows skipped; the first is {data}:32: " in ended.out
    assert command("evaluate", tmp_path / "run").status == 0  # and are left out again


@pytest.mark.parametrize("task", ["text", "classify"])
def test_training_starts_from_the_weights_of_another_run(
    command, runs, text: Path, reviews: Path, csv_file, tmp_path: Path, task: str
) -> None:
    """On other data: with the other run's vocabulary, labels and model settings, none of which need be typed."""
    run, data = tmp_path / "run", tmp_path / "other.txt"
    if task == "text":
        data.write_text("the dog sleeps. the fox jumps.\n" * 20)
    else:
        data = tmp_path / "new.csv"
        data.write_text("text,label\n" + "a new good one,good\nold and bad,bad\n" * 1 + "".join(
            f"great {n},good\nawful {n},bad\n" for n in range(12)))  # fmt: skip
    options = [
        "--data",
        data,
        "--lr",
        "1e-9",
        "--steps",
        1,
        "--batch",
        2,
        "--device",
        "cpu",
        "--no-baselines",
    ]
    window = ["--bptt", "truncated:7"] if task == "text" else []
    ended = command("train", task, *options, *window, "--init-from", runs[task], "--out", run)
    assert ended.status == 0, ended.err
    ours, theirs = Run.open(run), Run.open(runs[task])
    assert ours.config["model"] == theirs.config["model"]
    assert ours.assets.vocabulary.to_json() == theirs.assets.vocabulary.to_json()
    assert ours.assets.labels == theirs.assets.labels
    assert ours.config["training"]["init_from"] == str(runs[task])
    # After one step at no learning rate the weights are those it started from.
    before, after = theirs.load_model(), ours.load_model()
    for name, value in after.items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)
    assert command("train", task, "--resume", "--out", run).status == 0


def test_weights_of_another_model_are_refused(
    fails: Fails, runs, text: Path, reviews: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    start = ["train", "text", "--data", text, "--out", run]
    assert "is a run of the task 'classify', not of 'text'" in fails(*start, "--init-from", runs["classify"])
    assert "no such run" in fails(*start, "--init-from", tmp_path / "none")
    said = fails(*start, "--init-from", runs["text"], "--hidden", 14)
    assert "init_from needs a model of the same settings and vocabulary" in said or "--init-from" in said
    assert not run.exists()


def test_patience_ends_a_training_that_no_longer_improves(command, quick, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--steps", 200, "--lr", "1e-12", "--evaluate-every", 2, "--patience", 3]
    ended = command(*quick["classify"], *options, "--no-baselines", "--out", run)
    assert (ended.status, ended.err) == (0, "")
    said = next(line for line in ended.out.splitlines() if "stopped early" in line)
    assert said.endswith("3 evaluations without an improvement (patience)")
    evaluations = [record for record in Run.open(run).history() if record["kind"] == "evaluation"]
    assert [record["best"] for record in evaluations][-3:] == [False, False, False]
    assert evaluations[-1]["step"] < 200
    # It is complete: there is nothing to continue.
    again = command("train", "classify", "--resume", "--out", run)
    assert again.status == 0
    assert "the training is complete" in again.out
    ended = command(
        *quick["classify"], *options[:-2], "--steps", 20, "--no-baselines", "--out", tmp_path / "whole"
    )
    assert "stopped early" not in ended.out and "20 steps in " in ended.out
