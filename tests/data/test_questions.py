"""The questions that ship inside, held against the command line and the documentation; and answers in a user's file."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import throughtime
from throughtime.cli.app import command
from throughtime.cli.option_names import called
from throughtime.data.inside.questions import intents, question_table, read_answers
from throughtime.data.split import group_keys
from throughtime.errors import InputError

ROOT = Path(__file__).parents[2]
INTENTS = intents()
QUOTED = [
    (label, quoted) for label, each in INTENTS.items() for quoted in re.findall(r"`([^`]+)`", each.answer)
]
COMMANDS = [(label, quoted) for label, quoted in QUOTED if quoted.startswith("throughtime ")]


def all_options():
    """The options of every command, those of all tasks too."""
    top = command()
    found = {"--help"}
    for name in top.commands:
        group, context = called([name], top)
        names = group.list_commands(context) if hasattr(group, "list_commands") else []
        for path in [[name], *([name, each] for each in names)]:
            found |= {option for param in called(path, top)[0].params for option in param.opts}
    return found


def test_there_are_enough_and_none_is_listed_twice():
    assert len(INTENTS) >= 40
    assert {
        label: len(each.questions) for label, each in INTENTS.items() if not 12 <= len(each.questions) <= 20
    } in (
        {},
        {"outside": len(INTENTS["outside"].questions)},
    )
    keys = group_keys([question for each in INTENTS.values() for question in each.questions])
    assert len(keys) == len(set(keys))
    assert [label for label, each in INTENTS.items() if not each.answer] == ["outside"]
    table = question_table()
    assert len(table) == len(keys) and table.sources[0].path == "throughtime/data/inside/questions.toml"


def test_answers_are_one_to_four_sentences_and_name_pages_that_exist():
    for label, each in INTENTS.items():
        if not each.answer:
            continue
        sentences = re.split(r"[.:] (?=[A-Z`])", each.answer)
        assert 1 <= len(sentences) <= 4, label
        assert each.answer.count("`") % 2 == 0 and each.answer.endswith("."), label
        assert each.pages, label
        for page in each.pages:
            assert (ROOT / page).is_file(), f"{label} names {page}"


@pytest.mark.parametrize(("label", "line"), COMMANDS)
def test_every_command_can_be_typed(label, line):
    """The command line takes it: commands, options and the number of arguments; values are checked where settings are built."""
    for shown, real in (("NAME", "text"), ("parity.py:ParityTask", "classify"), ("--help", "")):
        line = line.replace(
            shown, real
        )  # a name to fill in, a file of the reader's own, and an option that ends the command
    words = shlex.split(line)[1:]
    found, context = called(words, command())
    path = context.command_path.split()[1:]
    arguments = words[len(path) :]
    if not words:
        return
    parsed = found.make_context(path[-1], arguments)
    if path[0] == "train" and len(path) == 2:
        from throughtime.cli.builder import typed_values
        from throughtime.models.config import ModelConfig
        from throughtime.options import from_tables
        from throughtime.tasks.registry import find_task
        from throughtime.training.config import TrainingConfig

        kinds = (find_task(path[1]).kind, ModelConfig, TrainingConfig)
        typed = {
            name: list(value) if isinstance(value, tuple) else value for name, value in parsed.params.items()
        }
        from_tables(typed_values(kinds, typed), *kinds)


def test_a_command_that_cannot_be_typed_is_found():
    found, _ = called(["train", "text"], command())
    with pytest.raises(Exception, match="--patince"):
        found.make_context("text", ["--patince", "5"])


def test_every_option_and_every_name_exists():
    options = all_options()
    for label, quoted in QUOTED:
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", quoted):
            assert option in options or "accelerate" in quoted, f"{label}: {option}"
        for name in re.findall(r"\b(?:tt|throughtime)\.([A-Za-z_]\w*(?:\.[a-z]\w*)?)", quoted):
            value = throughtime
            for part in name.split("."):
                value = getattr(value, part)
    assert len(COMMANDS) > 40


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_answers_stand_once_for_each_label(tmp_path):
    table = write(tmp_path / "a.csv", "Label,ANSWER\nx,Yes.\ny,\nx,\nx,Yes.\nz,No.\n")
    found, sources = read_answers([table])
    assert found == {"x": "Yes.", "y": "", "z": "No."} and len(sources) == 1
    lines = write(
        tmp_path / "b.jsonl", '{"category": "q", "reply": "Sure."}\n{"category": "r", "reply": null}\n'
    )
    assert read_answers([table, lines])[0] == {"x": "Yes.", "y": "", "z": "No.", "q": "Sure.", "r": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,answer\nx,Yes.\ny,Other.\nx,No.\n", r"a\.csv:4: the label 'x' has another answer in .*a\.csv:2: 'No"),
        ("label,reply to\nx,Yes.\n", r"a\.csv:2: expected a column 'answer' \(or reply, response\), the columns are"),
        ("answer\nYes.\n", r"a\.csv:1: expected a column 'label'"),
        ("label,answer\nx,Yes.\ny\n", r"a\.csv:3: expected 2 fields"),
        ("label,answer\n,Yes.\n", r"a\.csv:2: expected 'label' to hold text"),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_read(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        read_answers([write(tmp_path / "a.csv", text)], answer="answer")
    assert "\n" not in str(error.value)


def test_data_without_answers_has_none(tmp_path):
    data = write(tmp_path / "a.csv", "text,label\nhow,x\n")
    assert read_answers([data, str(tmp_path)], ("text", "label")) == ({}, ())
    wrong = write(tmp_path / "b.jsonl", '{"label": "x", "answer": 3}\n')
    with pytest.raises(InputError, match=r"b\.jsonl:1: expected 'answer' to be a text, got 3"):
        read_answers([wrong])
