"""What is shown while training: lines, a bar, figures in the words of the task."""

from __future__ import annotations

import importlib.util
import io

import pytest

from throughtime.errors import InputError
from throughtime.training import Evaluation, Lines, Several, TensorBoard, loop, reporter_for, train
from throughtime.training.bar import Bar
from throughtime.training.reporter import duration, figures


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines(make):
    stream = io.StringIO()
    report = reporter_for(stream)
    assert isinstance(report, Lines)
    train(*make(steps=10, evaluate_every=5), report=report, sample=lambda model: "[red]a sample[/red]")
    lines = stream.getvalue().splitlines()
    assert lines.count("[red]a sample[/red]") == 3
    first, *_ = (line for line in lines if line.startswith("step 1, epoch 0."))
    for part in ("loss ", "bits per character", "gradient ", "characters/s", " left"):
        assert part in first
    assert any(
        line.startswith("step 5, validation: loss ") and line.endswith("the best so far") for line in lines
    )
    assert "\x1b" not in stream.getvalue()


def test_a_line_at_once_and_then_now_and_then(make):
    stream = io.StringIO()
    train(*make(steps=30, validation=0), report=Lines(stream, seconds=1000))
    assert sum(line.startswith("step ") for line in stream.getvalue().splitlines()) == 1


def test_a_bar_on_a_terminal(make):
    stream = Terminal()
    report = reporter_for(stream)
    assert isinstance(report, Bar)
    train(
        *make(steps=10, evaluate_every=5, tokens="word", batch=2),
        report=report,
        sample=lambda model: "[red]a[/red]",
    )
    shown = stream.getvalue()
    assert "validation: loss" in shown
    assert "perplexity" in shown
    assert "[red]a[/red]" in shown  # what a model writes is not markup


def test_several_are_told_the_same(make):
    streams = [io.StringIO(), io.StringIO()]
    train(*make(steps=3), report=Several(*(Lines(stream) for stream in streams)))
    assert streams[0].getvalue() == streams[1].getvalue() != ""


def test_tensorboard_is_an_extra(tmp_path):
    if importlib.util.find_spec("tensorboard"):
        TensorBoard(tmp_path).finish(None)
        assert list(tmp_path.iterdir())
        return
    with pytest.raises(
        InputError, match=r"tensorboard is not installed: pip install 'throughtime\[tensorboard\]'"
    ):
        TensorBoard(tmp_path)


def test_tensorboard_is_a_setting_of_the_run(make, monkeypatch):
    """Also of one that is resumed: it says so itself."""
    folders = []

    class Fake(Lines):
        def __init__(self, folder):
            folders.append(folder)
            super().__init__(io.StringIO())

    task, config, run = make(tensorboard=True, steps=3)
    if not importlib.util.find_spec("tensorboard"):
        with pytest.raises(InputError, match="tensorboard is not installed"):
            train(task, config, run)
        assert not (run.path / "checkpoint.safetensors").exists()
    monkeypatch.setattr(loop, "require_tensorboard", lambda: None)
    monkeypatch.setattr(loop, "TensorBoard", Fake)
    stream = io.StringIO()
    train(task, config, run, report=Lines(stream))
    train(task, config, run, resume=True)
    assert folders == [run.path / "tensorboard"] * 2
    assert "step 1," in stream.getvalue()  # told as well
    train(*make("without", steps=3))
    assert len(folders) == 2


def test_figures_and_durations():
    assert figures(1.5, "character") == "loss 1.500, 2.164 bits per character"
    assert figures(1.5, "word") == "loss 1.500, perplexity 4.48"
    assert [duration(s) for s in (0, 59.4, 59.6, 200, 3599.6, 3725)] == [
        "0s",
        "59s",
        "1m00s",
        "3m20s",
        "1h00m",
        "1h02m",
    ]
    assert Evaluation(1.5, 1).perplexity == pytest.approx(4.4817, rel=1e-4)
