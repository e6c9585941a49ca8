"""A classification data set that every Python carries: error messages and the types of exception they belong to."""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from throughtime.data.readers.tables import Table
from throughtime.data.text import Source
from throughtime.errors import InputError

LEAST = 20  # examples that a class must have
SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_RAISE = re.compile(r"^[ \t]*raise[ \t]+[A-Za-z_][\w.]*\(", re.MULTILINE)
_MOST_LINES = 12  # of one statement
_PERCENT = re.compile(r"%(?:\(\w*\))?[-#0 +]*(?:\d+|\*)?(?:\.\d+)?[diouxXeEfFgGcrsa]")
_BRACES = re.compile(r"\{[^{}]*\}")


def exception_messages() -> Table:
    """Messages (column "text") and the type of exception they are raised with (column "label"), about 1,800 rows.

    Read from the source of Python's standard library, test packages left out: every `raise Name("...")`, where what is filled in
    (f-strings, %, format, +) becomes {}. One row for each message, with the type it is raised with most often; types with fewer
    than LEAST messages are left out. Rows are sorted by message. The same for the same Python; another version has other rows.
    Raises: InputError where Python was installed without its source.
    Cost: reads and parses for 1 to 3 seconds.
    """
    library = Path(sysconfig.get_path("stdlib"))
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    digest, size = hashlib.sha256(), 0
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if SKIPPED & set(parts):
            continue
        data = path.read_bytes()
        if b"raise " not in data:
            continue
        digest.update(f"{'/'.join(parts)}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        size += len(data)
        for message, name in _raised(data.decode("utf-8", "replace")):
            counts[message][name] += 1
    rows = [(message, _most_frequent(names)) for message, names in sorted(counts.items())]
    frequent = {name for name, count in Counter(name for _, name in rows).items() if count >= LEAST}
    rows = [row for row in rows if row[1] in frequent]
    if not rows:
        raise InputError(
            f"expected the source of Python's standard library in {library}, found no messages there: "
            "name a file of labelled examples instead"
        )
    texts, labels = zip(*rows, strict=True)
    return Table({"text": texts, "label": labels}, (Source(str(library), digest.hexdigest(), size),))


def _raised(source: str) -> Iterator[tuple[str, str]]:
    """(message, type) of each `raise Type(message)`. Only these statements are parsed: whole files take several seconds."""
    lines: list[str] | None = None
    for match in _RAISE.finditer(source):
        lines = lines or source.split("\n")
        first = source.count("\n", 0, match.start())
        call = _call(lines[first : first + _MOST_LINES])
        if call is None or not call.args:
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
        texts = (
            message_of(argument) for argument in call.args
        )  # OSError(number, message): the first that is text
        message = " ".join(next(filter(None, texts), "").split())
        if name[0].isupper() and any(character.isalpha() for character in message.replace("{}", "")):
            yield message, name


def _call(lines: list[str]) -> ast.Call | None:
    """The call of the `raise` statement that begins on the first line."""
    for stop in range(1, len(lines) + 1):
        if lines[stop - 1].count(")") == 0:
            continue  # the statement cannot end here
        try:
            statement = ast.parse(textwrap.dedent("\n".join(lines[:stop])).lstrip()).body[0]
        except (SyntaxError, ValueError):
            continue
        if isinstance(statement, ast.Raise) and isinstance(statement.exc, ast.Call):
            return statement.exc
        return None
    return None


def message_of(node: ast.expr) -> str | None:
    """The text of an expression with {} for what is filled in; None where it is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        text = message_of(node.left)
        return None if text is None else _PERCENT.sub("{}", text).replace("%%", "%")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = message_of(node.left), message_of(node.right)
        return None if left is None and right is None else f"{left or '{}'}{right or '{}'}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        text = message_of(node.func.value)
        return None if text is None else _BRACES.sub("{}", text)
    return None


def _most_frequent(names: Counter[str]) -> str:
    return min(names, key=lambda name: (-names[name], name))
