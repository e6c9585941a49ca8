"""Tagging from end to end: targets, padding, cuts, runs that are resumed, predictions that stream."""

from __future__ import annotations

import io
import json
import math
import random

import pytest
import torch

import throughtime
from throughtime.bptt import Full, Truncated
from throughtime.cli import main
from throughtime.data import IGNORE
from throughtime.data.readers.spans import spans_of
from throughtime.data.readers.tagged import Sentence
from throughtime.errors import InputError, RunError
from throughtime.flow import influence, measure, snapshot
from throughtime.models.config import ModelConfig
from throughtime.tasks import TagTask
from throughtime.tasks.baselines.tag import (
    features_of,
    most_frequent_by_word,
    most_frequent_tag,
    span_scores,
    tag_scores,
    tagging_baselines,
)
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

FORWARD = ModelConfig(cell="gru", hidden=13, embedding=7)
BOTH = ModelConfig(cell="gru", hidden=7, embedding=5, bidirectional=True)
SMALL = {"character_size": 4, "character_features": 6}
NAMES, PLACES = ("Anna", "Bob", "Eve"), ("Rome", "Oslo", "New York")


def sentences(count, seed=3):
    """A name, some words, a place: what follows "in" is a place, whatever it is called."""
    draws = random.Random(seed)
    for number in range(count):
        words = [
            (draws.choice(NAMES), "B-per"),
            *((f"w{draws.randrange(9)}", "O") for _ in range(draws.randint(0, 5))),
        ]
        first, *rest = draws.choice(PLACES).split()
        place = [("in", "O"), (first, "B-loc"), *((word, "I-loc") for word in rest)]
        yield [*words, *(place if number % 3 else []), (f"n{number}", "O"), (".", "O")]


def conll(rows):
    return "\n".join("".join(f"{word}\t{tag}\n" for word, tag in row) for row in rows)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.conll"
    path.write_text(conll(sentences(60)))
    return path


@pytest.fixture
def words_file(tmp_path):
    """Tags that are no spans: parts of speech, as it were."""
    kinds = {"per": "NAME", "loc": "PLACE"}
    rows = [[(word, kinds.get(tag[2:], "WORD")) for word, tag in row] for row in sentences(60)]
    path = tmp_path / "words.conll"
    path.write_text(conll(rows))
    return path


def trained_run(path, file, model=BOTH, steps=60, training=None, **options):
    config = TrainingConfig(
        bptt="full", steps=steps, batch=8, lr=0.02, warmup=0.0, no_baselines=True, checkpoint_steps=5, **(training or {}),
    )  # fmt: skip
    task, run = start_run(TagTask(data=(str(file),), **{**SMALL, **options}), model, config, path)
    return task, config, run, train(task, config, run)


def test_targets_are_the_spans_in_the_scheme_of_the_model(file):
    for scheme, letters in (("bio", "BI"), ("bioes", "BIES")):
        task = TagTask(data=(str(file),), scheme=scheme)
        assets = task.prepare()
        tags = assets.labels["tag"]
        assert tags == ("O", *(f"{letter}-{kind}" for kind in ("loc", "per") for letter in letters))
        spans = {
            " ".join(word for word, _ in row): spans_of([tag for _, tag in row]) for row in sentences(60)
        }
        (batch,) = task.evaluation_batches(assets, "test", steps=64, batch=20)
        assert batch.size == len(assets.splits["test"]) > 3
        for b, length in enumerate(batch.lengths.tolist()):
            words = task.step_names(assets, batch.inputs[:length, b])
            found = spans_of([tags[label] for label in batch.targets[:length, b].tolist()])
            assert found == spans[" ".join(words)]


@pytest.mark.parametrize("crf", [True, False])
@pytest.mark.parametrize("characters", ["lstm", "cnn", "none"])
def test_rows_of_a_batch_are_what_they_are_alone(file, crf, characters):
    task = TagTask(data=(str(file),), crf=crf, characters=characters, **SMALL)
    assets = task.prepare()
    model = task.build(BOTH, assets).double().eval()
    batch = next(task.evaluation_batches(assets, "validation", steps=64, batch=9))
    assert int(batch.lengths.min()) < batch.steps
    outputs = batch.run(model)[0]
    loss = task.loss(outputs, batch)
    alone = [batch.rows(slice(b, b + 1)) for b in range(batch.size)]
    alone = [each.window(0, int(each.lengths[0])) for each in alone]
    assert loss.item() == pytest.approx(
        sum(task.loss(each.run(model)[0], each).item() for each in alone), rel=1e-12
    )
    assert loss.item() / batch.num_targets > 0.1


