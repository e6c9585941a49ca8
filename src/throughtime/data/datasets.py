"""Where public data sets are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from throughtime.errors import InputError, nearest_file

VARIABLE = "THROUGHTIME_DATA"


def data_folder() -> Path:
    """The folder of the data sets: `THROUGHTIME_DATA` when set, else one in the user's cache folder."""
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder else _cache_folder()


def find_dataset(name: str) -> Path:
    """The path of a data set, or of a file inside one: `find_dataset("time_machine/timemachine.txt")`.

    Raises: InputError saying where it was looked for, and what to do.
    """
    folder = data_folder()
    path = folder / name
    if path.exists():
        return path
    reason = f"{VARIABLE} says so" if os.environ.get(VARIABLE) else f"the default, as {VARIABLE} is not set"
    raise InputError(
        f"data set {name!r} must be in {folder} ({reason}), but is not there; "
        f"put it there, or set {VARIABLE} to the folder that holds it.{nearest_file(path)}"
    )


def _cache_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "throughtime"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "throughtime"
