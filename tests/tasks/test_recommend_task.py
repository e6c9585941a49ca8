"""Recommendation: what is held out, baselines against brute force, predictions as events arrive, a run that is resumed."""

from __future__ import annotations

import io
import itertools
import json
import random
from collections import Counter

import numpy as np
import pytest
import torch

import throughtime
from throughtime.cli import main
from throughtime.data import IGNORE
from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks import RecommendTask
from throughtime.tasks.baselines.recommend import evaluate_baseline, item_knn, markov, popularity
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

MODEL = ModelConfig(cell="gru", hidden=8, embedding=8, tied=True)
ITEMS = "abcdefghij"


def walks(number, seed=1):
    """Sessions in which a letter is mostly followed by the next one."""
    draws, found = random.Random(seed), []
    for _ in range(number):
        place, items = draws.randrange(10), []
        for _ in range(draws.randint(2, 9)):
            items.append(ITEMS[place])
            place = (place + draws.choice((1, 1, 1, 3))) % 10
        found.append(items)
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "log.csv"
    rows = [(f"s{number}", item, 10 * number) for number, items in enumerate(walks(120)) for item in items]
    path.write_text("session,item,time\n" + "".join(f"{s},{i},{t}\n" for s, i, t in rows))
    return path


def prepared(file, **settings):
    task = RecommendTask(data=(str(file),), **settings)
    return task, task.prepare()


def names(task, assets, batches):
    """Sessions [inputs..., last target] of batches, as text, and the number of unmasked targets."""
    items = (*assets.labels["item"], "?")
    found, count = [], 0
    for batch in batches:
        count += batch.num_targets
        for b in range(batch.size):
            length = int(batch.lengths[b])
            found.append("".join(items[n] for n in [*batch.inputs[:length, b], batch.targets[length - 1, b]]))
    return sorted(found), count


def trained_run(file, folder, settings=None, model=MODEL, **training):
    config = TrainingConfig(
        **{"bptt": "full", "batch": 16, "epochs": 3.0, "lr": 0.02, "warmup": 0.0, "device": "cpu", **training}
    )
    task, run = start_run(RecommendTask(data=(str(file),), **(settings or {})), model, config, folder)
    return train(task, config, run), run


def test_equal_sessions_stay_on_one_side(tmp_path):
    path = tmp_path / "log.txt"
    sessions = [items for items in walks(60) for _ in range(2)]
    path.write_text("".join(f"u{n} {item}\n" for n, items in enumerate(sessions) for item in items))
    task, assets = prepared(path, validation=0.2, test=0.2)
    parts = [set(names(task, assets, task.batches(assets, steps=0, batch=7).epoch())[0])]
    parts += [
        set(names(task, assets, task.evaluation_batches(assets, split, steps=0, batch=7))[0])
        for split in ("validation", "test")
    ]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == len(
        {"".join(s) for s in sessions}
    )


def test_the_latest_sessions(file):
    task, assets = prepared(file, split="time", validation=0.1, test=0.2)
    assert assets.splits["test"] == list(range(96, 120)) and assets.splits["validation"] == list(
        range(84, 96)
    )
    assert "(the latest)" in task.describe(assets)


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.1), (0.1, 0.0), (0.0, 0.1)])
def test_the_last_item_of_each_session(tmp_path, validation, test):
    path = tmp_path / "log.txt"
    sessions = ["abcde", "ab", "abc", "fghij"]
    path.write_text("".join(f"{n} {item}\n" for n, items in enumerate(sessions) for item in items))
    task, assets = prepared(path, split="last", validation=validation, test=test)
    held = (validation > 0) + (test > 0)
    trained = [items[: len(items) - held] if len(items) > held else items for items in sessions]
    found, _ = names(task, assets, task.batches(assets, steps=0, batch=3).epoch())
    assert found == sorted(items for items in trained if len(items) > 1)
    assert [len(each) for each in task.training_ids(assets)] == [len(items) for items in trained]
    long = [items for items in sessions if len(items) > held]
    unknown = {item for item in "".join(sessions) if item not in "".join(trained)}
    for part, given, cut in (("validation", validation, 1 if test else 0), ("test", test, 0)):
        batches = task.evaluation_batches(assets, part, steps=0, batch=3)
        if not given:
            assert batches is None
            continue
        found, count = names(task, assets, batches)
        whole = ["".join("?" if item in unknown else item for item in items) for items in long]
        assert found == sorted(items[: len(items) - cut] for items in whole if len(items) - cut > 1)
        assert count == len(found)


