"""Translation: what is read, divided, written and measured, on small data."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

import throughtime
from throughtime.cli import main
from throughtime.data.batch import Batch, Source
from throughtime.data.tokens import normalized
from throughtime.errors import InputError, RunError
from throughtime.metrics.translation import ChrF
from throughtime.models.config import ModelConfig
from throughtime.tasks import TranslateTask
from throughtime.tasks.baselines.translate import nearest_translations
from throughtime.tasks.translating import Translator
from throughtime.training import TrainingConfig
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import start_run, train
from throughtime.training.reporting import Silent

DIGITS = {"one": "un", "two": "deux", "three": "trois", "four": "quatre", "five": "cinq", "six": "six"}
VERBS = (("see", "voir"), ("hear", "entendre"))
MODEL = ModelConfig(hidden=12, embedding=8, cell="gru", bidirectional=True)


def rows_of(number: int, seed: int = 0) -> list[tuple[str, str]]:
    """Numbers written out, in the other order in the other language."""
    draws, found = random.Random(seed), {}
    while len(found) < number:
        words = draws.choices(list(DIGITS), k=draws.randint(2, 5))
        found[" ".join(words)] = " ".join(DIGITS[word] for word in reversed(words))
    return list(found.items())


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write(tmp_path / "pairs.txt", rows_of(120))


def made(file: str, out: Path, model: ModelConfig = MODEL, task: dict | None = None, **settings):
    training = TrainingConfig(
        **{"bptt": "full", "steps": 6, "batch": 8, "no_baselines": True, "lr": 0.01, "evaluate_every": 1000}
        | settings
    )
    options = {"tokens": "word", "min_count": 1, "max_length": 8} | (task or {})
    return *start_run(TranslateTask(data=(file,), **options), model, training, out), training


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned a little; it is not to be changed."""
    path = tmp_path_factory.mktemp("translate")
    torch.manual_seed(0)
    task, run, training = made(write(path / "pairs.txt", rows_of(120)), path / "run", steps=30)
    train(task, training, run)
    return run.path


@pytest.fixture
def trained(folder: Path):
    return throughtime.load(folder)


