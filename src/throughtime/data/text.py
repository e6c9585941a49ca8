"""Text from files and from Python itself, with the fingerprint of every file that was read."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from throughtime.errors import InputError, nearest_file

END = "\x03"  # U+0003 END OF TEXT: what a model that writes whole texts reads first, and writes last
_NEWLINE = re.compile(r"\r\n?|\n")
_NOT_LETTERS = re.compile(r"[\W\d_]+")


class Source(NamedTuple):
    """The fingerprint of a file that was read: what a run records, so that a later run can tell whether data changed."""

    path: str  # resolved where it is a regular file or a folder, else as the caller wrote it (/dev/fd/63)
    sha256: str
    bytes: int


def read_sources(paths: Sequence[str | Path] | str | Path) -> tuple[str, tuple[Source, ...]]:
    """The files' text, one after the other, and the fingerprint of each file. Each path is opened once and read once.

    UTF-8; a byte order mark is dropped, line ends stay as they are. A file that does not end its last line
    gets a newline before the next file, so that no word is formed across two files. Pipes can be read too: process
    substitution, a FIFO.
    Raises: InputError for a file that is missing, a folder, unreadable, empty, binary or not UTF-8.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not files:
        raise InputError("expected at least one text file, got none: name one")
    texts, sources = [], []
    for file in files:
        data, source = read_bytes(file)
        texts.append(_decoded(data, Path(file)))
        sources.append(source)
    ended = [text if text.endswith(("\n", "\r")) else text + "\n" for text in texts[:-1]]
    return "".join([*ended, texts[-1]]), tuple(sources)


def read_bytes(file: str | Path) -> tuple[bytes, Source]:
    """The content of a file or pipe, read once, and its fingerprint.

    Raises: InputError for a file that is missing, a folder, or unreadable.
    """
    path = Path(file)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(_missing(path)) from None
    except IsADirectoryError:
        raise InputError(f"expected a file, got a folder: {path}; name the files inside it") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    recorded = str(path.resolve()) if path.is_file() else str(file)
    return data, Source(recorded, hashlib.sha256(data).hexdigest(), len(data))


def refuse_binary(data: bytes, name: str | Path) -> None:
    """Raise InputError for bytes that are UTF-16 or binary, with what to do."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name} must be UTF-8, got UTF-16; convert it: {_iconv('UTF-16', name)}")
    if (position := data.find(b"\0")) >= 0:
        raise InputError(f"{name} must be text, got a binary file: a NUL byte at position {position}")


def text_chunks(text: str, boundary: re.Pattern[str], size: int, longest: int | None = None) -> Iterator[str]:
    """Cut a text into chunks that joined are the text, so that a large text is worked on in little memory.

    Each cut is where the first match of `boundary` at least `size` characters into the chunk ends; where there is none within
    `longest` more characters, it is there. A lone surrogate, which is no character, becomes "?".
    """
    start = 0
    while start < len(text):
        limit = len(text) if longest is None else min(len(text), start + size + longest)
        found = boundary.search(text, min(start + size, len(text)), limit)
        end = found.end() if found else limit
        yield text[start:end].encode("utf-8", "replace").decode()
        start = end


def embedded_text() -> str:
    """The English language reference that Python carries, its topics in alphabetical order.

    About 465,000 characters; the exact text depends on the version of Python.
    """
    from pydoc_data.topics import topics

    return "".join(topics[name].rstrip("\n") + "\n\n" for name in sorted(topics))


def letters_only(text: str) -> str:
    """Keep letters and single spaces, in lower case: a small alphabet for character models.

    In each line, a run of anything that is not a letter becomes one space, and spaces at the line's ends are removed;
    the lines are then joined with nothing between, so the last word of a line and the first of the next become one word.
    Source: the preparation of The Time Machine in Zhang et al., Dive into Deep Learning, section 9.2.
    """
    return "".join(_NOT_LETTERS.sub(" ", line).strip().lower() for line in _NEWLINE.split(text))


def normalized(text: str, how: str) -> str:
    """The text as it is ("none"), in lower case ("lower"), or as letters and single spaces ("letters")."""
    if how == "letters":
        return letters_only(text)
    return text.lower() if how == "lower" else text


def _decoded(data: bytes, path: Path) -> str:
    refuse_binary(data, path)
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} must be UTF-8, got byte 0x{data[error.start]:02x} at position {error.start} "
            f"(line {line}); if it is Latin-1, convert it: {_iconv('LATIN1', path)}"
        ) from None
    if not text:
        raise InputError(f"{path} is empty: expected text; name a file that holds some")
    return text


def _missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f"no such file: {path} (there is no folder {path.parent}); check its name"
    return f"no such file: {path}.{nearest_file(path) or ' Check its name.'}"


def _iconv(encoding: str, path: str | Path) -> str:
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > converted.txt"
