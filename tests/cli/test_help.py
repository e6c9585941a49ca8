"""Help answers at once: it imports no torch."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest

from throughtime.cli import main
from throughtime.cli.app import command as whole_command
from throughtime.cli.option_names import called
from throughtime.models import ModelConfig
from throughtime.options import default_text, fields_of
from throughtime.tasks.registry import find_task
from throughtime.training import TrainingConfig

REPORT = """
import json, sys
from throughtime.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, [name for name in ("torch", "numpy", "tokenizers", "accelerate") if name in sys.modules]]))
"""
TASKS = (
    "text",
    "classify",
    "intent",
    "tag",
    "fill",
    "search",
    "chat",
    "recommend",
    "translate",
    "frames",
    "forecast",
    "write",
    "caption",
    "compose",
    "transcribe",
    "adding",
    "copy",
    "echo",
)
COMMANDS = [
    [],
    ["train"],
    *(["train", task] for task in TASKS),
    ["compare"],
    ["compare", "bptt"],
    ["compare", "remedies"],
    ["evaluate"],
    ["predict"],
    ["search"],
    ["chat"],
    ["generate"],
    ["serve"],
    ["runs"],
    ["flow"],
    ["influence"],
    ["page"],
    ["demo"],
    ["help"],
    ["tasks"],
    ["backends"],
    ["bench"],
    ["version"],
]


def command_of(path: list[str]) -> Any:
    """The command of these words; tasks are made commands when they are asked for."""
    found, context = called(path, whole_command())
    assert context.command_path.split()[1:] == path
    return found


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
    top = whole_command()
    assert set(top.commands) == {path[0] for path in COMMANDS if path}
    for group in ("train", "compare"):
        listed = top.commands[group].list_commands(None)
        assert set(listed) == {path[1] for path in COMMANDS if len(path) == 2 and path[0] == group}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_has_a_help_text(path: list[str]) -> None:
    command = command_of(path)
    options = [param for param in command.params if param.param_type_name == "option"]
    assert [param.opts[0] for param in options if not param.help] == []
    assert [
        param.opts[0] for param in command.params if param.param_type_name != "option" and not param.help
    ] == [param.opts[0] for param in command.params if getattr(param, "hidden", False)]


@pytest.mark.parametrize("task", TASKS)
def test_every_field_of_a_task_is_an_option_with_its_default(task: str) -> None:
    kind = find_task(task).kind
    options = {param.name: param for param in command_of(["train", task]).params}
    fields = [
        (field, kind.defaults.get(field.name, field.default))
        for settings in (kind, ModelConfig, TrainingConfig)
        for field in fields_of(settings)
        if field.name not in kind.without
    ]
    assert len(fields) > 40
    for field, default in fields:
        assert field.option.help, field.name
        shown = default_text(field._replace(default=default)).replace("[", r"\[")
        help = options.pop(field.name).help
        assert help.startswith(field.option.help.replace("[", r"\["))
        assert (f"default: {shown}]" in help) == bool(shown), field.name
    assert set(options) - {"more", "help"} == {"config", "out", "resume", "equal_size"}


@pytest.mark.parametrize(
    "path", [path for path in COMMANDS if path not in ([], ["train"], ["compare"])], ids=" ".join
)
def test_examples_are_shown_and_can_be_typed(path: list[str]) -> None:
    """Their words are a command, and options that it has."""
    if path in (["backends"], ["version"]):  # which take nothing
        return
    text = re.sub(r"\[/?bold\]|\\", "", command_of(path).help.replace(" \\\n", " "))
    examples = [
        shlex.split(line) for line in text.splitlines() if "throughtime " in line and line.startswith("  ")
    ]
    assert examples
    for words in examples:
        words = words[words.index("throughtime") + 1 :]
        words = words[: words.index(">")] if ">" in words else words
        assert words[: len(path)] == path
        command = command_of(path)
        with command.make_context(path[-1], words[len(path) :]):
            pass


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
    command = command_of(path)
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
    formulas = {line.strip().replace("\\[", "[") for line in plain if line.startswith("     ")}
    assert formulas <= set(prose)  # each on a line of its own
    for above, below in pairwise(prose):
        if above and below and not {above, below} & formulas:
            assert len(f"{above} {below.split()[0]}") > 76, (above, below)
