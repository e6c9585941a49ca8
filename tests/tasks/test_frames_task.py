"""A label for every frame: what is read, what is predicted as it arrives, what a run restores, beside which baselines."""

from __future__ import annotations

import csv
import io
import random
import shutil

import numpy as np
import pytest
import torch

import throughtime
from throughtime.cli import main
from throughtime.data import Assets
from throughtime.data.inside.ball_videos import ball_videos
from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.tasks import FramesTask
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

MODEL = ModelConfig(hidden=7, cell="gru")


def write(path, count=30, seed=1):
    """Walks of one number; the label of a row is whether it went up or down, or "start"."""
    draws, rows = random.Random(seed), ["sequence,level,label,remark\n"]
    for number in range(count):
        level = draws.gauss(0, 1)
        label = "start"
        for _ in range(draws.randint(3, 9)):
            rows.append(f"s{number},{level:.4f},{label},x\n")
            label = draws.choice(("up", "down"))
            level += draws.uniform(0.5, 1) * (1 if label == "up" else -1)
    path.write_text("".join(rows))
    return str(path)


def trained_on(data, folder, model=MODEL, steps=60, **settings):
    training = TrainingConfig(bptt="full", batch=8, steps=steps, lr=0.03, warmup=0.0, no_baselines=True)
    task, run = start_run(FramesTask(data=(data,), vector=6, **settings), model, training, folder)
    train(task, training, run)
    return throughtime.load(run.path)


@pytest.fixture
def table(tmp_path):
    return write(tmp_path / "walks.csv")


def rows_of(text, separator=","):
    return list(csv.reader(io.StringIO(text), delimiter=separator))


def test_it_learns_what_one_row_does_not_show(tmp_path):
    trained = trained_on(write(tmp_path / "walks.csv", 60), tmp_path / "run", ModelConfig(hidden=16), 150)
    found = trained.evaluate("test").values
    assert list(found) == ["accuracy", "edit", "f1@10", "f1@25", "f1@50", "loss"]
    assert found["accuracy"] > 0.85
    assert trained.predict({"values": [[0.1], [1.0], [0.2]]})["labels"] == ["start", "up", "down"]
    assert trained.task.features == ("level",)
    assert (
        "walks.csv: 48 sequences to train on, 6 for validation, 6 for test; 3 labels; 1 numbers a frame"
        in (trained.task.describe(trained.assets))
    )


class Pipe(io.BytesIO):
    """Standard input that says how many of its lines were read."""

    lines = 0

    def readline(self, *size):
        self.lines += 1
        return super().readline(*size)


def test_each_row_is_answered_before_the_next_is_read(table, tmp_path, monkeypatch):
    trained = trained_on(table, tmp_path / "run", steps=2)
    data = "sequence,level\na,1\na,2\na,0\nb,2\nb,2\n"
    pipe, answers = Pipe(data.encode()), []
    monkeypatch.setattr("sys.stdin", type("Input", (), {"buffer": pipe}))

    class Out(io.StringIO):
        def write(self, text):
            answers.append((pipe.lines, text))
            return super().write(text)

    out = Out()
    trained.task.predict_file(trained.model, trained.assets, "-", out, form="long", skip_bad=False)
    read = [lines for lines, text in answers if not text.startswith("sequence")]
    assert read == [2, 3, 4, 5, 6]  # the header is line 1
    # The state is carried from row to row, and starts anew with each sequence: as if each were read whole.
    labels = [row[2] for row in rows_of(out.getvalue())[1:]]
    whole = [trained.predict({"values": values})["labels"] for values in ([[1], [2], [0]], [[2], [2]])]
    assert labels == whole[0] + whole[1]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_predictions_are_those_of_whole_sequences(table, tmp_path, capsys, bidirectional):
    trained = trained_on(table, tmp_path / "run", ModelConfig(hidden=7, bidirectional=bidirectional), steps=3)
    capsys.readouterr()
    assert main(["predict", str(trained.path), table]) == 0
    head, *rows = rows_of(capsys.readouterr().out)
    assert head == ["sequence", "level", "label", "remark", "predicted_label", "probability"]
    series = trained.task.series_of((table,))
    by_hand = [found["labels"] for found in trained.predict({"values": each} for each in series.values)]
    assert [row[4] for row in rows] == [label for labels in by_hand for label in labels]
    assert all(0 < float(row[5]) <= 1 for row in rows)
    np.savez(tmp_path / "new.npz", x=np.zeros((2, 3, 1)), y=np.array([["up"] * 3] * 2))
    assert main(["predict", str(trained.path), str(tmp_path / "new.npz")]) == 0
    head, *rows = rows_of(capsys.readouterr().out)
    assert head == ["sequence", "step", "label", "predicted_label", "probability"] and len(rows) == 6
    assert main(["predict", str(trained.path), "-", "--format", "npz"]) == 2
    assert "is not read from standard input" in capsys.readouterr().err


