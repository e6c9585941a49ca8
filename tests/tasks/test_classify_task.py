"""Text classification: what is read, how padding and cuts leave the result alone, and what a run restores."""

from __future__ import annotations

import math
import random

import pytest
import torch

import throughtime
from throughtime.bptt import Checkpointed, Full, Randomized, Truncated
from throughtime.data import IGNORE, Batch
from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks import ClassifyTask
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

MODEL = ModelConfig(hidden=5, embedding=3, cell="gru")


@pytest.fixture
def file(tmp_path):
    """60 texts of 1 to 9 letters, the label is the first of them."""
    draws = random.Random(3)
    rows = [
        f"{first}{''.join(draws.choices(['x', 'y', first], k=draws.randint(0, 8)))}{number},{first}"
        for number, first in enumerate("abc" * 20)
    ]
    path = tmp_path / "table.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def prepared(file, **settings):
    task = ClassifyTask(data=(str(file),), **settings)
    return task, task.prepare()


def gradients(model):
    found = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    return found


def ragged(task, assets, size=20):
    """A batch of the training part with rows of very different lengths."""
    batch = next(iter(task.batches(assets, steps=64, batch=size).epoch()))
    assert batch.per_sequence and int(batch.lengths.min()) < int(batch.lengths.max()) == batch.steps
    return batch


def test_targets_are_the_labels_of_the_texts(file):
    task, assets = prepared(file)
    assert assets.labels == {"label": ("a", "b", "c")}
    batch = ragged(task, assets)
    for b in range(batch.size):
        text = assets.vocabulary.decode(batch.inputs[: batch.lengths[b], b])
        assert assets.labels["label"][batch.targets[b]] == text[0]
    sizes = {part: len(numbers) for part, numbers in assets.splits.items()}
    assert sizes == {"train": 48, "validation": 6, "test": 6}


def test_cut_where_nothing_is_cut_it_is_the_full_gradient(file):
    """One target for each sequence, pooled from its last step: Truncated with a window of T steps or more equals Full."""
    task, assets = prepared(file)
    model = task.build(ModelConfig(hidden=5, embedding=3, cell="lstm", layers=2), assets).double()
    batch = ragged(task, assets)
    run = lambda window, state: window.run(model, state)  # noqa: E731
    whole = Full().backward(run, task.loss, batch)
    expected = gradients(model)
    assert any(bool(each.abs().max() > 0) for each in expected)
    for strategy in (Truncated(batch.steps), Truncated(batch.steps + 5), Checkpointed(3)):
        result = strategy.backward(run, task.loss, batch)
        assert result.loss.item() == pytest.approx(whole.loss.item(), rel=1e-12)
        for mine, theirs in zip(gradients(model), expected, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)
    cut = Truncated(2).backward(run, task.loss, batch)
    assert cut.loss.item() == pytest.approx(
        whole.loss.item(), rel=1e-12
    )  # the loss is the same, its gradient is not
    assert cut.windows > 1
    assert not all(torch.allclose(a, b) for a, b in zip(gradients(model), expected, strict=True))


def test_randomized_cuts_are_unbiased(file):
    """The mean of many draws comes near the full gradient, for sequences with one target too."""
    task, assets = prepared(file)
    model = task.build(MODEL, assets).double()
    batch = ragged(task, assets).rows(slice(0, 20, 4))
    run = lambda window, state: window.run(model, state)  # noqa: E731
    Full().backward(run, task.loss, batch)
    expected = torch.cat([each.flatten() for each in gradients(model)])
    generator, draws = torch.Generator().manual_seed(1), []
    for _ in range(150):
        Randomized(4).backward(run, task.loss, batch, generator=generator)
        draws.append(torch.cat([each.flatten() for each in gradients(model)]))
    samples = torch.stack(draws)
    error = samples.std(0) / math.sqrt(len(draws))
    assert float(((samples.mean(0) - expected).abs() / (error + 1e-12))[error > 1e-9].max()) < 5
    assert bool((error > 1e-9).any())


