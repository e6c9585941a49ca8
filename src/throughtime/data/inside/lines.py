"""Texts of several styles that every Python carries: the kinds of lines in the source of its standard library."""

from __future__ import annotations

import ast
import hashlib
import random
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from throughtime.data.inside.exceptions import message_of
from throughtime.data.readers.tables import Table
from throughtime.data.text import Source
from throughtime.errors import InputError

STYLES = ("comment", "docstring", "error", "function", "if", "import")
EACH = 3_000  # texts of a style at most
LEAST, MOST = 12, 70  # characters of a text
_STATEMENTS = (
    ("function", ast.FunctionDef, "def "),
    ("if", ast.If, "if "),
    ("import", ast.Import, "import "),
    ("import", ast.ImportFrom, "from "),
)
_COMMENT = re.compile(r"^[ \t]*# ?([A-Za-z].*)$", re.MULTILINE)


def python_lines(each: int = EACH) -> Table:
    """Lines of Python's standard library (column "text") and what they are (column "label"), `each` of every kind at most.

    comment: a comment on a line of its own. docstring: the first line of a function's, class's or module's docstring. error: the
    message that an exception is raised with, {} where something is filled in. function: the line of its `def`. if: the line of
    an `if`. import: an import. Lines of LEAST to MOST characters from modules that are single files, each text once; one that
    stands for two kinds is left out, and those of a kind are drawn with a fixed seed. The same for the same Python.
    Raises: InputError where Python was installed without its source.
    Cost: reads and parses for about 3 seconds.
    """
    kinds, source = _read()
    rows: list[tuple[str, str]] = []
    for style in STYLES:
        texts = [text for text, found in kinds.items() if found == {style}]
        drawn = random.Random(f"lines/{style}").sample(texts, min(each, len(texts)))
        rows += [(text, style) for text in drawn]
    texts_of, labels = zip(*sorted(rows), strict=True)
    return Table({"text": texts_of, "label": labels}, (source,))


@cache
def _read() -> tuple[dict[str, set[str]], Source]:
    """Each text, what it is, and the fingerprint of what was read; once in a process."""
    library = Path(sysconfig.get_path("stdlib"))
    digest, size = hashlib.sha256(), 0
    kinds: dict[str, set[str]] = {}
    for path in sorted(library.glob("*.py")):
        data = path.read_bytes()
        digest.update(f"{path.name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        size += len(data)
        for text, kind in _lines(data.decode("utf-8", "replace")):
            if LEAST <= len(text) <= MOST and text.isascii():
                kinds.setdefault(text, set()).add(kind)
    if len(kinds) < 100:
        raise InputError(
            f"expected the source of Python's standard library in {library}, found {len(kinds)} lines there: name a file of "
            "texts and styles instead"
        )
    return kinds, Source(str(library), digest.hexdigest(), size)


def _lines(source: str) -> Iterator[tuple[str, str]]:
    """(text, style) of the lines of one file, in order."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a file that is an example of a mistake
        return
    lines = source.splitlines()
    for match in _COMMENT.finditer(source):
        yield match[1].strip(), "comment"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
            text = (ast.get_docstring(node) or "").strip().partition("\n")[0]
            yield " ".join(text.split()), "docstring"
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            texts = (message_of(argument) for argument in node.exc.args)
            yield " ".join(next(filter(None, texts), "").split()), "error"
        for style, kind, starts in _STATEMENTS:
            line = lines[node.lineno - 1].strip() if isinstance(node, kind) else ""
            if line.startswith(starts) and (style == "import" or line.endswith(":")):
                yield line, style
