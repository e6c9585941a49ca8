"""The layering: a module imports only from rows above its own, at the top of the file, in a function or for types alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "throughtime"
ROWS = (
    ("errors",),
    ("files", "progress", "options"),
    ("cells", "data"),
    ("bptt", "metrics"),
    ("kernels",),
    ("layers", "decoding"),
    ("flow", "models", "runs"),
    ("sessions",),
    ("tasks",),
    ("training",),
    ("runtime", "bench"),
    ("page",),
    ("serve",),
    ("studies",),
    ("cli",),
)
ROW = {name: number for number, names in enumerate(ROWS) for name in names}
ROOTS = ("__init__", "__main__")  # the package's list of names, and `python -m throughtime`


def imported_parts(tree: ast.AST, package: tuple[str, ...], files: set[str]) -> Iterator[tuple[int, str]]:
    """(line, part of throughtime) of every import in a file, wherever in the file it stands."""
    for node in ast.walk(tree):
        targets: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            targets = [(*base, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
            "import_module",
            "__import__",
        ):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                targets = [tuple(first.value.split("."))]
        for target in targets:
            if target[0] == "throughtime" and target[1:] != ("__version__",):
                yield node.lineno, target[1] if len(target) > 1 and target[1] in files else ROOTS[0]


def violations(text: str, part: str, parts: set[str]) -> list[str]:
    """What a file of `part` imports and must not."""
    found = []
    for line, other in imported_parts(ast.parse(text), ("throughtime", part), parts):
        if other == part:
            continue
        if other not in ROW:
            # The root gives every part its names on first use; a part that went through it would see past its row.
            found.append(f"line {line}: {part} imports {other}, which has no row")
        elif ROW[other] >= ROW[part]:
            found.append(f"line {line}: {part} imports {other}, which is not above it")
    return found


def parts_on_disk() -> set[str]:
    return {
        path.stem if path.is_file() else path.name for path in SOURCE.iterdir() if path.name[0] not in "._"
    }


def test_every_part_has_a_row() -> None:
    known = {*ROW, *ROOTS, "py"}
    assert {
        path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    } <= known


@pytest.mark.parametrize("part", list(ROW))
def test_a_part_imports_only_from_the_rows_above_it(part: str) -> None:
    files = (
        [SOURCE / f"{part}.py"] if (SOURCE / f"{part}.py").exists() else sorted((SOURCE / part).rglob("*.py"))
    )
    bad = {
        str(path.relative_to(SOURCE)): found
        for path in files
        if (found := violations(path.read_text(encoding="utf-8"), part, set(ROW)))
    }
    assert not bad


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("cells", "from throughtime.kernels import dispatch"),
        ("cells", "import throughtime.kernels.dispatch"),
        ("cells", "from throughtime import layers"),
        ("cells", "from ..bptt import full"),
        ("cells", "from .. import data"),
        ("cells", "def f():\n    from throughtime.data import text"),
        ("bptt", "if TYPE_CHECKING:\n    from throughtime.layers import LSTM"),
        ("layers", "importlib.import_module('throughtime.flow')"),
        ("serve", "from throughtime.cli.app import app"),
        ("models", "import throughtime as tt"),
        ("models", "from throughtime import LSTM"),
    ],
)
def test_a_breach_is_seen(part: str, text: str) -> None:
    assert violations(text, part, set(ROW))


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("kernels", "from throughtime.cells.contract import State"),
        ("kernels", "from .call import Call"),
        ("cli", "def f():\n    from throughtime import training"),
        ("cli", "from throughtime import __version__"),
        ("cells", "import torch.nn"),
    ],
)
def test_what_is_allowed_is_not_a_breach(part: str, text: str) -> None:
    assert not violations(text, part, set(ROW))