def test_rare_items_are_unknown_and_a_miss(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(
        "".join(f"{n} {item}\n" for n, items in enumerate(["aab", "abz", "bay"]) for item in items)
    )
    task, assets = prepared(path, min_count=2, validation=0, test=0)
    assert assets.labels["item"] == ("a", "b") and assets.values["frequencies"] == [4, 3, 2]
    (batch,) = task.batches(assets, steps=0, batch=3).epoch()
    assert sorted(batch.targets[1].tolist()) == [1, 2, 2]
    model = task.build(MODEL, assets)
    outputs, _ = batch.run(model.eval())
    (recall, _) = task.metrics(assets)
    recall.update(outputs, batch, torch.zeros(()))
    assert recall.value() == pytest.approx(4 / 6)  # all known targets are among the first 20 of two items
    with pytest.raises(InputError, match="expected at least two items with 5 training events or more, got 0"):
        prepared(path, min_count=5, validation=0, test=0)


def test_items_outside_training_are_unknown(tmp_path):
    files = {}
    for part, sessions in (("data", ["ab", "abab", "ba"]), ("test", ["abz", "zb"])):
        files[part] = tmp_path / f"{part}.txt"
        files[part].write_text("".join(f"{n} {i}\n" for n, items in enumerate(sessions) for i in items))
    task, assets = prepared(files["data"], validation=0, test=str(files["test"]))
    found, count = names(task, assets, task.evaluation_batches(assets, "test", steps=0, batch=3))
    assert found == ["?b", "ab?"] and count == 3
    with pytest.raises(InputError, match="split last holds out the last items of the training sessions"):
        RecommendTask(split="last", test=str(files["test"]))


def brute_markov(sessions, items, history):
    """The order of all items after a history: by transitions from its last one, then by popularity."""
    follow = Counter(b for s in sessions for a, b in itertools.pairwise(s) if a == history[-1])
    count = Counter(item for s in sessions for item in s)
    return {item: (follow[item], count[item]) for item in range(items)}


def brute_knn(sessions, items, history, decay=0.5):
    sets = [set(s) for s in sessions]
    count = Counter(item for s in sessions for item in s)
    score = {}
    for item in range(items):
        total = 0.0
        for lag, past in enumerate(reversed(history)):
            both = sum(item in s and past in s for s in sets)
            if item != past and past < items and both:
                size = sum(item in s for s in sets) * sum(past in s for s in sets)
                total += decay**lag * both / size**0.5
        score[item] = (round(total, 10), count[item])
    return score


@pytest.mark.parametrize("name", ["popularity", "markov", "knn"])
def test_baselines_against_brute_force(file, name):
    """Ranks of all test targets, with unknown items in training sessions and histories."""
    task, assets = prepared(file, min_count=45, test=0.2)
    sessions = [each.tolist() for each in task.training_ids(assets)]
    items = len(assets.labels["item"])
    assert 4 < items < 10
    known = [[item for item in s if item < items] for s in sessions]
    make = {"popularity": popularity, "markov": markov, "knn": item_knn}[name]
    baseline = make([np.array(s) for s in sessions], items)
    hits, total, reciprocal = 0, 0, 0.0
    for batch in task.evaluation_batches(assets, "test", steps=0, batch=8):
        for t, b in (batch.targets != IGNORE).nonzero().tolist():
            history, target = batch.inputs[: t + 1, b].tolist(), int(batch.targets[t, b])
            if name == "markov":
                # A transition counts only between two known items that stood side by side.
                pairs = [[a, c] for s in sessions for a, c in itertools.pairwise(s) if max(a, c) < items]
                order = brute_markov(pairs, items, history)
                count = Counter(item for s in known for item in s)
                order = {item: (first, count[item]) for item, (first, _) in order.items()}
            elif name == "knn":
                order = brute_knn(known, items, history)
            else:
                count = Counter(item for s in known for item in s)
                order = {item: count[item] for item in range(items)}
            rank = 10**6
            if target < items:
                rank = 1 + sum(order[item] >= order[target] for item in order if item != target)
            hits, total, reciprocal = hits + (rank <= 20), total + 1, reciprocal + (rank <= 20) / rank
    found = evaluate_baseline(
        baseline, task.evaluation_batches(assets, "test", steps=0, batch=5), task.metrics(assets)
    )
    assert found == {"recall@20": pytest.approx(hits / total), "mrr@20": pytest.approx(reciprocal / total)}
    assert 0 < hits < total


def test_a_training_beats_the_popular_items(file, tmp_path):
    result, run = trained_run(file, tmp_path / "run", {"candidates": 5, "test": 0.2}, epochs=12.0)
    test = result.results["test"]
    assert set(test) >= {"this model", "popularity", "Markov", "item-kNN"}
    assert set(test["this model"]) == {"recall@20", "mrr@20", "hit@10", "ndcg@10", "loss"}
    assert test["this model"]["mrr@20"] > test["popularity"]["mrr@20"] + 0.2
    assert test["this model"]["recall@20"] == test["Markov"]["recall@20"] == 1  # of ten items
    trained = throughtime.load(run.path)
    found = trained.predict("a b c")
    assert found["next"][0] == "d" and len(found["next"]) == 10 and found["unknown"] == []
    assert (
        sum(found["score"]) == pytest.approx(1, abs=1e-3) and found["score"] == sorted(found["score"])[::-1]
    )
    assert trained.predict({"items": ["a", "b", "c"]}) == trained.predict('["a", "b", "c"]') == found
    assert trained.predict("a zzz c")["unknown"] == ["zzz"]
    with pytest.raises(InputError, match="expected the items of a session"):
        trained.predict("")
    again = trained.evaluate("test")
    assert again.values["mrr@20"] == pytest.approx(test["this model"]["mrr@20"])
    other = tmp_path / "other.txt"
    other.write_text("1 a\n1 b\n1 zzz\n")
    assert throughtime.load(run.path).evaluate(files=[str(other)]).count == 2


@pytest.mark.parametrize("objective", ["softmax", "sampled", "bpr-max", "top1-max"])
@pytest.mark.parametrize("parallel", [None, 1])
def test_every_objective_trains_and_resumes_to_the_same_bits(file, tmp_path, objective, parallel):
    settings = {"objective": objective, "negatives": 16, "parallel": parallel, "top": 4}
    options = {"dropout": 0.2}
    model = ModelConfig(cell="gru", hidden=8, embedding=8, tied=True, **options)
    training = {"epochs": None, "steps": 12, "checkpoint_steps": 5, "no_baselines": True}
    result, run = trained_run(file, tmp_path / "whole", settings, model, **training)
    losses = [record["loss"] for record in run.history() if record["kind"] == "training"]
    assert losses and all(np.isfinite(losses)) and result.best is not None

    class Stop(Exception):
        pass

    def fail(*_):
        raise Stop

    config = TrainingConfig(
        bptt="full", batch=16, lr=0.02, warmup=0.0, device="cpu", **{k: v for k, v in training.items() if k != "epochs"}
    )  # fmt: skip
    task, other = start_run(RecommendTask(data=(str(file),), **settings), model, config, tmp_path / "cut")
    from throughtime.training.trainer import Trainer

    with pytest.MonkeyPatch.context() as patch:
        after = Trainer._after_step

        def counted(self):
            after(self)
            if self.steps == 7:
                raise Stop

        patch.setattr(Trainer, "_after_step", counted)
        with pytest.raises(Stop):
            train(task, config, other)
    train(task, config, other, resume=True)
    for name, value in run.load_model().items():
        assert torch.equal(value, other.load_model()[name]), name
    if objective in ("bpr-max", "top1-max"):
        assert len(throughtime.load(run.path).predict("a b")["next"]) == 4


@pytest.mark.parametrize(
    ("cell", "bptt"), [("lstm", "truncated:2"), ("rnn", "checkpointed:2"), ("mingru", "full")]
)
def test_other_cells_and_strategies(file, tmp_path, cell, bptt):
    model = ModelConfig(cell=cell, hidden=6, embedding=4)
    result, _ = trained_run(
        file, tmp_path / "run", {"limit": 60}, model, bptt=bptt, epochs=1.0, no_baselines=True
    )
    assert 0 < result.results["test"]["this model"]["recall@20"] <= 1


def test_events_are_answered_one_by_one_whatever_other_sessions_do(file, tmp_path, monkeypatch, capsys):
    """Interleaved sessions give what each gives alone, and an answer is written before the next event is read."""
    _, run = trained_run(file, tmp_path / "run", epochs=1.0, no_baselines=True)
    trained = throughtime.load(run.path)
    events = [("x", "a"), ("y", "e"), ("x", "b"), ("y", "zzz"), ("x", "c")]
    found = list(trained.task.follow(trained.model, trained.assets, events))
    sofar = {}
    for (session, item), answer in zip(events, found, strict=True):
        sofar.setdefault(session, []).append(item)
        alone = trained.predict({"items": sofar[session]})
        assert answer["next"][0] == alone["next"][0]
        assert answer["score"] == pytest.approx(alone["score"], abs=2e-6)

    log = tmp_path / "events.csv"
    log.write_text("when,user,item,score\n" + "".join(f"{n},{s},{i},0\n" for n, (s, i) in enumerate(events)))
    assert main(["predict", str(run.path), str(log)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "when,user,item,score,next,predicted_score" and len(lines) == 6
    assert lines[1].startswith('0,x,a,0,"[""')
    (tmp_path / "events.jsonl").write_text(
        "".join(json.dumps({"session": s, "item": i}) + "\n" for s, i in events)
    )
    assert main(["predict", str(run.path), str(tmp_path / "events.jsonl"), "--out", str(tmp_path / "o")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "o").read_text().splitlines()]
    assert [row["next"] for row in rows] == [answer["next"] for answer in found]
    (tmp_path / "events.txt").write_text("".join(f"{s} {i}\n" for s, i in events))
    assert main(["predict", str(run.path), str(tmp_path / "events.txt"), "--format", "events"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1].split("\t")[1]) == found[-1]["next"]
    (tmp_path / "lines.txt").write_text('a b c\n["e", "zzz"]\n')
    assert main(["predict", str(run.path), str(tmp_path / "lines.txt")]) == 0
    assert '["zzz"]' in capsys.readouterr().out.splitlines()[1]
    (tmp_path / "bad.csv").write_text("user,item\nx,a\nx\nx,b\n")
    assert main(["predict", str(run.path), str(tmp_path / "bad.csv")]) == 2
    assert "bad.csv:3: expected 2 fields" in capsys.readouterr().err
    assert main(["predict", str(run.path), str(tmp_path / "bad.csv"), "--skip-bad"]) == 0
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 3 and "1 bad row skipped" in output.err

    read = []

    class Lines(io.BytesIO):
        def readline(self, *size):
            read.append(len(written.getvalue().splitlines()))
            return super().readline(*size)

    written = io.StringIO()
    monkeypatch.setattr(
        "throughtime.data.readers.records.open_source",
        lambda file: Lines(b"session,item\nx,a\ny,b\nx,c\n"),
    )
    trained.task.predict_file(trained.model, trained.assets, "-", written, form="events", skip_bad=False)
    assert read == [0, 0, 2, 3, 4]  # the header with the first answer


def test_flow_and_influence(file, tmp_path, capsys):
    _, run = trained_run(file, tmp_path / "run", {"split": "last"}, epochs=1.0, no_baselines=True, watch=5)
    assert main(["flow", str(run.path), "--no-products", "--batch", "4"]) == 0
    assert "data: log.csv" in capsys.readouterr().out
    assert main(["influence", str(run.path), "--prompt", "a b zzz c"]) == 0
    output = capsys.readouterr()
    assert "<unknown>" in output.out and "'zzz'" in output.err
    assert any(record["kind"] == "gradient" or "layers" in record for record in run.history())


def test_settings_and_assets_that_cannot_be_used(file, tmp_path):
    with pytest.raises(InputError, match="candidates must be at most 5, half of the items, got 6"):
        prepared(file, candidates=6)
    task, assets = prepared(file)
    with pytest.raises(InputError, match="a bidirectional model reads the item that it is to predict"):
        task.build(ModelConfig(hidden=8, bidirectional=True), assets)
    bare = tmp_path / "bare.txt"
    bare.write_text("u a\nu b\nu c\n")
    with pytest.raises(InputError, match="split time needs the times of the events"):
        prepared(bare, split="time")
    task, assets = prepared(file)
    assets.values["frequencies"].pop()
    with pytest.raises(RunError, match=r"assets\.json is damaged: it has no items, or not a frequency"):
        task.build(MODEL, assets)
    task, assets = prepared(file)
    assets.splits["test"].append(120)
    with pytest.raises(RunError, match=r"assets\.json is damaged: it has example 120 of 120"):
        task.evaluation_batches(assets, "test", steps=0, batch=4)
    file.write_text(file.read_text() + "s1,a,5\n")
    fresh = RecommendTask(data=(str(file),))
    assets.cache.clear()
    with pytest.raises(InputError, match=r"log\.csv has changed since the run was made"):
        fresh.evaluation_batches(assets, "test", steps=0, batch=4)


def test_a_published_log_of_users(data_dir):
    """Users and purchases of Kang & McAuley 2018; the last two items of each user are held out."""
    path = data_dir / "sasrec_video" / "Video.txt"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    task, assets = prepared(path, split="last")
    assert (len(assets.splits["train"]), len(assets.splits["test"])) == (
        30983,
        30901,
    )  # 30 of 31,013 users have one item
    assert sum(len(each) for each in task.training_ids(assets)) == 287107 - 30 - 2 * 30901
    assert len(assets.labels["item"]) <= 23715


def test_items_that_are_never_taken_twice(file, tmp_path):
    _, run = trained_run(file, tmp_path / "run", {"unseen": True}, epochs=1.0, no_baselines=True)
    trained = throughtime.load(run.path)
    found = trained.predict("a b c zzz a")
    assert sorted(found["next"]) == list("defghij") and sum(found["score"]) == pytest.approx(1, abs=1e-4)
    events = [("x", "a"), ("y", "d"), ("x", "b")]
    last = list(trained.task.follow(trained.model, trained.assets, events))[-1]
    assert sorted(last["next"]) == list("cdefghij")
    assert trained.predict({"items": list(ITEMS)})["next"] == []


def test_one_matrix_serves_both_ends_where_it_fits(file):
    task, assets = prepared(file)
    for settings, config, tied in (
        ({}, ModelConfig(hidden=8, embedding=8), True),
        ({}, ModelConfig(hidden=8, embedding=6), False),
        ({}, ModelConfig(hidden=8, embedding="onehot"), False),
        ({"untied": True}, ModelConfig(hidden=8, embedding=8), False),
    ):
        task = RecommendTask(data=(str(file),), **settings)
        model = task.build(config, assets)
        assert (model.head.weight is getattr(model.embedding, "weight", None)) == tied
        assert bool(task.remarks(config)) == (not tied and not settings)
        scores = model(torch.randint(11, (4, 3)))[0]
        assert scores.of(scores.hidden).shape == (4, 3, 11)
