"""`predict --set`, `--show` and `--picture`: other values for a task's search, and what a prediction was aligned with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from throughtime.cli import main
from throughtime.options import fields_of
from throughtime.tasks.registry import BUILT_IN, find_task


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "pairs.tsv").write_text("".join(f"go {n}\tva {n} !\n" for n in range(40)))
    out = str(folder / "run")
    options = ["--tokens", "word", "--min-count", "1", "--hidden", "8", "--steps", "3", "--no-baselines"]
    assert main(["train", "translate", "--data", str(folder / "pairs.tsv"), *options, "--out", out]) == 0
    (folder / "lines.txt").write_text("go 5\ngo 7\n")
    return out


def test_another_beam_and_more_hypotheses(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = str(Path(run).parent / "lines.txt")
    found = {}
    for settings in ([], ["--set", "beam=1"], ["--set", "n-best=3", "--set", "max_length=2"]):
        capsys.readouterr()
        assert main(["predict", run, lines, "--format", "lines", *settings]) == 0
        found[str(settings)] = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    plain, greedy, several = found.values()
    assert [row[0] for row in plain] == ["go 5", "go 7"] and len(plain[0]) == 3
    assert float(greedy[0][2]) != float(plain[0][2])  # a beam divides its scores by a power of the length
    others = json.loads(several[0][3])
    assert len(others) == 2 and all(len(each["translation"].split()) <= 2 for each in others)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("nbest=3", "max_length, n_best of translate can be set, got 'nbest=3'. Did you mean 'n_best'?"),
        ("tokens=bpe", "--set must be NAME=VALUE: beam, length_penalty"),
        ("beam", "--set must be NAME=VALUE"),
        ("beam=two", "beam must be a whole number, got 'two'"),
        ("beam=0", "beam must be at least 1"),
        ("n_best=9", "n_best must be at most beam, got n_best 9 and beam 5"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(
    run: str, settings: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", run, "--set", settings]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_show_and_picture(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = str(Path(run).parent / "lines.txt")
    picture = tmp_path / "a.png"
    assert main(["predict", run, lines, "--format", "lines", "--show", "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    assert out.count("rows: translation; columns: source; weight:") == 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    for path in (tmp_path / "a.txt", tmp_path / "nowhere" / "a.png"):
        assert main(["predict", run, lines, "--format", "lines", "--picture", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_task_without_alignment_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert main(["train", "copy", "--steps", "1", "--hidden", "4", "--no-baselines", "--out", out]) == 0
    (tmp_path / "t.txt").write_text("a\n")
    capsys.readouterr()
    assert main(["predict", out, str(tmp_path / "t.txt"), "--format", "lines", "--show"]) == 2
    assert "runs of copy have no alignment to show" in capsys.readouterr().err
    assert main(["predict", out, "--set", "beam=3"]) == 2
    assert "a run of copy has none to set" in capsys.readouterr().err


def test_what_can_be_set_are_options() -> None:
    for name in BUILT_IN:
        kind = find_task(name).kind
        assert set(kind.predict_options) <= {field.name for field in fields_of(kind)}
