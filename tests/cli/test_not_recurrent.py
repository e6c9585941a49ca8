"""Cells none and cnn from the command line: what is printed, windows, generation, resuming, and what is refused."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

import throughtime
from throughtime.training.trainer import Trainer

QUICK = [
    "--hidden",
    "8",
    "--embedding",
    "5",
    "--batch",
    "3",
    "--steps",
    "6",
    "--device",
    "cpu",
    "--no-baselines",
]
FIELD = {"none": "receptive field 1 steps", "cnn": "receptive field 13 steps"}
BLOCKS = {"none": [], "cnn": ["--layers", "2"]}


@pytest.mark.parametrize("cell", ["none", "cnn"])
@pytest.mark.parametrize("bptt", ["truncated:7", "randomized:3", "checkpointed:2", "truncated:6/3"])
def test_a_language_model(command, fails, text: Path, tmp_path: Path, cell: str, bptt: str) -> None:
    run = tmp_path / "run"
    options = ["--data", text, *QUICK, "--cell", cell, *BLOCKS[cell], "--bptt", bptt, "--out", run]
    ended = command("train", "text", *options)
    assert ended.status == 0, ended
    assert FIELD[cell] in ended.out
    assert re.search(r"runs on +cpu, torch's (conv1d|linear layers)\n", ended.out)
    assert FIELD[cell] in (run / "README.md").read_text()
    generated = command("generate", run, "--prompt", "the quick", "--length", 20, "--seed", 1)
    assert generated.status == 0 and len(generated.out.rstrip("\n")) == 29
    assert "these are " in fails("generate", run, "--backend", "native")
    assert command("influence", run, "--prompt", "the quick").status == 0
    line = fails("flow", run)
    assert line.startswith("the model has no recurrence") and "throughtime influence" in line
    # The same text symbol by symbol: a session carries the state.
    session = throughtime.load(run).session()
    whole = session.feed("the quick brown fox jumps over")
    session.reset()
    for symbol in "the quick brown fox jumps over":
        one = session.feed(symbol)
    assert bool((one - whole).abs().max() < 1e-5)  # float32, summed in another order


@pytest.mark.parametrize("cell", ["none", "cnn"])
def test_resumed_in_the_middle_it_is_the_same(command, text: Path, tmp_path: Path, cell: str) -> None:
    """The state of a window is carried through a checkpoint."""
    options = ["--data", text, *QUICK, "--cell", cell, *BLOCKS[cell], "--bptt", "truncated:7"]
    options[options.index("--steps") + 1] = "12"
    more = ["--checkpoint-steps", "5", "--dropout", "0.3"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert command("train", "text", *options, *more, "--out", whole).status == 0
    after = Trainer._after_step

    def stop(trainer: Trainer) -> None:
        after(trainer)
        if trainer.steps == 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_after_step", stop)
        assert (
            "training was interrupted at step"
            in command("train", "text", *options, *more, "--out", stopped).err
        )
    assert command("train", "text", "--resume", "--out", stopped).status == 0
    weights = [throughtime.load(run).run.load_model() for run in (whole, stopped)]
    for key, value in weights[0].items():
        assert bool((value == weights[1][key]).all()), key


def messages(ended: object) -> str:
    return " ".join((ended.out + ended.err).split())


def test_what_a_model_without_recurrence_cannot_see_is_said(command, reviews: Path, tmp_path: Path) -> None:
    classify = ["train", "classify", "--data", reviews, *QUICK]
    last = command(*classify, "--cell", "none", "--watch", "3", "--out", tmp_path / "last")
    assert "pooling last sees the last step of a sequence and nothing else" in messages(last)
    mean = command(*classify, "--cell", "none", "--pooling", "mean", "--out", tmp_path / "mean")
    assert "without recurrence" not in messages(mean)
    both = command(*classify, "--cell", "none", "--bidirectional", "--out", tmp_path / "both")
    assert "bidirectional adds a second set of weights" in messages(both)
    short = command(*classify, "--cell", "cnn", "--layers", "1", "--out", tmp_path / "short")
    assert "an output depends on 5 steps (receptive field), and the longest sequence has " in messages(short)
    far = command(*classify, "--cell", "cnn", "--bidirectional", "--out", tmp_path / "far")
    assert far.status == 0 and "an output depends on" not in messages(far)
    for run in ("last", "far"):
        ended = command("predict", tmp_path / run, reviews)
        assert ended.status == 0
    assert "the model has no recurrence" in messages(last)  # the gradient through time is not measured


def test_options_of_other_cells_are_refused(fails, text: Path, tmp_path: Path) -> None:
    def refused(*options: str) -> str:
        return fails("train", "text", "--data", text, "--out", tmp_path / "run", *options)

    assert (
        refused("--cell", "lstm", "--kernel", "5")
        == "--kernel 5 is a setting of cnn; lstm has none: leave it out"
    )
    assert "is a setting of rnn, none; cnn has none" in refused("--cell", "cnn", "--nonlinearity", "relu")
    assert "is a setting of rnn, gru, lstm; none has none" in refused("--cell", "none", "--layer-norm")
    assert "--kernel must be at least 1" in refused("--cell", "cnn", "--kernel", "0")
    assert "must read back at most 1,048,576 steps" in refused("--cell", "cnn", "--layers", "30")
    assert "is bidirectional" in refused(
        "--cell", "cnn", "--bidirectional", "--bptt", "truncated:7", "--window", "14"
    )


def test_the_number_of_blocks_is_recorded(command, text: Path, tmp_path: Path) -> None:
    command("train", "text", "--data", text, *QUICK, "--cell", "cnn", "--out", tmp_path / "run")
    config = throughtime.load(tmp_path / "run").config
    assert (config.layers, config.receptive_field) == (4, 61)
    assert throughtime.ModelConfig(cell="cnn", hidden=(3, 4)).layers == 2
    assert throughtime.ModelConfig(cell="gru", hidden=(3,)).layers == 1
    assert throughtime.ModelConfig().layers == 1


def test_equally_many_parameters(command, fails, text: Path, tmp_path: Path) -> None:
    def train(*options: object) -> object:
        return command("train", "text", "--data", text, *QUICK[2:], *options)

    def parameters(ended: object) -> int:
        return int(re.search(r": ([\d,]+) parameters", ended.out)[1].replace(",", ""))

    wanted = parameters(train("--hidden", "40", "--out", tmp_path / "lstm"))
    for cell, near in (("cnn", 0.05), ("none", 0.01), ("gru", 0.05)):
        run = tmp_path / cell
        found = parameters(train("--cell", cell, "--equal-size", tmp_path / "lstm", "--out", run))
        assert abs(found - wanted) < near * wanted, cell
        hidden = throughtime.load(run).config.hidden
        for other in (hidden - 1, hidden + 1):  # neither neighbour is nearer
            ended = train("--cell", cell, "--hidden", str(other), "--out", tmp_path / f"{cell}{other}")
            assert abs(parameters(ended) - wanted) >= abs(found - wanted), cell
    options = [
        "train",
        "text",
        "--data",
        text,
        *QUICK[2:],
        "--out",
        tmp_path / "no",
        "--equal-size",
        tmp_path / "lstm",
    ]
    assert "--equal-size chooses the units, and --hidden gives them" in fails(*options, "--hidden", "8")
    assert "the embedding's weights are tied to it" in fails(*options, "--tied", "--embedding", "512")
    assert "--equal-size cannot be used with --resume" in fails(*options, "--resume")
