"""What goes over a connection: JSON, and binary messages that carry a tensor or a snapshot behind a JSON header.

A binary message is the header's length in bytes (uint32, little-endian), the header (JSON in UTF-8) and the payload: the numbers
of a tensor, little-endian, in the order of C. The header is the same message that a text message would be, with "dtype" and
"shape" in the place of what the payload is; dtype "bytes" is a snapshot and has no shape. Imports no torch.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from typing import Any

import numpy as np

from throughtime.errors import InputError

DTYPES = {"float32": "<f4", "int16": "<i2", "int64": "<i8"}
_LENGTH = 4
_NAME = re.compile(r"[\w.~:@-]{1,128}", re.ASCII)


def dumps(value: Any) -> str:
    """JSON in one line; numbers that JSON lacks (NaN, infinity) as null. Raises: TypeError for what is no JSON."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False, default=_plain, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def loads(text: str | bytes) -> dict[str, Any]:
    """A message: a JSON object. Raises: InputError for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected a JSON object, got something else: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"expected a JSON object, got {type(found).__name__}")
    return found


def pack(header: dict[str, Any], payload: np.ndarray[Any, Any] | bytes) -> bytes:
    """A binary message. Raises: InputError for an array of another dtype than float32, int16 or int64."""
    if isinstance(payload, bytes):
        header, raw = {**header, "dtype": "bytes"}, payload
    else:
        name = str(payload.dtype)
        if name not in DTYPES:
            raise InputError(f"dtype must be {', '.join(DTYPES)}, got {name}: convert the array first")
        header = {**header, "dtype": name, "shape": list(payload.shape)}
        raw = np.ascontiguousarray(payload, DTYPES[name]).tobytes()
    text = dumps(header).encode()
    return len(text).to_bytes(_LENGTH, "little") + text + raw


def unpack(message: bytes) -> tuple[dict[str, Any], np.ndarray[Any, Any] | bytes]:
    """Header and payload of a binary message. Raises: InputError for bytes that are none."""
    end = _LENGTH + int.from_bytes(message[:_LENGTH], "little")
    if len(message) < _LENGTH or len(message) < end:
        raise InputError(
            f"a binary message is a length, as uint32, a JSON header of that length, and a payload, got {len(message)} bytes "
            f"for a header that ends at {end}"
        )
    header, raw = loads(message[_LENGTH:end]), message[end:]
    name, shape = header.pop("dtype", None), header.pop("shape", None)
    if name == "bytes":
        return header, raw
    if not isinstance(name, str) or name not in DTYPES:
        raise InputError(f"dtype must be {', '.join(DTYPES)} or bytes, got {name!r:.40}")
    if (
        not isinstance(shape, list)
        or len(shape) > 8
        or not all(type(each) is int and 0 <= each < 2**31 for each in shape)
    ):
        raise InputError(f"shape must be a list of whole numbers, got {shape!r:.60}")
    dtype = np.dtype(DTYPES[name])
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise InputError(f"{name} {shape} takes {math.prod(shape) * dtype.itemsize} bytes, got {len(raw)}")
    # A copy: an array over the message could not be written to, which torch warns about.
    return header, np.frombuffer(raw, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=True)


def checked_id(id: Any) -> str:
    """A session's name. Raises: InputError for one that cannot stand in an address."""
    if not isinstance(id, str) or not _NAME.fullmatch(id):
        raise InputError(f"a session's id must be 1 to 128 letters, digits and . _ ~ : @ -, got {id!r:.60}")
    return id


def whole(value: Any, name: str, low: int = 0) -> int:
    """A whole number of JSON. Raises: InputError for anything else."""
    if type(value) is not int or not low <= value < 2**53:
        raise InputError(f"{name} must be a whole number of at least {low}, got {value!r:.40}")
    return value


def snapshot_bytes(text: Any) -> bytes:
    """A snapshot that came in JSON. Raises: InputError for what is no base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise InputError(f"a snapshot in JSON must be base64, got {text!r:.40}") from None


def _plain(value: Any) -> Any:
    """Arrays, tensors and their numbers as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return _finite(_plain(value)) if hasattr(value, "tolist") else value
