"""Search: losses and ranks against their definitions, splits without leaks, and an index that is kept and renewed."""

from __future__ import annotations

import json
import math
import os
import random
import signal
from pathlib import Path

import pytest
import torch

import throughtime
from throughtime.data.readers.passages import Passage
from throughtime.data.readers.query_pairs import pair_batch
from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks import SearchTask
from throughtime.tasks.search import pair_losses
from throughtime.tasks.search_index import Index, Store, top
from throughtime.training import TrainingConfig
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import start_run, train
from throughtime.training.reporting import Silent

MODEL = ModelConfig(hidden=7, embedding=32, cell="gru", pooling="mean")


def rows_of(number, seed=0):
    """Passages of 12 words of their own; a query is three of them in another order."""
    draws = random.Random(seed)
    rows = []
    for place in range(number):
        words = [f"w{seed}x{place}y{k}" for k in range(9)] + draws.choices(["the", "of", "and"], k=3)
        draws.shuffle(words)
        rows.append((" ".join(draws.sample(words[:12], 4)), " ".join(words)))
    return rows


def write(path, rows):
    path.write_text("query,passage\n" + "".join(f"{query},{passage}\n" for query, passage in rows))
    return str(path)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "pairs.csv", rows_of(60))


def made(file, out, **settings):
    training = TrainingConfig(
        **{"bptt": "full", "steps": 6, "batch": 8, "no_baselines": True, "lr": 0.01} | settings
    )
    return *start_run(SearchTask(data=(file,), tokens="word", vector=24), MODEL, training, out), training


@pytest.fixture
def trained(file, tmp_path):
    task, run, training = made(file, tmp_path / "run")
    train(task, training, run)
    return throughtime.load(run.path)


def test_the_loss_is_that_of_its_definition():
    """Four pairs; 0 and 2 are of one group and are no wrong answers to each other."""
    scores = 3 * torch.randn(4, 4, dtype=torch.float64)
    groups = torch.tensor([5, 1, 5, 2])
    found = pair_losses(scores, groups.repeat_interleave(2)).tolist()
    for k in range(4):
        kept = [j for j in range(4) if j == k or groups[j] != groups[k]]
        row = math.log(sum(math.exp(scores[k, j]) for j in kept)) - float(scores[k, k])
        column = math.log(sum(math.exp(scores[j, k]) for j in kept)) - float(scores[k, k])
        assert found[2 * k : 2 * k + 2] == pytest.approx([row, column], rel=1e-12)
    assert len([j for j in range(4) if j == 0 or groups[j] != groups[0]]) == 3
    task, ids = SearchTask(), [torch.tensor([1])] * 4
    batch = pair_batch(ids, ids, groups)
    assert float(task.loss(scores, batch)) == pytest.approx(sum(found), rel=1e-12)
    assert batch.num_targets == 8


def test_evaluation_ranks_all_passages_exactly(trained):
    """The loss and metrics of `evaluate` against vectors that are computed text by text, whatever the batch."""
    task, assets, model = trained.task, trained.assets, trained.model
    found = task._collection(assets)
    assert len(found.passages) == 60
    numbers = assets.splits["validation"]
    passages = task.encode(model, assets, [each.text for each in found.passages], passages=True)
    queries = torch.cat([task.encode(model, assets, [found.queries[number]]) for number in numbers])
    correct = torch.tensor([found.correct[number] for number in numbers])
    scores = (queries @ passages.t()).double()
    order = [
        sorted(row, reverse=True).index(row[place]) + 1
        for row, place in zip(scores.tolist(), correct, strict=True)
    ]
    assert len(set(order)) > 1
    loss = torch.nn.functional.cross_entropy(scores * model.scale.item(), correct)
    for batch in (4, 64):
        result = trained.evaluate(batch=batch)
        assert result.count == len(numbers)
        assert result.values["mrr"] == pytest.approx(sum(1 / rank for rank in order) / len(order), rel=1e-6)
        assert result.values["recall@10"] == pytest.approx(sum(rank <= 10 for rank in order) / len(order))
        assert result.loss == pytest.approx(float(loss), rel=1e-4)