def test_it_learns_to_turn_the_order_round(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.txt", rows_of(400))
    model = ModelConfig(hidden=24, embedding=16, cell="gru", bidirectional=True)
    task, run, training = made(
        file, tmp_path / "run", model, steps=150, batch=24, no_baselines=False, lr=0.02
    )
    result = train(task, training, run)
    for split in ("validation", "test"):
        table = result.results[split]
        assert set(table["this model"]) == {"chrf", "bleu", "exact", "loss"}
        assert table["this model"]["exact"] > 0.6 > 0.3 > table["nearest training sentence"]["exact"]
        assert (
            table["this model"]["chrf"]
            > 90
            > table["nearest training sentence"]["chrf"]
            > table["source, copied"]["chrf"]
        )
    trained = throughtime.load(run.path)
    assert trained.predict("one two three")["translation"] == "trois deux un"
    assert -0.5 < trained.predict("one two three")["score"] < 0
    # The final table is of all sentences with the task's own search, as `evaluate` measures them.
    assert trained.evaluate("test").values == pytest.approx(result.results["test"]["this model"])
    card = (run.path / "README.md").read_text()
    assert (
        "sacrebleu, nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp" in card
        and "beam search, 5 hypotheses" in card
    )


def test_sources_stay_on_one_side_and_all_translations_are_references(tmp_path: Path) -> None:
    rows = [(a, b) for a, b in rows_of(60)]
    more = [(a.upper() + " !", b + " oui") for a, b in rows]
    task = TranslateTask(data=(write(tmp_path / "t.tsv", rows + more + rows[:7]),), validation=0.2, test=0.2)
    assets = task.prepare()
    part_of = {number: part for part, numbers in assets.splits.items() for number in numbers}
    assert len(part_of) == 127 and set(part_of.values()) == {"train", "validation", "test"}
    for k in range(60):
        assert part_of[k] == part_of[60 + k]
    assert all(part_of[k] == part_of[120 + k] for k in range(7))
    seen = [
        row
        for batch in task.evaluation_batches(assets, "validation", steps=1, batch=4)
        for row in batch.context.unpack()
    ]
    numbers = assets.splits["validation"]
    assert len(seen) == len(numbers)
    with_texts = {row[0]: row[1:] for row in seen if row}
    every = rows + more + rows[:7]
    expected: dict[str, list[str]] = {}
    for number in numbers:
        expected.setdefault(every[number][0], []).append(every[number][1])
    assert with_texts == expected
    assert task._scoring(assets)["several"] is any(
        len(each) > 1 for part in ("validation", "test") for each in task._references(assets, part).values()
    )


def test_metrics_are_those_of_the_translations_whatever_the_batch(trained) -> None:
    task, assets, model = trained.task, trained.assets, trained.model
    references = task._references(assets, "test")
    texts = [each[0].text for each in Translator(task, model, assets)(list(references))]
    metric = ChrF()
    metric.add(list(zip(texts, references.values(), strict=True)))
    rows = task._rows(assets, "test")
    for batch in (1, 5, 64):
        found = trained.evaluate("test", batch=batch)
        assert found.values["chrf"] == pytest.approx(metric.value(), abs=1e-9)
        assert found.count == sum(len(target.split()) + 1 for _, target in rows)
    assert min(metric.totals[:2]) > 0  # something was written
    with torch.no_grad():
        model.head.bias[5] += 20.0
    assert trained.evaluate("test").metrics[0].totals[0] != metric.totals[0]


def test_while_training_a_sample_is_translated_greedily(file: str, tmp_path: Path) -> None:
    task, run, training = made(
        file, tmp_path / "run", task={"translated": 3, "validation": 0.3}, evaluate_every=3
    )
    counts = []
    evaluate_all = TranslateTask.evaluation_batches

    class Counting(TranslateTask):
        def evaluation_batches(self, assets, split, *, steps, batch):
            found = list(evaluate_all(self, assets, split, steps=steps, batch=batch))
            decoded = sum(bool(row) for each in found for row in each.context.unpack())
            counts.append(
                (split, decoded, sum(each.num_targets for each in found), self.metrics(assets)[0].convention)
            )
            return iter(found)

    counting = Counting(**vars(task))
    train(counting, training, run)
    during = [each for each in counts if each[0] == "validation" and each[1] == 3]
    assert during and counts[-2][:2] == ("validation", 36) and counts[-1][0] == "test"
    assert "greedily" in during[0][3] and "beam search, 5" in counts[-1][3]
    assert len({each[2] for each in counts if each[0] == "validation"}) == 1  # the loss is of all of them


def test_resumed_it_ends_in_the_same_bits(file: str, tmp_path: Path) -> None:
    task, reference, training = made(file, tmp_path / "reference")
    first = train(task, training, reference)
    task, run, training = made(file, tmp_path / "run")

    class Stopping(Silent):
        def step(self, step):
            if step.step == 1:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        train(task, training, run, report=Stopping())
    assert run.load_checkpoint()["steps"] < 6
    result = train(task, training, run, resume=True)
    expected = reference.load_model()
    assert all(torch.equal(value, expected[name]) for name, value in run.load_model().items())
    assert result.results == first.results


@pytest.mark.parametrize("attention", ["none", "dot", "general", "additive"])
def test_padding_is_never_read(file: str, attention: str) -> None:
    """Of sources and of targets; and where T, B and S are equal."""
    task = TranslateTask(data=(file,), tokens="word", min_count=1, attention=attention)
    assets = task.prepare()
    config = ModelConfig(hidden=6, embedding=5, cell="gru", bidirectional=attention != "dot")
    model = task.build(config, assets).eval()
    rows = sorted(range(60), key=lambda n: -len(task._encoded(assets, "train")[0][n]))
    chosen = [rows[0], rows[20], rows[40], rows[-1]]
    inputs, targets = ([each[n] for n in chosen] for each in task._encoded(assets, "train"))
    sources = [task._context(assets, "train")[n] for n in chosen]
    pad = torch.nn.utils.rnn.pad_sequence
    lengths = torch.tensor([len(each) for each in inputs])
    source = Source(pad(sources, batch_first=True), torch.tensor([len(each) for each in sources]))
    batch = Batch.of(pad(inputs), pad(targets), lengths, context=source)
    expected = task.loss(batch.run(model)[0], batch)
    alone = sum(
        task.loss(one.run(model)[0], one)
        for one in (
            Batch.of(a[:, None], b[:, None], context=Source(c[None], torch.tensor([len(c)])))
            for a, b, c in zip(inputs, targets, sources, strict=True)
        )
    )
    torch.testing.assert_close(expected, alone, rtol=1e-5, atol=1e-5)

    def poisoned(values, steps):  # ids that do not mean the padding
        inside = torch.arange(values.shape[1]) < steps[:, None]
        return torch.where(inside, values, 3)

    other = batch._replace(
        inputs=poisoned(batch.inputs.t(), lengths).t(),
        context=Source(poisoned(source.values, source.lengths), source.lengths),
    )
    assert not torch.equal(other.inputs, batch.inputs)
    torch.testing.assert_close(task.loss(other.run(model)[0], other), expected, rtol=1e-6, atol=1e-6)
    changed = batch._replace(context=Source(source.values.flip(0), source.lengths))
    assert abs(float((task.loss(changed.run(model)[0], changed) - expected).detach())) > 1e-6


def test_an_unknown_word_is_copied_from_where_the_decoder_looks(tmp_path: Path) -> None:
    draws = random.Random(1)
    names = [f"Name{number}" for number in range(400)]
    rows = [
        (f"{verb} {name} .", f". {name} {other}") for name in names for verb, other in [draws.choice(VERBS)]
    ]
    task, run, training = made(
        write(tmp_path / "names.tsv", rows), tmp_path / "run",
        ModelConfig(hidden=24, embedding=12, cell="gru", bidirectional=True),
        task={"min_count": 2}, steps=120, batch=16, lr=0.02,
    )  # fmt: skip
    train(task, training, run)
    trained = throughtime.load(run.path)
    assert trained.predict("hear Zoë .")["translation"] == ". Zoë entendre"
    assert trained.evaluate("test").values["exact"] > 0.9
    # Without attention nothing can be copied, and no unknown word is written.
    plain = TranslateTask(**{**vars(trained.task), "attention": "none"})
    model = plain.build(MODEL, trained.assets)
    with torch.no_grad():
        model.head.bias[plain.tokens_of(trained.assets)[1].vocabulary.unknown] = 50.0
    found = Translator(plain, model, trained.assets)(["hear Zoë ."])[0][0]
    assert "<unk>" not in found.text and len(found.symbols) <= 8


def test_show_prints_the_attention_of_the_best_translation(trained, tmp_path: Path) -> None:
    task, assets, model = trained.task, trained.assets, trained.model
    text = task.show(model, assets, {"source": "one  two six"}, str(tmp_path / "a.png"))
    best = trained.predict("one two six")["translation"]
    assert text.startswith(f"{best}\n\n")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    weights = Translator(task, model, assets)._weights(
        task.encode_source(task.tokens_of(assets)[0], "one two six"), [2, 3]
    )
    assert weights.shape == (3, 4)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    other = TranslateTask(**{**vars(task), "attention": "none"})
    plain = other.build(MODEL, assets)
    with pytest.raises(InputError, match="built without attention"):
        other.show(plain, assets, {"source": "one"})
    with pytest.raises(InputError, match="expected a sentence, got an empty text"):
        trained.predict("  ")


def test_n_best_and_more_of_the_search(trained) -> None:
    task = type(trained.task)(**{**vars(trained.task), "n_best": 4})
    (found,) = task.predict(trained.model, trained.assets, [{"source": "one two six"}])
    each = [found, *found["others"]]
    assert len(each) == 4 and len({one["translation"] for one in each}) == 4
    assert [one["score"] for one in each] == sorted((one["score"] for one in each), reverse=True)
    assert found["translation"] == trained.predict("one two six")["translation"]


def test_the_formats_give_the_same_training(tmp_path: Path) -> None:
    rows = rows_of(40)
    tsv = write(tmp_path / "t.tsv", rows)
    (tmp_path / "t.en").write_text("".join(f"{a}\n" for a, _ in rows))
    (tmp_path / "t.fr").write_text("".join(f"{b}\n" for _, b in rows))
    lines = [json.dumps({"german": b, "english": a}) for a, b in rows]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    both = (str(tmp_path / "t.en"), str(tmp_path / "t.fr"))
    tasks = [
        TranslateTask(data=(tsv,)),
        TranslateTask(data=both),
        TranslateTask(data=(str(tmp_path / "t.jsonl"),), source="english", target="german"),
    ]
    encoded = [task._all(task.prepare(), "train") for task in tasks]
    for other in encoded[1:]:
        for mine, theirs in zip(encoded[0], other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert tasks[2].columns == ("english",)
    turned = TranslateTask(data=(tsv,), source="2", target="1")
    assert turned._rows(turned.prepare(), "train")[0] == tuple(
        reversed(tasks[0]._rows(tasks[0].prepare(), "train")[0])
    )
    held = TranslateTask(data=(tsv,), validation=",".join(both), test=0)
    assets = held.with_full_paths().prepare()
    assert len(assets.splits["validation"]) == 40 and len(assets.splits["train"]) == 40
    assert assets.values["remarks"] == [
        "40 of the 40 validation texts are also train texts, such as "
        f"{rows[0][0]!r}: they are kept, and results on the validation part are too good by that"
    ]


def test_long_sentences_and_small_vocabularies(tmp_path: Path) -> None:
    rows = [*rows_of(30), ("one " * 50, "un " * 50)]
    file = write(tmp_path / "t.tsv", rows)
    task = TranslateTask(data=(file,), tokens="word", length=10, min_count=1, validation=0, test=0)
    assets = task.prepare()
    assert max(len(each) for part in task._all(assets, "train") for each in part) == 11
    assert "1 training pairs have 10 symbols or more on a side and are cut there" in assets.values["remarks"]
    few = TranslateTask(data=(file,), most_words=5)
    assert sum(map(len, few.prepare().splits.values())) == 30
    with pytest.raises(InputError, match="no pair has at most 1 words on both sides"):
        TranslateTask(data=(file,), most_words=1).prepare()
    small = TranslateTask(data=(file,), tokens="word", vocab_size=3, min_count=1).prepare()
    assert [len(each) for each in small.vocabularies.values()] == [3, 3]
    lower = TranslateTask(data=(write(tmp_path / "u.tsv", [(a.upper(), b) for a, b in rows]),), lower=True)
    assert lower._rows(lower.prepare(), "train")[0][0].islower()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": "de", "data": ("x.txt",)}, "to is of the data without files, and data names some"),
        ({"source": "en"}, "source and target name columns of a file"),
        ({"n_best": 6}, "n_best must be at most beam, got n_best 6 and beam 5"),
        ({"attention": "none", "input_feeding": True}, "input_feeding needs attention"),
        ({"tokens": "syllable"}, "tokens must be one of word, bpe, char"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        TranslateTask(**settings)
    assert "\n" not in str(error.value)


def test_a_damaged_run_is_refused(folder: Path, tmp_path: Path) -> None:
    path = shutil.copytree(folder, tmp_path / "run") / "assets.json"
    data = json.loads(path.read_text())
    del data["vocabularies"]["target"]
    path.write_text(json.dumps(data))
    with pytest.raises(RunError, match=r"assets\.json is damaged"):
        throughtime.load(path.parent).predict("one")


def test_strategies_cut_the_target_and_never_the_source(file: str, tmp_path: Path) -> None:
    """The encoder reads both ways; what cuts nothing is full, what recomputes too, and a cut is another gradient."""
    weights = {}
    for bptt in ("full", "truncated:50", "checkpointed:2", "truncated:2"):
        task, run, training = made(file, tmp_path / bptt.replace(":", ""), bptt=bptt, steps=3)
        train(task, training, run)
        weights[bptt] = run.load_model()
    full = weights.pop("full")
    for bptt, found in weights.items():
        same = all(torch.allclose(found[name], value, atol=1e-5) for name, value in full.items())
        assert same == (bptt != "truncated:2"), bptt


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"cell": "lstm", "layers": 2, "dropout": 0.2, "zoneout": 0.1}, {"input_feeding": True}),
        ({"cell": "mingru"}, {"scheduled_sampling": 0.3}),
        ({"cell": "cnn", "layers": 2, "bidirectional": True}, {"label_smoothing": 0.1}),
        ({"cell": "none"}, {"attention": "additive", "coverage_penalty": 0.2}),
        ({"cell": "rnn", "tied": True, "embedding": 12}, {"attention": "none"}),
    ],
)
def test_cells_and_options(file: str, tmp_path: Path, settings: dict, options: dict) -> None:
    model = ModelConfig(**{"hidden": 12, "embedding": 8} | settings)
    task, run, training = made(file, tmp_path / "run", model, options, steps=2)
    train(task, training, run)
    assert throughtime.load(run.path).predict("one two")["score"] < 0


