"""Tasks by name, installed ones, and a file of the user's own; a run never says what to import."""

from __future__ import annotations

import hashlib
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import tomli_w

import throughtime
from throughtime.data import Assets
from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.tasks import CopyTask, TextTask
from throughtime.tasks.recorded import restore_model, task_of
from throughtime.tasks.registry import BUILT_IN, find_task, installed, names
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

OWN = '''
"""A task of the user's own: say whether the first symbol was 1."""

from __future__ import annotations

from dataclasses import dataclass

from throughtime.data.batch import Batch
from throughtime.tasks import GeneratedTask


@dataclass(frozen=True)
class FirstTask(GeneratedTask):
    """Repeat the first symbol."""

    name = "first"
    symbols = "01"

    @property
    def levels(self):
        return {"guessing": 0.6931, "remembering": 0.0}

    def draw(self, batch, generator):
        import torch

        inputs = torch.randint(2, (self.length, batch), generator=generator)
        return Batch(inputs, inputs[:1].expand(self.length, batch).clone(), num_targets=self.length * batch)


class NoTask:
    pass


class Unfinished(GeneratedTask):
    name = "unfinished"


class Nameless(FirstTask):
    name = ""
'''

MODEL = ModelConfig(hidden=3, cell="gru", embedding="onehot")
TRAINING = TrainingConfig(steps=2, batch=2, bptt="full", no_baselines=True)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    yield path
    for name in [name for name in sys.modules if name.startswith("throughtime_task_")]:
        del sys.modules[name]


@pytest.fixture
def run(file, tmp_path):
    """A trained run of the user's own task."""
    found = find_task(f"{file}:FirstTask")
    task, made = start_run(
        found.kind(length=4, validation=5, test=5),
        MODEL,
        TRAINING,
        tmp_path / "run",
        task_sha256=found.sha256,
    )
    train(task, TRAINING, made)
    return Run.open(made.path)


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_built_in_tasks(name):
    found = find_task(name)
    assert (found.kind.name, found.kind.section, found.asked, found.sha256) == (name, name, name, None)
    assert found.kind.__name__ == BUILT_IN[name]
    assert installed(name) and name in names()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("txet", "task must be one of text, classify, adding, copy, echo, .*or a file with a class, .* Did you mean 'text'"),
        ("", "task must be one of"),
        ("none.py:Task", r"cannot read the task file none\.py: No such file or directory"),
        ("{file}:FirsTask", "has no 'FirsTask'. Did you mean 'FirstTask'"),
        ("{file}:Zzz", r"has no 'Zzz'. It has \["),
        ("{file}:NoTask", "must be a subclass of throughtime.tasks.Task, got"),
        ("{file}:Unfinished", r"lacks draw, levels: see docs/tasks\.md"),
        ("{file}:Nameless", r'needs a name: name = "..." in the class'),
        ("{file}", "task must be one of"),
    ],
)  # fmt: skip
def test_a_name_that_is_no_task(file, name, message, monkeypatch):
    monkeypatch.chdir(file.parent)
    with pytest.raises(InputError, match=message) as error:
        find_task(name.format(file=file))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1 +", "cannot be imported: SyntaxError"),
        ("raise ValueError('here')", "cannot be imported: ValueError: here"),
        ("import no_such_package_here", "cannot be imported: ModuleNotFoundError"),
        ("", "has no 'FirstTask'"),
    ],
)
def test_a_file_that_cannot_be_imported(file, text, message):
    file.write_text(text)
    before = set(sys.modules)
    with pytest.raises(InputError, match=message):
        find_task(f"{file}:FirstTask")
    assert {
        name for name in set(sys.modules) - before if name.startswith("throughtime_task_") and text
    } == set()
    text_file = file.with_suffix(".txt")
    text_file.write_text(OWN)
    with pytest.raises(InputError, match=r"a task file must be Python, ending in \.py, got"):
        find_task(f"{text_file}:FirstTask")


def test_a_file_of_the_users_own(file):
    found = find_task(f"{file}:FirstTask")
    assert found.sha256 == hashlib.sha256(OWN.encode()).hexdigest()
    assert (found.kind.name, found.asked) == ("first", f"{file}:FirstTask")
    assert find_task(f"{file}:FirstTask").kind is found.kind  # imported once
    file.write_text(OWN.replace("Repeat", "Say"))
    changed = find_task(f"{file}:FirstTask")
    assert changed.kind is not found.kind and changed.sha256 != found.sha256
    assert not installed("first")


def test_a_run_records_the_checksum_and_is_opened_with_the_file(file, run):
    assert run.config["task"] == "first"
    assert run.config["task_sha256"] == hashlib.sha256(OWN.encode()).hexdigest()
    assert str(file) not in (run.path / "config.toml").read_text()
    trained = throughtime.load(run.path, task=f"{file}:FirstTask")
    assert trained.task == find_task(f"{file}:FirstTask").kind(length=4, validation=5, test=5)
    (prediction,) = trained.predict([{"input": "10"}])
    assert set(prediction["output"]) <= {"0", "1"} and len(prediction["output"]) == 2
    again = train(trained.task, TRAINING, Run.open(run.path), resume=True)
    assert again.step == 2
    # Wherever the file lies.
    moved = file.with_name("elsewhere.py")
    file.rename(moved)
    assert throughtime.load(run.path, task=f"{moved}:FirstTask").model is not None


