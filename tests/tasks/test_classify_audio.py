"""Classification of recordings: what the model reads, splits by speaker, prediction, resuming, and what is refused."""

from __future__ import annotations

import csv
import io
import os
import wave

import numpy as np
import pytest
import torch

import throughtime
from throughtime.bptt import Truncated
from throughtime.cli import main
from throughtime.data import Assets, find_dataset
from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.models.log_mel import LogMel
from throughtime.runs import Run
from throughtime.tasks import ClassifyTask
from throughtime.tasks.baselines.numbers import mfcc_svm
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

MODEL = ModelConfig(hidden=8, cell="gru", pooling="max")
NAMES = r"(?P<label>[a-z]+)_(?P<group>[a-z]+)_\d+"
SMALL = {"mels": 12, "tilt": 0.5}


def write_wav(path, samples, rate=8000):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return str(path)


def word(label, speaker, seed, rate=8000):
    """A tone that rises or falls; each speaker has a level and a pitch."""
    draws = np.random.default_rng(seed)
    count = int(rate * draws.uniform(0.1, 0.2))
    pitch = 400 + 100 * speaker + draws.uniform(-30, 30)
    course = np.linspace(1, 2, count) if label == "up" else np.linspace(2, 1, count)
    tone = 0.1 * (speaker + 1) * np.sin(2 * np.pi * np.cumsum(pitch * course) / rate)
    return tone + draws.normal(0, 0.003, count)


@pytest.fixture
def folder(tmp_path):
    """Files named label_speaker_index."""
    (tmp_path / "names").mkdir()
    for number in range(48):
        label, speaker = ("up", "down")[number % 2], number // 2 % 4
        name = f"{label}_{('anna', 'ben', 'carla', 'dan')[speaker]}_{number}.wav"
        write_wav(tmp_path / "names" / name, word(label, speaker, number))
    return str(tmp_path / "names")


def task_of(folder, **options):
    return ClassifyTask(data=(folder,), label_from=NAMES, **{**SMALL, **options}).with_full_paths()


def training_of(**options):
    return TrainingConfig(
        **{
            "bptt": "full",
            "batch": 8,
            "steps": 60,
            "lr": 0.02,
            "warmup": 0.0,
            "no_baselines": True,
            **options,
        }
    )


@pytest.fixture
def trained(folder, tmp_path):
    task, run = start_run(task_of(folder, fold="1/4", validation=0.3), MODEL, training_of(), tmp_path / "run")
    train(task, training_of(), run)
    return throughtime.load(run.path)


def test_the_kind_is_found_in_the_data(folder):
    found = ClassifyTask(data=(folder,), label_from=NAMES)
    assert (found.unit, found.columns, found.group) == ("recording", ("path",), "group")
    recorded = found.with_full_paths()
    assert recorded.kind == "audio" and ClassifyTask.from_table(recorded.to_table()) == recorded


def test_each_speaker_is_one_fold_and_in_one_part(folder):
    tested = []
    for k in range(1, 5):
        task = task_of(folder, fold=f"{k}/4", validation=0.2)
        assets = task.prepare()
        names = {
            part: {sound.name.split("_")[-2] for sound in task._columns(assets, part)[0]}
            for part in ("train", "validation", "test")
        }
        assert len(names["test"]) == len(names["validation"]) == 1 and len(names["train"]) == 2
        assert sorted(each for part in names.values() for each in part) == ["anna", "ben", "carla", "dan"]
        tested += names["test"]
        assert f"test on {tested[-1]}" in task.describe(assets)
    assert sorted(tested) == ["anna", "ben", "carla", "dan"]


