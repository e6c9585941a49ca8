"""What the commands that compare share: their settings and the files of their results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from throughtime.errors import RunError
from throughtime.files import write_whole

Settings = TypeVar("Settings", bound=Any)  # a dataclass


def chosen(settings: Settings, given: dict[str, Any]) -> Settings:
    """The settings with what was given on the command line in place of the defaults."""
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def keep(out: Path, name: str, table: str, sentences: list[str], found: dict[str, Any]) -> None:
    """`name`.md, a table and what it says, and `name`.json in the folder.

    Raises: RunError naming what could not be written.
    """
    said = "\n".join(f"- {sentence}" for sentence in sentences)
    write_whole(out / f"{name}.md", f"{table}\n\n{said}\n".encode())
    write_whole(out / f"{name}.json", f"{json.dumps(found, indent=1)}\n".encode())


def prepare(out: Path) -> None:
    """Find out before minutes of work that they could not be kept.

    Raises: InputError without matplotlib, RunError where the folder cannot be written to.
    """
    from throughtime.flow.drawing import style

    style()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write to {out}: {error.strerror}; choose another --out") from None
