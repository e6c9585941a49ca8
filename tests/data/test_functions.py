"""The embedded pairs of docstrings and functions."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys

import pytest

from throughtime.data.functions import _documented, function_pairs

SCRIPT = (
    "import hashlib\nfrom throughtime.data.functions import function_pairs\n"
    "table = function_pairs()\nprint(hashlib.sha256(repr(table).encode()).hexdigest())"
)


def test_the_pairs_are_many_different_and_the_same_in_every_process() -> None:
    table = function_pairs()
    assert (
        3_000
        < len(table)
        == len(set(table["passage"]))
        == len({query.casefold() for query in table["query"]})
    )
    assert any(place.startswith("shutil.py:") for place in table["place"])
    for query, passage in list(zip(table["query"], table["passage"], strict=True))[::97]:
        assert len(query.split()) >= 3 and query not in passage.splitlines()[1].strip(" \"'")
        assert passage.startswith(("def ", "async def "))
    here = hashlib.sha256(repr(table).encode()).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, check=True, capture_output=True, text=True
    )
    assert there.stdout.strip() == here


SOURCE = '''
class A:
    def first(self, x):
        """Return the first of x.

        More about it.
        """
        return x[0]

    @property
    def nothing(self):
        """This one does nothing at all."""
        raise NotImplementedError

    def constant(self):
        """This one returns a constant number."""
        return 1

    def short(self):
        """Two words."""
        return self.x

    def outer(self):
        """Holds another function inside it."""
        if self.x:
            async def inner(y):
                """
                Begins on the second line.
                """
                await y
        return inner
'''


def test_what_is_read_of_a_file() -> None:
    found = list(_documented(SOURCE, "a.py"))
    assert [(query, place) for query, _, place in found] == [
        ("Return the first of x.", "a.py:3"),
        ("Holds another function inside it.", "a.py:23"),
        ("Begins on the second line.", "a.py:26"),
    ]
    assert found[0][1] == "def first(self, x):\n    return x[0]"
    assert found[2][1] == "async def inner(y):\n    await y"
    for _, passage, _ in found:
        ast.parse(passage)


@pytest.mark.parametrize(
    "source", ["def f(:\n", 'def f(): """All on one line here."""; return g()', "x = 1\0"]
)
def test_what_cannot_be_read_is_left_out(source: str) -> None:
    assert list(_documented(source, "a.py")) == []
