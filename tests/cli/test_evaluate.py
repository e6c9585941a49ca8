"""`throughtime evaluate`: the loss and the metrics of a run on its own parts, and on files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import throughtime as tt
from throughtime.kernels.native.generation.generator import Generator, unavailable
from throughtime.runs import Run
from throughtime.runtime.native import generator_of

native = pytest.mark.skipif(unavailable() is not None, reason=f"native: {unavailable()}")


def by_hand(run: Path, text: str) -> float:
    """The mean loss of a text that is read in one call, from no state."""
    trained = tt.load(run)
    ids = trained.assets.vocabulary.encode(text)
    with torch.no_grad():
        logits, _ = trained.model(ids[:-1, None])
    return float(F.cross_entropy(logits[:, 0], ids[1:]))


def test_a_file_is_scored_per_symbol_and_per_character(
    command, trained: Path, tmp_path: Path, line: str
) -> None:
    file = tmp_path / "new.txt"
    file.write_text(line[:50] + "?!")
    ended = command("evaluate", trained, "--data", file, "--batch", 1, "--json")
    total = json.loads(ended.out)["total"]
    expected = by_hand(trained, line[:50] + "?!")
    assert total["loss"] == pytest.approx(expected, rel=1e-5)
    assert total["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    assert total["bits_per_character"] == pytest.approx(expected / math.log(2), rel=1e-5)
    assert total["targets"] == 51
    ended = command("evaluate", trained, "--data", file, "--batch", 1)
    values = f"bits_per_character {expected / math.log(2):.4g}, perplexity {math.exp(expected):.4g}, loss {expected:.4g}"
    assert (ended.out, ended.err) == (f"{file}: {values}, 51 characters\n", "")


def test_the_window_changes_memory_and_not_the_result(command, trained: Path, text: Path) -> None:
    def loss(*options: object) -> float:
        return json.loads(command("evaluate", trained, text, "--json", *options).out)["total"]["loss"]

    assert loss("--window", 5) == pytest.approx(loss("--window", 500), rel=1e-5)
    assert loss("--batch", 1) != pytest.approx(
        loss("--batch", 300), rel=1e-4
    )  # each part starts from no state


def test_several_files_have_a_line_each_and_a_total_over_their_symbols(
    command, trained: Path, tmp_path: Path, line: str
) -> None:
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_text(line)
    files[1].write_text("zzz yyy xxx www " * 3)
    for arguments in (["--data", *files], ["--data", files[0], "--data", files[1]], files):
        found = json.loads(command("evaluate", trained, *arguments, "--json").out)
        assert list(found) == ["task", str(files[0]), str(files[1]), "total"]
        a, b, total = (found[name] for name in (str(files[0]), str(files[1]), "total"))
        together = (a["loss"] * a["targets"] + b["loss"] * b["targets"]) / (a["targets"] + b["targets"])
        assert total["targets"] == a["targets"] + b["targets"]
        assert total["loss"] == pytest.approx(together, rel=1e-9)
        assert total["perplexity"] == pytest.approx(math.exp(together), rel=1e-9)
        assert min(a["loss"], b["loss"]) < total["loss"] < max(a["loss"], b["loss"])
    lines = command("evaluate", trained, *files).out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(files[0]), str(files[1]), "total"]


def test_several_files_of_a_classifier_too(command, runs, tmp_path: Path) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    files[0].write_text("text,label\na good book,good\na bad book,bad\nfine,bad\n")
    files[1].write_text("text,label\nan awful film,bad\n")
    found = json.loads(command("evaluate", runs["classify"], *files, "--json").out)
    a, b, total = (found[name] for name in (str(files[0]), str(files[1]), "total"))
    assert (a["targets"], b["targets"], total["targets"]) == (3, 1, 4)
    assert total["accuracy"] == pytest.approx((3 * a["accuracy"] + b["accuracy"]) / 4)
    correct = [
        each["label"] for each in tt.load(runs["classify"]).predict(["a good book", "a bad book", "fine"])
    ]
    assert a["accuracy"] == pytest.approx(sum(map(str.__eq__, correct, ["good", "bad", "bad"])) / 3)


@pytest.mark.parametrize("task", ["text", "classify", "adding", "copy", "echo"])
def test_without_a_file_it_is_the_validation_part_as_training_left_it(command, runs, task: str) -> None:
    run = runs[task]
    best = [
        record for record in Run.open(run).history() if record["kind"] == "evaluation" and record["best"]
    ][-1]
    found = json.loads(command("evaluate", run, "--json").out)
    assert found["task"] == task
    assert list(found)[1:] == ["validation part", "total"] and found["total"] == found["validation part"]
    assert found["total"]["loss"] == pytest.approx(best["loss"], rel=1e-6)
    assert {name: found["total"][name] for name in best["metrics"]} == pytest.approx(
        best["metrics"], rel=1e-6
    )
    said = command("evaluate", run).out
    assert said.startswith("validation part: ") and f"loss {found['total']['loss']:.4g}" in said
    assert ("these levels" in said or "no memory" in said) == (task in ("adding", "copy", "echo"))


@pytest.mark.parametrize("task", ["classify", "adding"])
def test_the_test_part_is_that_of_the_final_table(command, quick, tmp_path: Path, task: str) -> None:
    run = tmp_path / "run"
    table = command(*quick[task], "--out", run).out
    row = next(line for line in table.splitlines() if line.startswith("test") and "this model" in line)
    found = json.loads(command("evaluate", run, "--split", "test", "--json").out)
    assert list(found) == ["task", "test part", "total"]
    values = [value for name, value in found["total"].items() if name != "targets"]
    assert row.split()[3:] == [f"{value:.4g}" for value in values]
    assert found["total"]["targets"] == (6 if task == "classify" else 10)
    assert found["total"]["loss"] != json.loads(command("evaluate", run, "--json").out)["total"]["loss"]


def test_models_of_other_symbols_compare_by_bits_per_character(
    command, text: Path, tmp_path: Path, small
) -> None:
    run = tmp_path / "bpe"
    options = ["--tokens", "bpe", "--vocab-size", 280, "--steps", 3]
    assert command("train", "text", text, *small, *options, "--out", run).status == 0
    found = json.loads(command("evaluate", run, text, "--json").out)["total"]
    vocabulary = Run.open(run).assets.vocabulary
    characters = len(text.read_text()) - len(vocabulary.decode(vocabulary.encode(text.read_text())[:1]))
    assert found["targets"] < characters
    nats = found["loss"] * found["targets"]
    assert found["bits_per_character"] == pytest.approx(nats / math.log(2) / characters, rel=1e-9)


def test_what_cannot_be_evaluated_is_refused(
    fails, command, trained: Path, runs, text: Path, tmp_path: Path, small: list[str]
) -> None:
    assert "no such run" in fails("evaluate", tmp_path / "nowhere")
    assert "no such file" in fails("evaluate", trained, "--data", tmp_path / "nothing.txt")
    assert "not a run" in fails("evaluate", tmp_path)
    (tmp_path / "one.txt").write_text("x")
    assert "at least" in fails("evaluate", trained, tmp_path / "one.txt")
    assert "--split must be one of validation, test, got 'tets'. Did you mean 'test'?" in fails(
        "evaluate", trained, "--split", "tets"
    )
    run = tmp_path / "all"
    assert command("train", "text", text, *small, "--steps", 1, "--validation", 0, "--out", run).status == 0
    assert f"{run} has no validation part: name data to evaluate it on, with --data FILE" in fails(
        "evaluate", run
    )
    assert "has no test part" in fails("evaluate", trained, "--split", "test")
    assert "--batch must be greater than or equal to 1" in fails("evaluate", trained, "--batch", 0)
    for task in ("adding", "copy", "echo"):
        assert f"{task} draws its sequences: leave it out" in fails("evaluate", runs[task], "book.txt")
        assert "--window is for runs of one long text" in fails("evaluate", runs[task], "--window", 3)
    (tmp_path / "new.csv").write_text("text,label\nso so,medium\n")
    assert "the model has no label 'medium': it gives bad, good" in fails(
        "evaluate", runs["classify"], tmp_path / "new.csv"
    )


def test_data_that_has_changed_is_not_the_runs_own(command, fails, text: Path, tmp_path: Path, small) -> None:
    file, run = tmp_path / "book.txt", tmp_path / "run"
    file.write_text(text.read_text())
    assert command("train", "text", file, *small, "--steps", 1, "--no-baselines", "--out", run).status == 0
    file.write_text(text.read_text().replace("fox", "cat"))
    assert "has changed since the run was made" in fails("evaluate", run)
    assert command("evaluate", run, file).status == 0


def by_generator(generator: Generator, ids: torch.Tensor) -> float:
    """The mean loss of symbols that the generator reads one by one."""
    state, logits = generator.initial(1), []
    for number in ids[:-1]:
        state = generator.feed(number.reshape(1), state)
        logits.append(state.logits[0])
    return float(F.cross_entropy(torch.stack(logits), ids[1:]))


@native
@pytest.mark.parametrize("weights", ["float32", "bf16", "int8"])
def test_the_loss_of_quantized_weights_is_what_generation_computes_with(
    command, trained: Path, tmp_path: Path, line: str, weights: str
) -> None:
    file = tmp_path / "new.txt"
    file.write_text(line[7:60] + "?")
    options = ["--data", file, "--batch", 1, "--weights", weights, "--device", "cpu", "--json"]
    found = json.loads(command("evaluate", trained, *options).out)["total"]["loss"]
    model, assets = tt.load(trained).model, tt.load(trained).assets
    ids = assets.vocabulary.encode(file.read_text())
    # The mean of 53 numbers in float32.
    assert found == pytest.approx(by_generator(generator_of(model, weights), ids), rel=1e-6)
    if weights != "float32":  # else it could be the loss of any of them
        plain = by_generator(generator_of(model), ids)
        assert found != pytest.approx(plain, rel=4e-6)
        assert found == pytest.approx(plain, rel=0.02)


def test_weights_that_cannot_be_are_refused(
    fails, command, runs, text: Path, tmp_path: Path, small: list[str]
) -> None:
    for name in ("generate", "evaluate"):
        line = fails(name, runs["text"], "--weights", "int4")
        assert "weights must be one of float32, bf16, int8, got 'int4'" in line
    if unavailable() is None:
        run = tmp_path / "normed"
        assert command("train", "text", text, *small, "--layer-norm", "--steps", 1, "--out", run).status == 0
        assert "native generation has no LSTM with layer_norm" in fails("generate", run, "--weights", "int8")
        assert "native generation has no LSTM with layer_norm" in fails("evaluate", run, "--weights", "bf16")
        assert command("generate", run, "--length", 3).status == 0
        assert "this is a ManyToOne" in fails("evaluate", runs["classify"], "--weights", "int8")
