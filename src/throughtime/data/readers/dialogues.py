"""Dialogues from TSV, YAML in the form of the ChatterBot corpus, and JSON lines.

TSV, without quotes: a dialogue's name, the speaker and the text of a turn in three columns, or a prompt and its reply in two; a
header is recognized and left out. YAML: `conversations`, a list of lists of turns, and `categories`. JSON lines: {"turns": [...]}
with texts, or objects with "speaker" and "text". All are UTF-8. Where no speaker is named, two take turns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from throughtime.data.readers.records import shortened, text_problem
from throughtime.data.text import Source, read_bytes, refuse_binary
from throughtime.errors import InputError

FORMS = {
    **dict.fromkeys((".tsv", ".tab"), "tsv"),
    **dict.fromkeys((".yml", ".yaml"), "yaml"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
}
_HEADERS = (  # what the columns of a header may be called
    ({"dialogue", "dialog", "conversation", "id", "dialogue_id"}, {"speaker", "role", "who"}, {"text", "turn", "utterance"}),
    ({"prompt", "question", "context", "input"}, {"reply", "answer", "response", "output"}),
)  # fmt: skip
_EXPECTED = "expected TSV (dialogue, speaker, text; or prompt, reply), YAML with 'conversations', or JSON lines with 'turns'"


class Dialogue(NamedTuple):
    """What was said, turn after turn; no two turns after each other have the same speaker."""

    turns: tuple[str, ...]
    speakers: tuple[str, ...]  # of each turn
    category: str = ""
    place: str = ""  # "file.tsv:12", of its first turn


class Dialogues(NamedTuple):
    """Dialogues and the files that they are from."""

    dialogues: tuple[Dialogue, ...]
    sources: tuple[Source, ...] = ()
    remarks: tuple[str, ...] = ()  # what the user should be told once


class _Bad(NamedTuple):
    """A dialogue that cannot be used, with its file and row."""

    message: str


_Found = Iterator[Dialogue | _Bad]


def read_dialogues(files: Sequence[str | Path], *, skip_bad: bool = False) -> Dialogues:
    """Read files, and folders with all files of the known suffixes in them, one after the other.

    Turns of one speaker after each other are joined with a space. A dialogue of fewer than two turns, one with an empty turn, or
    a row of another form is refused with its file and row; with `skip_bad` such dialogues are left out and counted.
    Raises: InputError for these, for a file that cannot be read, or when no dialogue is left; for YAML without PyYAML.
    """
    found: list[Dialogue] = []
    sources: list[Source] = []
    remarks: list[str] = []
    for file in files:
        paths = [Path(file)]
        if paths[0].is_dir():
            paths = sorted(
                path for path in paths[0].rglob("*") if path.suffix.lower() in FORMS and path.is_file()
            )
            if not paths:
                raise InputError(f"{file}: {_EXPECTED}, found no such file in the folder")
        for path in paths:
            data, source = read_bytes(path)
            sources.append(source)
            bad: list[str] = []
            for each in _of_file(data, path):
                if isinstance(each, Dialogue):
                    found.append(each)
                elif skip_bad:
                    bad.append(each.message)
                else:
                    raise InputError(
                        f"{each.message}; correct it, or leave bad dialogues out with --skip-bad"
                    )
            if bad:
                count = "1 bad dialogue" if len(bad) == 1 else f"{len(bad)} bad dialogues"
                remarks.append(f"{path}: {count} skipped; the first is {bad[0]}")
    if not found:
        raise InputError(
            f"expected dialogues, found none in {', '.join(map(str, files))}{''.join(f'; {r}' for r in remarks)}"
        )
    return Dialogues(tuple(found), tuple(sources), tuple(remarks))


def _of_file(data: bytes, path: Path) -> _Found:
    refuse_binary(data, path)
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    form = FORMS.get(path.suffix.lower())
    if form is None:
        first = next((line for line in text.splitlines() if line.strip()), "")
        form = "jsonl" if first.lstrip().startswith("{") else "tsv" if "\t" in first else None
    if form is None:
        raise InputError(f"{path}: {_EXPECTED}, got something else: give the file the suffix of its format")
    read: Callable[[str, str], _Found] = {"tsv": _of_tsv, "yaml": _of_yaml, "jsonl": _of_json}[form]
    return read(text, str(path))


def _of_tsv(text: str, name: str) -> _Found:
    """Rows of one dialogue need not stand together."""
    turns: dict[str, list[tuple[str, str, int]]] = {}  # of each dialogue: speaker, text, row
    broken: dict[str, _Bad] = {}
    columns = 0
    for number, line in enumerate(text.split("\n"), 1):
        row = line.removesuffix("\r").split("\t")
        if not line.strip():
            continue
        if not columns:
            columns = len(row)
            if columns not in (2, 3):
                raise InputError(
                    f"{name}:{number}: expected two columns (prompt, reply) or three (dialogue, speaker, text), got {columns}: "
                    f"{shortened(ascii(line))}"
                )
            if any(
                len(header) == columns and all(cell.strip().casefold() in known for cell, known in zip(row, header, strict=True))
                for header in _HEADERS
            ):  # fmt: skip
                continue
        key = row[0] if columns == 3 else str(number)
        own = turns.setdefault(key, [])
        if len(row) != columns:
            problem = f"expected {columns} columns, got {len(row)}: {shortened(ascii(line))}"
            broken.setdefault(key, _Bad(f"{name}:{number}: {problem}"))
        elif columns == 3:
            own.append((row[1].strip(), row[2], number))
        else:
            own += [("a", row[0], number), ("b", row[1], number)]
    for key, own in turns.items():
        yield broken.get(key) or _checked(own, name, "")


def _of_json(text: str, name: str) -> _Found:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        here = f"{name}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield _Bad(
                f"{here}: expected one JSON object on a line, got {shortened(ascii(line.strip()))} ({error})"
            )
            continue
        turns = record.get("turns") if isinstance(record, dict) else None
        if not isinstance(turns, list):
            yield _Bad(f'{here}: expected {{"turns": [...]}}, got {shortened(ascii(line.strip()))}')
            continue
        own: list[tuple[str, str, int]] = []
        for place, turn in enumerate(turns):
            if isinstance(turn, dict) and isinstance(turn.get("text"), str):
                own.append((str(turn.get("speaker", "ab"[place % 2])), turn["text"], number))
            elif isinstance(turn, str):
                own.append(("ab"[place % 2], turn, number))
            else:
                problem = f'turn {place + 1} must be a text, or an object with "speaker" and "text"'
                yield _Bad(f"{here}: {problem}, got {shortened(json.dumps(turn))}")
                break
        else:
            yield _checked(own, name, str(record.get("category", "")))


def _of_yaml(text: str, name: str) -> _Found:
    """Every turn is taken as it is written: `Yes` and `42` are texts. Nodes are read and no objects made, so nothing can run."""
    try:
        yaml: Any = import_module("yaml")
    except ImportError:
        raise InputError(f"{name}: reading YAML needs PyYAML: pip install 'throughtime[chat]'") from None
    try:
        text.encode()
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeEncodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        raise InputError(
            f"{name}:{mark.line + 1 if mark else 1}: this is no YAML: {shortened(what, 100)}"
        ) from None
    fields = {key.value: value for key, value in root.value} if isinstance(root, yaml.MappingNode) else {}
    conversations = fields.get("conversations")
    if not isinstance(conversations, yaml.SequenceNode):
        line = conversations.start_mark.line + 1 if conversations is not None else 1
        raise InputError(
            f"{name}:{line}: expected 'conversations', a list of lists of turns, as in the ChatterBot corpus"
        )
    named = fields.get("categories")
    names = [each.value for each in named.value] if isinstance(named, yaml.SequenceNode) else []
    category = next((each for each in names if isinstance(each, str)), "") or Path(name).stem
    for each in conversations.value:
        row = each.start_mark.line + 1
        if not isinstance(each, yaml.SequenceNode) or not all(
            isinstance(turn, yaml.ScalarNode) for turn in each.value
        ):
            yield _Bad(
                f"{name}:{row}: expected a list of turns, each a text (in quotes where it holds a colon)"
            )
            continue
        own = [
            ("ab"[place % 2], "" if turn.tag.endswith(":null") else turn.value, turn.start_mark.line + 1)
            for place, turn in enumerate(each.value)
        ]
        yield (
            _checked(own, name, category) if own else _Bad(f"{name}:{row}: expected turns, got an empty list")
        )


def _checked(turns: Sequence[tuple[str, str, int]], name: str, category: str) -> Dialogue | _Bad:
    """A dialogue of (speaker, text, row), or what is wrong with it."""
    texts: list[str] = []
    speakers: list[str] = []
    for speaker, text, row in turns:
        clean = " ".join(text.split())
        if problem := text_problem(text) or ("" if clean else "expected the text of a turn, got none"):
            return _Bad(f"{name}:{row}: {problem}")
        if speakers[-1:] == [speaker]:
            texts[-1] = f"{texts[-1]} {clean}"
        else:
            texts.append(clean)
            speakers.append(speaker)
    row = turns[0][2] if turns else 1
    if len(texts) < 2:
        return _Bad(
            f"{name}:{row}: expected a dialogue of at least two turns of two speakers, got {len(texts)}"
        )
    return Dialogue(tuple(texts), tuple(speakers), category.strip(), f"{name}:{row}")
