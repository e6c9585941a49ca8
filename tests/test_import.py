"""`import throughtime` costs almost nothing, and gives every name that it promises on first use."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import throughtime as tt


def in_a_fresh_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_neither_torch_nor_any_part_of_it() -> None:
    out = in_a_fresh_python(
        "import sys, json, throughtime; dir(throughtime); print(json.dumps(sorted(sys.modules)))"
    )
    loaded = json.loads(out)
    heavy = ("torch", "numpy", "tokenizers", "accelerate", "rich", "typer", "safetensors")
    assert [name for name in loaded if name.split(".")[0] in heavy] == []
    assert [name for name in loaded if name.startswith("throughtime")] == ["throughtime"]


def test_layers_import_nothing_heavier_than_torch() -> None:
    # Compared with torch alone: what torch itself brings along is not ours.
    lists = [
        json.loads(in_a_fresh_python(f"import sys, json; {code}; print(json.dumps(sorted(sys.modules)))"))
        for code in ("import torch", "import throughtime as tt; tt.LSTM, tt.scan, tt.bptt")
    ]
    added = {name.split(".")[0] for name in lists[1]} - {name.split(".")[0] for name in lists[0]}
    assert (
        added & {"tokenizers", "accelerate", "rich", "typer", "safetensors", "tomli_w", "tensorboard"}
        == set()
    )


def test_the_first_use_of_a_name_is_kept() -> None:
    out = in_a_fresh_python(
        "import throughtime as tt; assert 'LSTM' not in vars(tt); tt.LSTM; assert 'LSTM' in vars(tt);"
        "from throughtime.layers import LSTM; print(LSTM is tt.LSTM)"
    )
    assert out.strip() == "True"


@pytest.mark.parametrize("name", tt.__all__)
def test_every_promised_name_resolves(name: str) -> None:
    if name in tt._MODULES and importlib.util.find_spec(f"throughtime.{name}") is None:
        pytest.fail(f"throughtime promises the module {name}, and there is no such module")
    value = getattr(tt, name)
    if name not in tt._MODULES:
        home = importlib.import_module(f"throughtime.{tt._HOME_OF[name]}")
        assert value is getattr(home, name)


@pytest.mark.parametrize(
    "name",
    ["load", "start_run", "train", "evaluate", "Task", "Batch", "Metric", "ModelConfig", "TrainingConfig", "Trained",
     "Evaluation", "LSTM", "GRU", "RNN", "Recurrent", "scan", "Cell", "bptt", "flow", "backends", "InputError"],
)  # fmt: skip
def test_what_the_documentation_uses_is_at_the_root(name: str) -> None:
    assert name in tt.__all__
    assert getattr(tt, name) is not None


def test_the_names_for_type_checkers_are_the_same() -> None:
    """The `if TYPE_CHECKING` block, which nothing at run time reads, promises each name from the module that has it."""
    assert tt.__file__ is not None
    tree = ast.parse(Path(tt.__file__).read_text())
    block = next(
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    promised = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        promised |= {alias.name: node.module for alias in node.names}
    assert set(promised) <= set(tt.__all__)
    assert set(tt._HOME_OF) <= set(promised)
    for name, home in promised.items():
        assert home is not None
        found = getattr(importlib.import_module(home), name)
        assert found is getattr(tt, name)


def test_tasks_and_settings_import_no_torch() -> None:
    """So that a help text answers at once."""
    out = in_a_fresh_python(
        "import sys, json; from throughtime.tasks import find_task; from throughtime.tasks.registry import names;"
        "import throughtime as tt; tt.Task, tt.ModelConfig, tt.TrainingConfig; [find_task(name) for name in names()];"
        "print(json.dumps(sorted(sys.modules)))"
    )
    heavy = {"torch", "numpy", "tokenizers", "accelerate", "safetensors", "sklearn", "matplotlib"}
    assert {name.split(".")[0] for name in json.loads(out)} & heavy == set()


def test_dir_lists_every_promised_name() -> None:
    assert set(tt.__all__) <= set(dir(tt))
    assert len(tt.__all__) == len(set(tt.__all__))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'throughtime' has no attribute 'LTSM'"):
        _ = tt.LTSM
    assert not hasattr(tt, "LTSM")
