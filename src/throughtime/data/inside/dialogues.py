"""Dialogues about throughtime itself, which ship inside."""

from __future__ import annotations

import tomllib
from pathlib import Path

from throughtime.data.inside import questions
from throughtime.data.readers.dialogues import Dialogue, Dialogues
from throughtime.data.text import read_bytes

FILE = Path(__file__).with_name("dialogues.toml")


def inside_dialogues() -> Dialogues:
    """The dialogues that ship inside: those of dialogues.toml, then each question of questions.toml with its reply."""
    data, source = read_bytes(FILE)
    tables = tomllib.loads(data.decode())
    replies: dict[str, str] = tables["replies"]
    found = []
    for block in tables["texts"]["dialogues"].strip().split("\n\n"):
        lines = [replies[line[2:]] if line.startswith("= ") else line for line in block.splitlines()]
        found.append(Dialogue(tuple(lines), speakers(len(lines)), "dialogues"))
    for label, each in questions.intents().items():
        found += [
            Dialogue((question, replies[label]), speakers(2), "questions") for question in each.questions
        ]
    _, other = read_bytes(questions.FILE)
    # Where the package is installed says nothing of the data.
    sources = tuple(
        each._replace(path=f"throughtime/data/inside/{file.name}")
        for each, file in ((source, FILE), (other, questions.FILE))
    )
    return Dialogues(tuple(found), sources)


def speakers(turns: int) -> tuple[str, ...]:
    """The speakers of so many turns of two who take turns."""
    return tuple("ab"[number % 2] for number in range(turns))
