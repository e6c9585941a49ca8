"""`--resume`: an interrupted training ends with the bits of one that was not, wherever its data is now."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from throughtime.runs import Run
from throughtime.training import trainer


def weights(run: Path) -> dict[str, torch.Tensor]:
    return Run.open(run).load_model()


def same(run: Path, other: Path) -> bool:
    ours, theirs = weights(run), weights(other)
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture
def stopped_after(monkeypatch: pytest.MonkeyPatch):
    """Have Ctrl-C come in after so many steps of the next training."""

    def install(steps: int) -> None:
        after = trainer.Trainer._after_step

        def counted(self: trainer.Trainer) -> None:
            after(self)
            if self.steps == steps:
                os.kill(os.getpid(), signal.SIGINT)
                monkeypatch.setattr(trainer.Trainer, "_after_step", after)

        monkeypatch.setattr(trainer.Trainer, "_after_step", counted)

    return install


def test_ctrl_c_saves_and_says_how_to_continue_to_the_same_bits(
    executable: list[str],
    command,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small: list[str],
) -> None:
    options = ["train", "text", "--data", str(text), *small, "--steps", "300", "--validation", "0"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    monkeypatch.setenv(
        "OMP_NUM_THREADS", "1"
    )  # the same sums, and quick where other tests run beside this one
    process = subprocess.Popen(
        [*executable, *options, "--out", str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("training: "):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.count("\n") == 1
    assert f"throughtime train text --resume --out {run}" in err
    ended = subprocess.run(
        [*executable, "train", "text", "--resume", "--out", str(run)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "continuing from step " in ended.stdout
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert command(*options, "--out", whole).status == 0
    finally:
        torch.set_num_threads(threads)
    assert same(run, whole)


@pytest.mark.parametrize("task", ["text", "classify", "adding", "copy", "echo"])
def test_every_task_continues_to_the_same_bits(
    command, quick, runs, tmp_path: Path, task: str, stopped_after
) -> None:
    run = tmp_path / "run"
    stopped_after(3)
    ended = command(*quick[task], "--out", run)
    assert ended.status == 130
    assert (
        f"interrupted at step 4; all of it is saved, continue with: throughtime train {task} --resume"
        in ended.err
    )
    ended = command("train", task, "--resume", "--out", run)
    assert (ended.status, ended.err) == (0, "")
    assert "continuing from step 4" in ended.out
    assert same(run, runs[task])


@pytest.mark.parametrize(
    ("task", "agrees", "contradicts"),
    [
        ("text", ["--lr", "0.02", "--hidden", 13],
         {"--lr": "0.3", "--epochs": "3", "--tokens": "word", "--validation": "0.2", "--window": "9"}),
        ("classify", ["--hidden", 8, "--test", 0.1], {"--hidden": "9", "--label": "mood", "--split-seed": "1"}),
        ("adding", ["--hidden", 5, "--length", 11], {"--hidden": "8", "--length": "12"}),
    ],
)  # fmt: skip
def test_what_contradicts_the_run_is_refused_by_its_name(
    command, fails, runs, task: str, agrees, contradicts
) -> None:
    run = runs[task]
    again = ["train", task, "--resume", "--out", run]
    assert command(*again).status == 0  # complete already: nothing is trained
    assert command(*again, *agrees).status == 0  # says the same
    for option, value in contradicts.items():
        assert fails(*again, option, value).startswith(
            f"{option} contradicts the run {run}, which was started with "
        )
    assert "--layer-norm contradicts" in fails(*again, "--layer-norm")
    other = "copy" if task == "adding" else "adding"
    assert f"use 'throughtime train {task} --resume'" in fails("train", other, "--resume", "--out", run)


def test_a_setting_is_named_with_its_value(fails, trained: Path) -> None:
    again = ["train", "text", "--resume", "--out", trained]
    assert "was started with --lr 0.02: leave it out, or start a new run" in fails(*again, "--lr", "0.3")
    assert "started with window = its default" in fails(*again, "--window", "9")


def test_resume_needs_a_run_and_no_file_of_settings(fails, trained: Path) -> None:
    again = ["train", "text", "--resume", "--out", trained]
    assert "--config cannot be used with --resume" in fails(*again, "--config", "c.toml")
    assert "--resume needs the run" in fails("train", "text", "--resume")
    assert "leave out --resume to start it" in fails(
        "train", "text", "--resume", "--out", trained / "nowhere"
    )


def test_an_empty_name_is_not_the_current_folder(fails, quick, tmp_path: Path) -> None:
    arguments = ["train", "text", "--out", tmp_path / "run"]
    assert "expected a file or a folder, got an empty name" in fails(*arguments, "--data", "")
    assert "expected the folder of a run, got an empty name" in fails(*quick["echo"], "--init-from", "")


@pytest.mark.parametrize("task", ["text", "classify"])
def test_data_that_was_moved_is_named_with_data(
    command, fails, quick, runs, text: Path, reviews: Path, tmp_path: Path, task: str, stopped_after
) -> None:
    source = {"text": text, "classify": reviews}[task]
    file, run = tmp_path / source.name, tmp_path / "run"
    shutil.copy(source, file)
    arguments = [str(file) if word == str(source) else word for word in quick[task]]
    stopped_after(3)
    assert command(*arguments, "--out", run).status == 130
    again = ["train", task, "--resume", "--out", run]
    moved = file.rename(tmp_path / "moved.data" if task == "text" else tmp_path / "moved.csv")
    assert "If the run's data was moved, name it where it is now, with --data." in fails(*again)
    other = tmp_path / f"other{source.suffix}"
    other.write_text(moved.read_text() + ("more" if task == "text" else "more,good\n"))
    assert f"{other} is not {file}, which the run was made from" in fails(*again, "--data", other)
    assert "--data contradicts" in fails(*again, "--data", moved, moved)
    assert command(*again, "--data", moved).status == 0
    assert same(run, runs[task])


def test_data_that_has_changed_is_refused(
    command, fails, text: Path, tmp_path: Path, small, stopped_after
) -> None:
    file, run = tmp_path / "book.txt", tmp_path / "run"
    shutil.copy(text, file)
    stopped_after(2)
    assert command("train", "text", file, *small, "--steps", 5, "--out", run).status == 130
    file.write_text("another text " * 99)
    assert "has changed since the run was made (2,600 bytes then, 1,287 now)" in fails(
        "train", "text", "--resume", "--out", run
    )


def test_data_may_come_from_a_pipe(
    executable: list[str], text: Path, trained: Path, tmp_path: Path, small
) -> None:
    """A shell's <(command) is a pipe under /dev/fd, which can be read once."""
    run = tmp_path / "run"
    options = ["train", "text", *small, "--steps", "40", "--out", str(run), "--data"]
    line = 'exec "$@" <(cat "$FILE")'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *executable, *options],
        env={**os.environ, "FILE": str(text), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert same(run, trained)
    [source] = Run.open(run).assets.sources
    assert source.path.startswith("/dev/fd/") and source.sha256 == Run.open(trained).assets.sources[0].sha256
