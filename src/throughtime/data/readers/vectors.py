"""Pretrained word vectors from the text formats of word2vec, GloVe and fastText."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from throughtime.data.readers.records import open_source, shortened
from throughtime.data.text import Source
from throughtime.errors import InputError

_LARGEST = 65_536  # numbers of a vector


class Vectors(NamedTuple):
    """The vectors of some words."""

    words: tuple[str, ...]  # N, in the order of the file
    values: Tensor  # [N, D] float32
    source: Source
    remarks: tuple[str, ...] = ()  # what the user should be told once


def read_vectors(path: str | Path, wanted: Collection[str] | None = None, *, first: int = 0) -> Vectors:
    """Read the vectors of the wanted words (None: of all), and of the first so many words of the file, its most frequent.

    A word and its numbers on each line, with spaces or tabs between; a first line with two whole numbers (word2vec, fastText) is
    a header. The file may be gzipped. The size D is the header's, else that of the first line; what stands before the
    last D fields of a line is its word, spaces included. Of a word that comes twice the first line counts.
    Raises: InputError with the number of the line where a line has too few or too many numbers, or one of a kept word is no
    finite number.
    Cost: one pass over the file, and one for its checksum; memory for the words that are kept. Only their numbers are parsed.
    """
    name = str(path)
    rows: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
    keep: Callable[[str, int], bool]
    if wanted is None:
        keep = lambda word, place: True  # noqa: E731
    else:
        among = wanted if isinstance(wanted, (set, frozenset, dict)) else frozenset(wanted)
        keep = lambda word, place: word in among or place < first  # noqa: E731
    size = announced = place = repeated = unreadable = 0
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"expected a file of word vectors, got a folder or a pipe: {name}")
    with open_source(name) as stream:
        for number, data in enumerate(_lines(stream, name), start=1):
            if number == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
                if (header := _header(data)) is not None:
                    announced, size = header
                    continue
            if not data.strip():
                continue
            size = size or len(data.split()) - 1
            word, fields = _divided(data, size, f"{name}:{number}")
            if word is None:
                unreadable += 1
            elif keep(word, place):
                if word in rows:
                    repeated += 1
                else:
                    rows[word] = _numbers(fields, f"{name}:{number}")
            place += 1
    if not place:
        raise InputError(f"{name} holds no word vectors: expected a word and its numbers on each line")
    remarks = []
    if announced and announced != place:
        remarks.append(f"{name} announces {announced:,} words and has {place:,}: is it whole?")
    if repeated:
        remarks.append(f"{name}: {repeated:,} words come more than once; their first vectors are taken")
    if unreadable:
        remarks.append(f"{name}: {unreadable:,} words are not UTF-8 and were left out")
    values = np.stack(list(rows.values())) if rows else np.zeros((0, size), np.float32)
    return Vectors(tuple(rows), torch.from_numpy(values), _source(Path(path)), tuple(remarks))


def vector_rows(words: Collection[str], vectors: Collection[str]) -> Tensor:
    """The number of each word's vector, int64 [V], counted from 1; 0 for a word without one.

    A word is looked up as it is, then in lower case, then with its digits as 0.
    """
    from throughtime.data.words import vector_forms

    numbers = {word: number for number, word in enumerate(vectors, start=1)}
    found = [next((numbers[form] for form in vector_forms(word) if form in numbers), 0) for word in words]
    return torch.tensor(found, dtype=torch.int64)


def _lines(stream: IO[bytes], name: str) -> Iterator[bytes]:
    start = stream.read(2)
    stream.seek(0)
    if start != b"\x1f\x8b":
        yield from stream
        return
    try:
        with gzip.GzipFile(fileobj=stream) as plain:
            yield from plain
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{name} is a damaged gzip file: {error}; get it again") from None


def _header(data: bytes) -> tuple[int, int] | None:
    """Words and size, where a line is a header."""
    fields = data.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return None
    count, size = int(fields[0]), int(fields[1])
    return (count, size) if 1 <= size <= _LARGEST else None


def _divided(data: bytes, size: int, place: str) -> tuple[str | None, list[bytes]]:
    """The word of a line (None: not UTF-8) and its numbers, as they are written."""
    if not 1 <= size <= _LARGEST:
        raise InputError(
            f"{place}: expected a word and its numbers, got {shortened(repr(data.strip()))}: the file must have the text format "
            "of word2vec, GloVe or fastText"
        )
    fields = data.rsplit(None, size)
    if len(fields) != size + 1:
        found = len(data.split()) - 1
        raise InputError(
            f"{place}: expected a word and {size} numbers, got {max(found, 0)} numbers: the line is damaged, or the file is of "
            "the binary format; correct it, or convert the file to text"
        )
    more = fields[0].split()[1:]
    if more and all(_is_number(field) for field in more):
        raise InputError(
            f"{place}: expected a word and {size} numbers, got {size + len(more)} numbers: correct the line"
        )
    try:
        return fields[0].decode().strip(" \t"), fields[1:]
    except UnicodeDecodeError:
        return None, fields[1:]


def _numbers(fields: list[bytes], place: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    try:
        with np.errstate(over="ignore"):  # checked below
            found = np.array([float(field) for field in fields], dtype=np.float32)
    except ValueError:
        wrong = next(field for field in fields if not _is_number(field))
        raise InputError(f"{place}: expected {len(fields)} numbers, got {shortened(repr(wrong))}") from None
    if not bool(np.isfinite(found).all()):
        raise InputError(f"{place}: expected finite numbers, got NaN or one too large")
    return found


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _source(path: Path) -> Source:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.tell()
    return Source(str(path.resolve()), digest, size)
