"""A small text, a small run, and the command line called in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from throughtime.cli import main

LINE = "the quick brown fox jumps over the lazy dog, and then it sleeps.\n"
SMALL = ["--hidden", "13", "--embedding", "5", "--batch", "3", "--bptt", "truncated:7", "--lr", "0.02"]
SMALL += ["--device", "cpu"]


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `throughtime ARGS...` in this process."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ended(status, out, err)

    return run


@pytest.fixture
def fails(command: Command) -> Callable[..., str]:
    """Run a command that must end with one line on stderr and status 2; return the line."""

    def run(*arguments: object) -> str:
        ended = command(*arguments)
        assert ended.status == 2, ended
        assert ended.err.startswith("throughtime: ")
        assert ended.err.count("\n") == 1, ended.err
        return ended.err.removeprefix("throughtime: ").rstrip("\n")

    return run


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Options that make a training small and quick."""
    return SMALL


@pytest.fixture(scope="session")
def line() -> str:
    """What `text` repeats."""
    return LINE


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 2,600 characters."""
    file = tmp_path_factory.mktemp("text") / "book.txt"
    file.write_text(LINE * 40)
    return file


@pytest.fixture(scope="session")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 steps, for tests that only read it."""
    run = tmp_path_factory.mktemp("runs") / "small"
    assert main(["train", "text", "--data", str(text), *SMALL, "--steps", "40", "--out", str(run)]) == 0
    return run


@pytest.fixture(scope="session")
def executable() -> list[str]:
    """The command as a process of its own."""
    return [sys.executable, "-m", "throughtime"]