def test_without_the_file_it_is_refused(file, run):
    message = r"is a run of the task 'first', which is not installed: give its file with --task path/to/file\.py:CLASS"
    for reader in (lambda: task_of(run), lambda: throughtime.load(run.path)):
        with pytest.raises(RunError, match=message) as error:
            reader()
        assert "\n" not in str(error.value)
    with pytest.raises(RunError, match=r"is a run of the task 'first', got text, whose name is 'text'"):
        task_of(run, "text")


def test_a_changed_file_is_refused(file, run):
    file.write_text(OWN + "\n# changed\n")
    with pytest.raises(
        RunError,
        match=r"was made with another version of mine\.py:FirstTask: its checksum was \w{12}, now it is",
    ) as error:
        throughtime.load(run.path, task=f"{file}:FirstTask")
    assert "\n" not in str(error.value)
    file.write_text(OWN)
    throughtime.load(run.path, task=f"{file}:FirstTask")


def test_a_task_that_is_not_of_the_file_anymore(file, run):
    """A built-in task that has the recorded name cannot stand in for a file with a checksum."""
    tables = dict(run.config)
    other = Run.create(run.path.with_name("copy"), {**tables, "task": "text", "text": {}}, Assets())
    with pytest.raises(RunError, match="which is not installed: give its file"):
        task_of(other)


@pytest.mark.parametrize(
    "value", ["{evil}:Evil", "{evil}", "evil:Evil", "../evil.py:Evil", "evil", "os:system", 3, ["text"], ""]
)
@pytest.mark.parametrize("checksum", [False, True])
def test_a_run_never_says_what_to_import(tmp_path, monkeypatch, value, checksum):
    """A config.toml from anybody: its task is compared with names, never imported."""
    evil = tmp_path / "evil.py"
    witness = tmp_path / "it ran"
    code = f"open({str(witness)!r}, 'w').close()\nfrom throughtime.tasks import TextTask as Evil\n"
    evil.write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    value = value.format(evil=evil) if isinstance(value, str) else value
    config = {"task": value, "text": {}, "model": MODEL.to_table(), "training": TRAINING.to_table()}
    if checksum:
        config["task_sha256"] = hashlib.sha256(code.encode()).hexdigest()
    Run.create(tmp_path / "run", config, Assets())
    before = set(sys.modules)
    with pytest.raises(
        RunError, match=r"task must be the name of a task|which is not installed: give its file"
    ) as error:
        throughtime.load(tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not witness.exists()
    assert not {
        name for name in set(sys.modules) - before if "evil" in name or name.startswith("throughtime_task_")
    }
    # The check can fail: asked for by the caller, the file is imported.
    assert find_task(f"{evil}:Evil").kind is TextTask and witness.exists()


class Installed(CopyTask):
    """As of another package."""

    name = "installed"


def entry_points(*points):
    def found(*, group):
        assert group == "throughtime.tasks"
        return list(points)

    return found


def entry_point(name, loaded, calls):
    def load():
        calls.append(name)
        return loaded

    return SimpleNamespace(name=name, load=load)


def test_entry_points(monkeypatch, tmp_path):
    calls = []
    points = [entry_point("installed", Installed, calls), entry_point("broken", object, calls)]
    monkeypatch.setattr(metadata, "entry_points", entry_points(*points))
    assert names() == (*BUILT_IN, "broken", "installed")  # in order
    assert installed("installed") and not installed("other")
    assert calls == []  # listing imports nothing
    assert find_task("installed")[:2] == (Installed, "installed")
    with pytest.raises(InputError, match=r"broken must be a subclass of throughtime\.tasks\.Task"):
        find_task("broken")
    with pytest.raises(InputError, match="Did you mean 'installed'"):
        find_task("instaled")

    task, run = start_run(Installed(length=2, validation=2, test=2), MODEL, TRAINING, tmp_path / "run")
    train(task, TRAINING, run)
    assert throughtime.load(run.path).task == task  # by its name alone
    assert restore_model(run, task) is not None
    monkeypatch.setattr(metadata, "entry_points", entry_points())
    with pytest.raises(RunError, match="is a run of the task 'installed', which is not installed"):
        throughtime.load(run.path)


def test_a_built_in_name_is_not_taken_over(monkeypatch):
    calls = []
    monkeypatch.setattr(metadata, "entry_points", entry_points(entry_point("text", Installed, calls)))
    assert find_task("text").kind is TextTask and calls == []


def test_a_run_whose_config_was_edited_to_another_task(run, file):
    text = (run.path / "config.toml").read_text()
    (run.path / "config.toml").write_text(text.replace('task = "first"', 'task = "copy"'))
    with pytest.raises(RunError, match="which is not installed"):
        throughtime.load(run.path)  # the checksum says that it was a file
    with pytest.raises(RunError, match=r"is a run of the task 'copy', got .*, whose name is 'first'"):
        throughtime.load(run.path, task=f"{file}:FirstTask")
    (run.path / "config.toml").write_text(text.replace("[first]", tomli_w.dumps({"x": 1}) + "[copy]"))
    with pytest.raises(RunError, match=r"it has no section \[first\]"):
        throughtime.load(run.path, task=f"{file}:FirstTask")
