"""Intents and their answers: questions about throughtime itself, which ship inside, and answers in a user's file."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from throughtime.data.readers.records import Records, find_column, shortened
from throughtime.data.readers.tables import Table
from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError

FILE = Path(__file__).with_name("questions.toml")


class Intent(NamedTuple):
    """A kind of question."""

    questions: tuple[str, ...]
    answer: str  # empty: such questions are handed over
    pages: tuple[str, ...]  # of the documentation, where more is said


def intents() -> dict[str, Intent]:
    """The questions about throughtime that ship inside, by label."""
    return {
        label: Intent(tuple(each["questions"].strip().splitlines()), each["answer"], tuple(each["pages"]))
        for label, each in tomllib.loads(FILE.read_text(encoding="utf-8")).items()
    }


def question_table() -> Table:
    """The questions as rows with the columns "text" and "label"."""
    rows = [(question, label) for label, each in intents().items() for question in each.questions]
    texts, labels = zip(*rows, strict=True)
    _, source = read_bytes(FILE)
    # Where the package is installed says nothing of the data.
    return Table(
        {"text": texts, "label": labels}, (source._replace(path=f"throughtime/data/inside/{FILE.name}"),)
    )


def read_answers(
    files: Sequence[str],
    columns: Sequence[str] = ("label",),
    answer: str | None = None,
    *,
    skip_bad: bool = False,
) -> tuple[dict[str, str], tuple[Source, ...]]:
    """The answer of each label, from columns of CSV, TSV or JSON lines; a row may leave its answer out.

    One answer stands for all rows of its label; a label all of whose answers are empty has the answer "".
    Args: columns: what each row must have, the last of them the label. answer: the column of the answer; None: "answer" in those
        files that have one. Folders have no answers.
    Returns: the answers, and the fingerprints of the files they are from.
    Raises: InputError for a file without a column that was named, a row that cannot be read, or a label with two answers, naming
        both rows.
    """
    found: dict[str, str] = {}
    where: dict[str, str] = {}
    sources: list[Source] = []
    for file in files:
        if Path(file).is_dir():
            continue
        data, source = read_bytes(file)
        records = Records(io.BytesIO(data), columns, name=file, skip_bad=skip_bad)
        column = ""
        for record in records:
            try:
                column = column or find_column(tuple(record), answer or "answer")
            except InputError as error:
                if answer is None:
                    break
                raise InputError(f"{file}:{records.line}: {error}") from None
            here, name, text = f"{file}:{records.line}", *_answer_of(record, records, column)
            before = found.setdefault(name, text)
            if not text:
                continue
            if before and text != before:
                raise InputError(
                    f"{here}: the label {name!r} has another answer in {where[name]}: {shortened(text)!r} and "
                    f"{shortened(before)!r}; keep one"
                )
            found[name] = text
            where.setdefault(name, here)
        else:
            sources.append(source)
    return found, tuple(sources)


def _answer_of(record: dict[str, Any], records: Records, column: str) -> tuple[str, str]:
    """The label of a record and its answer."""
    text = record.get(column) or ""
    if not isinstance(text, str):
        raise InputError(
            f"{records.name}:{records.line}: expected {column!r} to be a text, got {shortened(repr(text))}"
        )
    return records.texts(record)[-1].strip(), text.strip()
