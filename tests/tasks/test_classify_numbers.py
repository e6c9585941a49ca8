"""Classification of sequences of numbers: what is read, how it is split and scaled, what a run restores and predicts."""

from __future__ import annotations

import csv
import gzip
import io
import os
import random
import struct

import numpy as np
import pytest
import torch

import throughtime
from throughtime.bptt import Full, Truncated
from throughtime.cli import main
from throughtime.data import Assets, find_dataset
from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.tasks import ClassifyTask
from throughtime.tasks.files import condition
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

MODEL = ModelConfig(hidden=5, cell="gru")


def rows_of(count, seed=1, labels="ab"):
    """Sequences of 2 to 7 steps; those of "a" rise, those of "b" fall."""
    draws, rows = random.Random(seed), []
    for number in range(count):
        label = labels[number % len(labels)]
        height = draws.uniform(-0.5, 0.5)
        for step in range(draws.randint(2, 7)):
            height += draws.uniform(0.5, 1) * (1 if label == "a" else -1)
            rows.append([number, number % 3, step, round(height, 4), round(draws.gauss(100, 30), 3), label])
    return rows


def write(path, rows, header=("sequence", "group", "time", "height", "noise", "label")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "long.csv", rows_of(60))


@pytest.fixture
def trained(file, tmp_path):
    training = TrainingConfig(bptt="full", batch=8, steps=100, lr=0.03, warmup=0.0, no_baselines=True)
    task, run = start_run(ClassifyTask(data=(file,)), MODEL, training, tmp_path / "run")
    train(task, training, run)
    return throughtime.load(run.path)


def test_the_kind_is_found_in_the_data(file, tmp_path):
    task = ClassifyTask(data=(file,))
    assert (task.unit, task.columns, set(task.formats)) == ("sequence", ("values",), {"long", "npz", "idx"})
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\na,x\nb,y\n")
    text = ClassifyTask(data=(str(texts),))
    assert (text.unit, text.columns, text.formats) == ("text", ("text",), {})
    assert ClassifyTask().unit == "text" and ClassifyTask(kind="numbers").unit == "sequence"
    assert ClassifyTask(kind="text", data=(file,)).unit == "text"
    recorded = task.with_full_paths()
    assert (recorded.kind, recorded.features) == ("numbers", ("height", "noise"))
    assert text.with_full_paths().kind == "text"


