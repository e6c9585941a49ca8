"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from throughtime.errors import RunError

UNFINISHED = ".new"  # how the name of a file ends while it is being written


def write_whole(path: str | Path, data: bytes) -> None:
    """Replace the file's content; whoever reads it, even after a power cut, finds the old content or the new.

    The data goes to a new file in the same folder and to the disk before it takes the name.
    Raises: RunError naming the file, the cause and what to do; the file is then as it was.
    Source: Pillai et al. 2014, OSDI, on what file systems promise.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        try:
            _write_to_disk(unfinished, data)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from None


def read_whole(path: Path) -> bytes:
    """The file's content.

    Raises: RunError when it cannot be read; FileNotFoundError is left to the caller, who knows what is
    missing.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}; check its permissions") from None


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left half written. Only while no one else writes to the folder."""
    for unfinished in folder.glob(f".*{UNFINISHED}"):
        unfinished.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such order, and need none
            raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; one call of the system may take only some."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def cannot_write(path: Path, error: OSError) -> RunError:
    """The one line that says why a file could not be written, and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space or choose another folder" if full else "check the folder and its permissions"
    return RunError(
        f"cannot write {path}: {error.strerror or error}; {advice} (nothing that was there is lost)"
    )


def _write_to_disk(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
