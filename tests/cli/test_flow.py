"""`throughtime flow` and `throughtime influence` on runs of every task."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import throughtime as tt
from throughtime.flow import Flow

Fails = Callable[..., str]


def test_flow_prints_table_chart_and_verdict_and_writes_what_is_asked(
    command, trained: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ("f.html", "f.png", "f.json")]
    ended = command("flow", trained, "--lags", 20, "--html", outs[0], "--png", outs[1], "--json", outs[2])
    assert (ended.status, ended.err) == (0, "")
    assert "half-life" in ended.out
    assert "size of the gradient k steps back" in ended.out
    assert "The gradient" in ended.out
    found = Flow.from_json(outs[2].read_text())
    (layer,) = found.layers.values()
    assert int(layer.lag_h.lags[-1]) in (19, 20)
    assert ended.out.split("\n\n")[-2] in found.explain()
    assert ended.out.endswith(f"Written: {outs[0]}, {outs[1]}, {outs[2]}\n")
    assert outs[0].read_text().startswith("<!DOCTYPE html>")
    assert outs[1].read_bytes().startswith(b"\x89PNG")


def test_flow_measures_another_text(command, trained: Path, text: Path) -> None:
    ended = command("flow", trained, "--data", text, "--steps", 40, "--batch", 2, "--no-products")
    assert ended.status == 0
    assert "2 x 40 steps" in ended.out


@pytest.mark.parametrize("task", ["text", "classify"])
def test_numbers_on_stdout_are_alone(command, runs, tmp_path: Path, task: str) -> None:
    ended = command("flow", runs[task], "--no-products", "--json", "-", "--html", tmp_path / "f.html")
    assert (ended.status, ended.err) == (0, "")
    text, rest = ended.out.split("\n", 1)
    assert json.loads(text) and Flow.from_json(text).layers
    assert rest == f"\nWritten: {tmp_path / 'f.html'}\n" or rest == ""
    ended = command("flow", runs[task], "--no-products", "--json", "-")
    assert list(Flow.from_json(ended.out).layers) == ["layers.l0"]
    assert ended.out.count("\n") == 1


def test_flow_of_a_classifier_is_of_the_loss_at_the_end_of_each_text(command, runs, tmp_path: Path) -> None:
    out = tmp_path / "f.json"
    ended = command("flow", runs["classify"], "--batch", 4, "--json", out)
    assert (ended.status, ended.err) == (0, "")
    found = Flow.from_json(out.read_text())
    trained = tt.load(runs["classify"])
    batch = next(trained.task.evaluation_batches(trained.assets, "validation", steps=1, batch=4))
    assert f"4 x {batch.steps} steps" in ended.out
    with torch.no_grad():
        loss = float(trained.task.loss(batch.run(trained.model)[0], batch)) / 4
    assert found.loss == pytest.approx(loss, rel=1e-5)
    file = tmp_path / "new.csv"
    file.write_text("text,label\na good book and more,good\na bad film,bad\n")
    ended = command("flow", runs["classify"], "--data", file, "--no-products")
    assert "2 x 20 steps" in ended.out


@pytest.mark.parametrize(
    ("task", "steps", "ends", "level"),
    [
        ("adding", 11, (10,), "0.1667 always predicting 1"),  # one loss for a sequence, at its end
        ("copy", 31, tuple(range(21, 31)), "0.6708 blanks, then guessing"),  # where letters are repeated
        ("echo", 11, (8, 9, 10), "0.6616 no memory"),  # the first eight targets are masked
    ],
)
def test_flow_sends_back_the_losses_that_need_memory(
    command, runs, tmp_path: Path, task: str, steps: int, ends: tuple[int, ...], level: str
) -> None:
    ended = command("flow", runs[task], "--batch", 5, "--json", tmp_path / "f.json")
    assert (ended.status, ended.err) == (0, "")
    assert f"5 x {steps} steps" in ended.out and level in ended.out
    found = Flow.from_json((tmp_path / "f.json").read_text())
    assert found.ends == ends
    pattern = {"copy": r"[a-h]{10}_{10}:_{10}", "echo": r"[01]{11}", "adding": r"[.+]{11}"}[task]
    assert re.fullmatch(pattern, "".join(found.symbols))
    # The loss it shows is that of the task.
    trained = tt.load(runs[task])
    batch = next(trained.task.evaluation_batches(trained.assets, "validation", steps=steps, batch=5))
    with torch.no_grad():
        total = trained.task.loss(trained.model(batch.inputs)[0], batch)
    assert found.loss == pytest.approx(float(total) / batch.num_targets, rel=1e-5)


def test_flow_refuses_in_one_line(
    fails: Fails, command, runs, tmp_path: Path, text: Path, small: list[str]
) -> None:
    trained = runs["text"]
    assert "no such run" in fails("flow", tmp_path / "none")
    assert "there is no folder" in fails("flow", trained, "--html", tmp_path / "no" / "f.html")
    assert "--lags must be less than" in fails("flow", trained, "--lags", 5000)
    short = tmp_path / "short.txt"
    short.write_text("the")
    assert "at least 8 symbols" in fails("flow", trained, "--data", short)
    assert "echo draws its sequences: leave it out" in fails("flow", runs["echo"], "--data", "book.txt")
    for task in ("adding", "classify"):
        assert "--steps is for runs of one long text" in fails("flow", runs[task], "--steps", 5)
        assert "give longer sequences, or fewer lags" in fails("flow", runs[task], "--lags", 1100)
    run = tmp_path / "all"
    assert command("train", "text", text, *small, "--steps", 1, "--validation", 0, "--out", run).status == 0
    assert "has no validation part: name data to measure it on, with --data FILE" in fails("flow", run)


def test_influence_is_a_triangle_over_the_prompt(command, trained: Path, tmp_path: Path) -> None:
    outs = ["--png", tmp_path / "i.png", "--html", tmp_path / "i.html"]
    ended = command("influence", trained, "--prompt", "the fox", *outs)
    assert (ended.status, ended.err) == (0, "")
    head, *rows = ended.out.splitlines()[:8]
    assert head.split() == ["the␣fox"] or head.split() == ["the_fox"]
    assert [len(row) - 3 for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.html", "i.png"]
    rough = command("influence", trained, "--prompt", "the fox", "--directions", 5)
    assert "estimated from 5 random directions" in rough.out
    unknown = command("influence", trained, "--prompt", "the €")
    assert (unknown.status, unknown.err) == (0, "unknown to the model: '€'\n")


def test_influence_draws_a_sequence_or_reads_a_prompt(command, fails: Fails, runs) -> None:
    drawn = command("influence", runs["adding"])
    assert drawn.status == 0 and drawn.out.splitlines()[0].count("+") == 2
    read = command("influence", runs["echo"], "--prompt", "0110")
    assert read.out.splitlines()[0].strip() == "0110"
    assert command("influence", runs["copy"], "--prompt", "ah_:").out.splitlines()[0].strip() == "ah_:"


def test_influence_refuses_in_one_line(fails: Fails, runs) -> None:
    assert "--prompt must be 1 to 400 symbols, got 0" in fails("influence", runs["text"], "--prompt", "")
    assert "--prompt must be 1 to 400 symbols, got 401" in fails(
        "influence", runs["echo"], "--prompt", "1" * 401
    )
    assert "--prompt is needed" in fails("influence", runs["text"])
    assert "symbols 01 of echo, got '2'" in fails("influence", runs["echo"], "--prompt", "012")
    assert "--prompt is for runs that read symbols, and adding does not" in fails(
        "influence", runs["adding"], "--prompt", "1"
    )
    assert "--directions is for models with an output for each step" in fails(
        "influence", runs["classify"], "--prompt", "a good book", "--directions", 5
    )


def test_influence_of_a_classifier_has_a_row_for_each_label(command, runs, tmp_path: Path) -> None:
    ended = command(
        "influence",
        runs["classify"],
        "--prompt",
        "a good book",
        "--png",
        tmp_path / "i.png",
        "--html",
        tmp_path / "i.html",
    )
    assert (ended.status, ended.err) == (0, "")
    labels = tt.load(runs["classify"]).assets.labels["label"]
    head, *rows = ended.out.splitlines()
    assert head.split() in (["a␣good␣book"], ["a_good_book"])
    found = [row.split()[0] for row in rows[: len(labels)]]
    assert sorted(found) == sorted(labels)
    probabilities = [float(row.split()[1]) for row in rows[: len(labels)]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.html", "i.png"]


def test_a_picture_of_an_unknown_kind_is_refused_before_the_work(fails: Fails, tmp_path: Path) -> None:
    # The run is not there either: the suffix is looked at first.
    assert "must end in .png" in fails("flow", tmp_path / "none", "--png", tmp_path / "f.txt")
    assert "must end in .png" in fails(
        "influence", tmp_path / "none", "--prompt", "a", "--png", tmp_path / "f.gif"
    )