def test_what_the_model_reads_is_scaled_by_the_training_part(file):
    task = ClassifyTask(data=(file,)).with_full_paths()
    assets = task.prepare()
    sizes = {part: len(numbers) for part, numbers in assets.splits.items()}
    assert sizes == {"train": 48, "validation": 6, "test": 6}
    words = task.describe(assets)
    assert words.startswith("long.csv: 48 sequences to train on, 6 for validation, 6 for test; 2 labels; ")
    assert "2 numbers at each step (height, noise)" in words and "columns that are not read: group" in words
    inputs, targets = task._encoded(assets, "train")
    whole = torch.cat(inputs)
    torch.testing.assert_close(whole.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    for sequence, target in zip(inputs, targets, strict=True):
        rising = bool(sequence[-1, 0] > sequence[0, 0])
        assert assets.labels["label"][int(target)] == ("a" if rising else "b")
    plain = ClassifyTask(data=(file,), scale="none")
    raw, _ = plain._encoded(plain.prepare(), "train")
    assert float(torch.cat(raw)[:, 1].mean()) > 50
    again = Assets.from_json(assets.to_json())
    for ours, theirs in zip(task._encoded(again, "test")[0], task._encoded(assets, "test")[0], strict=True):
        assert torch.equal(ours, theirs)


def test_one_part_is_a_value_of_a_column(file):
    groups = [row[1] for number in range(60) for row in rows_of(60) if row[0] == number and row[2] == 0]
    task = ClassifyTask(data=(file,), test_where="group=2")
    assets = task.prepare()
    assert assets.splits["test"] == [n for n in range(60) if groups[n] == 2]
    assert sum(map(len, assets.splits.values())) == 60 and len(assets.splits["validation"]) == 4
    only = ClassifyTask(data=(file,), where="group=0,1", test_where="group=1").prepare()
    assert {part: len(each) for part, each in only.splits.items()} == {
        "train": 18,
        "validation": 2,
        "test": 20,
    }
    whole = ClassifyTask(data=(file,), group="group", validation=0.3, test=0.3).prepare()
    of_part = [{groups[n] for n in whole.splits[part]} for part in ("train", "validation", "test")]
    assert sorted(of_part, key=min) == [{0}, {1}, {2}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": "group"}, "where must be COLUMN=VALUE or COLUMN=VALUE,VALUE, got 'group'"),
        ({"test_where": "=3"}, "test_where must be COLUMN=VALUE"),
        ({"where": "group=9"}, "where: no example has group = '9', the values are 0, 1, 2"),
        ({"where": "gruop=1"}, "expected a column 'gruop'.*Did you mean 'group'"),
        ({"test_where": "group=1", "test": "x.csv"}, "the test part is a file or the rows of test_where, got both"),
        ({"where": "group=0,1", "test_where": "group=2"}, "leave has group=2: the test part is empty"),
        ({"permute": 1}, "permute needs sequences of one length, got 2 to 7 steps"),
        ({"features": ("hieght",)}, "expected a column 'hieght'.*Did you mean 'height'"),
        ({"scale": "al"}, "scale must be one of each, all, none, got 'al'. Did you mean 'all'"),
        ({"kind": "number"}, "kind must be one of text, numbers, audio, got 'number'. Did you mean 'numbers'"),
        ({"class_weights": "balance"}, "Did you mean 'balanced'"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_used(file, settings, message):
    with pytest.raises(InputError, match=message) as error:
        ClassifyTask(data=(file,), **settings).prepare()
    assert "\n" not in str(error.value)


def test_columns_need_a_file():
    for name in ("where", "test_where"):
        with pytest.raises(InputError, match="name columns of a file"):
            ClassifyTask(**{name: "a=b"}).prepare()
    assert condition("a = b , c") == ("a", ("b", "c")) and condition(None) == ("", ())


def test_the_same_options_for_texts(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text,label,day\n" + "".join(f"word {n},{'xy'[n % 2]},{n % 3}\n" for n in range(30)))
    assets = ClassifyTask(data=(str(path),), test_where="day=1").prepare()
    assert assets.splits["test"] == [n for n in range(30) if n % 3 == 1]


def test_equal_sequences_stay_on_one_side(tmp_path):
    rows = rows_of(20)
    doubled = [[f"{copy}-{row[0]}", *row[1:]] for copy in range(3) for row in rows]
    task = ClassifyTask(data=(write(tmp_path / "twice.csv", doubled),), validation=0.2, test=0.2)
    assets = task.prepare()
    assert not any("also" in remark for remark in assets.values["remarks"])
    for part in ("train", "validation", "test"):
        numbers = assets.splits[part]
        assert numbers and {(n + 20) % 60 for n in numbers} == set(numbers)
    other = write(tmp_path / "other.csv", rows[:20])
    shared = ClassifyTask(data=(write(tmp_path / "once.csv", rows),), test=other, validation=0).prepare()
    assert any("test sequences are also train sequences" in remark for remark in shared.values["remarks"])


def test_class_weights_are_inverse_frequencies(tmp_path):
    rows = rows_of(30, labels="aab")
    task = ClassifyTask(
        data=(write(tmp_path / "a.csv", rows),), validation=0, test=0, class_weights="balanced"
    )
    assets = task.prepare()
    assert assets.values["class_weights"] == [30 / (2 * 20), 30 / (2 * 10)]
    model = task.build(MODEL, assets).double()
    batch = next(iter(task.batches(assets, steps=1, batch=30).epoch()))
    batch = batch._replace(inputs=batch.inputs.double())
    outputs, _ = batch.run(model)
    each = torch.nn.functional.cross_entropy(outputs, batch.targets, reduction="none")
    by_hand = sum(
        loss * (0.75 if target == 0 else 1.5) for loss, target in zip(each, batch.targets, strict=True)
    )
    torch.testing.assert_close(task.training_loss(assets)(outputs, batch), by_hand)
    torch.testing.assert_close(task.loss(outputs, batch), each.sum())  # what evaluations report
    plain = ClassifyTask().training_loss(assets)
    torch.testing.assert_close(plain(outputs, batch), each.sum())


def test_weights_change_what_is_learned(tmp_path, file):
    for weights, equal in (("none", True), ("balanced", False)):
        models = []
        for name, settings in ((f"{weights}0", {}), (f"{weights}1", {"class_weights": weights})):
            training = TrainingConfig(bptt="full", batch=8, steps=3, no_baselines=True)
            data = write(tmp_path / "a.csv", rows_of(30, labels="aab"))
            task, run = start_run(ClassifyTask(data=(data,), **settings), MODEL, training, tmp_path / name)
            train(task, training, run)
            models.append(run.load_model())
        assert all(torch.equal(models[0][key], models[1][key]) for key in models[0]) == equal


def test_a_cut_where_nothing_is_cut(file):
    """One target for each sequence, read in windows with the state carried: the full gradient."""
    task = ClassifyTask(data=(file,)).with_full_paths()
    assets = task.prepare()
    model = task.build(ModelConfig(hidden=5, cell="lstm", layers=2), assets).double()
    batch = next(iter(task.batches(assets, steps=1, batch=20).epoch()))
    inputs = batch.inputs.double()
    inputs[torch.arange(batch.steps)[:, None] >= batch.lengths] = torch.nan  # the padding may hold anything
    batch = batch._replace(inputs=inputs)
    found = []
    for strategy in (Full(), Truncated(batch.steps), Truncated(2)):
        model.zero_grad()
        strategy.backward(lambda window, state: window.run(model, state), task.loss, batch)
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert bool(found[0].isfinite().all())
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=0)
    assert not torch.allclose(found[0], found[2])


def test_it_learns_and_predicts(trained, file, tmp_path):
    assert trained.evaluate("test").values["accuracy"] == 1.0
    rising = [[n, 100] for n in range(5)]
    assert trained.predict({"values": rising})["label"] == "a"
    assert [
        found["label"] for found in trained.predict([{"values": [[-n, 100] for n in range(5)]}, str(rising)])
    ] == [
        "b",
        "a",
    ]
    for bad in ([[1, 2, 3]], "text", [], [[1, float("nan")]]):
        with pytest.raises(InputError, match="each a list of 2 finite numbers"):
            trained.predict({"values": bad})
    moved = write(
        tmp_path / "moved.csv",
        [[row[4], row[0], row[3], row[5]] for row in rows_of(12, 2)],
        ("noise", "sequence", "height", "label"),
    )  # other columns in another order
    assert trained.evaluate(files=[moved]).values["accuracy"] == 1.0
    with pytest.raises(InputError, match="expected a column 'noise'"):
        trained.evaluate(files=[write(tmp_path / "less.csv", [[1, 2, "a"]], ("sequence", "height", "label"))])
    with pytest.raises(InputError, match="the model has no label 'c'"):
        trained.evaluate(files=[write(tmp_path / "more.csv", rows_of(4, labels="abc"))])


def test_predict_answers_with_a_row_for_each_sequence(trained, file, tmp_path, capsys):
    assert main(["predict", str(trained.path), file]) == 0
    head, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["sequence", "label", "predicted_label", "probability"]
    assert len(rows) == 60 and all(row[1] == row[2] for row in rows)
    unlabelled = str(tmp_path / "new.tsv")
    with open(unlabelled, "w") as out:
        out.write("sequence\theight\tnoise\nx\t0\t100\nx\t2\t100\ny\t0\t100\ny\t-2\t100\n")
    assert main(["predict", str(trained.path), unlabelled]) == 0
    assert [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["sequence", "label"], ["x", "a"], ["y", "b"]]  # fmt: skip
    np.savez(tmp_path / "new.npz", x=np.array([[[0, 90.0], [2, 90]], [[0, 90], [-2, 90]]]))
    assert (
        main(["predict", str(trained.path), str(tmp_path / "new.npz"), "--out", str(tmp_path / "out.csv")])
        == 0
    )
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines] == [["sequence", "label"], ["0", "a"], ["1", "b"]]
    bad = write(
        tmp_path / "bad.csv", [[1, 2, 3], [1, "x", 3], [2, 1, 1], [3, 5, 5]], ("sequence", "height", "noise")
    )
    capsys.readouterr()
    assert main(["predict", str(trained.path), bad]) == 2
    assert capsys.readouterr().err.startswith(
        "throughtime: " + bad + ":3: expected 'height' to be a finite number"
    )
    assert main(["predict", str(trained.path), bad, "--skip-bad"]) == 0
    out, err = capsys.readouterr()
    assert [line[0] for line in out.splitlines()[1:]] == ["3"] and "1 bad rows" in err


def test_a_typed_line_is_predicted(trained, monkeypatch, capsys):
    class Input:
        buffer = io.BytesIO(b"[[0, 100], [1, 100], [2, 100]]\n")

    monkeypatch.setattr("sys.stdin", Input())
    assert main(["predict", str(trained.path)]) == 0
    assert capsys.readouterr().out.rstrip("\n").split("\t")[1] == "a"
    Input.buffer = io.BytesIO(b"sequence,height,noise\n7,0,100\n7,1,100\n")
    assert main(["predict", str(trained.path), "-", "--format", "long"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("7,a,")


def test_a_stopped_training_goes_on_to_the_same_bits(file, tmp_path):
    whole = TrainingConfig(bptt="full", batch=8, steps=8, checkpoint_steps=2, no_baselines=True)
    task, first = start_run(ClassifyTask(data=(file,)), MODEL, whole, tmp_path / "whole")
    train(task, whole, first)

    class Stop(Exception):
        pass

    class Stopping(type(task)):
        name = "classify"

        def evaluation_batches(self, *arguments, **settings):
            raise Stop

    task, second = start_run(ClassifyTask(data=(file,)), MODEL, whole, tmp_path / "stopped")
    with pytest.raises(Stop):
        train(Stopping(**vars(task)), whole, second)
    again = Run.open(second.path)
    train(task, whole, again, resume=True)
    ours, theirs = first.load_model(), again.load_model()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def write_idx(path, array):
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture
def images(tmp_path):
    """Images of 4 x 3 pixels, the upper half or the lower half of which is bright."""
    draws = np.random.default_rng(2)
    labels = np.arange(40) % 2
    pixels = draws.integers(0, 90, (40, 4, 3))
    pixels[labels == 0, :2] += 150
    pixels[labels == 1, 2:] += 150
    write_idx(tmp_path / "a-images-idx3-ubyte.gz", pixels)
    write_idx(tmp_path / "a-labels-idx1-ubyte.gz", labels)
    return str(tmp_path / "a-images-idx3-ubyte.gz"), pixels


def test_images_by_row_by_pixel_and_permuted(images):
    path, pixels = images
    rows = ClassifyTask(data=(path,), scale="none")
    assets = rows.prepare()
    inputs, _ = rows._encoded(assets, "train")
    torch.testing.assert_close(
        inputs[0], torch.tensor(pixels[assets.splits["train"][0]] / 255, dtype=torch.float32)
    )
    assert rows.build(MODEL, assets).embedding.embedding_dim == 3
    by_pixel = ClassifyTask(data=(path,), scale="none", steps_of="pixels")
    flat, _ = by_pixel._encoded(by_pixel.prepare(), "train")
    assert torch.equal(flat[0], inputs[0].reshape(12, 1))
    assert by_pixel.build(MODEL, by_pixel.prepare()).embedding.embedding_dim == 1
    permuted = ClassifyTask(data=(path,), scale="none", steps_of="pixels", permute=3)
    mixed, _ = permuted._encoded(permuted.prepare(), "train")
    assert not torch.equal(mixed[0], flat[0])
    for one, other in zip(flat, mixed, strict=True):
        assert torch.equal(one.sort(0).values, other.sort(0).values)
    place = torch.stack(flat)[..., 0].T  # [12, N]: the same permutation for all
    found = torch.stack(mixed)[..., 0].T
    order = [int((place == row).all(1).nonzero()[0, 0]) for row in found]
    assert sorted(order) == list(range(12)) and order != sorted(order)
    other, _ = (again := ClassifyTask(data=(path,), scale="none", permute=4))._encoded(
        again.prepare(), "train"
    )
    assert other[0].shape == (4, 3) and not torch.equal(other[0].reshape(12), mixed[0].reshape(12))
    # One mean and deviation for all pixels, whatever the row.
    scaled = ClassifyTask(data=(path,)).prepare().values["numbers"]["scale"]
    assert len(scaled["mean"]) == len(scaled["deviation"]) == 1


def test_baselines_of_numbers(images, file):
    pytest.importorskip(
        "sklearn", reason="scikit-learn is not installed: pip install 'throughtime[baselines]'"
    )
    path, _ = images
    task = ClassifyTask(data=(path,), test=0.2)
    found = task.baseline(task.prepare(), "test")
    assert list(found) == [
        "majority class", "summary of each feature, logistic regression", "all numbers at once, RBF SVM"]  # fmt: skip
    assert found["majority class"]["accuracy"] == 0.5
    assert all(found[name]["accuracy"] == 1.0 for name in list(found)[1:])
    ragged = ClassifyTask(data=(file,))
    found = ragged.baseline(ragged.prepare(), "test")
    assert list(found) == ["majority class", "summary of each feature, logistic regression"]
    assert found["summary of each feature, logistic regression"]["accuracy"] == 1.0


def test_without_scikit_learn_one_line_says_what_to_install(file, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn", None)
    task = ClassifyTask(data=(file,))
    found = task.baseline(task.prepare(), "test")
    assert "pip install 'throughtime[baselines]'" in found["summary of each feature, logistic regression"]


def test_damaged_assets(file):
    task = ClassifyTask(data=(file,)).with_full_paths()
    assets = task.prepare()
    assets.values = {}
    with pytest.raises(RunError, match=r"assets\.json is damaged"):
        task.build(MODEL, assets)


def test_what_ships_inside_trains(tmp_path):
    training = TrainingConfig(bptt="full", batch=16, steps=2, no_baselines=True)
    task, run = start_run(ClassifyTask(kind="numbers", limit=60), MODEL, training, tmp_path / "run")
    result = train(task, training, run)
    assert set(result.results["test"]["this model"]) == {"accuracy", "macro_f1", "loss"}
    assert len(throughtime.load(run.path).assets.labels["label"]) == 6
    trained = throughtime.load(run.path)
    assert trained.predict({"values": [[0, 1], [1, 0]]})["label"] in trained.assets.labels["label"]


@pytest.mark.skipif("THROUGHTIME_DATA" not in os.environ, reason="THROUGHTIME_DATA is not set")
def test_the_protocols_of_indoor_movement():
    data = (str(find_dataset("indoor_movement/indoor_movement.csv")),)
    across = ClassifyTask(data=data, test_where="group=3").with_full_paths()
    sizes = {part: len(numbers) for part, numbers in across.prepare().splits.items()}
    assert sizes == {"train": 189, "validation": 21, "test": 104}
    within = ClassifyTask(data=data, where="group=1,2", test=0.25).with_full_paths().prepare()
    assert sum(map(len, within.splits.values())) == 210