def test_the_steps_are_frames_of_the_front_end_normalized(folder):
    task = task_of(folder, stack=3, normalize="training", length=5)
    assets = task.prepare()
    sounds, labels = task._columns(assets, "train")
    inputs, targets = task._encoded(assets, "train")
    front = LogMel(8000, mels=12)
    for sound, steps, label, target in zip(sounds, inputs, labels, targets, strict=True):
        frames = front.of(sound.samples)[:15]
        assert torch.equal(steps.view(-1, 12)[: len(frames)], frames)
        assert torch.equal(
            steps.view(-1, 12)[len(frames) :], frames[-1:].expand(steps.numel() // 12 - len(frames), -1)
        )
        assert assets.labels["label"][target] == label
    embedding = task.build(MODEL, assets).embedding.eval()
    read = embedding(torch.cat(inputs))
    torch.testing.assert_close(read.mean(0), torch.zeros(36), atol=1e-4, rtol=0)
    torch.testing.assert_close(read.std(0, unbiased=False), torch.ones(36), atol=1e-4, rtol=0)
    again = Assets.from_json(assets.to_json())
    assert all(torch.equal(a, b) for a, b in zip(task._encoded(again, "train")[0], inputs, strict=True))
    assert task.step_names(assets, inputs[0])[:3] == ["0.00s", "0.03s", "0.06s"]


def test_other_rates_are_resampled_and_said(folder):
    pytest.importorskip("scipy")
    write_wav(f"{folder}/up_anna_99.wav", word("up", 0, 99, 16000), 16000)
    task = task_of(folder, validation=0)
    assets = task.prepare()
    assert "1 file resampled from 16000 Hz to 8000 Hz" in task.describe(assets)
    assert assets.values["audio"]["front"]["rate"] == 8000
    fixed = task_of(folder, rate=16000, validation=0)
    assert "48 files resampled from 8000 Hz to 16000 Hz" in fixed.describe(fixed.prepare())


def test_it_learns_and_predicts(trained, folder, tmp_path, capsys):
    assert trained.evaluate("test").values["accuracy"] >= 0.9
    files = [f"{folder}/up_anna_0.wav", f"{folder}/down_ben_3.wav"]
    found = list(trained.predict([{"path": file} for file in files]))
    assert [each["label"] for each in found] == ["up", "down"]
    assert main(["predict", str(trained.path), *files]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        [file, each["label"], str(each["probability"])] for file, each in zip(files, found, strict=True)
    ]
    table = tmp_path / "list.csv"
    table.write_text("path,label\nnames/up_anna_0.wav,up\nnames/down_ben_3.wav,down\n")
    assert main(["predict", str(trained.path), str(table)]) == 0
    answered = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert (
        [row["predicted_label"] for row in answered] == [row["label"] for row in answered] == ["up", "down"]
    )
    assert main(["evaluate", str(trained.path), "--data", str(folder)]) == 0
    assert "48" in capsys.readouterr().out


def test_influence_has_rows_for_labels_and_says_when(trained, folder, capsys):
    assert main(["influence", str(trained.path), "--prompt", f"{folder}/up_anna_0.wav"]) == 0
    first, second, times, _ = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "up" and second.split()[0] == "down"
    assert times.split()[0] == "0.00s"
    assert main(["flow", str(trained.path), "--no-products", "--batch", "2"]) == 0


def test_bad_recordings_of_predict_are_one_line_or_left_out(trained, folder, tmp_path, capsys):
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    table = tmp_path / "list.csv"
    table.write_text("path\nbad.wav\nnames/up_anna_0.wav\n")
    assert main(["predict", str(trained.path), str(tmp_path / "bad.wav")]) == 2
    assert main(["predict", str(trained.path), str(table)]) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert "bad.wav: cannot be read" in first and "list.csv:2: " in second and out == ""
    assert main(["predict", str(trained.path), str(table), "--skip-bad"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2 and "bad recordings skipped: 1; the first is" in err
    assert main(["predict", str(trained.path), f"{folder}/up_anna_0.wav", str(table)]) == 2
    assert "name one file" in capsys.readouterr().err


def test_a_stopped_training_goes_on_to_the_same_bits(folder, tmp_path):
    """Masks and tilt are drawn too."""
    task = task_of(folder, time_masks=2, frequency_masks=1)
    config = training_of(steps=16, checkpoint_steps=5)
    weights = []
    for name in ("whole", "again", "cut"):
        started, run = start_run(task, MODEL, config, tmp_path / name)
        if name != "cut":
            train(started, config, run)
            weights.append(run.load_model())
            continue

        class Stop(Exception):
            pass

        class Report:
            def __getattr__(self, _):
                return lambda *arguments, **options: None

        calls = iter(range(7))
        original = ClassifyTask.loss

        def loss(self, outputs, batch, original=original, calls=calls):
            if next(calls, None) is None:
                raise Stop
            return original(self, outputs, batch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ClassifyTask, "loss", loss)
            with pytest.raises(Stop):
                train(started, config, run)
        opened = Run.open(run.path)
        train(started, config, opened, resume=True)
        weights.append(opened.load_model())
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], other[name]) for name in weights[0])


