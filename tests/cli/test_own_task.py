"""`throughtime train path/to/file.py:MyTask`: the task of docs/tasks.md, from its own file."""

from __future__ import annotations

import re
import shlex
import sys
from importlib import metadata
from pathlib import Path

import pytest

import throughtime as tt
from throughtime.errors import RunError
from throughtime.runs import Run
from throughtime.tasks import registry

DOCS = Path(__file__).parents[2] / "docs" / "tasks.md"
SIZES = ["--length", "5", "--hidden", "4", "--examples-held-out", "20", "--steps", "6", "--device", "cpu"]


@pytest.fixture(scope="module")
def source() -> str:
    found = re.search(r"^```python\n(# parity\.py\n.*?)^```", DOCS.read_text(), re.S | re.M)
    assert found is not None
    return found[1]


@pytest.fixture
def parity(source: str, tmp_path: Path) -> Path:
    file = tmp_path / "parity.py"
    file.write_text(source)
    return file


@pytest.fixture
def run(command, parity: Path, tmp_path: Path) -> Path:
    ended = command("train", f"{parity}:ParityTask", *SIZES, "--out", tmp_path / "run")
    assert (ended.status, ended.err) == (0, "")
    return tmp_path / "run"


def test_it_has_what_a_built_in_task_has(command, run: Path, parity: Path, tmp_path: Path) -> None:
    own = ["--task", f"{parity}:ParityTask"]
    found = Run.open(run).config
    assert (found["task"], found["parity"]["length"], found["model"]["cell"]) == ("parity", 5, "gru")
    assert str(parity) not in (run / "config.toml").read_text().replace(found["command"], "")
    ended = command("evaluate", run, "--split", "test", *own)
    assert ended.out.startswith("test part: accuracy ") and "20 sequences" in ended.out
    (tmp_path / "bits.csv").write_text("id,bits\n1,0110\n2,1\n")
    lines = command("predict", run, tmp_path / "bits.csv", *own).out.splitlines()
    assert lines[0] == "id,bits,odd" and lines[1] in ("1,0110,true", "1,0110,false")
    assert "5 steps" in command("flow", run, "--no-products", *own).out
    assert "accuracy" in (run / "README.md").read_text()
    again = tmp_path / "again"
    assert (
        command("train", f"{parity}:ParityTask", "--config", run / "config.toml", "--out", again).status == 0
    )
    ended = command("train", f"{parity}:ParityTask", "--resume", "--out", run)
    assert "the training is complete" in ended.out
    assert tt.load(run, task=own[1]).predict({"bits": "1"})["odd"] in (True, False)


def test_the_commands_that_are_offered_work(command, parity: Path, tmp_path: Path, monkeypatch) -> None:
    words = ["train", f"{parity}:ParityTask", *SIZES, "--out", str(tmp_path / "a run")]
    monkeypatch.setattr(sys, "argv", ["throughtime", *words])  # as it is in a process of its own
    ended = command(*words)
    offered = [shlex.split(line) for line in ended.out.splitlines() if line.startswith("  throughtime ")]
    (tmp_path / "FILE").write_text("0110\n")
    for words in offered:
        words = [str(tmp_path / "FILE") if word == "FILE" else word for word in words]
        assert command(*words[1:]).status == 0, words
    said = command("train", f"{parity}:ParityTask", "--resume", "--out", tmp_path / "a run").out
    longer = shlex.split(said.partition("start again from its weights: ")[2].splitlines()[0])
    assert longer[:3] == ["throughtime", "train", f"{parity}:ParityTask"]
    assert command(*longer[1:]).status == 0


@pytest.mark.parametrize("name", ["evaluate", "flow", "predict", "influence", "generate"])
def test_a_run_never_says_what_file_to_import(fails, run: Path, name: str) -> None:
    said = fails(name, run)
    assert said == (
        f"{run} is a run of the task 'parity', which is not installed: give its file with --task path/to/file.py:CLASS"
    )
    with pytest.raises(RunError, match="give its file with --task"):
        tt.load(run)


def test_the_file_must_be_the_one_that_was_trained_with(fails, run: Path, parity: Path, source: str) -> None:
    parity.write_text(source + "\n# changed\n")
    said = fails("evaluate", run, "--task", f"{parity}:ParityTask")
    assert "was made with another version of parity.py:ParityTask: its checksum was" in said
    assert "give the file as it was" in fails("train", f"{parity}:ParityTask", "--resume", "--out", run)


def test_a_file_that_is_no_task(fails, run: Path, parity: Path, source: str, tmp_path: Path) -> None:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    cases = {
        f"{parity}:ParityTsk": "has no 'ParityTsk'. Did you mean 'ParityTask'?",
        f"{parity}:Batch": "must be a subclass of throughtime.tasks.Task",
        f"{tmp_path}/none.py:ParityTask": "cannot read the task file",
        f"{write('broken.py', 'def (')}:X": "broken.py cannot be imported: SyntaxError",
        f"{write('raises.py', '1 / 0')}:X": "raises.py cannot be imported: ZeroDivisionError: division by zero",
        f"{write('task.txt', source + '# text')}:ParityTask": "a task file must be Python, ending in .py",
        f"{write('lacks.py', source.replace('def metrics', 'def other'))}:ParityTask": "lacks metrics: see docs/tasks.md",
        f"{write('nameless.py', source.replace('name = ', 'title_ = '))}:ParityTask": 'needs a name: name = "..." in the class',
        str(
            parity
        ): "task must be one of text, classify, intent, tag, fill, search, recommend, frames, forecast, "
        "transcribe, adding, copy, echo, "
        "or a file with a class",
    }
    for asked, line in cases.items():
        assert line in fails("train", asked, "--out", tmp_path / "new"), asked
        assert line in fails("evaluate", run, "--task", asked), asked
    other = write("other.py", source.replace('name = "parity"', 'name = "parity2"'))
    assert "is a run of the task 'parity', got" in fails("evaluate", run, "--task", f"{other}:ParityTask")
    assert not (tmp_path / "new").exists()


def test_options_of_the_task_are_checked_and_named(fails, command, parity: Path, tmp_path: Path) -> None:
    asked = f"{parity}:ParityTask"
    assert "--length must be at least 1 and at most 1,000, got 0" in fails("train", asked, "--length", 0)
    assert "--length must be a whole number, got 'x'" in fails("train", asked, "--length", "x")
    assert "Did you mean '--length'?" in fails("train", asked, "--lenght", 3)
    assert "no such option: --window" in fails("train", asked, "--window", 3)
    said = command("train", asked, "--help").out
    assert "Most bits in a sequence." in said and "throughtime train parity.py:ParityTask --length 12" in said


def test_an_installed_task_is_a_command(
    command, parity: Path, source: str, tmp_path: Path, monkeypatch
) -> None:
    """As if a package with this entry point were installed."""
    (tmp_path / "my_package_of_tasks.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    entry = metadata.EntryPoint("parity", "my_package_of_tasks:ParityTask", registry.GROUP)
    monkeypatch.setattr(registry, "_entry_points", lambda: [entry])
    assert "parity" in command("train", "--help").out
    run = tmp_path / "installed"
    ended = command("train", "parity", *SIZES, "--out", run)
    assert (ended.status, ended.err) == (0, "")
    assert "--task" not in ended.out
    assert "task_sha256" not in Run.open(run).config
    assert command("evaluate", run).status == 0