@pytest.mark.parametrize("pooling", ["mean", "max", "attention"])
@pytest.mark.parametrize("bptt", ["truncated:4", "randomized:4", "random_window:2-4", "checkpointed:3"])
def test_other_poolings_refuse_a_strategy_that_cuts(file, tmp_path, pooling, bptt):
    training = TrainingConfig(bptt=bptt, steps=1)
    with pytest.raises(
        InputError, match=f"{pooling} pooling reads a whole sequence at once, and .* cuts it: train with"
    ) as error:
        start_run(
            ClassifyTask(data=(str(file),)),
            ModelConfig(hidden=5, pooling=pooling),
            training,
            tmp_path / "run",
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="bidirectional"):
        start_run(
            ClassifyTask(data=(str(file),)),
            ModelConfig(hidden=5, bidirectional=True),
            training,
            tmp_path / "run",
        )


@pytest.mark.parametrize(
    ("pooling", "bptt"),
    [("last", "checkpointed:3"), *((pooling, "full") for pooling in ("last", "mean", "max", "attention"))],
)
def test_every_pooling_trains(file, tmp_path, pooling, bptt):
    training = TrainingConfig(bptt=bptt, steps=40, batch=8, lr=0.03, warmup=0.0, no_baselines=True)
    task, run = start_run(
        ClassifyTask(data=(str(file),)),
        ModelConfig(hidden=9, embedding=5, pooling=pooling),
        training,
        tmp_path / "run",
    )
    result = train(task, training, run)
    losses = [record["loss"] for record in run.history() if record["kind"] == "training"]
    assert losses[-1] < 0.7 * losses[0]
    assert set(result.results["test"]["this model"]) == {"accuracy", "macro_f1", "loss"}


@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_as_many_sequences_as_steps(file, pooling):
    """T == B, where targets [B] look like targets [T]: each row alone gives the same loss."""
    task, assets = prepared(file)
    model = task.build(ModelConfig(hidden=5, embedding=3, pooling=pooling), assets).double()
    ids = torch.randint(1, len(assets.vocabulary), (4, 4))
    lengths, targets = torch.tensor([4, 3, 1, 2]), torch.tensor([0, 1, 2, 1])
    batch = Batch.of(ids, targets, lengths, per_sequence=True)
    loss = task.loss(batch.run(model)[0], batch)
    alone = [batch.rows(slice(b, b + 1)) for b in range(4)]
    rows = [Batch.of(ids[: lengths[b], b : b + 1], targets[b : b + 1], per_sequence=True) for b in range(4)]
    for each in (alone, rows):
        assert loss.item() == pytest.approx(
            sum(task.loss(row.run(model)[0], row).item() for row in each), rel=1e-12
        )
    metrics = task.metrics(assets)
    for metric in metrics:
        metric.update(batch.run(model)[0], batch, loss)
    predicted = batch.run(model)[0].argmax(-1)
    assert metrics[0].value() == float((predicted == targets).double().mean())


def test_the_loss_of_float64_outputs_is_float64():
    task, logits = ClassifyTask(), torch.randn(4, 3, dtype=torch.float64)
    batch = Batch.of(torch.zeros(4, 4), torch.tensor([0, 1, IGNORE, 2]), per_sequence=True)
    loss = task.loss(logits, batch)
    assert loss.dtype == torch.float64 and batch.num_targets == 3
    by_hand = -sum(logits[b].log_softmax(-1)[c].item() for b, c in ((0, 0), (1, 1), (3, 2)))
    assert loss.item() == pytest.approx(by_hand, rel=1e-13)


def test_texts_without_symbols(file, tmp_path):
    """An empty text is refused in a table, and predicted from no steps: the head's bias alone."""
    task, assets = prepared(file)
    model = task.build(MODEL, assets).double()
    empty, one = task.predict(model, assets, [{"text": ""}, {"text": "a"}])
    chances = model.head.bias.softmax(-1)
    assert empty == {
        "label": assets.labels["label"][int(chances.argmax())],
        "probability": round(chances.max().item(), 6),
    }
    assert one["label"] in "abc" and 0 < one["probability"] <= 1
    bad = tmp_path / "bad.csv"
    bad.write_text("text,label\nabc,a\n,b\nbcd,b\n")
    with pytest.raises(
        InputError, match=r"bad\.csv:3: expected 'text' to hold text, got an empty field"
    ) as error:
        prepared(bad, validation=0, test=0)
    assert "\n" not in str(error.value)
    task, assets = prepared(bad, validation=0, test=0, skip_bad=True)
    assert len(assets.splits["train"]) == 2


