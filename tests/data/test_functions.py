"""The embedded pairs of docstrings and functions."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from throughtime.data.inside import functions
from throughtime.data.inside.functions import _documented, function_pairs
from throughtime.errors import InputError

SCRIPT = """
import hashlib, sysconfig
from pathlib import Path
from throughtime.data.inside.functions import function_pairs
part = Path(sysconfig.get_path("stdlib")) / "email"
sysconfig.get_path = lambda name: str(part)
print(hashlib.sha256(repr(function_pairs()).encode()).hexdigest())
"""


def test_the_pairs_are_many_and_different() -> None:
    table = function_pairs()
    different = {query.casefold() for query in table["query"]}
    assert 3_000 < len(table) == len(set(table["passage"])) == len(different)
    assert any(place.startswith("shutil.py:") for place in table["place"])
    for query, passage in list(zip(table["query"], table["passage"], strict=True))[::97]:
        assert len(query.split()) >= 3 and query not in passage
        assert passage.startswith(("def ", "async def "))


def test_the_pairs_are_the_same_in_every_process() -> None:
    """Of one package, which takes less time than all."""
    found = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1 and len(found.pop()) == 65


def test_without_its_source_python_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(InputError, match="expected the source of Python's standard library"):
        function_pairs()


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
