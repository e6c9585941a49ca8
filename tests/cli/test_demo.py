"""`throughtime demo`: the whole way, small; and what it may delete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from throughtime.cli import demo
from throughtime.errors import RunError
from throughtime.models import ModelConfig
from throughtime.runs import Run
from throughtime.tasks import AddingTask
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run

Fails = Callable[..., str]


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HIDDEN": 8, "EMBEDDING": 4, "WINDOW": 16, "LAGS": 12}.items():
        monkeypatch.setattr(demo, name, value)


def replaced(path: Path) -> Run:
    """A run in the place of an earlier demo's, as `throughtime demo` makes it."""
    demo.remove_demo(path)
    model, training = ModelConfig(hidden=2, embedding="onehot"), TrainingConfig(bptt="full", steps=1)
    return start_run(AddingTask(length=4), model, training, path, extra={"demo": True})[1]


@pytest.mark.usefixtures("small_demo")
def test_it_trains_writes_and_draws_and_is_replaced_by_the_next(command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        ended = command("demo", "--minutes", 0.02)
        assert (ended.status, ended.err) == (0, "")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["demo"]
    before, after = ended.out.split("After training it generates:")
    assert before.count("It generates:") >= 1
    assert after.strip().startswith("| The ")
    assert "size of the gradient k steps back" in after
    assert [line.split()[0] for line in after.splitlines() if line.startswith("    ")][:3] == ["1", "2", "3"]
    assert "Before training it was the last" in after
    assert "throughtime generate runs/demo" in after
    generated = command("generate", "runs/demo", "--length", 10, "--seed", 0)
    assert generated.status == 0
    assert command("train", "text", "--resume", "--out", "runs/demo").status == 0


def test_a_run_that_no_demo_made_is_never_replaced(fails: Fails, trained: Path) -> None:
    before = {file.name: file.read_bytes() for file in trained.iterdir()}
    assert "holds a run that no demo made" in fails("demo", "--out", trained, "--minutes", 0.01)
    assert before == {file.name: file.read_bytes() for file in trained.iterdir()}


def test_files_that_no_demo_made_stay(tmp_path: Path) -> None:
    path = tmp_path / "demo"
    replaced(path)
    (path / "notes.txt").write_text("mine")
    (path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match=r"holds files that no demo made \(notes\.txt\)"):
        replaced(path)
    assert (path / "notes.txt").read_text() == "mine"
    assert (path / "model.safetensors").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match="holds other files"):
        replaced(foreign)
    assert (foreign / "model.safetensors").exists()


def test_a_replacement_that_is_killed_at_any_file_leaves_what_can_be_replaced(
    tmp_path: Path, monkeypatch
) -> None:
    unlink = Path.unlink
    killed_at_all = 0
    for survived in range(8):
        path = tmp_path / str(survived)
        run = replaced(path)
        for name in ("README.md", "model.safetensors", "checkpoint.safetensors", "history.jsonl"):
            (path / name).write_bytes(b"")
        left = survived

        def killed(self: Path, missing_ok: bool = False) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            unlink(self, missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            try:
                replaced(path)
            except KeyboardInterrupt:
                killed_at_all += 1
        assert replaced(path).path == run.path
        assert Run.open(path).config["demo"] is True
        assert not (path / "model.safetensors").exists()
    assert killed_at_all >= 6  # README.md, weights, checkpoint, history, settings, assets


def test_what_a_model_writes_cannot_drive_the_terminal() -> None:
    assert demo._quoted("a\x1b[31mb\nc\n\nd") == "  | a?[31mb\n  | c\n  | \n  | d"