def test_predictions_are_those_of_a_batch_and_end_at_the_length(file):
    task, assets = prepared(file, length=3)
    model = task.build(MODEL, assets).double()
    (found,) = task.predict(model, assets, [{"text": "abcxyz"}])
    assert list(task.predict(model, assets, [{"text": "abc"}])) == [found]
    ids = assets.vocabulary.encode("abc")[:, None]
    chances = model(ids)[0][0].softmax(-1)
    assert found == {"label": "abc"[int(chances.argmax())], "probability": round(chances.max().item(), 6)}
    assert all(int(batch.lengths.max()) <= 3 for batch in task.batches(assets, steps=64, batch=5).epoch())


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ("abc,a\nabd,a\n", {"validation": 0, "test": 0}, "expected at least two labels to tell apart, got 1: a"),
        ("abc,a\nabd,b\n", {"validation": "other.csv", "test": 0}, r"the validation part has labels .* \('z'\): give training"),
        ("abc,a\nabd,b\n", {"label": "class"}, "class"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used(tmp_path, rows, settings, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + rows)
    (tmp_path / "other.csv").write_text("text,label\nx,z\n")
    with pytest.raises(InputError, match=message) as error:
        prepared(path, **settings)
    assert "\n" not in str(error.value)


def test_other_data_with_an_unknown_label(file, tmp_path):
    training = TrainingConfig(steps=1, batch=4, bptt="full", no_baselines=True)
    task, run = start_run(ClassifyTask(data=(str(file),)), MODEL, training, tmp_path / "run")
    train(task, training, run)
    trained = throughtime.load(run.path)
    other = tmp_path / "other.csv"
    other.write_text("text,label\nabc,a\nbcd,b\n")
    assert trained.evaluate(files=(str(other),)).count == 2
    other.write_text("text,label\nabc,a\nxyz,d\n")
    with pytest.raises(InputError, match="the model has no label 'd': it gives a, b, c") as error:
        throughtime.load(run.path).evaluate(files=(str(other),))
    assert "\n" not in str(error.value)
    file.write_text(file.read_text() + "bxx,b\n")
    with pytest.raises(InputError, match=r"table\.csv has changed since the run was made") as error:
        throughtime.load(run.path).evaluate("test")
    assert "\n" not in str(error.value)


def test_a_call_that_a_trained_run_cannot_answer_is_refused_on_one_line(file, tmp_path):
    training = TrainingConfig(steps=1, batch=4, bptt="full", no_baselines=True)
    task, run = start_run(ClassifyTask(data=(str(file),)), MODEL, training, tmp_path / "run")
    train(task, training, run)
    trained = throughtime.load(run.path)
    for data in (b"abc", {"text": None}, {"text": 1}, {"text": ["abc"]}):
        with pytest.raises(InputError, match="text") as error:
            trained.predict(data)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="'text' must be a text, got 5"):
        list(trained.predict(["abc", 5]))
    for asked, message in (
        ({"split": "train"}, "split must be one of validation, test, got 'train'"),
        ({"split": 1}, "split must be one of"),
        ({"split": ""}, "split must be one of"),
        ({"batch": 0}, "batch must be a whole number of at least 1, got 0"),
        ({"batch": 1.5}, "batch must be"),
        ({"window": -1}, "window must be"),
        ({"files": str(file)}, "files must be a list of files"),
    ):
        with pytest.raises(InputError, match=message):
            trained.evaluate(**asked)


def test_assets_that_do_not_fit_the_data_are_refused_on_one_line(file):
    task, assets = prepared(file)
    assets.splits["validation"].append(60)
    with pytest.raises(RunError, match=r"the split in assets\.json is damaged: it has example 60 of 60"):
        task.evaluation_batches(assets, "validation", steps=64, batch=4)
    for labels in ({}, {"label": ()}, {"other": ("a",)}):
        assets.labels = labels
        with pytest.raises(RunError, match=r"assets\.json is damaged: it has no labels"):
            task.build(MODEL, assets)
