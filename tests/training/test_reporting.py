"""What is shown while training: lines, a bar, the loss in the words of the task."""

from __future__ import annotations

import importlib.util
import io

import pytest
from tests.clock import set_clock

from throughtime import progress
from throughtime.errors import InputError
from throughtime.tasks import TextTask
from throughtime.training import loop, trainer
from throughtime.training.loop import train
from throughtime.training.reporting import Several, Silent, TensorBoard, Terminal


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")


def test_plain_lines(make):
    stream = io.StringIO()
    train(
        *make(steps=10, evaluate_every=5),
        report=Terminal(stream),
        sample=lambda model: "[red]a sample[/red]",
    )
    lines = stream.getvalue().splitlines()
    assert lines.count("[red]a sample[/red]") == 3
    first, *_ = (line for line in lines if line.startswith("training: 10% done"))
    for part in ("step 1, epoch 0.", "loss ", "bits per character", "gradient ", "characters/s", " left: "):
        assert part in first
    assert any(
        line.startswith("step 5, validation: bits_per_character ") and line.endswith("the best so far")
        for line in lines
    )
    assert "\x1b" not in stream.getvalue()


def test_one_line_at_once_and_then_one_every_ten_seconds(make, monkeypatch):
    """On a clock of our own: a step takes 1 s."""
    stream, now = io.StringIO(), [0.0]

    class Ticking(Silent):
        def step(self, step):
            now[0] += 1.0

    set_clock(monkeypatch, lambda: now[0], progress, trainer)
    train(*make(steps=30, validation=0), report=Several(Terminal(stream), Ticking()))
    shown = [line for line in stream.getvalue().splitlines() if line.startswith("training: ")]
    assert [line.split(": ")[2].split(",")[0] for line in shown] == ["step 1", "step 11", "step 21"]


def test_a_bar_on_a_terminal(make):
    stream = Screen()
    train(
        *make(steps=10, evaluate_every=5, tokens="word", batch=2),
        report=Terminal(stream),
        sample=lambda model: "[red]a[/red]",
    )
    shown = stream.getvalue()
    assert "validation: perplexity" in shown
    assert "\x1b" in shown
    assert "[red]a[/red]" in shown  # what a model writes is not markup


def test_several_report_the_same(make, Recording):
    reporters = [Recording(), Recording()]
    train(*make(steps=3), report=Several(*reporters), sample=lambda model: "x")
    one, two = reporters
    assert one.started == two.started and one.started.unit == "character"
    assert one.result == two.result and one.result.step == 3
    assert one.samples == two.samples == ["x", "x"]
    assert one.evaluations == two.evaluations != []
    assert one.messages == two.messages


def test_silent_prints_nothing(make, capsys):
    train(*make(steps=3), report=Silent(), sample=lambda model: "x")
    train(*make("other", steps=3))
    assert capsys.readouterr() == ("", "")


def test_tensorboard_is_an_extra(tmp_path):
    if importlib.util.find_spec("tensorboard"):
        TensorBoard(tmp_path).finish(None)
        assert list(tmp_path.iterdir())
        return
    with pytest.raises(
        InputError, match=r"tensorboard is not installed: pip install 'throughtime\[tensorboard\]'"
    ):
        TensorBoard(tmp_path)


def test_tensorboard_is_a_setting_of_the_run(make, monkeypatch, tmp_path):
    """Also of one that is resumed: its settings name it."""
    folders = []

    class Fake(Terminal):
        def __init__(self, folder):
            folders.append(folder)
            super().__init__(io.StringIO())

    if not importlib.util.find_spec("tensorboard"):
        with pytest.raises(InputError, match="tensorboard is not installed"):
            make("missing", tensorboard=True, steps=3)
        assert not (tmp_path / "missing").exists()
    monkeypatch.setattr(loop, "require_tensorboard", lambda: None)
    monkeypatch.setattr(loop, "TensorBoard", Fake)
    task, config, run = make(tensorboard=True, steps=3)
    stream = io.StringIO()
    train(task, config, run, report=Terminal(stream))
    train(task, config, run, resume=True)
    assert folders == [run.path / "tensorboard"] * 2
    assert "step 1," in stream.getvalue()  # the other reporter still gets everything
    train(*make("without", steps=3))
    assert len(folders) == 2


def test_a_loss_in_the_words_of_the_task():
    assert TextTask().describe_loss(1.5) == "loss 1.500, 2.164 bits per character"
    assert TextTask(tokens="word").describe_loss(1.5) == "loss 1.500, perplexity 4.48"
    assert TextTask(tokens="word").describe_loss(1e4).startswith("loss 10000.000, perplexity ")
