"""Sessions that every Python carries: the functions of its standard library, each the sequence of the names it calls."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from throughtime.data.readers.sessions import Sessions
from throughtime.data.text import Source
from throughtime.errors import InputError

_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_LEAST = 2  # calls of a function


def called_names() -> Sessions:
    """One session for each function of Python's standard library, test packages left out: the names it calls, in reading order.

    A name is the last part of what is called: `join` of `os.path.join(...)`, `append` of `lines.append(...)`. The calls of a
    nested function are its own session. Functions with fewer than two calls are left out.
    About 9,500 sessions of 7,400 names; the same for the same Python, another version has others.
    Raises: InputError where Python was installed without its source.
    Cost: reads and parses for 5 to 10 seconds.
    """
    library = Path(sysconfig.get_path("stdlib"))
    sessions: list[tuple[str, ...]] = []
    digest, size = hashlib.sha256(), 0
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if _SKIPPED & set(parts):
            continue
        data = path.read_bytes()
        digest.update(f"{'/'.join(parts)}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        size += len(data)
        sessions.extend(calls for calls in calls_of_functions(data) if len(calls) >= _LEAST)
    if not sessions:
        raise InputError(
            f"expected the source of Python's standard library in {library}, found no functions there: "
            "name a file of sessions instead"
        )
    return Sessions(tuple(sessions), None, (Source(str(library), digest.hexdigest(), size),))


def calls_of_functions(source: bytes) -> Iterator[tuple[str, ...]]:
    """The names that each function of a Python file calls, in reading order; nothing of a file that does not parse."""
    try:
        with warnings.catch_warnings(action="ignore"):  # invalid escapes in the file are not the user's
            waiting: list[ast.AST] = [ast.parse(source)]
    except (SyntaxError, ValueError):
        return
    while waiting:
        function = waiting.pop()
        found: list[tuple[int, int, str]] = []
        inside = list(ast.iter_child_nodes(function))
        while inside:
            node = inside.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                waiting.append(node)
                continue
            if isinstance(node, ast.Call) and (name := _name(node.func)):
                # Where the name ends: in a.b().c() the second call begins with the first one.
                found.append((node.func.end_lineno or 0, node.func.end_col_offset or 0, name))
            inside.extend(ast.iter_child_nodes(node))
        if not isinstance(function, ast.Module):
            yield tuple(name for _, _, name in sorted(found))


def _name(called: ast.expr) -> str:
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""
