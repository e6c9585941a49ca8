"""Help answers at once: it imports no torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from throughtime.cli import main
from throughtime.cli.app import command as whole_command

REPORT = """
import json, sys
from throughtime.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, [name for name in ("torch", "numpy", "tokenizers", "accelerate") if name in sys.modules]]))
"""
COMMANDS = [
    [],
    ["train"],
    ["train", "text"],
    ["train", "adding"],
    ["train", "copy"],
    ["train", "echo"],
    ["compare"],
    ["compare", "bptt"],
    ["compare", "remedies"],
    ["flow"],
    ["influence"],
    ["evaluate"],
    ["generate"],
    ["demo"],
    ["backends"],
    ["bench"],
    ["version"],
]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_answers_without_torch(path: list[str]) -> None:
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *path, "--help"], capture_output=True, text=True, check=True
    )
    after = os.times()
    *text, report = done.stdout.splitlines()
    assert json.loads(report) == [0, []]
    assert " ".join(["Usage: throughtime", *path]) in "\n".join(text)
    assert done.stderr == ""
    # About 0.3 s of processor time on an idle machine; importing torch alone would be several seconds.
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    assert spent < 1.5


def test_the_list_above_is_complete() -> None:
    top = whole_command().commands
    assert {name for name in top if name != "train"} == {path[0] for path in COMMANDS if len(path) == 1} - {
        "train"
    }
    for group in ("train", "compare"):
        named = {path[1] for path in COMMANDS if len(path) == 2 and path[0] == group}
        assert set(top[group].commands) == named


def test_every_option_has_a_help_text() -> None:
    def options(command: object, path: str) -> list[str]:
        below = getattr(command, "commands", {})
        bare = [f"{path} {p.opts[0]}" for p in command.params if p.param_type_name == "option" and not p.help]
        return bare + [line for name, each in below.items() for line in options(each, f"{path} {name}")]

    assert options(whole_command(), "throughtime") == []


def test_defaults_shown_are_those_of_the_settings() -> None:
    from throughtime.models import ModelConfig
    from throughtime.tasks import TextConfig
    from throughtime.training import TrainingConfig

    options = {p.name: p for p in whole_command().commands["train"].commands["text"].params}
    settings = {**vars(TextConfig()), **vars(ModelConfig()), **vars(TrainingConfig())}
    shared = [name for name in options if name in settings and name != "data"]
    assert len(shared) > 30
    for name in shared:
        shown = options[name].default
        assert str(shown) == str(settings[name]), name


def test_without_arguments_the_help_is_shown() -> None:
    done = subprocess.run([sys.executable, "-m", "throughtime"], capture_output=True, text=True, check=True)
    assert "Usage: throughtime" in done.stdout


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_fits_a_terminal_of_80_columns(path: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Examples stand whole on a line, sentences fill theirs, and no flag looks as if it took a value."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    assert main([*path, "--help"]) == 0
    text = capsys.readouterr().out
    lines = [line.strip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 80
    assert not any("bool" in line for line in lines)
    command = whole_command()
    for name in path:
        command = command.commands[name]
    shown = [line.rstrip() for line in text.splitlines()]
    plain = re.sub(r"\[/?bold\]", "", command.help or "").splitlines()
    examples = [line for line in plain if line.strip().startswith("throughtime ")]
    assert [line[1:] for line in shown if line[1:] in examples] == examples
    assert all(line.startswith("  throughtime") for line in examples)
    usage = next(number for number, line in enumerate(lines) if line.startswith("Usage"))
    assert "......" not in lines[usage]
    assert "...]" not in lines[usage].replace("[ARGS]...", "")
    assert "{" not in lines[usage]
    prose = lines[usage + 1 : next(n for n, line in enumerate(lines) if line.startswith("╭"))]
    if "Examples:" in prose:
        prose = prose[: prose.index("Examples:")]
    for above, below in pairwise(prose):
        if above and below:
            assert len(f"{above} {below.split()[0]}") > 76, (above, below)
