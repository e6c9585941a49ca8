"""Pretrained word vectors in classification and intents: which words get them, and that a run needs the file no more."""

from __future__ import annotations

import pytest
import torch

import throughtime
from throughtime.data import Assets
from throughtime.errors import InputError
from throughtime.models.config import ModelConfig
from throughtime.tasks import ClassifyTask
from throughtime.tasks.intent import IntentTask
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

MODEL = ModelConfig(hidden=6, cell="gru", embedding=5, pooling="max")
GOOD, BAD = ("good", "fine", "great", "lovely", "superb"), ("bad", "poor", "awful", "nasty", "grim")


@pytest.fixture
def files(tmp_path):
    """Texts with the words of each mood but the last, which the vectors alone know."""
    rows = [
        (f"a {words[number % 4]} book, number {number}", label)
        for number in range(20)
        for label, words in (("good", GOOD), ("bad", BAD))
    ]
    data, vectors = tmp_path / "texts.csv", tmp_path / "vectors.txt"
    data.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
    lines = [f"{word} 3 0.5" for word in GOOD] + [f"{word} -3 0.5" for word in BAD]
    vectors.write_text("\n".join([*lines, "book 0 1", "film 0 2"]) + "\n")
    return str(data), str(vectors)


def kinds(files, **options):
    data, vectors = files
    shared = {"data": (data,), "vectors": vectors, "test": 0.2, "validation": 0.2, **options}
    return [
        ClassifyTask(tokens="word", **shared),
        IntentTask(**shared),
        IntentTask(subwords=0, **shared),
    ]


@pytest.mark.parametrize("kind", range(3))
def test_words_have_their_vectors_and_words_of_the_file_alone_are_read_too(files, kind):
    task = kinds(files)[kind].with_full_paths()
    assets = task.prepare()
    torch.manual_seed(0)
    embedding = task.build(MODEL, assets).embedding.eval()
    ids = task._inputs.encode(assets, "a good odd thing")[:, None]
    found = embedding(ids)[:, 0]
    assert found.shape == (4, 7)
    assert found[[0, 1, 3], 5:].tolist() == [[0, 0], [3, 0.5], [0, 0]]
    superb = task._inputs.encode(assets, "a superb")[:, None]  # in no text
    assert embedding(superb)[1, 0, 5:].tolist() == [3, 0.5]
    assert list(assets.vocabulary.unknown_symbols(" superb")) == []
    if kind != 1:  # without n-grams the learned vector is that of the unknown word
        unknown = task._inputs.encode(assets, "a qqqq")[:, None]
        assert torch.equal(embedding(superb)[1, 0, :5], embedding(unknown)[1, 0, :5])
    assert "vectors for " in task.describe(assets)
    again = Assets.from_json(assets.to_json())
    assert again.values["word_vectors"] == assets.values["word_vectors"]
    assert torch.equal(
        task._inputs.encode(again, "a good lovely"), task._inputs.encode(assets, "a good lovely")
    )


def test_a_run_reads_words_that_training_had_not_and_needs_the_file_no_more(files, tmp_path):
    training = TrainingConfig(
        bptt="full", batch=8, steps=40, lr=0.03, warmup=0.0, no_baselines=True, checkpoint_steps=10
    )
    weights = []
    for name in ("first", "second"):
        task, run = start_run(kinds(files)[0], MODEL, training, tmp_path / name)
        train(task, training, run)
        weights.append(run.load_model())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    (tmp_path / "vectors.txt").unlink()
    trained = throughtime.load(tmp_path / "first")
    found = [trained.predict(f"a {word} book")["label"] for word in ("superb", "lovely", "grim", "nasty")]
    assert found == ["good", "good", "bad", "bad"]
    table = trained.model.embedding.pretrained.vectors
    assert not table.requires_grad and sorted(table[1:, 0].unique().tolist()) == [-3, 0, 3]


def test_what_cannot_be_used_is_said(files):
    data, vectors = files
    with pytest.raises(InputError, match="vectors are of words, and tokens = char"):
        ClassifyTask(data=(data,), vectors=vectors)
    with pytest.raises(InputError, match="the data has sequences"):
        ClassifyTask(kind="numbers", tokens="word", vectors=vectors).with_full_paths()
    with pytest.raises(InputError, match=r"no such file|No such file|cannot read"):
        ClassifyTask(data=(data,), tokens="word", vectors=vectors + "x").prepare()
