"""POST /v1/predict: what `throughtime predict` does, for records that come as JSON."""

from __future__ import annotations

import base64
import binascii
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from throughtime.errors import InputError
from throughtime.serve.hub import Served
from throughtime.serve.settings import Limits


def predictions(served: Served, records: Any, limits: Limits) -> list[Any]:
    """The new columns of each record, in order.

    A record is a dict of columns, or the first column's value. Where a task reads files, their content comes in base64, as
    {"file": "...", "name": "a.wav"}: nothing is ever read from the server's own disk.
    Raises: InputError for records that the task cannot read, or too many.
    """
    if not isinstance(records, list):
        raise InputError(f"records must be a list, got {type(records).__name__}")
    if len(records) > limits.max_records:
        raise InputError(
            f"a prediction has at most {limits.max_records} records, got {len(records)}: send them in parts"
        )
    task, trained = served.trained.task, served.trained
    column = task.columns[0]
    asked = [each if isinstance(each, dict) else {column: each} for each in records]
    with ExitStack() as stack:
        if column == "path":  # of a recording or an image
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="throughtime-")))
            names = [_written(folder, number, record) for number, record in enumerate(asked)]
            sent = ("path", "file", "name")
            asked = [{key: each for key, each in record.items() if key not in sent} for record in asked]
            for record, name in zip(asked, names, strict=True):
                record.update({} if name is None else {"path": name})
        with served.alone:
            try:
                return list(task.predict(trained.model, trained.assets, asked))
            except InputError as error:
                raise InputError(
                    _without_folder(str(error), folder) if column == "path" else str(error)
                ) from None


def _written(folder: Path, number: int, record: dict[str, Any]) -> str | None:
    """The path of a file with the content that came with a record; None where the record has none."""
    if "samples" in record:
        return None
    content = record.get("file")
    if content is None:
        raise InputError(
            'a record must be {"file": CONTENT IN BASE64, "name": "a.wav"}; a path would be one of the server, which is not read'
        )
    suffix = Path(str(record.get("name", ""))).suffix.lower()
    if not suffix[1:].isalnum():
        raise InputError(
            f'a record must have a "name" with the file\'s suffix, as "a.wav", got {record.get("name")!r:.60}'
        )
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise InputError(f"a file must be its content in base64, got {content!r:.40}") from None
    path = folder / f"record{number}{suffix[:16]}"
    path.write_bytes(data)
    return str(path)


def _without_folder(message: str, folder: Path) -> str:
    """An error without a path of the server's disk."""
    return message.replace(f"{folder}/", "")