def test_it_starts_from_another_runs_weights_and_symbols(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.tsv", [*rows_of(30, 5), ("eleven", "onze")])
    task, run, training = made(other, tmp_path / "run", steps=1, lr=1e-9, init_from=str(folder))
    train(task, training, run)
    before, after = throughtime.load(folder), throughtime.load(run.path)
    assert after.assets.vocabularies == before.assets.vocabularies
    assert after.predict("six two one")["translation"] == before.predict("six two one")["translation"]


def test_flow_and_influence_are_those_of_the_decoder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(shutil.copytree(folder, tmp_path / "run"))
    assert main(["flow", run, "--no-products"]) == 0
    assert "layers.l0  gru   12" in (out := capsys.readouterr().out) and "encoder.layers" not in out
    assert main(["influence", run]) == 0
    assert "rows: outputs; columns: inputs" in capsys.readouterr().out
    assert main(["influence", run, "--prompt", "one two"]) == 2
    assert "a translator writes from a source: leave it out" in capsys.readouterr().err


def test_other_data_is_evaluated_with_the_runs_vocabulary(trained, tmp_path: Path) -> None:
    other = write(tmp_path / "other.tsv", rows_of(9, seed=7))
    found = trained.evaluate(files=[other])
    assert found.metrics[0].totals.sum() > 0
    assert found.count == sum(len(b.split()) + 1 for _, b in rows_of(9, seed=7))


def test_what_ships_inside(tmp_path: Path) -> None:
    task = TranslateTask(pairs=200, from_="de", to="zh", validation=0.2, test=0.2)
    assets = task.prepare()
    values = {
        part: {task._rows(assets, part)[n][0] for n in range(len(assets.splits[part]))}
        for part in assets.splits
    }
    assert not values["train"] & values["test"]
    assert task._scoring(assets)["tokens"] == "char"
    other = task.on((write(tmp_path / "other.tsv", rows_of(3)),))
    assert len(other._rows(assets, "all")) == 3 and other._scoring(assets)["tokens"] == "char"
    assert task.title == "de-zh" and task.describe(assets).startswith("Unicode locale data, de to zh: ")


def test_without_sacrebleu_training_says_so_and_works(file: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    task, run, training = made(file, tmp_path / "run", steps=2)
    assert "pip install 'throughtime[translate]'" in task.remarks(MODEL)[0]
    assert set(train(task, training, run).results["test"]["this model"]) == {"chrf", "exact", "loss"}


def test_the_nearest_training_sentence() -> None:
    sources, targets = ["a red house", "the green tree", "nine lives"], ["A", "B", "C"]
    assert nearest_translations(sources, targets, ["green trees", "nine", "red houses", "GREEN"]) == [
        "B",
        "C",
        "A",
        "B",
    ]


def test_tokens_of_a_saved_run_are_those_it_was_trained_with(trained) -> None:
    source, target = trained.task.tokens_of(trained.assets)
    assert normalized("ONE", lower=False) == "ONE"
    assert source.decode(source.encode("one two")) == "one two"
    assert target.encode("un deux") and len(target) == len(trained.assets.vocabularies["target"]) + 2


def test_evaluate_takes_other_values_for_how_the_model_is_used(folder: Path, capsys) -> None:
    def measured(*arguments: str) -> dict[str, float]:
        assert main(["evaluate", str(folder), "--split", "test", "--json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)["total"]

    usual, longer = measured(), measured("--set", "length-penalty=10")
    assert longer["loss"] == usual["loss"]  # of the true symbols
    assert longer["chrf"] != usual["chrf"]
    assert measured("--set", "beam=5") == usual
    assert main(["evaluate", str(folder), "--set", "hidden=3"]) == 2
    assert "beam" in capsys.readouterr().err
