"""Exceptions and suggestions. Each message says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class ThroughtimeError(Exception):
    """Anything the user can correct. The command line prints it on one line and exits with status 2."""


class InputError(ThroughtimeError, ValueError):
    """A value, a file or an option that cannot be used."""


class RunError(ThroughtimeError):
    """A file or run folder that is missing, damaged, in use, in the way, or cannot be read or written."""


class BackendError(ThroughtimeError, RuntimeError):
    """A backend that was chosen by name cannot run the call; the message is its reason."""


class SessionError(ThroughtimeError):
    """A session that cannot do what was asked; `cause` is one of CAUSES, for programs, and the message is for people."""

    CAUSES = ("unknown", "busy", "expired", "sequence", "snapshot", "full", "closed", "store")

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


def nearest(word: str, choices: Iterable[str]) -> str:
    """The most similar choice as a sentence to append; empty when none is similar."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def nearest_file(path: Path) -> str:
    """As `nearest`, of the files in the folder of a path; suffixes are not compared, as many files share one."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:  # no such folder, or no permission to list it
        return ""
    by_stem = {Path(each).stem: each for each in names}
    close = difflib.get_close_matches(path.stem, list(by_stem), n=1, cutoff=0.7)
    return f" Did you mean {by_stem[close[0]]!r}?" if close else ""


def one_of(name: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`.

    Raises: InputError naming the choices and the nearest of them.
    """
    known = list(choices)
    if value in known:
        return value
    raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}.{nearest(value, known)}")
