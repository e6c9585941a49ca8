"""Writing files: a regular file is replaced as a whole or not at all; a FIFO or a device is written into."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from throughtime.errors import InputError, RunError

UNFINISHED = ".new"  # suffix of a file that is being written
STDOUT = "-"  # standard output, where the command line takes the path of an output


@contextmanager
def replacing(path: str | Path) -> Iterator[int]:
    """A descriptor of a new file that takes the place of `path` when the block ends, and is removed if it fails.

    The data reaches the disk before the file takes the name, so a reader finds the old content or the new, even after
    a power failure. Of a symbolic link the target is replaced. An existing file keeps its permissions.
    Raises: RunError naming the path, the cause and what to do; the path is then as it was.
    Source: Pillai et al. 2014, OSDI, on what file systems promise.
    """
    path = Path(path)
    try:
        before = _existing(path)
        if before is not None:
            _refuse(path, before)
        target = Path(os.path.realpath(path))
        # Cut, as the longest name a file system takes leaves no room for more.
        unfinished = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}{UNFINISHED}")
        try:
            mode = 0o666 if before is None else stat.S_IMODE(before.st_mode)
            descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
            try:
                yield descriptor
                if before is not None:
                    _keep_owner_and_mode(descriptor, before)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
        sync_folder(target.parent)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_whole(path: str | Path, data: bytes) -> None:
    """Write to what the path names: a regular or new file as `replacing`; a FIFO or a character device is written into.

    /dev/stdout and other names of this process's open descriptors are written to at their present position.
    Raises: RunError as `replacing`; BrokenPipeError when the reader of standard output went away.
    """
    path = Path(path)
    number = _descriptor(path)
    try:
        if number is not None:
            if number == 1 and sys.stdout is not None:
                sys.stdout.flush()  # what was printed before comes first
            write_all(number, data)
            return
        found = _existing(path)
        if found is not None and _is_written_into(found):
            descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY)
            try:
                write_all(descriptor, data)
            finally:
                os.close(descriptor)
            return
    except OSError as error:
        if number is not None and isinstance(error, BrokenPipeError):
            raise
        raise cannot_write(path, error) from None
    with replacing(path) as descriptor:
        write_all(descriptor, data)


def write_output(path: str | Path, data: bytes) -> None:
    """Write an output of the command line: "-" is standard output, any other path as `write_whole`.

    Raises: as `write_whole`.
    """
    if str(path) != STDOUT:
        write_whole(path, data)
        return
    check_writable(path)
    sys.stdout.flush()
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:  # replaced by a stream that takes text only
        sys.stdout.write(data.decode(errors="replace"))
    else:
        binary.write(data)
    sys.stdout.flush()


def check_writable(path: str | Path) -> None:
    """Refuse a path that `write_output` could not write to, before the work whose result goes there.

    Nothing is created, opened for writing or truncated.
    Raises: InputError saying why, and what to do.
    """
    if str(path) == STDOUT:
        if sys.stdout is None or sys.stdout.closed:
            raise InputError("cannot write to standard output: it is closed; name a file")
        return
    path = Path(path)
    number = _descriptor(path)
    try:
        if number is not None:
            if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise InputError(f"cannot write to {path}: it is open for reading only; name a file")
            return
        found = _existing(path)
        if found is not None:
            _refuse(path, found, also_into=True)
            if _is_written_into(found):
                return
        folder = Path(os.path.realpath(path)).parent
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            raise InputError(f"cannot write {path}: {folder} is not a folder; name a file in a folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                f"cannot write {path}: no permission to write in {folder}; choose another folder"
            )
    except FileNotFoundError:
        folder = Path(os.path.realpath(path)).parent
        raise InputError(
            f"cannot write {path}: there is no folder {folder}; name a file in a folder that exists"
        ) from None
    except RunError as error:
        raise InputError(str(error)) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write {path}: {why}; name another file") from None


def read_whole(path: Path) -> bytes:
    """The file's content.

    Raises: RunError when it cannot be read; FileNotFoundError, as only the caller knows what is missing.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise cannot_read(path, error) from None


def sweep(folder: Path) -> None:
    """Remove the unfinished files of writers that were killed. Only while no one else writes to the folder."""
    for unfinished in folder.glob(f".*{UNFINISHED}"):
        unfinished.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # a folder may be written to and not read; the system syncs it in its own time
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder, and need not
            raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte; one system call may take only some."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def cannot_write(path: Path, error: OSError) -> RunError:
    """The one line that says why a file could not be written, and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space or choose another folder" if full else "check the folder and its permissions"
    return RunError(
        f"cannot write {path}: {error.strerror or error}; {advice} (a file that was there is unchanged)"
    )


def cannot_read(path: Path, error: OSError) -> RunError:
    """The same of a file that could not be read."""
    return RunError(f"cannot read {path}: {error.strerror or error}; check its permissions")


def _existing(path: Path) -> os.stat_result | None:
    """What the path names, links followed; None when there is nothing."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _is_written_into(found: os.stat_result) -> bool:
    return stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode)


def _refuse(path: Path, found: os.stat_result, *, also_into: bool = False) -> None:
    """Raise RunError for what cannot be replaced, nor, with `also_into`, written into."""
    if stat.S_ISDIR(found.st_mode):
        raise RunError(f"cannot write {path}: it is a folder; name a file in it")
    if not stat.S_ISREG(found.st_mode) and not (also_into and _is_written_into(found)):
        raise RunError(f"cannot write {path}: it is not a regular file; name another one")
    if not os.access(path, os.W_OK):
        raise RunError(f"cannot write {path}: no permission to write to it; name another file")


def _keep_owner_and_mode(descriptor: int, before: os.stat_result) -> None:
    """Give the new file the owner, where that is allowed, and the permissions of the one that it replaces."""
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) != (before.st_uid, before.st_gid):
        with suppress(OSError):  # only root may; else the writer owns the file
            os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


def _descriptor(path: Path) -> int | None:
    """The number of this process's open descriptor that the path names, as /dev/stdout or /dev/fd/3 do; else None.

    Such a path can lead to a regular file, which a shell redirected: replacing that would lose what is written after.
    """
    own = rf"/dev/fd/(\d+)|/proc/(?:self|thread-self|{os.getpid()})/fd/(\d+)"
    place = os.path.abspath(path)
    for _ in range(40):  # as many links as Linux follows
        if found := re.fullmatch(own, place):
            return int(found[1] or found[2])
        try:
            place = os.path.normpath(os.path.join(os.path.dirname(place), os.readlink(place)))
        except (OSError, ValueError):
            break
    return None


def json_text(value: Any, indent: int | None = None) -> str:
    """Strict JSON: null where a number is NaN or infinite, for which JSON has no form.

    Raises: TypeError for what has no form in JSON; ValueError for what holds itself.
    """

    def finite(part: Any) -> Any:
        if isinstance(part, float):
            return part if math.isfinite(part) else None
        if isinstance(part, dict):
            return {key: finite(each) for key, each in part.items()}
        return [finite(each) for each in part] if isinstance(part, (list, tuple)) else part

    return json.dumps(finite(value), ensure_ascii=False, indent=indent, allow_nan=False)
