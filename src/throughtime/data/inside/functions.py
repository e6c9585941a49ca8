"""A search data set that every Python carries: what a function does, and the function."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from throughtime.data.inside.exceptions import SKIPPED
from throughtime.data.readers.tables import Table
from throughtime.data.text import Source
from throughtime.errors import InputError

LEAST_WORDS = 3  # of a docstring's first line that says something


def function_pairs() -> Table:
    """First lines of docstrings (column "query"), their functions without the docstring ("passage"), where ("place").

    Read from the source of Python's standard library with `ast`, test packages left out: every function and method with a
    docstring whose first line has at least LEAST_WORDS words, and with a body beside it that does more than pass, raise or return
    a constant. A line that describes several functions names none of them and is left out with them; of equal functions the
    first is kept. Rows are in the order of files and lines. The same for the same Python; another version has other rows.
    Raises: InputError where Python was installed without its source.
    Cost: reads and parses for a few seconds.
    """
    library = Path(sysconfig.get_path("stdlib"))
    digest, size = hashlib.sha256(), 0
    rows: list[tuple[str, str, str]] = []
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        if SKIPPED & set(name.parts):
            continue
        data = path.read_bytes()
        if b'"""' not in data and b"'''" not in data:
            continue
        digest.update(f"{name.as_posix()}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        size += len(data)
        rows += _documented(data.decode("utf-8", "replace"), name.as_posix())
    if not rows:
        raise InputError(
            f"expected the source of Python's standard library in {library}, found no functions there: "
            "name a file of queries and passages instead"
        )
    different = list({row[1]: row for row in reversed(rows)}.values())[::-1]  # the first of equal functions
    times = Counter(query.casefold() for query, _, _ in different)
    kept = [row for row in different if times[row[0].casefold()] == 1]
    columns = dict(zip(("query", "passage", "place"), zip(*kept, strict=True), strict=True))
    return Table(columns, (Source(str(library), digest.hexdigest(), size),))


def _documented(source: str, name: str) -> Iterator[tuple[str, str, str]]:
    """(docstring's first line, function without it, place) of each function in a file."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a file that is an example of a mistake
        return
    lines = source.splitlines()
    for node in _functions(tree.body):
        text = ast.get_docstring(node, clean=True)
        first = " ".join((text or "").strip().partition("\n")[0].split())
        if len(first.split()) < LEAST_WORDS or not any(map(_does_something, node.body[1:])):
            continue
        docstring = node.body[0]
        assert docstring.end_lineno is not None
        if docstring.lineno == node.lineno:  # def f(): "..."; other statements
            continue
        kept = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
        yield first, textwrap.dedent("\n".join(kept)).strip(), f"{name}:{node.lineno}"


def _functions(statements: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions among some statements and inside them, in the order of their lines; expressions hold none."""
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield statement
        for part in ("body", "handlers", "orelse", "finalbody"):
            yield from _functions(getattr(statement, part, []))


def _does_something(statement: ast.stmt) -> bool:
    if isinstance(statement, (ast.Pass, ast.Raise)):
        return False
    if isinstance(statement, (ast.Expr, ast.Return)):
        return statement.value is not None and not isinstance(statement.value, ast.Constant)
    return True
