"""`throughtime help`: the run that ships inside, and what the command says with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import throughtime
from throughtime.data.inside.questions import FILE, intents, question_table
from throughtime.runs import Run

FOLDER = FILE.with_name("help")


def test_the_run_that_ships_inside_is_of_the_questions_that_ship_inside():
    """After a change to questions.toml the run is trained again: docs/intent.md has the command."""
    run, table, known = Run.open(FOLDER), question_table(), intents()
    assert run.assets.sources == table.sources
    assert run.assets.values["answers"] == {label: each.answer for label, each in sorted(known.items())}
    assert sorted(number for part in run.assets.splits.values() for number in part) == list(range(len(table)))
    trained = throughtime.load(FOLDER)
    assert trained.task.prepare().splits == run.assets.splits
    assert trained.model.head.calibrated


def test_it_is_as_good_as_its_card_says_and_answers_rightly_what_it_answers():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| test | this model |"))
    accuracy, _, coverage, precision = (float(cell) for cell in row.split("|")[3:7])
    values = throughtime.load(FOLDER).evaluate("test").values
    for name, expected in (("accuracy", accuracy), ("coverage", coverage), ("precision", precision)):
        assert values[name] == pytest.approx(expected, abs=0.02)  # another machine rounds in another way
    assert values["precision"] > 0.8 and values["coverage"] > 0.2


def test_it_is_small_and_holds_no_path_of_a_machine():
    assert sorted(path.name for path in FOLDER.iterdir()) == [
        "README.md",
        "assets.json",
        "config.toml",
        "model.safetensors",
    ]
    assert (FOLDER / "model.safetensors").stat().st_size < 300_000
    for name in ("README.md", "assets.json", "config.toml"):
        assert not re.search(
            r"\"/\w|/(home|root|tmp|usr|Users)/", (FOLDER / name).read_text(encoding="utf-8")
        )


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("how do I resume?",), "--resume"),
        (("how", "do", "I", "use", "the", "gpu"), "--device"),
        (("gradient clipping",), "--clip"),
    ],
)
def test_a_question_is_answered(command, words, answer):
    ended = command("help", *words)
    assert ended.status == 0 and ended.err == ""
    assert answer in ended.out and re.search(r"More: \S+\.md.* \(understood as '\w+', \d+% sure\)", ended.out)
    found = json.loads(command("help", *words, "--json").out)
    assert found["answer"] in ended.out and found["handed_over"] is False and found["pages"]


@pytest.mark.parametrize(
    "question", ["what is the weather in paris tomorrow", "zzzz qqqq xxxx", "tell me a joke about cats"]
)
def test_what_it_does_not_know_it_says(command, question):
    ended = command("help", question)
    assert ended.status == 0
    assert ended.out.startswith("I do not know the answer. The nearest questions that I can answer:")
    known = {each.questions[0] for each in intents().values() if each.answer}
    named = re.findall(r"^  (.*) \(.*\.md\)$", ended.out, re.M)
    assert len(named) == 3 and set(named) <= known
    assert json.loads(command("help", question, "--json").out)["handed_over"] is True


def test_without_a_question_it_lists_them_and_a_command_is_pointed_to(command, fails):
    ended = command("help")
    lines = [line.strip() for line in ended.out.splitlines() if line.startswith("  ")]
    assert lines == [each.questions[0] for each in intents().values() if each.answer]
    assert command("help", "train").out.startswith("throughtime train --help lists its options")
    assert fails("help", " ").startswith("expected a question, got an empty text")


def test_the_pages_it_names_are_there():
    root = Path(__file__).parents[2]
    assert all((root / page).is_file() for each in intents().values() for page in each.pages)
