"""Captions: what is learned, read and written, what a run restores, where a word comes from, beside which baselines."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct

import numpy as np
import pytest
import torch

import throughtime
from throughtime.cli import main
from throughtime.data import Assets, find_dataset
from throughtime.data.inside.scenes import scenes
from throughtime.data.readers.frame_folders import IMAGES
from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.tasks import CaptionTask
from throughtime.tasks.baselines.captions import (
    captions_by_baseline,
    colors_and_edges,
    linear_captions,
    nearest_rows,
)
from throughtime.tasks.caption_show import pixel_influence
from throughtime.tasks.recorded import settings_of, task_of
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train
from throughtime.training.trainer import Trainer

MODEL = ModelConfig(cell="gru", hidden=24, embedding=8)
COLORS = {"red": (230, 20, 20), "green": (20, 200, 30), "blue": (20, 40, 240)}


def photos(folder, count=36, size=16):
    """Images with a bar of a color on one side, each with two captions; written as COCO's JSON and as a table."""
    pillow = pytest.importorskip(
        "PIL.Image", reason="Pillow is not installed: pip install 'throughtime[images]'"
    )
    draws = np.random.default_rng(1)
    folder.mkdir()
    images, annotations, rows = [], [], ["path,caption\n"]
    for number in range(count):
        color, side = tuple(COLORS)[number % 3], ("left", "right")[number // 3 % 2]
        pixels = draws.integers(0, 60, (size, size, 3), dtype=np.uint8)
        place = slice(0, size // 3) if side == "left" else slice(size - size // 3, size)
        pixels[:, place] = COLORS[color]
        pillow.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        for caption in (f"A {color} bar, {side}.", f"{side}: a {color} bar"):
            annotations.append({"image_id": number, "caption": caption})
            rows.append(f'{number}.png,"{caption}"\n')
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (folder / "captions.csv").write_text("".join(rows))
    return folder


def trained_on(data, folder, model=MODEL, steps=3, **settings):
    training = TrainingConfig(bptt="full", batch=8, steps=steps, lr=0.01, warmup=0.0, no_baselines=True)
    settings = {"image_size": 16, "validation": 0.2, "test": 0.2, "beam": 2, "max_length": 8, **settings}
    task, run = start_run(CaptionTask(data=(str(data),), **settings), model, training, folder)
    train(task, training, run)
    return throughtime.load(run.path)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run that has learned, and the folder of its images."""
    folder = photos(tmp_path_factory.mktemp("caption") / "photos")
    return trained_on(folder, folder.parent / "run", steps=200), folder


def test_it_learns_what_is_where(learned):
    trained, folder = learned
    found = trained.evaluate("test").values
    assert list(found) == ["bleu4", "exact", "loss"] and found["exact"] > 0.8 and found["bleu4"] > 80
    said = trained.predict({"path": str(folder / "4.png")})["caption"]
    assert said in ("a green bar right", "right a green bar")
    description = trained.task.describe(trained.assets)
    assert (
        "photos: 22 images to train on, 7 for validation, 7 for test; 7 words; images of 3 x 16 x 16"
        in description
    )
    # Both captions of an image are trained on, and each counts as right.
    data = trained.task.batches(trained.assets, steps=0, batch=8)
    assert sum(batch.num_targets for batch in data.epoch()) == 22 * 2 * 5
    (batch,) = trained.task.evaluation_batches(trained.assets, "test", steps=0, batch=8)
    assert batch.num_targets == 7 * 5 and batch.context.shape == (7, 3, 16, 16)


def test_other_data_is_evaluated_as_a_whole(learned, tmp_path):
    trained, folder = learned
    everything = trained.evaluate(files=[folder / "captions.json"])
    assert everything.count == 36 * 5 and everything.values["exact"] > 0.8
    assert trained.evaluate("test", files=[folder]).values == trained.evaluate("test").values
    other = photos(tmp_path / "others", 6)
    with pytest.raises(InputError, match=r"is not .* which the run was made from"):
        trained.evaluate("test", files=[other])
    (other / "captions.csv").write_text("path,caption\n0.png,a zebra\n")
    assert trained.evaluate(files=[other / "captions.csv"]).values["exact"] == 0  # unknown to the model


def test_files_and_folders_are_answered(learned, tmp_path, capsys):
    trained, folder = learned
    run = str(trained.path)
    assert main(["predict", run, str(folder / "4.png")]) == 0
    head, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["path", "caption"] and row[1] in ("a green bar right", "right a green bar")
    assert main(["predict", run, str(folder)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 37
    table = tmp_path / "asked.csv"
    table.write_text(f"path,note\n{folder / '4.png'},x\n")
    assert main(["predict", run, str(table)]) == 0
    assert capsys.readouterr().out.splitlines() == ["path,note,caption", f"{folder / '4.png'},x,{row[1]}"]
    for arguments, message in (
        ([str(table.parent)], "expected images"),
        ([str(folder / "nothing.png")], "no such file"),
        ([str(folder / "captions.csv"), "--format", "image"], "captions.csv: cannot be read as an image"),
    ):
        assert main(["predict", run, *arguments]) == 2
        err = capsys.readouterr().err
        assert message in err and len(err.splitlines()) == 1
    (tmp_path / "bad.png").write_text("no image")
    assert main(["predict", run, str(tmp_path), "--skip-bad"]) == 0
    out, err = capsys.readouterr()
    assert out == "path,caption\n" and "1 images left out; the first is" in err
    assert CaptionTask.formats["image"] == IMAGES


def test_where_a_word_comes_from(learned, tmp_path, capsys):
    trained, folder = learned
    task, run = trained.task, str(trained.path)
    image = task.image_at(trained.assets, str(folder / "4.png"))
    (symbols,) = task.written(trained.model, trained.assets, image[None])
    found = pixel_influence(trained.model, image, symbols, 0)
    assert found.shape == (4, 16, 16)
    # Against finite differences, one color of one pixel at a time.
    words = trained.assets.labels["word"]
    place = [words[number] for number in symbols].index("green")
    model = trained.model.double()
    try:
        exact = pixel_influence(model, image.double() / 255, symbols, 0)
        read = torch.tensor([0, *symbols[:-1]])[:, None]

        def chance(pixels):
            with torch.no_grad():
                return model(read, context=pixels[None])[0][place, 0].log_softmax(-1)[symbols[place]]

        for row, column in ((3, 2), (8, 13)):
            total = 0.0
            for color in range(3):
                moved = [image.double() / 255 for _ in range(2)]
                for pixels, by in zip(moved, (1e-6, -1e-6), strict=True):
                    pixels[color, row, column] += by
                total += float((chance(moved[0]) - chance(moved[1])) / 2e-6) ** 2
            assert total**0.5 == pytest.approx(float(exact[place, row, column]), rel=1e-4)
    finally:
        trained.model.float()
    picture = tmp_path / "where.png"
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'throughtime[plot]'")
    capsys.readouterr()
    assert main(["predict", run, str(folder / "4.png"), "--picture", str(picture)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == " ".join(words[number] for number in symbols)
    assert out.count("attention") == 1 and out.count("influence") == 1 and picture.stat().st_size > 1000
    table = tmp_path / "asked.csv"
    table.write_text(f"path\n{folder / '4.png'}\n{folder / '5.png'}\n")
    assert main(["predict", run, str(table), "--show"]) == 0
    assert capsys.readouterr().out.count("Each map is relative") == 2
    picture.unlink()
    assert main(["predict", run, str(table), "--picture", str(picture)]) == 0  # of the first
    assert picture.stat().st_size > 1000


def test_commands_on_a_run(learned, capsys):
    run = str(learned[0].path)
    assert main(["flow", run, "--no-products"]) == 0
    assert main(["influence", run]) == 0
    assert "<start>" in capsys.readouterr().out
    assert main(["evaluate", run, "--split", "test"]) == 0


def test_a_resumed_run_has_the_same_bits(tmp_path, monkeypatch):
    folder = photos(tmp_path / "photos", 18)
    model = ModelConfig(hidden=7, dropout=0.2)
    whole = trained_on(folder, tmp_path / "whole", model, 6).run.load_model()
    after = Trainer._after_step

    def killed(self):
        after(self)
        if self.steps == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_after_step", killed)
        with pytest.raises(KeyboardInterrupt):
            trained_on(folder, tmp_path / "half", model, 6)
    run = Run.open(tmp_path / "half")
    train(task_of(run), settings_of(run, TrainingConfig), run, resume=True)
    for name, tensor in run.load_model().items():
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (ModelConfig(cell=cell, hidden=6), {"attention": attention})
        for cell, attention in (
            ("rnn", "none"), ("gru", "dot"), ("lstm", "additive"), ("mingru", "general"), ("indrnn", "none"),
            ("lnlstm", "general"), ("none", "general"), ("cnn", "general"),
        )
    ]
    + [
        (ModelConfig(cell="gru", hidden=(7, 6), dropout=0.1), {"input_feeding": True, "coverage_penalty": 0.2}),
        (ModelConfig(hidden=8, embedding=8, tied=True, recurrent_dropout=0.1), {"scheduled_sampling": 0.5}),
        (ModelConfig(hidden=6, embedding="onehot", zoneout=0.1), {"tokens": "char", "color": False, "label_smoothing": 0.1}),
    ],
)  # fmt: skip
def test_every_kind_of_decoder(learned, tmp_path, model, settings):
    found = trained_on(learned[1], tmp_path / "run", model, steps=1, **settings)
    assert isinstance(found.predict({"path": str(learned[1] / "0.png")})["caption"], str)
    assert found.evaluate().values["loss"] > 0


def test_truncated_bptt_and_refusals(learned, tmp_path):
    folder = learned[1]
    training = TrainingConfig(bptt="truncated:3", batch=8, steps=2, no_baselines=True)
    task, run = start_run(CaptionTask(data=(str(folder),), image_size=16), MODEL, training, tmp_path / "run")
    train(task, training, run)
    for settings, message in (
        ({"color": False}, "the captions of drawn scenes name colors"),
        ({"data": (str(folder),), "min_count": 10_000}, "no word occurs 10000 times"),
        ({"attention": "none", "input_feeding": True}, "input_feeding needs attention"),
        (
            {"scenes": 20, "test": str(folder), "image_size": 24, "color": True, "images": str(tmp_path)},
            "there is no image",
        ),
    ):
        with pytest.raises(InputError, match=message) as error:
            CaptionTask(**settings).prepare()
        assert "\n" not in str(error.value)
    assets = CaptionTask(data=(str(folder),), image_size=16).prepare()
    with pytest.raises(InputError, match="init_from needs images as those of its own data"):
        CaptionTask(data=(str(folder),), image_size=24).prepare(like=assets)
    again = Assets.from_json(assets.to_json())
    assert torch.equal(
        task._context(again, "test"), CaptionTask(data=(str(folder),), image_size=16)._context(assets, "test")
    )
    again.labels = {}
    with pytest.raises(RunError, match=r"assets\.json is damaged"):
        task.build(MODEL, again)


def write_idx(path, images, labels):
    header = struct.pack(">BBBBIII", 0, 0, 8, 3, *images.shape)
    path.write_bytes(gzip.compress(header + images.astype(np.uint8).tobytes()))
    path.with_name(path.name.replace("images-idx3", "labels-idx1")).write_bytes(
        gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, len(labels)) + bytes(labels))
    )
    return str(path)


def test_scenes_of_digits_share_no_digit_between_parts(tmp_path):
    """Each digit has a brightness of its own, so every scene shows which digits it was made of."""
    images = np.zeros((120, 28, 28), np.uint8)
    for number in range(120):
        images[number, 12:16, 12:16] = 2 * number + 5
    data = write_idx(tmp_path / "images-idx3", images, [number % 3 for number in range(120)])
    other = write_idx(tmp_path / "test-images-idx3", images[:9], [0, 1, 2] * 3)
    task = CaptionTask(data=(data,), scenes=100, validation=0.3, test=0.2)
    assets = task.prepare()
    assert [len(assets.splits[part]) for part in ("train", "validation", "test")] == [50, 30, 20]
    seen = [
        set(task._context(assets, part).unique().tolist()) - {0} for part in ("train", "validation", "test")
    ]
    assert (
        all(len(each) > 10 for each in seen) and not seen[0] & seen[1] and not (seen[0] | seen[1]) & seen[2]
    )
    by_file = CaptionTask(data=(data,), scenes=50, test=other).prepare()
    assert len(by_file.splits["test"]) == 50 and len(by_file.sources) == 4
    with pytest.raises(InputError, match="leave --image-size out"):
        CaptionTask(data=(data,), image_size=32).prepare()
    (tmp_path / "labels-idx1").unlink()
    with pytest.raises(InputError, match="expected a file with the labels of the digits beside it"):
        CaptionTask(data=(data,)).prepare()


def test_equal_images_are_in_one_part(tmp_path):
    folder = photos(tmp_path / "photos", 12)
    for number in range(6):
        (folder / f"{number + 6}.png").write_bytes((folder / f"{number}.png").read_bytes())
    assets = CaptionTask(data=(str(folder),), image_size=16, validation=0.3, test=0.3).prepare()
    task = CaptionTask(data=(str(folder),), image_size=16, validation=0.3, test=0.3)
    parts = [{image.numpy().tobytes() for image in task._context(assets, part)} for part in assets.splits]
    assert all(parts) and sum(map(len, parts)) == 6
    same = CaptionTask(data=(str(folder),), image_size=16, test=str(folder), validation=0).prepare()
    assert any("6 of the 6 test images are also train images" in each for each in same.values["remarks"])


def test_baselines_by_hand():
    draws = np.random.default_rng(0)
    known, asked = (draws.normal(size=(count, 7)).astype(np.float32) for count in (300, 13))
    assert nearest_rows(known, asked) == [int(((known - each) ** 2).sum(1).argmin()) for each in asked]
    # The first word follows from one number, the second from another, the third from the second word.
    captions = [
        (("up", "down")[int(row[0] > 0)], ("a", "b")[int(row[3] > 0)], *(("x",) if row[3] > 0 else ()))
        for row in known
    ]
    found = linear_captions(known, captions, known, 5)
    assert np.mean([one == other for one, other in zip(found, captions, strict=True)]) > 0.9
    image = np.zeros((1, 3, 21, 17), np.uint8)
    image[0, 0, :, 9:] = 255
    features = colors_and_edges(image).reshape(11, 8, 8)
    assert features[0, :, 0].max() == 0 and features[0, :, -1].min() == 1  # red is on the right
    edges = features[3:].sum((1, 2))
    assert edges.argmax() == 0 and edges[0] > 0.99 * edges.sum()  # it grows to the right, angle 0
    data, new = scenes("train", 40), scenes("validation", 5)
    written = captions_by_baseline(
        data.images, [tuple(said[0].split()) for said in data.captions], data.images[:5], 20
    )
    assert written["nearest image, pixels"] == [tuple(said[0].split()) for said in data.captions[:5]]
    assert len(set(written["most frequent caption"])) == 1 and len(written) == 4 and len(new) == 5


def test_baselines_are_of_the_split(tmp_path):
    task = CaptionTask(data=(str(photos(tmp_path / "photos", 30)),), image_size=16, validation=0.2, test=0.2)
    assets = task.prepare()
    found = task.baseline(assets, "test")
    assert list(found) == [
        "most frequent caption", "nearest image, pixels", "nearest image, colors and edges", "linear, a model for each word",
    ]  # fmt: skip
    assert found["nearest image, pixels"]["exact"] == 1 > found["most frequent caption"]["exact"]


def test_a_run_of_what_ships_inside(tmp_path, capsys):
    quick = (
        "--scenes",
        "60",
        "--hidden",
        "6",
        "--steps",
        "2",
        "--batch",
        "4",
        "--beam",
        "2",
        "--max-length",
        "5",
    )
    assert main(["train", "caption", *quick, "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "scenes of shapes, drawn from a seed: 48 images to train on, 6 for validation, 6 for test" in out
    assert "linear, a model for each word" in out
    assert Run.open(tmp_path / "run").config["task"] == "caption"


def test_digits_of_mnist():
    try:
        path = find_dataset("mnist/t10k-images-idx3-ubyte.gz")
    except InputError as error:
        pytest.skip(str(error))
    assets = CaptionTask(data=(str(path),), scenes=40).prepare()
    assert assets.values["image"] == [1, 64, 64] and "seven" in assets.labels["word"]
