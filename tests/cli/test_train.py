"""`throughtime train TASK`: what it trains, prints and writes, for every built-in task."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from throughtime.runs import Run

TASKS = ("text", "classify", "adding", "copy", "echo")
FACTS = {
    "text": ("book.txt: 2,340 characters to train on, 260 for validation; vocabulary of 31",
             "lstm of 13 units, embedding 5: 1,629 parameters", "truncated: the gradient is cut every 7 steps",
             "40 steps, batch 3 x 7 steps, adamw at 0.02, cosine, clip norm:1"),
    "classify": ("reviews.csv: 48 texts to train on, 6 for validation, 6 for test; 2 labels; vocabulary of ",
                 "lstm of 8 units, embedding 5: ", "full: the gradient goes back through all steps",
                 "6 steps, batch 8, adamw at 0.003, cosine, clip norm:1"),
    "adding": ("adding, T = 11: 11 steps a sequence; squared error: 0.1667 always predicting 1, 0.0000 adding",
               "gru of 5 units: "),
    "copy": ("copy, T = 11: 31 steps a sequence; cross-entropy in nats: 0.6708 blanks, then guessing, 0.0000 remembering",),
    "echo": ("echo, T = 11: 11 steps a sequence; cross-entropy in nats: 0.6616 no memory, 0.5192 3 steps back, "
             "0.4545 3 and 8 steps back",),
}  # fmt: skip
# What the model stands beside in the final table: a trivial baseline first, then a strong one.
BASELINES = {
    "text": ("symbol frequencies", "6-gram, Kneser-Ney"),
    "classify": ("majority class", "TF-IDF, linear SVM"),
    "adding": ("always predicting 1", "adding"),
    "copy": ("blanks, then guessing", "remembering"),
    "echo": ("no memory", "3 steps back", "3 and 8 steps back"),
}
METRICS = {"text": ("bits_per_character", "perplexity"), "classify": ("accuracy", "macro_f1")}


def config(run: Path) -> dict[str, Any]:
    """All sections of the run's config.toml."""
    return tomllib.loads((run / "config.toml").read_text())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return Run.open(run).load_model()


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_trained_how_well_it_does_and_what_comes_next(
    command, quick, tmp_path: Path, task: str
) -> None:
    run = tmp_path / "a run"  # a name that the shell must have quoted
    ended = command(*quick[task], "--out", run)
    assert (ended.status, ended.err) == (0, "")
    for fact in (*FACTS[task], "runs on   cpu, backend ", f"run       {run}\n"):
        assert fact in ended.out
    steps = 40 if task == "text" else 6
    assert f"step {steps}, validation: " in ended.out
    table = ended.out.partition("split       model")[2]
    assert table.split()[: len(METRICS.get(task, ())) + 1] == [*METRICS.get(task, ()), "loss"]
    splits = ("validation",) if task == "text" else ("validation", "test")
    for split in splits:
        for name in ("this model", *BASELINES[task]):
            assert (
                sum(line.split("  ")[0] == split and f"  {name}  " in line for line in table.splitlines())
                == 1
            )
    # Commands that are offered work.
    offered = [shlex.split(line) for line in ended.out.splitlines() if line.startswith("  throughtime ")]
    assert len(offered) == 2 and all(words[2] == str(run) for words in offered)
    for words in offered:
        if "FILE" not in words:
            assert command(*words[1:]).status == 0, words
    # The run's folder.
    names = {
        "config.toml",
        "assets.json",
        "model.safetensors",
        "checkpoint.safetensors",
        "history.jsonl",
        "README.md",
    }
    assert {file.name for file in run.iterdir() if not file.name.startswith(".")} == names
    found = config(run)
    assert found["task"] == task and {task, "model", "training"} <= set(found)
    card = (run / "README.md").read_text()
    assert all(f"| {name} |" in card for name in ("this model", *BASELINES[task]))
    assert weights(run)


@pytest.mark.parametrize("task", ["adding", "copy", "echo"])
def test_a_loss_is_shown_beside_what_can_be_reached(command, quick, tmp_path: Path, task: str) -> None:
    ended = command(*quick[task], "--out", tmp_path / "run")
    first, last = {"adding": ("always predicting 1 0.1667", "adding 0"),
                   "copy": ("blanks, then guessing 0.6708", "remembering 0"),
                   "echo": ("no memory 0.6616", "3 and 8 steps back 0.4545")}[task]  # fmt: skip
    progress = [line for line in ended.out.splitlines() if line.startswith("training: ")]
    assert progress and all(f"({first}, {last})" in line for line in progress)
    assert "the first of these levels" in ended.out or "worse than no memory" in ended.out


