"""Arrays of sequences: NumPy's .npz, and the IDX files in which MNIST is published."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError, nearest

_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_GZIP = b"\x1f\x8b"


def read_npz(path: str | Path) -> tuple[dict[str, NDArray[Any]], Source]:
    """The arrays of an .npz file by name, and its fingerprint.

    Raises: InputError for a file that is no .npz, or holds Python objects, which could run code when they are read.
    """
    data, source = read_bytes(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise InputError(
                    f"{path}: expected an .npz file with arrays x and y, got one array: use np.savez"
                )
            return {name: file[name] for name in file.files}, source
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        if "allow_pickle" in str(error):
            raise InputError(
                f"{path}: holds Python objects, which are not read: save arrays of numbers; sequences of different lengths as "
                "one array x [all steps, D] with lengths [N]"
            ) from None
        raise InputError(f"{path}: expected an .npz file, as np.savez writes it ({error})") from None


def sequences_of(
    arrays: dict[str, NDArray[Any]], path: str | Path, image: bool
) -> tuple[list[NDArray[np.float32]], tuple[int, int, int] | None]:
    """The sequences in the array x, float32 [t, D] each, and the (H, W, C) of a step that is an image.

    x: [N, T] or [N, T, D]; with `image` also [N, T, H, W] or [N, T, H, W, C]. With `lengths` [N] either x is padded and has
    those lengths, or it is [sum of lengths, ...], all sequences one after the other.
    Raises: InputError for other shapes, and for numbers that are not finite, with their place.
    """
    if "x" not in arrays:
        raise InputError(
            f"{path}: expected an array x, the arrays are {', '.join(arrays) or 'none'}.{nearest('x', arrays)}"
        )
    x = arrays["x"]
    if x.dtype.kind not in "biuf":
        raise InputError(f"{path}: x must hold real numbers, got {x.dtype}")
    lengths = arrays.get("lengths")
    joined = False
    if lengths is not None:
        if lengths.dtype.kind not in "iu" or lengths.ndim != 1 or (lengths < 1).any():
            raise InputError(
                f"{path}: lengths must be whole numbers [N] of at least 1, got {lengths.dtype} {list(lengths.shape)}"
            )
        joined = x.ndim > 0 and int(lengths.sum()) == len(x)
        if not joined and (x.ndim < 2 or len(lengths) != len(x) or int(lengths.max()) > x.shape[1]):
            raise InputError(
                f"{path}: x must have as many rows as lengths adds up to, {int(lengths.sum())}, or be padded [{len(lengths)}, T, "
                f"...] with T of at least {int(lengths.max(initial=0))}, got {list(x.shape)}"
            )
    inner = x.shape[1 if joined else 2 :]  # the axes of one step
    if x.size == 0 or x.ndim < (1 if joined else 2) or len(inner) > (3 if image else 1):
        shapes = "[N, T], [N, T, D]" + (", [N, T, H, W] or [N, T, H, W, C]" if image else "")
        raise InputError(
            f"{path}: x must be {shapes}, or the same with all sequences one after the other and lengths [N], got "
            f"{list(x.shape)}"
        )
    frame = None
    if len(inner) >= 2:
        frame = (int(inner[0]), int(inner[1]), int(inner[2]) if len(inner) == 3 else 1)
    if joined and lengths is not None:
        parts = np.split(x, np.cumsum(lengths)[:-1])
    else:
        parts = [each[: int(lengths[n])] if lengths is not None else each for n, each in enumerate(x)]
    found = [part.reshape(len(part), -1).astype(np.float32) for part in parts]
    for number, part in enumerate(found):
        if not np.isfinite(part).all():
            step, feature = np.argwhere(~np.isfinite(part))[0]
            raise InputError(
                f"{path}: x must be finite, got {part[step, feature]} in sequence {number}, step {step}, number {feature}"
            )
    return found, frame


def labels_of(
    arrays: dict[str, NDArray[Any]], path: str | Path, lengths: Sequence[int], per_step: bool
) -> list[Any] | None:
    """The labels in the array y as text: one for each sequence, or a tuple with one for each of its steps. None without y.

    y: [N]; with `per_step` [N, T], or all steps one after the other. Raises: InputError for another shape.
    """
    if "y" not in arrays:
        return None
    y = arrays["y"]
    steps = sum(lengths)
    if not per_step:
        if y.shape != (len(lengths),):
            hint = ": a label for each step is for 'throughtime train frames'" if y.ndim == 2 else ""
            raise InputError(
                f"{path}: y must be [{len(lengths)}], a label for each sequence, got {list(y.shape)}{hint}"
            )
        return _as_labels(y, path)
    if y.shape == (steps,):
        parts = np.split(y, np.cumsum(lengths)[:-1])
    elif y.ndim == 2 and len(y) == len(lengths) and y.shape[1] >= max(lengths):
        parts = [row[:length] for row, length in zip(y, lengths, strict=True)]
    else:
        raise InputError(
            f"{path}: y must be [{len(lengths)}, {max(lengths)}], a label for each step, or [{steps}], got {list(y.shape)}"
        )
    return [tuple(_as_labels(part, path)) for part in parts]


def _as_labels(y: NDArray[Any], path: str | Path) -> list[str]:
    if y.dtype.kind in "f" and np.isfinite(y).all() and (y == np.round(y)).all():
        y = y.astype(np.int64)
    if y.dtype.kind not in "biuUS":
        raise InputError(f"{path}: y must hold whole numbers or text, got {y.dtype}")
    return [each.decode() if isinstance(each, bytes) else str(each) for each in y.tolist()]


def is_idx(path: str | Path) -> bool:
    """Whether a regular file begins as an IDX file, packed with gzip or not."""
    try:
        if not Path(path).is_file():
            return False
        with open(path, "rb") as file:
            head = file.read(2)
        with gzip.open(path, "rb") if head == _GZIP else open(path, "rb") as file:
            magic = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in _IDX_TYPES and 1 <= magic[3] <= 4


def read_idx(path: str | Path) -> tuple[NDArray[Any], Source]:
    """The array of an IDX file, packed with gzip or not, and its fingerprint.

    Format: two zero bytes, the type, the number of axes, the size of each (4 bytes, big-endian), the numbers.
    Raises: InputError for another format, or a file that is cut off.
    """
    data, source = read_bytes(path)
    if data[:2] == _GZIP:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: cannot be unpacked: {error}") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES or not 1 <= data[3] <= 4:
        raise InputError(
            f"{path}: expected an IDX file (two zero bytes, type, number of axes), got {data[:4]!r}"
        )
    axes, kind = data[3], np.dtype(_IDX_TYPES[data[2]])
    start = 4 + 4 * axes
    sizes = tuple(int(each) for each in np.frombuffer(data[4:start], ">u4")) if len(data) >= start else ()
    expected = int(np.prod(sizes, dtype=object)) * kind.itemsize if sizes else -1
    if len(data) - start != expected:
        raise InputError(
            f"{path}: is damaged: its header says {' x '.join(map(str, sizes)) or 'nothing'}, {max(expected, 0):,} bytes, and "
            f"{max(len(data) - start, 0):,} follow"
        )
    return np.frombuffer(data, kind, offset=start).reshape(sizes), source


def read_digits(path: str | Path) -> tuple[NDArray[np.float32], list[str] | None, list[Source]]:
    """The images [N, H, W] of an IDX file, bytes as numbers from 0 to 1, and their labels from the file beside it.

    The labels of `train-images-idx3-ubyte.gz` are in `train-labels-idx1-ubyte.gz`, or the same without .gz; None where there
    is no such file.
    Raises: InputError for images that are not [N, H, W], or another number of labels.
    """
    images, source = read_idx(path)
    if images.ndim != 3 or images.size == 0:
        raise InputError(
            f"{path}: expected images [N, H, W], got {list(images.shape)}: name the file of the images"
        )
    scale = 255.0 if images.dtype.itemsize == 1 else 1.0
    values = images.astype(np.float32) / np.float32(scale)
    sources = [source]
    beside = _labels_file(Path(path))
    if beside is None:
        return values, None, sources
    labels, source = read_idx(beside)
    if labels.shape != (len(images),):
        raise InputError(
            f"{beside}: expected a label for each of {len(images)} images, got {list(labels.shape)}"
        )
    return values, [str(each) for each in labels.tolist()], [*sources, source]


def _labels_file(path: Path) -> Path | None:
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    stem = name.removesuffix(".gz")
    if name == path.name:
        return None
    return next(
        (path.with_name(each) for each in (name, stem, f"{stem}.gz") if path.with_name(each).is_file()), None
    )