def test_it_learns_and_a_random_order_does_not(file, tmp_path):
    training = TrainingConfig(bptt="full", steps=30, batch=16, lr=0.01)
    model = ModelConfig(hidden=8, embedding=128, cell="gru", pooling="mean")
    task, run = start_run(
        SearchTask(data=(file,), tokens="word", vector=128), model, training, tmp_path / "run"
    )
    result = train(task, training, run)
    table = result.results["validation"]
    assert table["this model"]["mrr"] > 0.8 > 5 * table["random order"]["mrr"]
    assert set(table["this model"]) == {"mrr", "recall@1", "recall@10", "recall@100", "loss"}
    assert table["BM25"]["mrr"] > 0.9  # the words of a query are all in its passage
    assert set(result.results["test"]) == {"this model", "random order", "TF-IDF cosine", "BM25"}


def test_resumed_it_ends_in_the_same_bits(file, tmp_path):
    task, reference, training = made(file, tmp_path / "reference")
    train(task, training, reference)
    task, run, training = made(file, tmp_path / "run")

    class Stopping(Silent):
        def step(self, step):
            if step.step == 1:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(task, training, run, report=Stopping())
    assert run.load_checkpoint()["steps"] < 6
    train(task, training, run, resume=True)
    expected = reference.load_model()
    assert all(torch.equal(value, expected[name]) for name, value in run.load_model().items())


