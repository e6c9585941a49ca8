"""Killed, and out of disk: every file is the old one or the new one, whole."""

import errno
import os
import resource
import subprocess
import sys

import pytest
import torch

from throughtime import files
from throughtime.data import Assets, Vocabulary
from throughtime.errors import RunError
from throughtime.files import write_whole
from throughtime.runs import Run

# A fresh process that forks writers and kills each at a random instant; torch has started no thread in it yet.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from throughtime.data import Assets, Vocabulary
from throughtime.files import write_whole
from throughtime.runs import Run

random.seed(7)
folder = Path(sys.argv[1])
assets = Assets({"symbols": Vocabulary.build("char", "the time machine")})

def killed_while(write, most=3):
    # After 0 to `most` whole writes, however slow the machine, and then somewhere in the next one.
    done, tell = os.pipe()
    child = os.fork()
    if child == 0:
        number = 0
        while True:
            number += 1
            write(number)
            os.write(tell, b".")
    for _ in range(random.randint(0, most)):
        os.read(done, 1)
    time.sleep(random.uniform(0, 0.01))
    os.close(done)
    os.close(tell)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the writer failed before it was killed"

path = folder / "file"
write_whole(path, b"0" * 300_000)
seen = set()
for _ in range(30):
    killed_while(lambda number: write_whole(path, str(number % 10).encode() * 300_000))
    content = path.read_bytes()
    assert len(content) == 300_000 and len(set(content)) == 1, "half a file"
    seen.add(content[:1])
assert len(seen) > 1, "no writer ever wrote"

run = Run.create(folder / "run", {"seed": 1}, assets)
steps = set()
for trial in range(30):
    def train(number):
        with run.lock():
            run.append_history({"step": number, "note": "x" * 2000})
            run.save_checkpoint({"step": number, "weight": torch.full((50, 50), float(number))})
    killed_while(train)
    opened = Run.open(run.path)
    checkpoint = opened.load_checkpoint()
    records = opened.history()
    if checkpoint is not None:
        assert (checkpoint["weight"] == checkpoint["step"]).all()
        steps.add(checkpoint["step"])
    with opened.lock():
        opened.rewind_history(0)
        assert opened.history() == []
    left = {entry.name for entry in run.path.iterdir()} - {".lock"}
    assert left <= {"config.toml", "assets.json", "checkpoint.safetensors", "history.jsonl"}, left
assert len(steps) > 1, "no writer ever came to a checkpoint"

started = 0
for trial in range(30):
    target = folder / f"created{trial}"
    create = lambda number: Run.create(target, {"seed": trial}, assets) if number == 1 else time.sleep(60)
    killed_while(create, most=1)
    if (target / "config.toml").exists():
        started += 1
        assert Run.open(target).config == {"seed": trial}
    else:
        assert Run.create(target, {"seed": trial}, assets).config == {"seed": trial}
assert started > 0
print("whole")
"""


def test_a_writer_killed_at_any_instant_leaves_whole_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "whole\n", done.stderr


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "run", {}, Assets({"symbols": Vocabulary.build("char", "abc")}))
    run.append_history({"step": 1})
    run.append_history({"step": 2})
    run.save_model({"w": torch.ones(3)})
    run.save_checkpoint({"step": 1})
    return run


def contents(run):
    return {entry.name: entry.read_bytes() for entry in run.path.iterdir()}


def write_everything(run):
    """Each way of writing to a run, as functions."""
    return (
        lambda: run.save_model({"w": torch.zeros(3000)}),
        lambda: run.save_checkpoint({"step": 2, "w": torch.zeros(3000)}),
        lambda: run.append_history({"step": 3, "note": "x" * 20_000}),
        lambda: run.rewind_history(1),
    )


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "open"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_failing_disk_loses_nothing(run, monkeypatch, call, code):
    before = contents(run)

    def fail(*_):
        raise OSError(code, os.strerror(code))

    for write in write_everything(run):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, call, fail)
            failure = None
            try:
                write()
            except RunError as error:
                failure = str(error)
        if failure is None:  # an append neither replaces a file nor waits for the disk
            assert call in ("replace", "fsync")
            run.rewind_history(2)
        else:
            assert os.strerror(code) in failure
            assert str(run.path) in failure
            assert "\n" not in failure
            assert ("free some space" in failure) == (code == errno.ENOSPC)
        assert contents(run) == before


def test_a_disk_that_takes_a_part_loses_nothing(run):
    before = contents(run)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for write in write_everything(run)[:3]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # the system writes 5,000 bytes, then refuses
        try:
            with pytest.raises(RunError, match="cannot write"):
                write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert contents(run) == before


def test_a_write_that_is_cut_short_is_gone_on_with(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(files.os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    write_whole(tmp_path / "file", bytes(range(256)))
    assert (tmp_path / "file").read_bytes() == bytes(range(256))


def test_ctrl_c_while_writing_leaves_the_old_file_alone(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", b"old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_files_follow_the_umask(tmp_path):
    write_whole(tmp_path / "file", b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
