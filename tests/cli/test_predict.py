"""`throughtime predict`: what comes in goes out again, with the predictions as more columns."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import throughtime as tt

TEXTS = ("a good book", "an awful, poor film", "good")


class Input(io.BytesIO):
    """Bytes as standard input."""

    @property
    def buffer(self) -> Input:
        return self


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch):
    def install(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", Input(text.encode()))

    return install


@pytest.fixture
def answers(runs) -> list[dict[str, Any]]:
    """What the classifier says of TEXTS, from Python."""
    return list(tt.load(runs["classify"]).predict(list(TEXTS)))


def test_lines_are_followed_by_tabs_and_predictions(command, runs, answers, tmp_path: Path, typed) -> None:
    expected = "".join(
        f"{text}\t{answer['label']}\t{answer['probability']}\n"
        for text, answer in zip(TEXTS, answers, strict=True)
    )
    file = tmp_path / "texts.txt"
    file.write_text("\n\n".join(TEXTS) + "\n")  # blank lines are skipped, the last line has an end
    ended = command("predict", runs["classify"], file)
    assert (ended.status, ended.out, ended.err) == (0, expected, "")
    for arguments in ([], ["-"]):
        typed("\n".join(TEXTS))  # the last line has none
        assert command("predict", runs["classify"], *arguments).out == expected


def test_csv_stays_csv(command, runs, answers, tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["id", "Text", "note"], *([n, text, 'a "note", here'] for n, text in enumerate(TEXTS))]
        )
    ended = command("predict", runs["classify"], file)
    assert (ended.status, ended.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert list(rows[0]) == ["id", "Text", "note", "label", "probability"]
    for number, (row, text, answer) in enumerate(zip(rows, TEXTS, answers, strict=True)):
        assert (row["id"], row["Text"], row["note"]) == (str(number), text, 'a "note", here')
        assert (row["label"], float(row["probability"])) == (answer["label"], answer["probability"])


def test_tsv_stays_tsv(command, runs, answers, tmp_path: Path) -> None:
    file = tmp_path / "texts.tsv"
    file.write_text("text\tid\n" + "".join(f"{text}\t{n}\n" for n, text in enumerate(TEXTS)))
    lines = command("predict", runs["classify"], file).out.splitlines()
    assert lines[0] == "text\tid\tlabel\tprobability"
    assert lines[1:] == [
        f"{text}\t{n}\t{answer['label']}\t{answer['probability']}"
        for n, (text, answer) in enumerate(zip(TEXTS, answers, strict=True))
    ]


def test_json_lines_stay_json_lines(command, runs, answers, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text, "more": [1, {"é": None}]}) + "\n" for text in TEXTS))
    ended = command("predict", runs["classify"], file)
    found = [json.loads(line) for line in ended.out.splitlines()]
    assert found == [
        {"text": text, "more": [1, {"é": None}], **answer}
        for text, answer in zip(TEXTS, answers, strict=True)
    ]
    assert "é" in ended.out


def test_the_format_is_seen_from_the_first_line_or_asked_for(command, runs, typed) -> None:
    typed('{"text": "good"}\n')
    assert json.loads(command("predict", runs["classify"]).out)["text"] == "good"
    typed("id,text\n1,good\n")
    assert command("predict", runs["classify"]).out.startswith("id,text,label,probability\n1,good,")
    typed("id,text\n1,good\n")  # two lines of text, if one says so
    out = command("predict", runs["classify"], "--format", "lines").out
    assert [line.split("\t")[0] for line in out.splitlines()] == ["id,text", "1,good"]


def test_a_prediction_is_that_of_its_text_alone(command, runs, typed) -> None:
    """However many there are: no row depends on its neighbours."""
    typed("good\n" + "a much longer text " * 50 + "\n\ngood\n")
    first, _, last = command("predict", runs["classify"]).out.splitlines()
    assert first == last


def test_bad_rows(command, fails, runs, tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text("text,id\ngood,1\nbad\n ,3\nfine,4\n")
    line = fails("predict", runs["classify"], file, "--out", tmp_path / "no.csv")
    assert line.startswith(f"{file}:3: expected 2 fields (text, id), got 1: ")
    assert line.endswith("; correct the row, or leave bad rows out with --skip-bad")
    assert not (tmp_path / "no.csv").exists()
    ended = command("predict", runs["classify"], file, "--skip-bad")
    assert ended.status == 0
    assert [row["text"] for row in csv.DictReader(io.StringIO(ended.out))] == ["good", "fine"]
    assert ended.err.startswith(
        f"throughtime: {file}: 2 bad rows skipped; the first is {file}:3: expected 2 fields"
    )
    assert ended.err.count("\n") == 1
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "good"}\n{"text": 3}\n{"txt": "x"}\nno\n{"text": "fine"}\n')
    assert "bad.jsonl:2: expected 'text' to be a string" in fails(
        "predict", runs["classify"], file, "--out", tmp_path / "o"
    )
    found = [
        json.loads(line)["text"]
        for line in command("predict", runs["classify"], file, "--skip-bad").out.splitlines()
    ]
    assert found == ["good", "fine"]


def test_a_file_is_written_whole(command, fails, runs, tmp_path: Path) -> None:
    source, out = tmp_path / "texts.txt", tmp_path / "out.tsv"
    source.write_text("\n".join(TEXTS) + "\n")
    ended = command("predict", runs["classify"], source, "--out", out)
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    assert out.read_text() == command("predict", runs["classify"], source).out
    before = out.read_text()
    source.write_bytes(b"good\n\xff\xfe\n")
    fails("predict", runs["classify"], source, "--out", out)
    assert out.read_text() == before
    assert "there is no folder" in fails(
        "predict", runs["classify"], source, "--out", tmp_path / "no" / "out.tsv"
    )


def test_what_cannot_be_read_is_one_line(fails, runs, tmp_path: Path, typed) -> None:
    run = runs["classify"]
    (tmp_path / "texts.csv").write_text("id,words\n1,good\n")
    line = fails("predict", run, tmp_path / "texts.csv")
    assert "texts.csv:1: expected a column 'text'" in line and "the columns are 'id', 'words'" in line
    assert "Did you mean 'texts.csv'?" in fails("predict", run, tmp_path / "text.csv")
    assert "no such file" in fails("predict", run, tmp_path / "nothing").lower()
    assert "cannot read" in fails("predict", run, tmp_path)
    typed("good\n")
    assert "format must be one of csv, tsv, jsonl, lines, got 'jsn'. Did you mean" in fails(
        "predict", run, "--format", "jsn"
    )
    typed("a\0b\n")
    assert "standard input" in fails("predict", run)
    assert "no such run" in fails("predict", tmp_path / "none")


def test_nothing_in_is_nothing_out(command, runs, typed) -> None:
    typed("")
    ended = command("predict", runs["classify"])
    assert (ended.status, ended.out, ended.err) == (0, "", "")


def test_a_language_model_says_how_well_it_predicts_each_text(command, runs, typed, line: str) -> None:
    typed(json.dumps({"text": line.strip()}) + "\n" + json.dumps({"text": "t"}) + "\n")
    known, one = map(json.loads, command("predict", runs["text"]).out.splitlines())
    trained = tt.load(runs["text"])
    ids = trained.assets.vocabulary.encode(line.strip())
    session, losses = trained.session(), []
    for number in ids.tolist():
        if session.logits is not None:
            losses.append(-float(session.logits.log_softmax(-1)[number]))
        session.feed([number])
    assert known["symbols"] == len(ids) == len(line) - 1
    assert known["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert known["perplexity"] == pytest.approx(math.exp(known["loss"]), rel=1e-6)
    assert known["next"] == trained.assets.vocabulary.decode([int(session.logits.argmax())])
    assert (one["symbols"], one["loss"], one["perplexity"]) == (1, None, None)


def test_a_copy_run_gives_a_symbol_for_each_step(command, fails, runs, typed) -> None:
    typed("abcdefghab__________:__________\nab:\n")
    out = [line.split("\t") for line in command("predict", runs["copy"]).out.splitlines()]
    assert [len(source) for source, _ in out] == [len(answer) for _, answer in out] == [31, 3]
    assert set(out[0][1]) <= set("abcdefgh_:")
    typed("abx\n")
    assert "input must be of the symbols abcdefgh_: of copy, got 'x'" in fails("predict", runs["copy"])


def test_an_adding_run_gives_the_sum(command, fails, runs, typed) -> None:
    typed("[[0.5, 1], [0.25, 0], [0.125, 1]]\n")
    source, answer = command("predict", runs["adding"]).out.rstrip("\n").split("\t")
    assert source == "[[0.5, 1], [0.25, 0], [0.125, 1]]"
    assert math.isfinite(float(answer))
    typed("[1, 2]\n")
    assert "input must be a list [[value, mark], ...]" in fails("predict", runs["adding"])


def test_each_line_is_answered_as_it_comes(executable: list[str], runs) -> None:
    """Through pipes: the second line is written after the answer to the first was read."""
    process = subprocess.Popen(
        [*executable, "predict", str(runs["classify"])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # as it is where nobody set it
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    watchdog = threading.Timer(60, process.kill)  # an answer that does not come fails, and does not hang
    watchdog.start()
    for text in ("a good book", "é", "bad"):
        process.stdin.write(text + "\n")
        process.stdin.flush()
        answer = process.stdout.readline().rstrip("\n").split("\t")
        assert answer[0] == text and answer[1] in ("good", "bad")
        assert process.poll() is None
    rest, err = process.communicate(timeout=60)
    watchdog.cancel()
    assert (process.returncode, rest, err) == (0, "", "")
