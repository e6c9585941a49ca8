"""`throughtime predict` on files with columns of other names, or with a column that a prediction is called too."""

from __future__ import annotations

import csv
import io
import json
import tomllib

import pytest

from throughtime.cli import main

ROWS = [
    (f"a {word} thing, number {number}", label)
    for number in range(6)
    for word, label in (("good", "up"), ("bad", "down"))
]
QUICK = ("--hidden", "4", "--steps", "1", "--no-baselines", "--batch", "2")


@pytest.fixture
def reviews(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "".join(f'7,"{text}",{label}\n' for text, label in ROWS)
    (tmp_path / "reviews.csv").write_text("id,body,label\n" + lines, encoding="utf-8")
    assert main(["train", "classify", "--data", "reviews.csv", "--text", "body", "--out", "run", *QUICK]) == 0
    return tmp_path


def test_predict_reads_the_column_that_was_trained_on_and_keeps_those_it_reads(reviews, capsys):
    capsys.readouterr()
    assert main(["predict", "run", "reviews.csv"]) == 0
    head, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["id", "body", "label", "predicted_label", "probability"]
    assert [tuple(row[:3]) for row in rows] == [("7", text, label) for text, label in ROWS]
    assert {row[3] for row in rows} <= {"up", "down"}


def test_predict_keeps_the_fields_of_json_lines(reviews, capsys):
    (reviews / "in.jsonl").write_text(
        '{"body": "good", "label": 3, "predicted_label": 4}\n', encoding="utf-8"
    )
    capsys.readouterr()
    assert main(["predict", "run", "in.jsonl"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["label"], found["predicted_label"]) == (3, 4)
    assert found["predicted_predicted_label"] in ("up", "down")


def test_a_classifier_cannot_generate(reviews, capsys):
    capsys.readouterr()
    assert main(["generate", "run"]) == 2
    assert "only models of the next symbol can generate" in capsys.readouterr().err


def test_a_run_of_a_folder_can_be_evaluated_from_another_folder(reviews, capsys, monkeypatch):
    (reviews / "classes").mkdir()
    for name in ("up", "down"):
        texts = "".join(f"{text}\n" for text, label in ROWS if label == name)
        (reviews / "classes" / f"{name}.txt").write_text(texts, encoding="utf-8")
    assert main(["train", "classify", "--data", "classes", "--out", "folder", *QUICK]) == 0
    config = tomllib.loads((reviews / "folder" / "config.toml").read_text())
    assert config["classify"]["data"] == [str(reviews / "classes")]
    (reviews / "elsewhere").mkdir()
    monkeypatch.chdir(reviews / "elsewhere")
    assert main(["evaluate", "../folder"]) == 0
