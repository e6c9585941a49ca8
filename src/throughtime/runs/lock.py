"""One writer at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from throughtime.errors import RunError
from throughtime.files import cannot_write, sweep

LOCK = ".lock"


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the folder for writing; the system lets go of it when the process ends, however it ends.

    What killed writers left half written is removed. The lock binds only those who ask for it: readers need
    none.
    Raises: RunError when another holds it.
    """
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
            raise RunError(
                f"{folder} is being written by another training (process {owner}); "
                "wait for it, or choose another folder"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        sweep(folder)
        yield
    finally:
        os.close(descriptor)
