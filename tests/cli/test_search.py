"""`throughtime search`, and predict, evaluate and flow on such a run."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from throughtime.cli import main

TOPICS = ("bread", "music", "garden", "engine", "river")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search through 50 passages after 40 steps."""
    folder = tmp_path_factory.mktemp("search")
    rows = [
        f"what about {topic} number {n},the {topic} of part {n} is item{n} and more"
        for n in range(10)
        for topic in TOPICS
    ]
    (folder / "faq.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    options = [
        "--hidden",
        "8",
        "--embedding",
        "16",
        "--vector",
        "16",
        "--batch",
        "16",
        "--steps",
        "40",
        "--device",
        "cpu",
    ]
    arguments = ["train", "search", "--data", str(folder / "faq.csv"), *options, "--out", str(folder / "run")]
    assert main(arguments) == 0
    return folder / "run"


def test_it_prints_scores_places_and_passages(command, run: Path) -> None:
    ended = command("search", run, "what about", "garden number 3", "-k", 3)
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert len(lines) == 6 and "faq.csv #" in lines[0] and "3" in lines[1]
    scores = [float(line.split()[0]) for line in lines[::2]]
    assert scores == sorted(scores, reverse=True) and scores[0] <= 1


def test_json_and_standard_input(command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = json.loads(command("search", run, "--json", "engine").out)
    assert one["query"] == "engine" and len(one["found"]) == 5
    assert set(one["found"][0]) == {"score", "text", "place"}
    monkeypatch.setattr(sys, "stdin", io.StringIO("engine\n\nriver\n"))
    first, second = map(json.loads, command("search", run, "--json").out.splitlines())
    assert first == one and second["query"] == "river"


def test_a_folder_and_a_table(command, run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    texts = [f"the {topic} of part 77 is a long paragraph with so many more words" for topic in TOPICS]
    (tmp_path / "notes" / "all.md").write_text("\n\n".join(texts))
    (tmp_path / "notes" / "x.bin").write_bytes(b"\0")
    ended = command("search", run, "river", "--in", tmp_path / "notes", "-k", 1)
    assert ended.status == 0 and "all.md:9" in ended.out and "river" in ended.out
    assert "files left out: 1" in ended.err
    (tmp_path / "t.tsv").write_text("passage\n" + "\n".join(texts))
    assert "t.tsv #5" in command("search", run, "river", "--in", tmp_path / "t.tsv", "-k", 1).out


def test_predict_evaluate_flow_and_influence(command, fails, run: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.csv").write_text("id,question\n1,bread\n2,music\n")
    ended = command("predict", run, tmp_path / "asked.csv")
    assert ended.status == 0, ended.err
    head, first, _ = ended.out.splitlines()
    assert head == "id,question,place,score,passage,next" and first.startswith("1,bread,faq.csv #")
    ended = command("evaluate", run, "--split", "test", "--json")
    assert set(json.loads(ended.out)["total"]) == {
        "targets",
        "mrr",
        "recall@1",
        "recall@10",
        "recall@100",
        "loss",
    }
    other = command("evaluate", run, "--data", run.parent / "faq.csv")
    assert other.status == 0 and "50 texts" in other.out, other
    assert command("flow", run, "--no-products", "--lags", 3, "--batch", 4).status == 0
    assert "has one for a whole sequence" in fails("influence", run, "--prompt", "bread")
    assert "only models of the next symbol can generate" in fails("generate", run)


def test_refusals(fails, run: Path, runs, tmp_path: Path) -> None:
    assert "search is for runs of the task search" in fails("search", runs["classify"], "query")
    assert "no such file or folder" in fails("search", run, "query", "--in", tmp_path / "none")
    assert "no such run" in fails("search", tmp_path / "none", "query")