def test_pairs_with_one_query_or_nearly_one_passage_stay_on_one_side(tmp_path):
    rows = rows_of(40)
    more = [(query.upper(), other) for (query, _), (_, other) in zip(rows, rows_of(40, 1), strict=True)]
    nearly = [
        (query, f"{passage} too") for (query, _), (_, passage) in zip(rows_of(40, 2), rows, strict=True)
    ]
    exact = [(query, passage) for (query, _), (_, passage) in zip(rows_of(40, 3), rows, strict=True)]
    task = SearchTask(
        data=(write(tmp_path / "all.csv", rows + more + nearly + exact),), validation=0.2, test=0.2
    )
    assets = task.prepare()
    part_of = {number: part for part, numbers in assets.splits.items() for number in numbers}
    assert len(part_of) == 160 and len(set(part_of.values())) == 3
    for k in range(40):
        assert part_of[k] == part_of[40 + k] == part_of[120 + k]
    apart = sum(part_of[k] != part_of[80 + k] for k in range(40))
    assert apart <= 4  # MinHash finds 77% at 0.8, nearly all above
    batch = next(iter(task.batches(assets, steps=1, batch=200).epoch()))
    losses = pair_losses(torch.zeros(batch.size // 2, batch.size // 2), batch.targets)
    assert float(losses.min()) < math.log(batch.size // 2) - 1e-3  # pairs of one group are left out


def test_files_for_validation_and_test_add_their_passages(file, tmp_path):
    files = {
        part: write(tmp_path / f"{part}.csv", rows_of(7, seed))
        for seed, part in ((1, "validation"), (2, "test"))
    }
    task = SearchTask(data=(file,), **files)
    assets = task.prepare()
    assert {part: len(numbers) for part, numbers in assets.splits.items()} == {
        "train": 60,
        "validation": 7,
        "test": 7,
    }
    assert assets.values["passages"] == 74
    batches = list(task.evaluation_batches(assets, "test", steps=1, batch=10))
    assert sum(batch.num_targets for batch in batches) == 7
    assert sum(int(batch.context.sum()) for batch in batches) == 74
    only = task.on((files["test"],))
    batches = list(only.evaluation_batches(assets, "all", steps=1, batch=10))
    assert (
        sum(int(batch.context.sum()) for batch in batches) == sum(batch.num_targets for batch in batches) == 7
    )


def test_columns_places_and_limit(tmp_path):
    path = tmp_path / "faq.jsonl"
    rows = [{"question": f"q{n}", "answer": f"a{n // 2}", "id": f"id{n}"} for n in range(8)]
    path.write_text("\n".join(map(json.dumps, rows)))
    task = SearchTask(data=(str(path),), place="id", limit=6)
    found = task._read()
    assert len(found.queries) == 6 and len(found.passages) < 6
    for query, number in zip(found.queries, found.correct, strict=True):
        assert found.passages[number].text == f"a{int(query[1:]) // 2}"
    assert {each.place for each in found.passages} <= {row["id"] for row in rows}
    assert SearchTask(data=(str(path),))._read().passages[1] == Passage("a1", "faq.jsonl #3")


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ("a,b\n1,2\n", {}, "expected a column 'query' "),
        ("query,passage\nx,\n", {}, r"t\.csv:2: expected 'passage' to hold text, got an empty field"),
        ("query,passage\nx,y,z\n", {}, r"t\.csv:2: expected 2 fields"),
        ("query,passage\nx,y\n", {"passage": "pasage"}, "Did you mean 'passage'"),
        ("query,passage\na b,c d\n", {"validation": 0, "test": 0}, "at least 2 pairs to train on, got 1"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used(tmp_path, rows, settings, message):
    path = tmp_path / "t.csv"
    path.write_text(rows)
    task = SearchTask(data=(str(path),), **settings)
    with pytest.raises(InputError, match=message) as error:
        task.batches(task.prepare(), steps=1, batch=4)
    assert "\n" not in str(error.value)


def test_a_folder_is_no_data_to_train_on(tmp_path):
    with pytest.raises(InputError, match="expected a file of queries and passages, got a folder"):
        SearchTask(data=(str(tmp_path),)).prepare()


@pytest.mark.parametrize("bptt", ["truncated:4", "randomized:4", "checkpointed:3"])
@pytest.mark.parametrize(
    "settings", [{"pooling": "last"}, {"pooling": "mean"}, {"pooling": "last", "bidirectional": True}]
)
def test_a_strategy_that_cuts_is_refused(file, tmp_path, bptt, settings):
    with pytest.raises(InputError, match=r"whole sequence|must read the whole") as error:
        start_run(
            SearchTask(data=(file,)),
            ModelConfig(hidden=5, **settings),
            TrainingConfig(bptt=bptt, steps=1),
            tmp_path / "r",
        )
    assert "\n" not in str(error.value)


def test_the_best_vectors_are_those_of_sorting():
    queries, vectors = torch.randn(3, 4), torch.randn(23, 4)
    vectors[7] = vectors[19] = vectors[2]  # equal scores: the lower number first
    expected = [sorted(range(23), key=lambda n: (-row[n], n))[:9] for row in (queries @ vectors.t()).tolist()]
    for chunk in (1, 7, 24, 1000):
        scores, numbers = top(queries, vectors, 9, chunk)
        assert numbers.tolist() == expected
        torch.testing.assert_close(scores, (queries @ vectors.t()).gather(1, numbers))
    assert top(queries, vectors, 50)[1].shape == (3, 23)
    with pytest.raises(InputError, match="k of at least 1"):
        top(queries, vectors, 0)


def test_predictions_are_the_passages_with_the_highest_scores(trained):
    task, assets, model = trained.task, trained.assets, trained.model
    query = rows_of(60)[5][0]
    found = trained.predict(query)
    passages = task._collection(assets).passages
    scores = (
        task.encode(model, assets, [query])
        @ task.encode(model, assets, [p.text for p in passages], passages=True).t()
    )
    best = scores[0].topk(5)
    shown = [found, *found["next"]]
    assert [each["place"] for each in shown] == [passages[n].place for n in best.indices]
    assert [each["score"] for each in shown] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert [each["passage"] for each in shown] == [passages[n].title for n in best.indices]
    with pytest.raises(InputError, match="expected a query, got an empty text"):
        trained.predict("  ")
    with pytest.raises(InputError, match="'query' must be a text, got 5"):
        trained.predict({"query": 5})
    assert trained.predict("???")["place"]  # no known word: still an answer


def test_the_index_is_kept_in_the_run(trained, file, monkeypatch):
    """Computed once, read afterwards, also when the data is gone; computed again for other weights or damaged files."""
    expected = trained.predict("w0x3y1 the")
    folder = trained.path / "index"
    assert sorted(path.name for path in folder.iterdir()) == ["run.json", "run.safetensors"]
    calls = []
    encode = SearchTask.encode

    def counting(self, model, assets, texts, **options):
        calls.append(len(texts))
        return encode(self, model, assets, texts, **options)

    monkeypatch.setattr(SearchTask, "encode", counting)
    kept = Path(file).read_bytes()
    os.remove(file)
    assert throughtime.load(trained.path).predict("w0x3y1 the") == expected
    assert calls == [1]  # the query alone
    for name in ("run.json", "run.safetensors"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-9] + b"x" + data[-8:])
        with pytest.raises(InputError, match="no such file"):
            throughtime.load(trained.path).predict("w0x3y1 the")
        (folder / name).write_bytes(data)
    Path(file).write_bytes(kept)
    other = throughtime.load(trained.path)
    with torch.no_grad():
        other.model.head.weight.mul_(-1)
        other.model.head.bias.mul_(-1)
    calls.clear()
    index = other.task.index(other.model, other.assets)
    assert calls == [60]
    expected = -trained.task.index(trained.model, trained.assets).vectors
    torch.testing.assert_close(index.vectors, expected, atol=1e-5, rtol=0)


def test_a_folder_is_searched_and_only_what_is_new_is_read_by_the_model(trained, tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    notes.mkdir()
    texts = [passage + " and some more words to be long enough" for _, passage in rows_of(9)]
    (notes / "a.txt").write_text("\n\n".join(texts[:5]))
    (notes / "b.md").write_text("\n\n".join(texts[5:8]))
    calls = []
    encode = SearchTask.encode

    def counting(self, model, assets, texts, **options):
        calls.append(len(texts))
        return encode(self, model, assets, texts, **options)

    monkeypatch.setattr(SearchTask, "encode", counting)

    def opened():
        again = throughtime.load(trained.path)
        return again.task.index(again.model, again.assets, notes)

    index = opened()
    assert [each.text for each in index.passages] == texts[:8] and calls == [8]
    assert [each.place for each in index.passages[3:6]] == ["a.txt:7", "a.txt:9", "b.md:1"]
    opened()
    assert calls == [8]
    (notes / "b.md").write_text("\n\n".join([texts[6], texts[8], texts[7]]))
    index = opened()
    assert calls == [8, 1]
    assert [each.text for each in index.passages] == [*texts[:5], texts[6], texts[8], texts[7]]
    assert index.passages[-1].place == "b.md:5"
    torch.testing.assert_close(
        index.vectors,
        encode(trained.task, trained.model, trained.assets, [p.text for p in index.passages], passages=True),
    )
    (best, *_) = index.search(texts[8], 3)
    assert best.passage == Passage(texts[8], "b.md:3") and best.score > 0.5
    with pytest.raises(InputError, match="no such file or folder"):
        trained.task.index(trained.model, trained.assets, tmp_path / "none")


def test_an_index_without_a_place_to_keep_it(trained, tmp_path, monkeypatch):
    def fails(self, passages, vectors):
        raise RunError("cannot write there")

    monkeypatch.setattr(Store, "save", fails)
    index = trained.task.index(trained.model, trained.assets)
    assert index.remarks == ("the index is not kept: cannot write there",) and len(index) == 60
    with pytest.raises(InputError, match=r"vectors must be \[1, D\]"):
        Index([Passage("a", "b")], torch.zeros(2, 3), lambda texts: torch.zeros(1, 3))


def test_flow_measures_pairs(file, tmp_path):
    from throughtime.flow import measure

    task = SearchTask(data=(file,), vector=12)
    assets = task.prepare()
    model = task.build(MODEL, assets)
    batch = next(task.flow_batches(assets, "validation", steps=1, batch=6))
    assert batch.size == 6 and batch.num_targets == 6
    found = measure(model, batch, loss=task.flow_loss(), examples=6, products=False, lags=3)
    assert len(found.layers) == 1
    assert task.flow_batches(assets, "test", steps=1, batch=100) is None


def test_assets_that_do_not_fit_the_data_are_refused_on_one_line(file):
    task = SearchTask(data=(file,))
    assets = task.prepare()
    assets.splits["validation"].append(60)
    with pytest.raises(RunError, match=r"the split in assets\.json is damaged: it has example 60 of 60"):
        task.evaluation_batches(assets, "validation", steps=1, batch=4)
