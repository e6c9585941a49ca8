"""One family of exceptions. Each message says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class ThroughtimeError(Exception):
    """Anything the user can put right. The command line prints it on one line and exits with status 2."""


class InputError(ThroughtimeError, ValueError):
    """A value, a file or an option that cannot be used."""


class RunError(ThroughtimeError):
    """A run folder that is missing, damaged, foreign, in use or in the way."""


class BackendError(ThroughtimeError, RuntimeError):
    """A backend that was demanded by name cannot run the call; the message is its reason."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """The choice that was probably meant, as a sentence to append; empty when none is near."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def nearest_file(path: Path) -> str:
    """As `nearest`, of the files beside a path; their suffixes count for nothing, as so many files share one."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except (
        OSError
    ):  # no such folder, or one that may be entered and not listed: then there is no name to offer
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
