"""Help answers at once: it imports no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

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
    assert set(top["train"].commands) == {path[1] for path in COMMANDS if len(path) == 2}


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
