"""`throughtime train text`: what it trains, how it goes on, and what it refuses."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from throughtime.runs import Run

Fails = Callable[..., str]


def settings(run: Path) -> dict[str, dict[str, object]]:
    """All sections of the run's config.toml."""
    return tomllib.loads((run / "config.toml").read_text())


def test_it_learns_and_says_what_it_does_and_what_comes_next(
    command, text: Path, tmp_path: Path, small: list[str]
) -> None:
    run = tmp_path / "a run"  # a name that the shell must have quoted
    ended = command("train", "text", "--data", text, *small, "--steps", 40, "--out", run)
    assert (ended.status, ended.err) == (0, "")
    for fact in (
        "book.txt: 2,600 characters, 10% of them for validation; vocabulary of 31",
        "lstm of 13 units, embedding 5: 1,629 parameters",
        "truncated: the gradient is cut every 7 steps",
        "40 steps, batch 3 x 7 steps, adamw at 0.02, cosine, clip norm:1",
        "runs on   cpu, backend ",
        f"throughtime generate '{run}' --prompt",
    ):
        assert fact in ended.out
    losses = [record["loss"] for record in Run.open(run).history() if record.get("kind") != "evaluation"]
    assert losses[-1] < losses[0] - 0.3


def test_options_reach_the_settings(command, text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (
        "--tokens char --normalize letters --limit 900 --validation 0.2 --sampling random --cell gru --hidden 7,5 "
        "--embedding onehot --dropout 0.1 --recurrent-dropout 0.2 --zoneout 0.3 --init orthogonal --reset-before "
        "--bptt full --window 9 --clip value:0.1 --optimizer sgd --lr 0.5 --schedule linear --warmup 3 --weight-decay 0.1 "
        "--batch 2 --steps 2 --seed 7 --device cpu --precision fp32 --keep last --evaluate-every 2 --checkpoint-seconds 9"
    )
    ended = command("train", "text", "--data", text, *options.split(), "--out", run)
    assert ended.status == 0, ended.err
    found = settings(run)
    assert found["text"]["data"] == [str(text)]
    assert found["text"]["normalize"] == "letters"
    assert found["text"]["limit"] == 900
    assert found["text"]["validation"] == 0.2
    assert found["text"]["sampling"] == "random"
    model = found["model"]
    assert (model["cell"], model["hidden"], model["embedding"], model["reset_after"]) == (
        "gru",
        [7, 5],
        "onehot",
        False,
    )
    assert (model["dropout"], model["recurrent_dropout"], model["zoneout"]) == (0.1, 0.2, 0.3)
    training = {
        name: found["training"].get(name) for name in ("bptt", "window", "clip", "optimizer", "lr", "warmup")
    }
    assert training == {
        "bptt": "full", "window": 9, "clip": "value:0.1", "optimizer": "sgd", "lr": 0.5, "warmup": 3.0,
    }  # fmt: skip
    assert (found["training"]["seed"], found["training"]["keep"]) == (7, "last")


def test_several_files_are_one_text_however_they_are_named(
    command, text: Path, tmp_path: Path, small: list[str], line: str
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(line * 3)
    calls = (["--data", text, "--data", other], ["--data", text, other], [text, other])
    for number, files in enumerate(calls):
        run = tmp_path / str(number)
        assert command("train", "text", *files, *small, "--steps", 1, "--out", run).status == 0
        assert settings(run)["text"]["data"] == [str(text), str(other)]


def test_the_command_line_goes_before_the_file_and_the_file_before_the_defaults(
    command, text: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[model]\ncell = "gru"\nhidden = 11\n[training]\nepochs = 9\nlr = 0.01\nbatch = 3\nbptt = "truncated:7"\n'
    )
    run = tmp_path / "run"
    ended = command("train", "text", text, "--config", file, "--hidden", 13, "--steps", 2, "--out", run)
    assert ended.status == 0, ended.err
    found = settings(run)
    assert (found["model"]["cell"], found["model"]["hidden"], found["model"]["layers"]) == ("gru", 13, 1)
    assert found["training"]["steps"] == 2
    assert "epochs" not in found["training"]  # one budget takes the place of another
    assert found["training"]["lr"] == 0.01
    # A run's own file says all that is needed to train the same again.
    again = tmp_path / "again"
    assert command("train", "text", "--config", run / "config.toml", "--out", again).status == 0
    ours, theirs = Run.open(run).load_model(), Run.open(again).load_model()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_without_a_name_gets_one_that_is_free(
    command, text: Path, tmp_path: Path, monkeypatch, small: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("lstm13-book", "lstm13-book-2"):
        ended = command("train", "text", text, *small, "--steps", 1)
        assert f"runs/{name}" in ended.out
        assert Run.open(tmp_path / "runs" / name).load_model()


def test_ctrl_c_saves_and_says_how_to_go_on_to_the_same_bits(
    executable: list[str],
    command,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small: list[str],
) -> None:
    options = ["train", "text", "--data", str(text), *small, "--steps", "300", "--validation", "0"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    monkeypatch.setenv(
        "OMP_NUM_THREADS", "1"
    )  # the same sums, and quick where other tests run beside this one
    process = subprocess.Popen(
        [*executable, *options, "--out", str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.count("\n") == 1
    assert f"throughtime train text --resume --out {run}" in err
    ended = subprocess.run(
        [*executable, "train", "text", "--resume", "--out", str(run)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "going on from step" in ended.stdout
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert command(*options, "--out", whole).status == 0
    finally:
        torch.set_num_threads(threads)
    ours, theirs = Run.open(run).load_model(), Run.open(whole).load_model()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_resume_refuses_what_contradicts_the_run_by_name(
    fails: Fails, command, trained: Path, text: Path
) -> None:
    again = ["train", "text", "--resume", "--out", trained]
    assert command(*again).status == 0  # complete already: nothing is trained
    assert command(*again, "--lr", "0.02", "--data", text, "--hidden", 13).status == 0  # says the same
    assert "--lr contradicts the run" in fails(*again, "--lr", "0.3")
    assert "was started with --lr 0.02" in fails(*again, "--lr", "0.3")
    assert "--epochs contradicts" in fails(*again, "--epochs", "3")
    assert "--reset-before contradicts" in fails(*again, "--reset-before")
    assert "--data contradicts" in fails(*again, "--data", "other.txt")
    assert "--config cannot be given with --resume" in fails(*again, "--config", "c.toml")
    assert "--resume needs the run" in fails("train", "text", "--resume")
    assert "leave out --resume to start it" in fails(
        "train", "text", "--resume", "--out", trained / "nowhere"
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--cell", "lsmt"],
            "--cell must be one of rnn, gru, lstm, mingru, indrnn, lnlstm, got 'lsmt'. Did you mean 'lstm'?",
        ),
        (["--tokens", "chars"], "--tokens must be one of char, word, bpe, got 'chars'. Did you mean 'char'?"),
        (["--bptt", "truncate:7"], "Did you mean 'truncated'?"),
        (["--bptt", "truncated:x"], "--bptt must read truncated:WINDOW"),
        (["--clip", "norms:1"], "Did you mean 'norm'?"),
        (["--optimizer", "adamv"], "Did you mean 'adam"),
        (["--schedule", "cosin"], "Did you mean 'cosine'?"),
        (["--sampling", "sequentiel"], "Did you mean 'sequential'?"),
        (["--normalize", "letter"], "Did you mean 'letters'?"),
        (["--init", "orthogonall"], "Did you mean 'orthogonal'?"),
        (["--precision", "bf15"], "Did you mean 'bf16'?"),
        (["--keep", "bests"], "Did you mean 'best'?"),
        (["--hidden", "0"], "--hidden must be at least 1, got 0"),
        (["--hidden", "12,x"], "--hidden must be a whole number, got 'x'"),
        (["--embedding", "onehott"], "--embedding must be a whole number or onehot, got 'onehott'"),
        (["--layers", "0"], "--layers must be at least 1"),
        (["--batch", "0"], "--batch must be at least 1"),
        (["--batch", "5000"], "5000 streams of one window of 7 steps need"),
        (["--window", "4000"], "3 streams of one window of 4000 steps need"),
        (
            ["--hidden", "99999999"],
            "out of memory: make --batch or --window smaller, or the model (--hidden, --layers, --vocab-size)",
        ),
        (["--hidden", "9999999999"], "out of memory: make --batch"),
        (
            ["--bidirectional", "true"],
            "--bidirectional takes no value, got 'true': a flag that is given means yes",
        ),
        (["--layer-norm", "--tied", "no"], "--layer-norm and --tied take no value, got 'no'"),
        (["--dropout", "1.5"], "--dropout must be"),
        (["--lr", "-1"], "--lr must be above 0"),
        (["--lr", "nan"], "--lr must be above 0"),
        (["--steps", "3", "--epochs", "2"], "keep one"),
        (["--steps", "0"], "--steps must be above 0"),
        (["--tied"], "--tied needs an embedding as wide as"),
        (["--device", "abacus"], "--device must be auto, cpu"),
        (["--validation", "1"], "--validation must be"),
        (["--limit", "9"], "symbols"),
        (["--vocab-size", "1"], "vocabulary must have at least 2 symbols"),
    ],
)
def test_values_that_cannot_be_are_refused_before_there_is_a_run(
    fails: Fails, text: Path, tmp_path: Path, options: list[str], line: str, small: list[str]
) -> None:
    run = tmp_path / "run"
    assert line in fails("train", "text", "--data", text, *small, *options, "--out", run)
    assert not run.exists()


def test_files_that_are_no_text_are_refused_before_there_is_a_run(
    fails: Fails, text: Path, tmp_path: Path, small: list[str]
) -> None:
    run = tmp_path / "run"
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.txt").write_bytes(b"abc\0def")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "short.txt").write_text("abc abc")
    for name, line in {
        "emty.txt": "emty.txt. Did you mean 'empty.txt'?",
        "nope.txt": "nope.txt. Check its name.",
        "empty.txt": "is empty: expected text; name a file that holds some",
        "binary.txt": "a NUL byte at position 3",
        "latin.txt": "got byte 0xe9 at position 3",
        "short.txt": "symbols",
        ".": "expected a text file, got a folder",
    }.items():
        assert line in fails("train", "text", "--data", tmp_path / name, *small, "--out", run), name
        assert not run.exists()
    assert "Did you mean 'empty.txt'?" in fails("train", "text", tmp_path / "emty.txt", "--out", run)


def test_config_files_that_cannot_be_read_are_refused(fails: Fails, text: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    for content, line in {
        "[modle]\n": "Did you mean 'model'?",
        "[model]\nhiden = 3\n": "Did you mean 'hidden'?",
        "[model]\nhidden = true\n": "model.hidden must be",
        "hidden = 3\n": "got 'hidden'",
        "model = 3\n": "must be a section",
        "[model\n": "c.toml is not TOML: ",
        "training = [1]\n": "must be a section",
    }.items():
        file.write_text(content)
        assert line in fails(
            "train", "text", text, "--config", file, "--out", tmp_path / "run", "--steps", 1
        ), content
    assert "Did you mean 'c.toml'?" in fails("train", "text", text, "--config", tmp_path / "c.tml")


def test_a_folder_that_holds_something_else_is_left_alone(
    fails: Fails, text: Path, trained: Path, tmp_path: Path, small: list[str]
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
    fails: Fails, command, text: Path, tmp_path: Path, monkeypatch, small: list[str]
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
    assert Run.open(run).load_model()


def test_a_bidirectional_model_is_trained_with_a_warning_and_not_offered_to_generate(
    command, fails: Fails, text: Path, tmp_path: Path, small: list[str]
) -> None:
    run = tmp_path / "run"
    ended = command("train", "text", text, *small, "--bidirectional", "--steps", 1, "--out", run)
    assert ended.status == 0
    assert "sees the symbol that it is to predict" in ended.out
    assert "throughtime generate" not in ended.out
    assert "cannot run from left to right" in fails("generate", run)


def test_a_complete_training_says_how_to_get_a_longer_one(command, text: Path, tmp_path: Path, small) -> None:
    run = tmp_path / "run"
    assert command("train", "text", text, *small, "--steps", 3, "--out", run).status == 0
    said = command("train", "text", "--resume", "--out", run).out
    longer = next(line for line in said.splitlines() if "the training is complete: 3 steps" in line)
    words = shlex.split(longer.partition("train anew: ")[2])
    out = ["--out", f"{run}-longer"]
    config = ["--config", str(run / "config.toml")]
    assert words == ["throughtime", "train", "text", *config, "--steps", "6", *out]
    assert command(*words[1:]).status == 0
    assert Run.open(f"{run}-longer").history()[-1]["step"] == 6


def test_a_damaged_checkpoint_is_said_before_anything_else(command, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    file = run / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    ended = command("train", "text", "--resume", "--out", run)
    assert (ended.status, ended.out) == (2, "")
    assert "its checksum does not match; put back a copy of it, or train again" in ended.err


def test_minutes_that_are_too_few_are_said(command, text: Path, tmp_path: Path, small: list[str]) -> None:
    line = "too few to learn much: make them cheaper with a smaller --hidden, or give more --minutes."
    ended = command("train", "text", text, *small, "--minutes", "1e-9", "--out", tmp_path / "short")
    assert ended.out.splitlines()[-1] == f"1e-09 minutes were enough for 1 update only, {line}"
    ended = command("train", "text", text, *small, "--steps", "1", "--out", tmp_path / "steps")
    assert "too few" not in ended.out
