"""One writer of a run at a time."""

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
    """Hold the folder for writing; the system releases the lock when the process ends, however it ends.

    Unfinished files of writers that were killed are removed. Only those who ask for the lock are bound by it: readers
    need none.
    Raises: RunError when another process holds it, or the file system cannot lock.
    """
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        _acquire(descriptor, folder)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            sweep(folder)
        except OSError as error:
            raise cannot_write(path, error) from None
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
        raise RunError(
            f"{folder} is being written by another training (process {owner}); wait for it, or choose another folder"
        ) from None
    except OSError as error:  # network file systems: ENOLCK, EOPNOTSUPP, EIO
        raise RunError(
            f"cannot lock {folder}: {error.strerror or error}; its file system may not support locks: "
            "choose a folder on a local disk"
        ) from None