def test_bad_rows_of_a_file_to_predict(table, tmp_path, capsys):
    trained = trained_on(table, tmp_path / "run", steps=1)
    bad = tmp_path / "bad.csv"
    bad.write_text("sequence,level\na,1\na,x\na,2\n")
    capsys.readouterr()
    assert main(["predict", str(trained.path), str(bad)]) == 2
    assert "bad.csv:3: expected 'level' to be a finite number, got 'x'" in capsys.readouterr().err
    assert main(["predict", str(trained.path), str(bad), "--skip-bad"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and "1 bad rows skipped" in err
    bad.write_text("sequence,levle\na,1\n")
    assert main(["predict", str(trained.path), str(bad)]) == 2
    assert "Did you mean 'levle'" in capsys.readouterr().err


def videos(folder, count=12):
    """What ships inside, as images."""
    image = pytest.importorskip(
        "PIL.Image", reason="Pillow is not installed: pip install 'throughtime[images]'"
    )
    found = ball_videos("direction", count)
    lines = ["sequence,frame,label\n"]
    for name, values, labels in zip(found.names, found.values, found.labels, strict=True):
        (folder / name).mkdir(parents=True)
        for number, (frame, label) in enumerate(zip(values[:9], labels[:9], strict=True)):
            pixels = (frame.view(12, 12).clamp(0, 1) * 255).byte().numpy()
            image.fromarray(pixels).save(folder / name / f"{number}.png")
            lines.append(f"{name},{number},{label}\n")
    (folder / "labels.csv").write_text("".join(lines))
    return str(folder)


def test_folders_of_images_from_the_command_line(tmp_path, capsys):
    folder, run = videos(tmp_path / "videos"), str(tmp_path / "run")
    quick = (
        "--hidden",
        "5",
        "--vector",
        "4",
        "--batch",
        "4",
        "--steps",
        "2",
        "--no-baselines",
        "--size",
        "6,8",
    )
    assert main(["train", "frames", "--data", folder, *quick, "--out", run, "--test", "0"]) == 0
    out = capsys.readouterr().out
    assert "images of 6 x 8 x 1" in out
    assert main(["evaluate", run]) == 0 and main(["flow", run, "--no-products"]) == 0
    assert main(["evaluate", run, "--data", folder]) == 0 and main(["influence", run]) == 0
    capsys.readouterr()
    shutil.copytree(tmp_path / "videos" / "3", tmp_path / "new")
    assert main(["predict", run, str(tmp_path / "new")]) == 0
    head, *rows = rows_of(capsys.readouterr().out)
    assert head == ["sequence", "frame", "label", "probability"]
    assert [row[:2] for row in rows] == [["new", f"{n}.png"] for n in range(9)]
    trained = throughtime.load(run)
    with pytest.raises(InputError, match="the model has no label 'down'"):
        trained.evaluate(files=[write(tmp_path / "walks.csv")])


def test_parts_by_file_and_by_fraction(table, tmp_path):
    other = write(tmp_path / "other.csv", 5, seed=2)
    task = FramesTask(data=(table,), test=other, validation=0.1)
    assets = task.prepare()
    assert {part: len(each) for part, each in assets.splits.items()} == {
        "train": 27,
        "validation": 3,
        "test": 5,
    }
    assert assets.splits["test"] == list(range(30, 35)) and not any(
        "also" in each for each in assets.values["remarks"]
    )
    same = FramesTask(data=(table,), test=table, validation=0).prepare()
    assert any("30 of the 30 test sequences are also train" in remark for remark in same.values["remarks"])
    assert sum(map(len, FramesTask(data=(table,), limit=10).prepare().splits.values())) == 10
    again = Assets.from_json(assets.to_json())
    for ours, theirs in zip(task._encoded(again, "test")[0], task._encoded(assets, "test")[0], strict=True):
        assert torch.equal(ours, theirs)


def test_data_that_cannot_be_used(table, tmp_path):
    other = tmp_path / "other.csv"
    for text, settings, message in (
        ("sequence,level,label\na,1,left\n", {"test": str(other)}, r"the test part has labels .* \('left'\)"),
        ("sequence,level,more,label\na,1,2,up\n", {"test": str(other)}, "expected frames as in .*, 1 numbers each, got 2"),
        ("sequence,level\na,1\n", {"data": (str(other),)}, "expected a column 'label'"),
        ("sequence,level,label\na,1,up\nb,1,up\n", {"data": (str(other),), "validation": 0}, "at least two labels"),
    ):  # fmt: skip
        other.write_text(text)
        with pytest.raises(InputError, match=message) as error:
            FramesTask(**{"data": (table,), **settings}).prepare()
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="size must be ROWS,COLUMNS, two numbers, got 4"):
        FramesTask(size=(4,))
    task = FramesTask(data=(table,), encoder="cnn")
    assets = task.prepare()
    with pytest.raises(InputError, match="the encoder cnn reads images"):
        task.build(MODEL, assets)
    assets.values = {}
    with pytest.raises(RunError, match=r"assets\.json is damaged"):
        task.build(MODEL, assets)


def test_baselines_are_of_the_split(tmp_path):
    pytest.importorskip(
        "sklearn", reason="scikit-learn is not installed: pip install 'throughtime[baselines]'"
    )
    task = FramesTask(limit=40, validation=0.2, test=0.2)
    assets = task.prepare()
    found = task.baseline(assets, "test")
    assert list(found) == [
        "majority label",
        "each frame alone, logistic regression",
        "frame and change since the last, logistic regression",
    ]
    targets = [label for labels in task._columns(assets, "test")[1] for label in labels]
    train = [label for labels in task._columns(assets, "train")[1] for label in labels]
    most = max(sorted(set(train)), key=train.count)
    assert found["majority label"]["accuracy"] == pytest.approx(targets.count(most) / len(targets))
    trivial, alone, changed = (found[name]["accuracy"] for name in found)
    assert changed > alone and changed > trivial


def test_without_scikit_learn(table, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn", None)
    task = FramesTask(data=(table,))
    found = task.baseline(task.prepare(), "validation")
    assert "pip install 'throughtime[baselines]'" in found["each frame alone, logistic regression"]
    assert found["majority label"]["accuracy"] > 0


@pytest.mark.parametrize("what", ["direction", "bounce", "both"])
def test_what_ships_inside(what):
    task = FramesTask(what=what, limit=30)
    labels = task.prepare().labels["label"]
    assert ("bounce" in labels) == (what != "direction") and ("north" in labels) == (what != "bounce")


@pytest.mark.parametrize("bptt", ["truncated:4", "checkpointed:3"])
def test_a_stopped_training_goes_on_to_the_same_bits(table, tmp_path, bptt):
    training = TrainingConfig(bptt=bptt, batch=8, steps=8, checkpoint_steps=2, no_baselines=True)
    task, first = start_run(FramesTask(data=(table,), vector=6), MODEL, training, tmp_path / "whole")
    train(task, training, first)

    class Stop(Exception):
        pass

    class Stopping(FramesTask):
        name = "frames"

        def evaluation_batches(self, *arguments, **settings):
            raise Stop

    task, second = start_run(FramesTask(data=(table,), vector=6), MODEL, training, tmp_path / "stopped")
    with pytest.raises(Stop):
        train(Stopping(**vars(task)), training, second)
    again = Run.open(second.path)
    train(task, training, again, resume=True)
    ours, theirs = first.load_model(), again.load_model()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
