"""Tensors on disk: safetensors files that carry the checksum of all their bytes.

The file is 8 bytes, the length of the header, little-endian; the header in JSON; then the tensors' bytes without gaps.
The header's metadata hold the checksum, so any safetensors reader opens the file: the SHA-256 of the whole file with
the checksum's 64 digits as zeros. A byte that changed is noticed.
Source: https://huggingface.co/docs/safetensors, the format.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from throughtime.errors import InputError, RunError
from throughtime.files import cannot_read, replacing, write_all

_ZEROS = b"0" * 64
_KEY = (
    b'"sha256":"'  # a quote inside a JSON string is escaped, so only the metadata's own key reads like this
)
_LARGEST_HEADER = 100_000_000  # bytes; safetensors readers refuse more
_CHUNK = 1 << 22  # bytes hashed and written at a time: still in the processor's cache when they are written
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class _Entry(NamedTuple):
    """A tensor of a file: the header's line for it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # bytes after the header
    stop: int


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors, on any device, whole or not at all; the same tensors give the same bytes.

    Tensors that share memory are each written. Cost: memory for a copy of one tensor at a time, and none for one that
    is contiguous on the CPU.
    Raises: InputError for a tensor or a name that the format has no place for (complex128, sparse); RunError when the
        file cannot be written.
    """
    # The largest elements first, as the library does: each tensor then starts at a multiple of its element's size.
    order = sorted(tensors, key=lambda name: (-_element_size(name, tensors[name]), name))
    header = _header(order, tensors, {"format": "pt", **(metadata or {}), "sha256": _ZEROS.decode()})
    digest = hashlib.sha256(header)
    with replacing(path) as descriptor:
        write_all(descriptor, header)
        for name in order:
            data = _memory(tensors[name].detach().cpu().resolve_conj().resolve_neg().contiguous())
            for start in range(0, len(data), _CHUNK):
                chunk = data[start : start + _CHUNK]
                digest.update(chunk)
                write_all(descriptor, chunk)
            del data
        os.lseek(descriptor, header.index(_KEY) + len(_KEY), os.SEEK_SET)
        write_all(descriptor, digest.hexdigest().encode())


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata that `save_tensors` wrote.

    Cost: the memory of the tensors, allocated only after the header was found to agree with the size of the file.
    Raises: RunError when a byte of the file is not as written, or another program wrote it; FileNotFoundError.
    """
    try:
        with open(path, "rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise cannot_read(path, error) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = error if isinstance(error, ValueError) else "its header has another form"
        raise RunError(
            f"{path} is damaged or not ours: {why}; put back a copy of it, or train again with another --out"
        ) from None


def tensors_to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """What `save_tensors` writes, in memory: for small tensors that go to a store or over a network.

    Raises: InputError as `save_tensors`.
    """
    order = sorted(tensors, key=lambda name: (-_element_size(name, tensors[name]), name))
    header = _header(order, tensors, {"format": "pt", **(metadata or {}), "sha256": _ZEROS.decode()})
    parts = [tensors[name].detach().cpu().resolve_conj().resolve_neg().contiguous() for name in order]
    data = bytearray(header + b"".join(bytes(_memory(part)) for part in parts))
    place = header.index(_KEY) + len(_KEY)
    data[place : place + 64] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def tensors_from_bytes(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of `tensors_to_bytes`. Raises: ValueError saying what is wrong with other bytes."""
    try:
        return _read(io.BytesIO(data), len(data))
    except (KeyError, TypeError, RecursionError):
        raise ValueError("its header has another form") from None


def _element_size(name: str, tensor: Tensor) -> int:
    """Bytes of an element; raises InputError for what has no form in a file."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta or tensor.dtype not in _NAMES:
        what = (
            "meta" if tensor.is_meta else "nested" if tensor.is_nested else str(tensor.layout).split(".")[1]
        )
        raise InputError(
            f"cannot save these tensors as safetensors: {name} is {what} and {tensor.dtype}, expected dense tensors of "
            f"{', '.join(str(dtype).split('.')[1] for dtype in _NAMES)}"
        )
    return tensor.element_size()


def _header(order: list[str], tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The length and the JSON text, padded so that the tensors begin at a multiple of eight."""
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name in order:
        tensor = tensors[name]
        stop = start + tensor.numel() * tensor.element_size()
        if name in entries:
            raise InputError(f"cannot save these tensors as safetensors: no tensor may be named {name!r}")
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    try:
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot save these tensors as safetensors: {error}") from None
    text += b" " * (-len(text) % 8)
    if len(text) > _LARGEST_HEADER:
        raise InputError(
            f"cannot save these tensors as safetensors: names and values beside the tensors take {len(text):,} bytes, "
            f"at most {_LARGEST_HEADER:,} are readable; keep large lists as tensors"
        )
    return len(text).to_bytes(8, "little") + text


def _memory(dense: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    return dense.reshape(-1).view(torch.uint8).numpy().data


def _read(file: BufferedIOBase, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Raises: ValueError saying what is wrong; others for a header of another form."""
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > min(size - 8, _LARGEST_HEADER):
        raise ValueError("it does not begin with a header")
    header = file.read(length)
    place = header.find(_KEY) + len(_KEY)
    stated = header[place : place + 64]
    if _KEY not in header or len(stated) < 64:
        raise ValueError("it has no checksum")
    content = json.loads(header)
    metadata = content.pop("__metadata__")
    if not isinstance(metadata, dict):
        raise TypeError
    entries = _entries(content, size - 8 - length)
    digest = hashlib.sha256(prefix + header[:place] + _ZEROS + header[place + 64 :])
    tensors = {}
    for entry in entries:
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        memory = _memory(tensor)
        for start in range(0, len(memory), _CHUNK):
            chunk = memory[start : start + _CHUNK]
            if file.readinto(chunk) != len(chunk):
                raise ValueError("it became shorter while it was read")
            digest.update(chunk)
        tensors[entry.name] = tensor
    if digest.hexdigest().encode() != stated:
        raise ValueError("its checksum does not match")
    return tensors, metadata


def _entries(content: dict[str, Any], size: int) -> list[_Entry]:
    """The tensors in the order of their bytes, which must fill `size` bytes without gaps; else ValueError."""
    entries = []
    for name, each in content.items():
        dtype, shape, (start, stop) = _DTYPES[each["dtype"]], each["shape"], each["data_offsets"]
        if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, start, stop)):
            raise ValueError("its header has a size that is not a whole number from 0 to 2**63 - 1")
        if len(shape) > 64 or math.prod(max(1, number) for number in shape) >= 2**63:
            raise ValueError("its header has a shape that no tensor can have")
        if stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError("its header gives a tensor another size than its shape")
        entries.append(_Entry(name, dtype, tuple(shape), start, stop))
    entries.sort(key=lambda entry: (entry.start, entry.stop))
    at = 0
    for entry in entries:
        if entry.start != at:
            raise ValueError("its header leaves gaps between tensors")
        at = entry.stop
    if at != size:
        raise ValueError(f"its header tells of {at} bytes of tensors, {size} are there")
    return entries
