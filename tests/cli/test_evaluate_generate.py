"""`throughtime evaluate` and `throughtime generate` on a trained run."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from throughtime.runs import Run
from throughtime.tasks import TextTask

Fails = Callable[..., str]


def by_hand(run: Path, text: str) -> float:
    """The mean loss of a text that is read in one go, from nothing."""
    model, task = TextTask.restore(Run.open(run))
    ids = task.vocabulary.encode(text)
    with torch.no_grad():
        logits, _ = model(ids[:-1, None])
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
    assert (total["targets"], total["characters"], total["unknown"]) == (51, 51, 2)
    line = command("evaluate", trained, "--data", file, "--batch", 1).out
    assert line.startswith(f"{file}: loss {expected:.4f} nats per character, perplexity")
    assert line.endswith("51 characters, 2 of them unknown to the model\n")
    assert line.count("\n") == 1


def test_the_window_changes_memory_and_not_the_result(command, trained: Path, text: Path) -> None:
    def loss(*options: object) -> float:
        return json.loads(command("evaluate", trained, text, "--json", *options).out)["total"]["loss"]

    assert loss("--window", 5) == pytest.approx(loss("--window", 500), rel=1e-5)
    assert loss("--batch", 1) != pytest.approx(
        loss("--batch", 300), rel=1e-4
    )  # each piece starts knowing nothing


def test_several_files_have_a_line_each_and_a_total_over_their_symbols(
    command, trained: Path, tmp_path: Path, line: str
) -> None:
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_text(line)
    files[1].write_text("zzz yyy xxx www " * 3)
    ended = command("evaluate", trained, "--data", files[0], files[1], "--json")
    found = json.loads(ended.out)
    a, b = found["texts"]
    assert [a["name"], b["name"]] == [str(file) for file in files]
    together = (a["loss"] * a["targets"] + b["loss"] * b["targets"]) / (a["targets"] + b["targets"])
    assert found["total"]["loss"] == pytest.approx(together, rel=1e-9)
    lines = command("evaluate", trained, *files).out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(files[0]), str(files[1]), "total"]


def test_without_a_file_it_is_the_validation_part_as_training_left_it(command, trained: Path) -> None:
    losses = [record["loss"] for record in Run.open(trained).history() if record.get("kind") == "evaluation"]
    found = json.loads(command("evaluate", trained, "--json").out)
    assert found["texts"][0]["name"] == "validation part"
    assert found["total"]["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_models_of_other_symbols_compare_by_bits_per_character(
    command, text: Path, tmp_path: Path, small: list[str]
) -> None:
    run = tmp_path / "bpe"
    options = ["--tokens", "bpe", "--vocab-size", 280, "--steps", 3]
    assert command("train", "text", text, *small, *options, "--out", run).status == 0
    found = json.loads(command("evaluate", run, text, "--json").out)["total"]
    first = Run.open(run).vocabulary.decode(Run.open(run).vocabulary.encode(text.read_text())[:1])
    assert found["characters"] == len(text.read_text()) - len(first)
    assert found["targets"] < found["characters"]
    nats = found["loss"] * found["targets"]
    assert found["bits_per_character"] == pytest.approx(nats / math.log(2) / found["characters"], rel=1e-9)
    own = json.loads(command("evaluate", run, "--json").out)["total"]
    assert own["targets"] < own["characters"]


def test_what_cannot_be_evaluated_is_refused(
    fails: Fails, command, trained: Path, text: Path, tmp_path: Path, small: list[str]
) -> None:
    assert "no such run" in fails("evaluate", tmp_path / "nowhere")
    assert "no such file" in fails("evaluate", trained, "--data", tmp_path / "nothing.txt")
    assert "not a run" in fails("evaluate", tmp_path)
    (tmp_path / "one.txt").write_text("x")
    assert "one.txt: evaluation needs at least 2 symbols" in fails("evaluate", trained, tmp_path / "one.txt")
    run = tmp_path / "all"
    assert command("train", "text", text, *small, "--steps", 1, "--validation", 0, "--out", run).status == 0
    assert "trained on all of its text" in fails("evaluate", run)
    assert "--batch must be greater than or equal to 1" in fails("evaluate", trained, "--batch", 0)


def test_nothing_but_the_text_goes_to_stdout(command, trained: Path) -> None:
    ended = command("generate", trained, "--prompt", "the q", "--length", 30, "--seed", 1)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("the q")
    assert len(ended.out) == 35
    assert ended == command("generate", trained, "--prompt", "the q", "--length", 30, "--seed", 1)
    assert ended.out != command("generate", trained, "--prompt", "the q", "--length", 30, "--seed", 2).out


def test_greedy_is_the_temperature_zero(command, fails: Fails, trained: Path) -> None:
    greedy = command("generate", trained, "--prompt", "the", "--length", 20, "--greedy").out
    assert (
        greedy
        == command(
            "generate", trained, "--prompt", "the", "--length", 20, "--temperature", 0, "--seed", 5
        ).out
    )
    assert "--greedy draws nothing, so --top-k has no effect" in fails(
        "generate", trained, "--greedy", "--top-k", 3
    )


def test_unknown_symbols_are_reported_on_stderr(command, trained: Path) -> None:
    ended = command("generate", trained, "--prompt", "é the €é", "--length", 5, "--seed", 0)
    assert ended.status == 0
    assert ended.out.startswith("é the €é")
    assert ended.err == "throughtime: the prompt has symbols that the model has never seen: 'é', '€'\n"
    many = "".join(chr(0x4E00 + i) for i in range(14))
    assert command("generate", trained, "--prompt", many, "--length", 1).err.endswith(" and 4 more\n")


def test_an_empty_prompt_starts_by_itself_and_stop_ends(command, trained: Path) -> None:
    assert len(command("generate", trained, "--length", 12, "--seed", 0).out) == 12
    whole = command("generate", trained, "--prompt", "the", "--length", 60, "--seed", 3).out
    stop = whole[20:22]
    cut = command("generate", trained, "--prompt", "the", "--length", 60, "--seed", 3, "--stop", stop).out
    assert cut == "the" + whole[3:].split(stop)[0]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--temperature", -1], "--temperature must be"),
        (["--top-k", 0], "--top-k must be at least 1"),
        (["--top-p", 1.5], "--top-p must lie above 0"),
        (["--length", "many"], "--length must be a valid integer, got 'many'"),
        (["--stop", ""], "--stop must be a string"),
    ],
)
def test_sampling_that_cannot_be_is_refused(
    fails: Fails, trained: Path, options: list[object], line: str
) -> None:
    assert line in fails("generate", trained, *options)


def test_a_pipe_gets_utf8_whatever_the_locale_and_may_close(executable: list[str], trained: Path) -> None:
    call = [*executable, "generate", str(trained), "--prompt", "é", "--length", "100000", "--seed", "0"]
    process = subprocess.Popen(
        call,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "", "LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(2) == "é".encode()  # long before the end: it streams
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert len(process.stderr.read().splitlines()) == 1  # that é is unknown
    process.stderr.close()
