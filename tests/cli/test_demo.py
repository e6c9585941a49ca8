"""`throughtime demo`: the whole way, small; and what it may delete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from throughtime.cli import demo
from throughtime.cli.demo import replace_demo
from throughtime.data import Vocabulary
from throughtime.errors import RunError
from throughtime.models import ModelConfig
from throughtime.runs import Run
from throughtime.tasks import TextConfig, TextTask

Fails = Callable[..., str]


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"HIDDEN": 8, "EMBEDDING": 4, "WINDOW": 16, "LAGS": 12}.items():
        monkeypatch.setattr(demo, name, value)


@pytest.fixture
def task() -> TextTask:
    return TextTask(TextConfig(), ModelConfig(), Vocabulary.build("char", "abc"))


@pytest.mark.usefixtures("small_demo")
def test_it_trains_writes_and_draws_and_is_replaced_by_the_next(command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        ended = command("demo", "--minutes", 0.02)
        assert (ended.status, ended.err) == (0, "")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["demo"]
    before, after = ended.out.split("After training it writes:")
    assert before.count("It writes:") >= 1
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


def test_files_that_no_demo_made_stay(task: TextTask, tmp_path: Path) -> None:
    path = tmp_path / "demo"
    replace_demo(path, {}, task)
    (path / "notes.txt").write_text("mine")
    (path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match=r"holds files that no demo made \(notes\.txt\)"):
        replace_demo(path, {}, task)
    assert (path / "notes.txt").read_text() == "mine"
    assert (path / "model.safetensors").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match="holds other files"):
        replace_demo(foreign, {}, task)
    assert (foreign / "model.safetensors").exists()


def test_a_replacement_that_is_killed_at_any_file_leaves_what_can_be_replaced(
    task: TextTask, tmp_path: Path, monkeypatch
) -> None:
    unlink = Path.unlink
    for survived in range(6):
        path = tmp_path / str(survived)
        run = replace_demo(path, {}, task)
        for name in ("model.safetensors", "checkpoint.safetensors", "history.jsonl"):
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
                replace_demo(path, {}, task)
            except KeyboardInterrupt:
                assert survived < 5 or left == 0
        assert replace_demo(path, {}, task).path == run.path
        assert Run.open(path).config == {"demo": True}


def test_what_a_model_writes_cannot_drive_the_terminal() -> None:
    assert demo._quoted("a\x1b[31mb\nc\n\nd") == "  | a?[31mb\n  | c\n  | \n  | d"
