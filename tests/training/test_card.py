"""The end of a training: the table of the model and its baselines, and the model card."""

from __future__ import annotations

import hashlib
import re
import sys

import pytest

import throughtime
from throughtime import bptt
from throughtime.tasks.baselines.texts import majority
from throughtime.tasks.recorded import restore_model
from throughtime.training.card import MODEL, results_table
from throughtime.training.evaluation import evaluate
from throughtime.training.loop import train

PARTS = ("train", "validation", "test")


def card_of(run):
    return (run.path / "README.md").read_text(encoding="utf-8")


def rows_of(card):
    """The cells of the table of results."""
    table = card.split("## Results\n\n")[1].split("\n\n")[0]
    return [
        [cell.strip() for cell in line[1:-1].split("|")]
        for line in table.splitlines()
        if line.startswith("| ")
    ]


def test_a_classifier_beside_its_baselines(make_classify, table):
    task, config, run = make_classify(steps=30, test=0.2, no_baselines=False)
    result = train(task, config, run)
    texts = [line.rsplit(",", 1) for line in table.read_text().splitlines()[1:]]
    labels = {part: [texts[number][1] for number in run.assets.splits[part]] for part in PARTS}
    for split in ("validation", "test"):
        entries = result.results[split]
        assert list(entries) == [MODEL, "majority class", "TF-IDF, linear SVM", "details"]
        assert entries["majority class"] == majority(labels["train"], labels[split])
        batches = task.evaluation_batches(run.assets, split, steps=64, batch=5)
        found = evaluate(restore_model(run, task), batches, task.loss, task.metrics(run.assets))
        assert entries[MODEL] == pytest.approx(found.values, rel=1e-5)  # float32, in other batches
        assert entries["details"]
    head, rows, notes = results_table(result.results)
    assert head == ["split", "model", "accuracy", "macro_f1", "loss"] and notes == []
    assert [row[:2] for row in rows] == [
        [split, name]
        for split in ("validation", "test")
        for name in (MODEL, "majority class", "TF-IDF, linear SVM")
    ]
    assert rows[1][-1] == ""  # a baseline that has no loss
    assert rows_of(card_of(run))[0] == head
    assert rows_of(card_of(run))[2:] == rows


def test_what_a_card_says(make_classify, table):
    task, config, run = make_classify(steps=5, test=0.2, no_baselines=False)
    run.config["command"] = "throughtime train classify --data table.csv"
    train(task, config, run)
    card = card_of(run)
    data = table.read_bytes()
    assert str(table.parent) not in card  # a card is published: no folders of this machine
    assert f"`{table.name}`, {len(data):,} bytes, SHA-256 `{hashlib.sha256(data).hexdigest()}`" in card
    sizes = {part: len(run.assets.splits[part]) for part in PARTS}
    assert sum(sizes.values()) == 90
    assert f"Split: {sizes['train']} train, {sizes['validation']} validation, {sizes['test']} test" in card
    parameters = sum(value.numel() for value in run.load_model().values())
    assert f"| parameters | {parameters:,} |" in card
    for part in (
        "# run\n",
        "| cell | gru, 13 units |",
        f"| gradient through time | {bptt.Full().describe()} |",
        "| optimizer | adamw at 0.003, cosine, clip norm:1, batch 7 |",
        "| seed | 0 |",
        "| device | cpu, 1 threads |",
        f"throughtime {throughtime.__version__}",
        "## Command\n\n```\nthroughtime train classify --data table.csv\n```",
        "throughtime.load('run')",
        "macro_f1: mean F1 over the classes",  # how it is computed
    ):
        assert part in card, part
    assert re.search(
        r"\| time of a ragged batch \| [\d.]+ ms with lengths, [\d.]+ ms padded to \d+ steps", card
    )
    assert re.search(r"\| training \| 5 steps, 0\.\d\d epochs in [\d.]+ s: [\d.]+ steps/s \|", card)


def test_a_loss_may_read_the_lengths(make_classify, monkeypatch):
    task, config, run = make_classify(steps=2, batch=7)
    plain = type(task).loss
    monkeypatch.setattr(
        type(task), "loss", lambda self, outputs, batch: plain(self, outputs, batch) + 0 * batch.lengths.sum()
    )
    train(task, config, run)
    assert "time of a ragged batch" in card_of(run)


def test_a_language_model_beside_its_baselines(make):
    task, config, run = make(test=0.1, no_baselines=False)
    result = train(task, config, run)
    for split in ("validation", "test"):
        assert list(result.results[split]) == [MODEL, "symbol frequencies", "6-gram, Kneser-Ney"]
        assert result.results[split] == {MODEL: result.results[split][MODEL]} | task.baseline(
            run.assets, split
        )
    assert result.results["validation"][MODEL] == result.best.values
    assert "## Command" not in card_of(run)  # started from Python
    assert "Split: as the options below say." in card_of(run)


def test_generated_sequences_beside_their_levels(make_adding):
    task, config, run = make_adding(no_baselines=False)
    result = train(task, config, run)
    assert list(result.results["test"]) == [MODEL, "always predicting 1", "adding"]
    assert result.results["test"]["adding"] == {"loss": 0.0}
    assert "drawn from a seed" in card_of(run)
    assert task.conclude(result.best.values) in card_of(run)


@pytest.mark.parametrize("name", ["text", "classify", "adding"])
def test_without_baselines(name, make_any, monkeypatch):
    task, config, run = make_any[name](no_baselines=True, steps=3)

    def never(self, assets, split):
        raise AssertionError("a baseline was computed")

    monkeypatch.setattr(type(task), "baseline", never)
    result = train(task, config, run)
    for entries in result.results.values():
        assert set(entries) <= {MODEL, "details"}
    assert {row[1] for row in rows_of(card_of(run))[2:]} == {MODEL}


def test_a_baseline_that_cannot_be_computed_is_a_note(make_classify, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    task, config, run = make_classify(steps=2, no_baselines=False)
    result = train(task, config, run)
    words = result.results["validation"]["TF-IDF, linear SVM"]
    assert "pip install 'throughtime[baselines]'" in words
    assert card_of(run).count(words) == 1  # once, though both splits lack it
    assert "TF-IDF, linear SVM" not in {row[1] for row in rows_of(card_of(run))}


def test_the_test_part_is_evaluated_once_at_the_end(make_classify, monkeypatch):
    task, config, run = make_classify(steps=12, evaluate_every=3)
    kind, splits = type(task), []
    original = kind.evaluation_batches

    def noted(self, assets, split, **options):
        splits.append(split)
        return original(self, assets, split, **options)

    monkeypatch.setattr(kind, "evaluation_batches", noted)
    result = train(task, config, run)
    assert splits == ["validation"] * 4 + ["test"]
    # Of the kept weights: the best.
    batches = original(task, run.assets, "test", steps=64, batch=config.batch)
    found = evaluate(restore_model(run, task), batches, task.loss, task.metrics(run.assets))
    assert result.results["test"][MODEL] == pytest.approx(found.values, rel=1e-12)


def test_without_held_out_data_there_is_no_table(make):
    task, config, run = make(validation=0)
    assert train(task, config, run).results == {}
    assert results_table({}) == (["split", "model"], [], [])
    assert rows_of(card_of(run)) == []