def test_a_language_model_learns(runs) -> None:
    losses = [record["loss"] for record in Run.open(runs["text"]).history() if record["kind"] == "training"]
    assert losses[-1] < losses[0] - 0.3


def test_a_classifier_learns(command, quick, tmp_path: Path) -> None:
    options = ["--steps", 90, "--tokens", "word", "--bidirectional", "--lr", 0.02]
    ended = command(*quick["classify"], *options, "--out", tmp_path / "run")
    row = next(line for line in ended.out.splitlines() if line.startswith("test") and "this model" in line)
    assert float(row.split()[3]) == 1.0, ended.out
    assert "throughtime predict" in ended.out


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        (
            "text",
            "--tokens char --normalize letters --limit 900 --validation 0.2 --sampling random --cell gru --hidden 7,5 "
            "--embedding onehot --dropout 0.1 --recurrent-dropout 0.2 --zoneout 0.3 --init orthogonal --reset-before "
            "--bptt full --window 9 --clip value:0.1 --optimizer sgd --lr 0.5 --schedule linear --warmup 3 --weight-decay 0.1 "
            "--batch 2 --steps 2 --seed 7 --precision fp32 --keep last --evaluate-every 2 --checkpoint-seconds 9",
            {
                "text": {"tokens": "char", "normalize": "letters", "limit": 900, "validation": 0.2, "test": 0.0,
                         "sampling": "random"},
                "model": {"cell": "gru", "hidden": [7, 5], "embedding": "onehot", "reset_before": True, "dropout": 0.1,
                          "recurrent_dropout": 0.2, "zoneout": 0.3, "init": "orthogonal"},
                "training": {"bptt": "full", "window": 9, "clip": "value:0.1", "optimizer": "sgd", "lr": 0.5,
                             "schedule": "linear", "warmup": 3.0, "weight_decay": 0.1, "batch": 2, "steps": 2, "seed": 7,
                             "keep": "last", "evaluate_every": 2, "checkpoint_seconds": 9.0},
            },
        ),
        (
            "adding",
            "--length 9 --validation 20 --test 5 --cell lstm --hidden 7 --layers 2 --init orthogonal --forget-bias 1 "
            "--bptt truncated:4 --clip value:0.1 --optimizer sgd --lr 0.5 --schedule constant --batch 2 --steps 3 --seed 7",
            {
                "adding": {"length": 9, "validation": 20, "test": 5},
                "model": {"cell": "lstm", "hidden": 7, "layers": 2, "init": "orthogonal", "forget_bias": 1.0},
                "training": {"bptt": "truncated:4", "clip": "value:0.1", "lr": 0.5, "schedule": "constant", "seed": 7},
            },
        ),
        (
            "classify",
            "--tokens word --vocab-size 40 --lower --length 5 --split-seed 3 --validation 0.2 --pooling attention --hidden 6 "
            "--steps 2 --patience 3 --on-spike rollback --rollback-lr 0.25 --rollback-clip value:0.5 --rollbacks 3 --watch 4",
            {
                "classify": {"tokens": "word", "vocab_size": 40, "lower": True, "length": 5, "split_seed": 3,
                             "validation": 0.2, "test": 0.1},
                "model": {"pooling": "attention", "hidden": 6},
                "training": {"patience": 3, "on_spike": "rollback", "rollback_lr": 0.25, "rollback_clip": "value:0.5",
                             "rollbacks": 3, "watch": 4},
            },
        ),
    ],
)  # fmt: skip
def test_options_reach_the_settings(
    command, text: Path, reviews: Path, tmp_path: Path, task: str, options: str, expected: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    data = {"text": ["--data", text], "classify": ["--data", reviews]}.get(task, [])
    ended = command("train", task, *data, *options.split(), "--device", "cpu", "--out", run)
    assert ended.status == 0, ended.err
    found = config(run)
    for section, values in expected.items():
        assert {name: found[section].get(name) for name in values} == values
    assert not data or found[task]["data"] == [str(data[1])]


def test_several_files_are_one_text_however_they_are_typed(
    command, text: Path, tmp_path: Path, small: list[str], line: str
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(line * 3)
    calls = (["--data", text, "--data", other], ["--data", text, other], [text, other])
    for number, files in enumerate(calls):
        run = tmp_path / str(number)
        assert command("train", "text", *files, *small, "--steps", 1, "--out", run).status == 0
        assert config(run)["text"]["data"] == [str(text), str(other)]


def test_what_was_typed_goes_before_the_file_and_the_file_before_the_defaults(
    command, text: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[model]\ncell = "gru"\nhidden = 11\n[training]\nepochs = 9\nlr = 0.01\nbatch = 3\nbptt = "truncated:7"\n'
    )
    run = tmp_path / "run"
    ended = command("train", "text", text, "--config", file, "--hidden", 13, "--steps", 2, "--out", run)
    assert ended.status == 0, ended.err
    found = config(run)
    assert (found["model"]["cell"], found["model"]["hidden"], found["model"]["layers"]) == ("gru", 13, 1)
    assert found["training"]["steps"] == 2
    assert "epochs" not in found["training"]  # one budget takes the place of another
    assert found["training"]["lr"] == 0.01


@pytest.mark.parametrize("task", TASKS)
def test_a_runs_own_file_trains_the_same_again(
    command, fails, quick, runs, tmp_path: Path, task: str
) -> None:
    file, again = runs[task] / "config.toml", tmp_path / "again"
    assert command("train", task, "--config", file, "--out", again).status == 0
    assert same(weights(runs[task]), weights(again))
    other = "copy" if task == "echo" else "echo"
    assert f"use 'throughtime train {task}'" in fails(
        "train", other, "--config", file, "--out", tmp_path / "c"
    )
    third = tmp_path / "third"
    assert command("train", task, "--config", file, "--minutes", 0.001, "--out", third).status == 0
    assert "steps" not in config(third)["training"] and config(third)["training"]["minutes"] == 0.001


@pytest.mark.parametrize(
    ("task", "name"),
    [("text", "lstm13-book"), ("classify", "classify-reviews-lstm8"), ("adding", "adding11-gru5")],
)
def test_a_run_without_a_name_gets_one_that_is_free(
    command, quick, tmp_path: Path, monkeypatch, task: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for each in (name, f"{name}-2"):
        ended = command(*quick[task], "--steps", 1)
        assert f"runs/{each}\n" in ended.out
        assert weights(tmp_path / "runs" / each)


def test_a_folder_that_holds_something_else_is_left_alone(
    fails, text: Path, trained: Path, tmp_path: Path, small: list[str]
) -> None:
    before = {file.name: file.read_bytes() for file in trained.iterdir()}
    assert "holds another run; choose another --out, or --resume" in fails(
        "train", "text", text, *small, "--out", trained
    )
    assert before == {file.name: file.read_bytes() for file in trained.iterdir()}
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("x")
    assert "holds other files (dear.txt)" in fails(
        "train", "text", text, *small, "--out", tmp_path / "letters"
    )
    assert "got a file" in fails("train", "text", text, *small, "--out", tmp_path / "letters" / "dear.txt")


def test_a_full_disk_is_one_line_and_loses_nothing(
    fails, command, text: Path, tmp_path: Path, monkeypatch, small: list[str]
) -> None:
    """The disk fills up when the first weights are to be written; with space again, the run goes on."""
    run = tmp_path / "run"
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 5000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        line = fails("train", "text", text, *small, "--steps", 4, "--out", run)
    assert "No space left on device; free some space" in line
    assert command("train", "text", "--resume", "--out", run).status == 0
    assert weights(run)


def test_a_bidirectional_model_is_trained_with_a_warning_and_not_offered_to_generate(
    command, fails, text: Path, tmp_path: Path, small: list[str]
) -> None:
    run = tmp_path / "run"
    ended = command(
        "train", "text", text, *small, "--bidirectional", "--bptt", "full", "--steps", 1, "--out", run
    )
    assert ended.status == 0, ended.err
    assert "reads the symbol that it is to predict" in ended.out
    assert "throughtime generate" not in ended.out
    assert "cannot run from left to right" in fails("generate", run)


def test_minutes_that_are_too_few_are_said(command, text: Path, tmp_path: Path, small: list[str]) -> None:
    line = "too few to learn much: make them cheaper with a smaller --hidden, or give more --minutes."
    ended = command("train", "text", text, *small, "--minutes", "1e-9", "--out", tmp_path / "short")
    assert ended.out.splitlines()[-1] == f"1e-09 minutes were enough for 1 step only, {line}"
    ended = command("train", "text", text, *small, "--steps", "1", "--out", tmp_path / "steps")
    assert "too few" not in ended.out


def test_a_short_training_is_validated_now_and_then(
    command, text: Path, tmp_path: Path, small: list[str]
) -> None:
    ended = command("train", "text", text, *small, "--steps", 12, "--out", tmp_path / "run")
    evaluations = [line.split(",")[0] for line in ended.out.splitlines() if ", validation: " in line]
    assert evaluations == ["step 5", "step 10", "step 12"]


def test_watching_reaches_the_run_and_may_change_when_it_is_resumed(
    command, text: Path, tmp_path: Path, small
) -> None:
    run = tmp_path / "run"
    ended = command("train", "text", "--data", text, *small, "--watch", 4, "--steps", 10, "--out", run)
    assert (ended.status, ended.err) == (0, "")
    assert [record["step"] for record in Run.open(run).history() if record["kind"] == "watch"] == [4, 8]
    ended = command("train", "text", "--resume", "--watch", 0, "--on-spike", "stop", "--out", run)
    assert (ended.status, ended.err) == (0, "")


def test_without_baselines_the_table_has_the_model_alone(command, quick, tmp_path: Path) -> None:
    ended = command(*quick["classify"], "--no-baselines", "--out", tmp_path / "run")
    assert "this model" in ended.out and "majority class" not in ended.out


@pytest.mark.parametrize(
    ("content", "options", "prompt"),
    [
        ("The time traveller said the end. " * 9, [], "The "),
        ("The time traveller said the end. " * 9, ["--normalize", "lower"], "the "),
        ("\nЕхал грека через реку, видит грека: в реке рак.\n" * 9, [], "Ехал грека"),
        ("acgtacgtaccgttacagtagatagcca" * 9, [], "acgtacgtaccgttac"),
        ("The time traveller said the end. " * 9, ["--tokens", "bpe", "--vocab-size", 270], "The "),
        ("it's 'one' $HOME `ls` a!b\n" * 9, [], "it's 'one'"),
        (" \n \t\n" * 20, [], None),
        ("roses are red violets are blue " * 30, ["--tokens", "word", "--vocab-size", 20], ...),
    ],
)
def test_the_prompt_that_is_offered_can_be_typed_and_read(
    command, tmp_path: Path, small: list[str], content: str, options: list[object], prompt: Any
) -> None:
    (tmp_path / "text.txt").write_text(content)
    run = tmp_path / "run"
    ended = command(
        "train", "text", tmp_path / "text.txt", *small, *options, "--steps", 1, "--no-baselines", "--out", run
    )
    words = shlex.split(next(line for line in ended.out.splitlines() if "throughtime generate" in line))
    found = words[words.index("--prompt") + 1] if "--prompt" in words else None
    assert found if prompt is ... else found == prompt
    done = command(*words[1:], "--length", 5)
    # What ran, and nothing else: no symbol of the prompt is unknown.
    assert done.status == 0
    assert re.fullmatch(r"throughtime: (native|reference \(.*\)), seed \d+\n", done.err), done.err


def test_a_complete_training_says_how_to_train_longer(
    command, text: Path, tmp_path: Path, small: list[str]
) -> None:
    run = tmp_path / "run"
    assert command("train", "text", text, *small, "--steps", 3, "--out", run).status == 0
    said = command("train", "text", "--resume", "--out", run).out
    longer = next(line for line in said.splitlines() if "the training is complete: 3 steps" in line)
    words = shlex.split(longer.partition("start again from its weights: ")[2])
    config = ["--config", str(run / "config.toml"), "--init-from", str(run)]
    assert words == ["throughtime", "train", "text", *config, "--steps", "3", "--out", f"{run}-longer"]
    before = weights(run)
    assert command(*words[1:]).status == 0
    longer_run = Path(f"{run}-longer")
    assert Run.open(longer_run).history()[-1]["step"] == 3
    assert not same(before, weights(longer_run))


def test_a_damaged_checkpoint_is_said_before_anything_else(command, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    file = run / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    ended = command("train", "text", "--resume", "--out", run)
    assert (ended.status, ended.out) == (2, "")
    assert "its checksum does not match; put back a copy of it, or train again" in ended.err
