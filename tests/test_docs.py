"""Every python block and every command of README.md and docs/ runs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = [sys.executable, "-m", "throughtime"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Commands that take minutes by design run here for a moment: the option that sets their length is replaced.
SHORT = {"--minutes": "0.05", "--epochs": "1"}
MEASURED = (
    "measured"  # a ```bash measured block holds the commands behind a table of results: parsed, not run
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


def commands(block: str) -> list[list[str]]:
    joined = block.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.filterwarnings("default")  # a reader's snippet may meet a warning of torch's
def test_python_blocks_run_in_order(page, monkeypatch, tmp_path):
    found = blocks(page, "python")
    if not found:
        return
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in found:
        exec(compile(block, f"{page.name}", "exec"), namespace)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("desk")
    text = "The time traveller was expounding a recondite matter to us. His eyes shone and twinkled.\n" * 60
    for name in ("book.txt", "another.txt"):
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page, desk):
    for block in blocks(page, "bash"):
        for words in commands(block):
            if words[0] == "make":
                subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
                continue
            assert words[0] == "throughtime", f"{page.name}: {' '.join(words)}"
            for option, value in SHORT.items():
                if option in words:
                    words[words.index(option) + 1] = value
            done = subprocess.run(
                [*PROGRAM, *words[1:]], cwd=desk, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_behind_figures_can_be_typed(page, tmp_path):
    """Their options exist and take those values; the files they name are public data, and need not be here."""
    for block in blocks(page, f"bash {MEASURED}"):
        for words in commands(block):
            assert words[0] == "throughtime"
            if words[1:3] != ["train", "text"]:
                continue
            files = [i for i, word in enumerate(words) if word.endswith(".txt")]
            for i in files:
                (tmp_path / Path(words[i]).name).write_text("abc " * 9000, encoding="utf-8")
                words[i] = Path(words[i]).name
            for option in ("--minutes", "--epochs"):
                if option in words:
                    words[words.index(option)] = "--steps"
                    words[words.index("--steps") + 1] = "1"
            words[words.index("--out") + 1] = str(tmp_path / "run")
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            done = subprocess.run(
                [*PROGRAM, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