@pytest.mark.parametrize("cell", ["rnn", "lstm", "mingru", "indrnn", "lnlstm", "none", "cnn"])
def test_every_cell_reads_frames(folder, cell):
    task = task_of(folder, limit=8, validation=0)
    assets = task.prepare()
    batch = next(task.batches(assets, steps=1, batch=5).epoch())
    torch.manual_seed(0)
    model = task.build(ModelConfig(cell=cell, hidden=6), assets).eval()
    padded = batch.inputs.clone()
    for row, length in enumerate(batch.lengths):
        padded[length:, row] = float("nan")
    outputs, _ = batch.run(model)
    again, _ = batch._replace(inputs=padded).run(model)
    assert torch.equal(outputs, again) and outputs.isfinite().all()


def test_windows_carry_the_state(folder):
    """With pooling last a recording is read in windows; the outputs are those of reading it at once."""
    task = task_of(folder, limit=8, validation=0)
    assets = task.prepare()
    torch.manual_seed(0)
    model = task.build(ModelConfig(cell="gru", hidden=6), assets).eval()
    batch = next(task.batches(assets, steps=1, batch=5).epoch())
    whole, _ = batch.run(model)
    state, outputs = None, torch.zeros_like(whole)
    for start in range(0, batch.steps, 3):
        window = batch.window(start, start + 3)
        found, state = window.run(model, state)
        outputs[window.targets >= 0] = found[window.targets >= 0]
    torch.testing.assert_close(outputs, whole)
    assert Truncated(3)


def test_the_baseline_tells_a_rise_from_a_fall():
    pytest.importorskip("sklearn")
    front = LogMel(8000, mels=12)
    made = [
        (front.of(torch.from_numpy(word(("up", "down")[n % 2], n % 3, n)).float()), ("up", "down")[n % 2])
        for n in range(60)
    ]
    frames, labels = zip(*made, strict=True)
    assert mfcc_svm(frames[:40], labels[:40], frames[40:], labels[40:])["accuracy"] >= 0.95
    short = [each[: n % 3 + 1] for n, each in enumerate(frames)]
    assert set(mfcc_svm(short[:40], labels[:40], short[40:], labels[40:])) == {"accuracy", "macro_f1"}


def test_what_cannot_be_used_is_said_in_one_line(folder, tmp_path):
    for options, what in (
        ({"label_from": "("}, "label_from must be a regular expression"),
        ({"label_from": "(?P<word>.)"}, "a group called label"),
    ):
        with pytest.raises(InputError, match=what):
            ClassifyTask(data=(folder,), **options)
    with pytest.raises(InputError, match="no recordings ship inside"):
        ClassifyTask(kind="audio").prepare()
    with pytest.raises(InputError, match="too many"):
        task_of(folder, mels=300).prepare()
    task = task_of(folder)
    assets = task.prepare()
    del assets.values["audio"]["front"]
    with pytest.raises(RunError, match="damaged"):
        task.describe(assets)
    (tmp_path / "names" / "up_anna_0.wav").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"up_anna_0.wav: expected a recording, got an empty file.*--skip-bad"
    ):
        task_of(folder).prepare()
    assert "bad recordings skipped: 1" in task_of(folder, skip_bad=True).describe(
        task_of(folder, skip_bad=True).prepare()
    )


def test_spoken_digits_are_read_by_their_names():
    if "THROUGHTIME_DATA" not in os.environ:
        pytest.skip("THROUGHTIME_DATA is not set: it must name the folder that holds fsdd/recordings")
    folder = find_dataset("fsdd/recordings")
    pattern = r"(?P<label>\d)_(?P<group>[a-z]+)_\d+"
    task = ClassifyTask(data=(str(folder),), label_from=pattern, fold="1/6", limit=120).with_full_paths()
    assets = task.prepare()
    assert assets.labels["label"] == tuple("0123456789")
    speakers = {sound.name.split("_")[-2] for sound in task._columns(assets, "test")[0]}
    assert len(speakers) == 1
    inputs, _ = task._encoded(assets, "test")
    assert inputs[0].shape[1] == 80 and all(each.isfinite().all() for each in inputs)
