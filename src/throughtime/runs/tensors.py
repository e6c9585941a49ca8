"""Tensors on disk: safetensors files that carry the checksum of all their bytes.

The checksum stands in the file's own metadata, so any safetensors reader opens the file. It is the SHA-256
of the whole file with the checksum's 64 digits written as zeros: no byte can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from throughtime.errors import InputError, RunError
from throughtime.files import read_whole, write_whole

_ZEROS = b"0" * 64
_KEY = (
    b'"sha256":"'  # a quote inside a JSON string is escaped, so only the metadata's own key reads like this
)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors, on any device, whole or not at all. Tensors that share memory are each written.

    Raises: InputError for a tensor that the format has no place for (complex128, sparse); RunError when the
    file cannot be written.
    """
    try:
        own = {name: _dense(tensor) for name, tensor in tensors.items()}
        data = safetensors.torch.save(own, {"format": "pt", **(metadata or {}), "sha256": _ZEROS.decode()})
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot save these tensors as safetensors: {error}") from None
    data = _ordered(data)
    write_whole(path, data.replace(_KEY + _ZEROS, _KEY + _digest(data), 1))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, on the CPU, and the metadata that `save_tensors` wrote.

    Raises: RunError when a byte of the file is not as written, or the file is another program's;
    FileNotFoundError.
    """
    data = read_whole(path)
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    place = header.find(_KEY) + len(_KEY) + 8
    stated = data[place : place + 64]
    if _KEY not in header or _digest(data[:place] + _ZEROS + data[place + 64 :]) != stated:
        raise RunError(
            f"{path} is damaged or not ours: its checksum does not match; "
            "put back a copy of it, or train again with another --out"
        )
    try:
        metadata = json.loads(header)["__metadata__"]
        return safetensors.torch.load(data), metadata
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a safetensors file of ours: {error}") from None


def _dense(tensor: Tensor) -> Tensor:
    """A copy of its own, as the format wants: on the CPU, contiguous, sharing memory with no other."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _ordered(data: bytes) -> bytes:
    """The same file with its metadata in alphabetical order: the library's own order changes from process to process."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