def test_without_a_crf_the_state_crosses_a_cut(words_file):
    task = TagTask(data=(str(words_file),), **SMALL)
    assets = task.prepare()
    model = task.build(FORWARD, assets).double()
    for module in model.modules():
        module.training = False
    batch = next(iter(task.batches(assets, steps=64, batch=20).epoch()))
    run = lambda window, state: window.run(model, state)  # noqa: E731
    whole = Full().backward(run, task.loss, batch)
    full = [p.grad.clone() for p in model.parameters()]
    for steps in (3, batch.steps):
        model.zero_grad()
        cut = Truncated(steps).backward(run, task.loss, batch)
        assert cut.loss.item() == pytest.approx(whole.loss.item(), rel=1e-12)
        same = all(
            torch.allclose(p.grad, g, atol=1e-12) for p, g in zip(model.parameters(), full, strict=True)
        )
        assert same == (steps == batch.steps)


@pytest.mark.parametrize("bptt", ["truncated:4", "randomized:4", "checkpointed:3"])
def test_a_crf_refuses_a_strategy_that_cuts(file, tmp_path, bptt):
    with pytest.raises(
        InputError, match=r"a CRF reads a whole sequence at once, and .* train with bptt = full"
    ) as error:
        start_run(TagTask(data=(str(file),)), FORWARD, TrainingConfig(bptt=bptt, steps=1), tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("bptt", ["truncated:4", "randomized:4", "checkpointed:3"])
def test_without_a_crf_every_strategy_trains(words_file, tmp_path, bptt):
    config = TrainingConfig(bptt=bptt, steps=6, batch=8, no_baselines=True)
    task, run = start_run(TagTask(data=(str(words_file),), **SMALL), FORWARD, config, tmp_path / "run")
    assert math.isfinite(train(task, config, run).loss)


def test_a_run_learns_is_resumed_to_the_same_bits_and_predicts(file, tmp_path):
    _, config, run, result = trained_run(tmp_path / "a", file)
    assert set(result.results["test"]["this model"]) == {"f1", "precision", "recall", "loss"}
    assert result.best.values["f1"] > 0.9
    assert "| loc |" in result.results["test"]["details"]

    # The same with an interruption: a training that ends at the first checkpoint, as a killed one would.
    other, twin = start_run(TagTask(data=(str(file),), **SMALL), BOTH, config, tmp_path / "b")
    from throughtime.training.trainer import Trainer

    after = Trainer._after_step

    def killed(self):
        after(self)
        if self.steps == 25:
            raise KeyboardInterrupt

    Trainer._after_step = killed
    try:
        with pytest.raises(KeyboardInterrupt):
            train(other, config, twin)
    finally:
        Trainer._after_step = after
    opened = throughtime.runs.Run.open(twin.path)
    train(other, config, opened, resume=True)
    for name, value in run.load_model().items():
        assert torch.equal(value, opened.load_model()[name]), name

    trained = throughtime.load(run.path)
    assert trained.evaluate("test").values["f1"] == result.results["test"]["this model"]["f1"]
    found = trained.predict("Anna w1 in New York .")
    assert found["tokens"] == ["Anna", "w1", "in", "New", "York", "."]
    assert found["tags"] == ["B-per", "O", "O", "B-loc", "I-loc", "O"]
    assert found["spans"] == [
        {"start": 0, "end": 4, "label": "per"}, {"start": 11, "end": 19, "label": "loc"},
    ]  # fmt: skip
    given = trained.predict({"tokens": ["Anna", "w1", "in", "New", "York", "."]})
    assert given["tags"] == found["tags"] and given["spans"][1] == {"start": 3, "end": 5, "label": "loc"}
    assert trained.predict("") == {"tokens": [], "tags": [], "spans": []}
    with pytest.raises(InputError, match="tokens must be a list of texts"):
        trained.predict({"tokens": "a b"})


def test_unknown_words_are_tagged_by_where_they_stand(file, tmp_path):
    _, _, run, _ = trained_run(tmp_path / "run", file, word_dropout=0.3, characters="none", steps=120)
    trained = throughtime.load(run.path)
    assert trained.predict("Bob w3 in Quito n7 .")["tags"][3] == "B-loc"
    inputs, unknown = trained.task.text_input(trained.assets, "Bob in Quito")
    assert unknown == ["Quito"] and inputs.shape[:2] == (3, 1)


def files_of(trained, text, form):
    out = io.StringIO()
    path = trained.path / f"in.{form}"
    path.write_text(text)
    remark = trained.task.predict_file(
        trained.model, trained.assets, str(path), out, form=form, skip_bad=True
    )
    return out.getvalue(), remark


def test_files_in_columns_get_one_more(file, tmp_path):
    _, _, run, _ = trained_run(tmp_path / "run", file)
    trained = throughtime.load(run.path)
    out, remark = files_of(trained, "Anna\tx\nin\tx\nNew\tx\nYork\tx\n\t\n\n# about\nBob\tx\n", "conll")
    assert (
        out == "Anna\tx\tB-per\nin\tx\tO\nNew\tx\tB-loc\nYork\tx\tI-loc\n\t\n\n# about\nBob\tx\tB-per\n"
        and remark == ""
    )
    text = "Bob\nin\nOslo\nn7\n."
    assert files_of(trained, text, "conll")[0] == "Bob\tB-per\nin\tO\nOslo\tB-loc\nn7\tO\n.\tO\n"
    out, remark = files_of(trained, "Bob x\nin\nn7 x\n. x\n", "conll")
    assert out == "Bob x B-per\nn7 x O\n. x O\n"
    assert "1 bad line skipped" in remark and "in.conll:2" in remark
    blank = "\t_" * 8
    text = f"# text = a\n1-2\tBobs{blank}\n1\tBob{blank}\n2\t's{blank}\n2.1\tx{blank}\n\n"
    lines = files_of(trained, text, "conllu")[0].splitlines()
    assert [line.count("\t") for line in lines] == [0, 10, 10, 10, 10, 0]
    assert [line.rpartition("\t")[2] for line in lines[1:5]] == ["_", "B-per", "O", "_"]
    objects = (
        json.dumps({"tokens": ["Bob"], "tags": ["O"]})
        + "\n"
        + json.dumps({"text": "Eve w1 in Oslo n7 .", "id": 7})
    )
    first, second = map(json.loads, files_of(trained, objects, "jsonl")[0].splitlines())
    assert first["tags"] == ["O"] and first["predicted_tags"] == ["B-per"]
    assert second["id"] == 7 and second["tags"] == ["B-per", "O", "O", "B-loc", "O", "O"]


class Line(io.BytesIO):
    """A stream that says how many lines were taken when something is written."""

    def __init__(self, data):
        super().__init__(data)
        self.taken = 0

    def __next__(self):
        line = super().__next__()
        self.taken += 1
        return line


def test_a_model_that_reads_forward_answers_line_by_line(words_file, tmp_path, monkeypatch):
    _, _, run, _ = trained_run(tmp_path / "run", words_file, FORWARD)
    trained = throughtime.load(run.path)
    rows = [[word for word, _ in row] for row in sentences(4, seed=8)]
    stream = Line("\n".join("".join(f"{word}\n" for word in row) for row in rows).encode())
    seen = []

    class Out(io.StringIO):
        def write(self, text):
            seen.append((stream.taken, text))
            return super().write(text)

    from throughtime.tasks import tag_predict

    monkeypatch.setattr(tag_predict, "open_source", lambda file: stream)
    out = Out()
    trained.task.predict_file(trained.model, trained.assets, "-", out, form="conll", skip_bad=False)
    assert [taken for taken, _ in seen] == list(range(1, len(seen) + 1))  # each before the next is read
    streamed = [block.split("\n") for block in out.getvalue().rstrip("\n").split("\n\n")]
    for row, lines in zip(rows, streamed, strict=True):
        whole = trained.predict({"tokens": row})["tags"]
        assert [line.split("\t") for line in lines] == [list(pair) for pair in zip(row, whole, strict=True)]


def test_spans_that_stream_are_those_of_the_whole_sentence(file, tmp_path):
    _, _, run, _ = trained_run(tmp_path / "run", file, FORWARD, steps=25, crf=False)
    trained = throughtime.load(run.path)
    rows = [[word for word, _ in row] for row in sentences(12, seed=8)]
    out, _ = files_of(trained, "\n".join("".join(f"{word}\n" for word in row) for row in rows), "conll")
    streamed = [
        [line.split("\t")[1] for line in block.split("\n")] for block in out.rstrip("\n").split("\n\n")
    ]
    assert streamed == [trained.predict({"tokens": row})["tags"] for row in rows]
    assert any(tag != "O" for tags in streamed for tag in tags)


def test_vectors_are_kept_with_the_run(file, tmp_path):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("anna 1 0 0\nrome 0 1 0\nzoe 1 0 0.1\nmars 0 1 .1\n")
    task, _, run, _ = trained_run(tmp_path / "run", file, vectors=str(vectors), vector_words=4)
    assert run.assets.values["vector_size"] == 3 and "4 vectors" in task.describe(run.assets)
    vectors.unlink()
    trained = throughtime.load(run.path)
    table = trained.model.embedding.pretrained.vectors
    assert table.shape == (5, 3) and table[1].tolist() == [1, 0, 0] and not table.requires_grad
    assert trained.task.text_input(trained.assets, "Zoe Pluto")[1] == ["Pluto"]
    assert trained.predict("Zoe in Mars .")["tags"] == ["B-per", "O", "B-loc", "O"]
    # Started again from its weights, without the file.
    again = TrainingConfig(bptt="full", steps=2, batch=8, no_baselines=True, init_from=str(run.path))
    more, other = start_run(TagTask(data=(str(file),), **SMALL), BOTH, again, tmp_path / "more")
    train(more, again, other)
    assert torch.equal(other.load_model()["embedding.pretrained.vectors"], table)
    # A run that was stopped before its first checkpoint has none.
    fresh = throughtime.runs.Run.open(run.path)
    fresh.assets.cache.clear()
    model = task.build(BOTH, fresh.assets)
    with pytest.raises(InputError, match="stopped before the first checkpoint"):
        next(task.evaluation_batches(trained.assets, "validation", steps=64, batch=4)).run(model)


def test_vectors_can_be_trained(file, tmp_path):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("anna 1 0 0\nrome 0 1 0\n")
    _, _, run, _ = trained_run(tmp_path / "run", file, steps=5, vectors=str(vectors), train_vectors=True)
    found = run.load_model()["embedding.pretrained.vectors"]
    assert not found[0].any() and not torch.equal(found[1:], torch.tensor([[1.0, 0, 0], [0, 1, 0]]))


@pytest.mark.parametrize(
    ("train_text", "other", "options", "message"),
    [
        ("a\tO\nb\tB-x\n", "a\tB-y\n", {}, r"the validation part has the tag 'S-y', which the model cannot give \(in: a\)"),
        ("a\tN\nb\tV\n", "a\tX\n", {}, "the validation part has the tag 'X'"),
        ("a\tN\nb\tN\n", "a\tN\n", {}, "expected at least two tags to tell apart, got 1: N"),
        ("a\tO\nb\tB-x\n", "a\tNOUN\n", {}, "tags of spans must be O or such as B-TYPE and I-TYPE, got 'NOUN'"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used(tmp_path, train_text, other, options, message):
    (tmp_path / "train.conll").write_text(train_text)
    (tmp_path / "other.conll").write_text(other)
    task = TagTask(
        data=(str(tmp_path / "train.conll"),), validation=str(tmp_path / "other.conll"), test=0, **options
    )
    with pytest.raises(InputError, match=message) as error:
        task.prepare()
    assert "\n" not in str(error.value)


def test_broken_tags_are_repaired_and_counted(tmp_path):
    path = tmp_path / "some.conll"
    path.write_text("a\tB-x\nb\tI-x\n\nc\tO\nd\tI-x\n\ne\tB-x\nf\tO\n")
    assets = TagTask(data=(str(path),), validation=0, test=0).prepare()
    assert assets.values["remarks"] == ["1 tags do not follow BIO and are read as conlleval reads them"]


def test_damaged_assets_are_refused_on_one_line(file):
    task = TagTask(data=(str(file),))
    assets = task.prepare()
    assets.labels = {}
    with pytest.raises(RunError, match=r"assets\.json is damaged"):
        task.build(BOTH, assets)


def test_flow_and_influence_of_a_tagger_with_a_crf(file):
    task = TagTask(data=(str(file),), **SMALL)
    assets = task.prepare()
    model = task.build(BOTH, assets)
    batch = next(task.evaluation_batches(assets, "validation", steps=64, batch=4))
    assert set(snapshot(model, task.loss, batch, None)) == {"layers.l0", "layers.l0_reverse"}
    inputs = batch.inputs[: batch.lengths[0], :1]
    found = influence(model, inputs, symbols=task.step_names(assets, inputs[:, 0]))
    assert (
        found.matrix.shape == (len(inputs),) * 2
        and bool((found.matrix > 0).all())
        and found.wrt == "embedding"
    )
    flow = measure(
        model,
        (batch.inputs, batch.targets),
        lengths=batch.lengths,
        loss=task.flow_loss(),
        lags=2,
        products=False,
    )
    assert set(flow.layers) == {"layers.l0", "layers.l0_reverse"}


TRAIN = [
    Sentence(("a", "b", "a"), ("X", "Y", "")),
    Sentence(("b", "c"), ("Y", "X")),
    Sentence(("a",), ("Y",)),
]


def test_trivial_baselines():
    test = [Sentence(("a", "b", "d"), ("X", "Y", "X"))]
    assert most_frequent_tag(TRAIN, test) == [["Y", "Y", "Y"]]
    assert most_frequent_by_word(TRAIN, test) == [
        ["X", "Y", "Y"]
    ]  # of a: X and Y once each, the first by name
    assert tag_scores([("X", "", "Y")], [["X", "X", "X"]]) == {"accuracy": 0.5}
    scores = span_scores([("B-x", "I-x", "O", "B-y")], [["B-x", "O", "O", "B-y"]])
    assert scores == {"f1": 0.5, "precision": 0.5, "recall": 0.5}
    assert span_scores([("O",)], [["O"]])["f1"] == 0
    features = features_of(["New", "York"])
    assert {"w=new", "shape=2", "start=n", "end=w", "1:w=york", "-1:none"} <= set(features[0])


def test_without_crfsuite_one_line_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pycrfsuite", None)
    found = tagging_baselines(TRAIN, TRAIN, tag_scores)
    assert "pip install 'throughtime[baselines]'" in found["CRF over features"]
    assert found["most frequent tag of the word"]["accuracy"] > found["most frequent tag"]["accuracy"]


def test_the_crf_baseline_beats_the_trivial_ones(file):
    pytest.importorskip(
        "pycrfsuite", reason="python-crfsuite is not installed: pip install 'throughtime[baselines]'"
    )
    task = TagTask(data=(str(file),))
    found = task.baseline(task.prepare(), "test")
    assert found["CRF over features"]["f1"] > found["most frequent tag of the word"]["f1"] - 1e-9 > 0


def test_names_of_the_standard_library(tmp_path, capsys):
    """Without --data: only names are scored and tagged."""
    task = TagTask(limit=60, **SMALL)
    assets = task.prepare()
    assert not assets.values["spans"]
    batch = next(iter(task.batches(assets, steps=64, batch=10).epoch()))
    names = [task.step_names(assets, batch.inputs[: batch.lengths[b], b]) for b in range(batch.size)]
    for b, words in enumerate(names):
        masked = [
            word
            for word, target in zip(words, batch.targets[:, b].tolist(), strict=False)
            if target == IGNORE
        ]
        assert "(" in masked and "self" not in masked
    out = tmp_path / "run"
    small = "--hidden 8 --embedding 4 --steps 4 --limit 60 --no-bidirectional --no-crf --no-baselines"
    assert main(["train", "tag", *small.split(), "--out", str(out)]) == 0
    found = throughtime.load(out).predict("def f(self):")
    assert found["tokens"] == ["def", "f", "(", "self", ")", ":"]
    assert [bool(tag) for tag in found["tags"]] == [False, True, False, True, False, False]
    assert throughtime.load(out).config.bidirectional is False
    capsys.readouterr()
