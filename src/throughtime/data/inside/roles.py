"""A tagging data set that every Python carries: the role of each name in the functions of its standard library."""

from __future__ import annotations

import ast
import hashlib
import io
import keyword
import random
import sysconfig
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from throughtime.data.readers.tagged import Sentence
from throughtime.data.text import Source
from throughtime.errors import InputError

ROLES = ("attribute", "call", "keyword", "local", "outer", "parameter")
NONE = ""  # the tag of a token that has no role
MODULES, FUNCTIONS = 80, 1_500
LEAST, MOST = 12, 120  # tokens of a function
_LAYOUT = (
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENDMARKER,
)
_TEXT_START = getattr(tokenize, "FSTRING_START", -1)  # from Python 3.12 on f-strings are several tokens
_INSIDE_TEXT = tuple(getattr(tokenize, name, -1) for name in ("FSTRING_MIDDLE", "FSTRING_END"))


class Roles(NamedTuple):
    """Functions as sequences of tokens."""

    functions: list[Sentence]  # the tag of a token without a role is ""
    modules: list[str]  # the file of each
    source: Source


def name_roles(functions: int = FUNCTIONS) -> Roles:
    """The tokens of functions of Python's standard library, and for each name what it is there.

    parameter: of this function. local: bound in it in another way. outer: neither, so from the module or a built-in one.
    call: what is called, whatever else it is. attribute: behind a dot, not called. keyword: before the = of an argument.
    Functions of LEAST to MOST tokens without a nested function, as many as asked for, from MODULES modules that are single files;
    both are drawn with a fixed seed. Comments and docstrings are left out, a text is "text" and a number 0. The same for the same
    Python.
    Raises: InputError where Python was installed without its source.
    Cost: reads and parses for about 3 seconds.
    """
    found, source = _read()
    if functions < len(found):
        numbers = sorted(random.Random("roles").sample(range(len(found)), functions))
        found = [found[number] for number in numbers]
    return Roles([each for _, each in found], [name for name, _ in found], source)


@cache
def _read() -> tuple[list[tuple[str, Sentence]], Source]:
    """All functions with the names of their modules; read once in a process."""
    library = Path(sysconfig.get_path("stdlib"))
    digest, size = hashlib.sha256(), 0
    found: list[tuple[str, Sentence]] = []
    paths = sorted(library.glob("*.py"))
    for path in sorted(random.Random("roles").sample(paths, min(MODULES, len(paths)))):
        data = path.read_bytes()
        digest.update(f"{path.name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        size += len(data)
        found += [(path.name, each) for each in _functions(data.decode("utf-8", "replace"))]
    if len(found) < 100:
        raise InputError(
            f"expected the source of Python's standard library in {library}, found {len(found)} functions there: name a file of "
            "tagged sentences instead"
        )
    return found, Source(str(library), digest.hexdigest(), size)


def python_tokens(text: str) -> list[str]:
    """The tokens of some Python, as the data set has them; of text that is none, what can be read of it."""
    return [token for token, _, _ in _tokens(text)]


def _functions(text: str) -> Iterator[Sentence]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    lines = text.splitlines(keepends=True)
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        if any(isinstance(each, inner) for part in node.body for each in ast.walk(part)):
            continue
        roles = _roles(node)
        source = "".join(lines[node.lineno - 1 : node.end_lineno])
        if not source.isascii():
            continue  # ast counts columns in bytes, tokenize in characters
        tokens = [
            (token, roles.get((row + node.lineno - 1, column), NONE))
            for token, row, column in _tokens(source)
        ]
        if LEAST <= len(tokens) <= MOST and any(tag for _, tag in tokens):
            words, tags = zip(*tokens, strict=True)
            yield Sentence(words, tags)


def _roles(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[tuple[int, int], str]:
    """The role of each name by its line and column, in characters."""
    arguments = function.args
    named = [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ]
    parameters = {each.arg for each in named if each is not None}
    inside = [each for part in function.body for each in ast.walk(part)]
    elsewhere = {
        name for each in inside if isinstance(each, (ast.Global, ast.Nonlocal)) for name in each.names
    }
    bound = {each.id for each in inside if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load)}
    bound |= {each.name for each in inside if isinstance(each, ast.ExceptHandler) and each.name}
    for each in inside:
        if isinstance(each, (ast.Import, ast.ImportFrom)):
            bound |= {(alias.asname or alias.name).partition(".")[0] for alias in each.names}
    local = bound - parameters - elsewhere
    called = {id(each.func) for each in inside if isinstance(each, ast.Call)}
    found: dict[tuple[int, int], str] = {
        (each.lineno, each.col_offset): "parameter" for each in named if each is not None
    }
    for each in inside:
        if isinstance(each, ast.Name):
            kind = "parameter" if each.id in parameters else "local" if each.id in local else "outer"
            found[each.lineno, each.col_offset] = "call" if id(each) in called else kind
        elif isinstance(each, ast.Attribute) and each.end_lineno and each.end_col_offset:
            place = each.end_lineno, each.end_col_offset - len(each.attr)
            found[place] = "call" if id(each) in called else "attribute"
        elif isinstance(each, ast.keyword) and each.arg:
            found[each.lineno, each.col_offset] = "keyword"
    return found


def _tokens(source: str) -> Iterator[tuple[str, int, int]]:
    """Tokens of a piece of Python with their rows from 1 and columns; indented lines and comments are fine."""
    read: list[tokenize.TokenInfo] = []
    with suppress(tokenize.TokenError, SyntaxError):  # the end of a piece that is not whole
        read += (each for each in tokenize.generate_tokens(io.StringIO(source).readline))
    first = True  # of a statement
    for token, after in zip_longest(read, read[1:]):
        if token.type in _LAYOUT:
            first = first or token.type in (tokenize.NEWLINE, tokenize.INDENT)
            continue
        docstring = first and token.type == tokenize.STRING and (after is None or after.type in _LAYOUT)
        first = False
        if docstring or token.type in _INSIDE_TEXT or not token.string.strip():
            continue
        is_text = token.type in (tokenize.STRING, _TEXT_START)
        text = "text" if is_text else "0" if token.type == tokenize.NUMBER else token.string
        yield text, *token.start


def is_name(token: str) -> bool:
    """Whether a token can have a role."""
    return token.isidentifier() and not keyword.iskeyword(token)
