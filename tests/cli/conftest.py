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
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 texts, half of them good, half bad, in a CSV file."""
    moods = {"good": ("good", "fine", "great"), "bad": ("bad", "poor", "awful")}
    rows = [
        f'"a {moods[label][number % 3]} {thing}, number {number}",{label}'
        for number in range(10)
        for label in moods
        for thing in ("book", "film", "song")
    ]
    file = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    file.write_text("\n".join(["text,label", *rows]) + "\n")
    return file


@pytest.fixture(scope="session")
def quick(text: Path, reviews: Path) -> dict[str, list[str]]:
    """`train` and the options of a short training of each built-in task, all but --out."""
    drawn = [
        "--hidden",
        "5",
        "--batch",
        "3",
        "--validation",
        "20",
        "--test",
        "10",
        "--steps",
        "6",
        "--device",
        "cpu",
    ]
    sizes = ["--hidden", "8", "--embedding", "5", "--batch", "8", "--steps", "6", "--device", "cpu"]
    options = {
        "text": ["--data", str(text), *SMALL, "--steps", "40"],
        "classify": ["--data", str(reviews), *sizes],
        "intent": ["--data", str(reviews), *sizes],
        "adding": ["--length", "11", *drawn],
        "copy": ["--length", "11", *drawn],
        "echo": ["--length", "11", *drawn],
    }
    return {task: ["train", task, *each] for task, each in options.items()}


@pytest.fixture(scope="session")
def runs(quick: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each built-in task, for tests that only read it."""
    folder = tmp_path_factory.mktemp("runs")
    for task, arguments in quick.items():
        assert main([*arguments, "--out", str(folder / task)]) == 0
    return {task: folder / task for task in quick}


@pytest.fixture(scope="session")
def trained(runs: dict[str, Path]) -> Path:
    """A language model after 40 steps."""
    return runs["text"]


@pytest.fixture(scope="session")
def executable() -> list[str]:
    """The command as a process of its own."""
    return [sys.executable, "-m", "throughtime"]
