"""Text from files, from Python itself, and as the course cleans it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from throughtime.errors import InputError, nearest_file

_NEWLINE = re.compile(r"\r\n?|\n")
_NOT_LETTERS = re.compile(r"[\W\d_]+")


def read_text(paths: Sequence[str | Path] | str | Path) -> str:
    """The files' text, one after the other.

    UTF-8; a byte order mark is dropped, line ends stay as they are. A file that does not end its last line
    gets a newline before the next file, so that no word is formed across two files.
    Raises: InputError for a file that is missing, a folder, unreadable, empty, binary or not UTF-8.
    """
    files = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not files:
        raise InputError("expected at least one text file, got none: name one")
    texts = [_read(Path(file)) for file in files]
    ended = [text if text.endswith(("\n", "\r")) else text + "\n" for text in texts[:-1]]
    return "".join([*ended, texts[-1]])


def embedded_text() -> str:
    """The English language reference that Python carries, its topics in alphabetical order.

    About 465,000 characters; the exact text depends on the version of Python.
    """
    from pydoc_data.topics import topics

    return "".join(topics[name].rstrip("\n") + "\n\n" for name in sorted(topics))


def letters_only(text: str) -> str:
    """Keep letters and single spaces, in lower case, as the course prepares The Time Machine.

    In each line, a run of anything that is not a letter becomes one space, and spaces at the line's ends go;
    the lines are then joined with nothing between, as the course does it (words meet at line ends).
    """
    return "".join(_NOT_LETTERS.sub(" ", line).strip().lower() for line in _NEWLINE.split(text))


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(_missing(path)) from None
    except IsADirectoryError:
        raise InputError(f"expected a text file, got a folder: {path}; name the files inside it") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path} must be UTF-8, got UTF-16; convert it: {_iconv('UTF-16', path)}")
    if (position := data.find(b"\0")) >= 0:
        raise InputError(f"{path} must be text, got a binary file: a NUL byte at position {position}")
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


def _iconv(encoding: str, path: Path) -> str:
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > converted.txt"
