"""history.jsonl: one JSON object per line, appended as training goes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from throughtime.errors import InputError, RunError
from throughtime.files import cannot_write, json_text, read_whole, write_all, write_whole

Record = dict[str, Any]
_NUMBER = (int, float, type(None))  # None: it was not finite
_KINDS: dict[str, tuple[type, ...]] = {
    "step": (int, float),
    "seconds": _NUMBER,
    "loss": _NUMBER,
    "metrics": (dict,),
}


def append(path: Path, record: Record) -> None:
    """Add one line. NaN and infinities, which JSON has no form for, become null.

    An incomplete last line, left by a writer that was killed, is removed first.
    Raises: InputError for a record that is not JSON; RunError when it cannot be written (the file is as it was).
    """
    line = _line(record)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            end = _end_of_last_line(descriptor)
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            try:
                write_all(descriptor, line)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot_write(path, error) from None


def read(path: Path) -> list[Record]:
    """All complete lines; a last line without its end, left by a writer that was killed, is not a record.

    Raises: RunError naming the first line that is not a JSON object, or has a step, loss, time or metric that is no number.
    """
    try:
        *lines, _incomplete = read_whole(path).split(b"\n")
    except FileNotFoundError:
        return []
    return [_parse(line, path, number) for number, line in enumerate(lines, start=1)]


def best_evaluation(records: Iterable[Record]) -> Record:
    """The last evaluation that was marked best, else the last; empty where there is none."""
    evaluations = [record for record in records if record.get("kind") == "evaluation"]
    best = [record for record in evaluations if record.get("best")]
    return (best or evaluations or [{}])[-1]


def rewind(path: Path, step: int) -> None:
    """Drop the records after `step`, and an incomplete line; records that have no "step" stay. Whole or not at all.

    Raises: as `read`; RunError when it cannot be written.
    """
    if not path.exists():
        return
    kept = [record for record in read(path) if not _is_after(record, step)]
    write_whole(path, b"".join(map(_line, kept)))


def sync(path: Path) -> None:
    """Bring appended lines to the disk."""
    if not path.exists():
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise cannot_write(path, error) from None


def _line(record: Record) -> bytes:
    try:
        return json_text(record).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"a history record must be JSON values: {error}") from None


def _is_after(record: Record, step: int) -> bool:
    at = record.get("step")
    return isinstance(at, (int, float)) and at > step


def _end_of_last_line(descriptor: int) -> int:
    """The size of the file without an incomplete last line."""
    end = os.fstat(descriptor).st_size
    while end and os.pread(descriptor, 1, end - 1) != b"\n":
        end -= 1
    return end


def _parse(line: bytes, path: Path, number: int) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise RunError(f"{path} is damaged: line {number} is not a JSON object; remove that line")
    if wrong := [name for name, kinds in _KINDS.items() if name in record and not _is(record[name], kinds)]:
        raise RunError(f"{path} is damaged: line {number} has a {wrong[0]} of another type; remove that line")
    metrics = record.get("metrics", {}).values()
    if not all(_is(value, _NUMBER) for value in metrics):
        raise RunError(f"{path} is damaged: line {number} has a metric that is no number; remove that line")
    return record


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
