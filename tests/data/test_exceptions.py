"""The embedded data set of error messages."""

import ast
import os
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest

from throughtime.data.inside import exceptions
from throughtime.data.inside.exceptions import LEAST, exception_messages
from throughtime.errors import InputError


def test_the_messages_are_many_different_and_balanced_enough():
    begin = time.process_time()
    table = exception_messages()
    assert time.process_time() - begin < 3.0  # it takes 1.3 s on one slow core
    assert 1_000 < len(table) == len(set(table["text"])) < 4_000
    counts = Counter(table["label"])
    assert min(counts.values()) >= LEAST
    assert {"ValueError", "TypeError", "RuntimeError"} <= set(counts)
    assert all(text.strip() and "\n" not in text for text in table["text"])
    assert list(table["text"]) == sorted(table["text"])


def test_the_rows_are_the_same_in_every_process():
    script = (
        "import hashlib\nfrom throughtime.data.inside.exceptions import exception_messages\n"
        "print(hashlib.sha256(repr(exception_messages()).encode()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("raise ValueError('bad')", ("bad", "ValueError")),
        ("raise ValueError(f'bad {x!r:>3} and {y}') from None", ("bad {} and {}", "ValueError")),
        ("raise json.DecodeError('at %(a)s, %5.2f of 10%%' % b)", ("at {}, {} of 10%", "DecodeError")),
        ("raise TypeError('no {0!r} in {name}'.format(a, name=b))", ("no {} in {}", "TypeError")),
        ("raise KeyError('no ' + name + '\\n  here')", ("no {} here", "KeyError")),
        ("raise OSError(errno.ENOENT, 'no file')", ("no file", "OSError")),
        ("raise RuntimeError(\n    'one (1) '\n    'two'\n)", ("one (1) two", "RuntimeError")),
        ("raise ValueError", None),
        ("raise ValueError(message)", None),
        ("raise ValueError('%s' % x)", None),
        ("raise make_error('text')", None),
        ("raise ValueError(", None),
    ],
)
def test_a_raise_statement_gives_its_message(statement, expected):
    source = "def f():\n    if x:\n" + textwrap.indent(statement, "        ") + "\n        return 1\n"
    assert list(exceptions._raised(source)) == ([expected] if expected else [])


def test_every_statement_that_a_full_parse_finds_is_found():
    """The parser sees single statements only; a parse of the whole file is the reference."""
    source = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (ast, subprocess))
    reference = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            name = node.exc.func.attr if isinstance(node.exc.func, ast.Attribute) else node.exc.func.id
            text = " ".join(next(filter(None, map(exceptions.message_of, node.exc.args)), "").split())
            if name[0].isupper() and any(c.isalpha() for c in text.replace("{}", "")):
                reference.append((text, name))
    assert len(reference) > 20
    assert sorted(exceptions._raised(source)) == sorted(reference)


def test_a_python_without_its_source_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(exceptions.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match="found no messages there"):
        exception_messages()
