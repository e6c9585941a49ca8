"""Fill the blank as a task: what is asked, what is read, no leaks, predictions, and runs from end to end."""

from __future__ import annotations

import random
import signal

import pytest
import torch

import throughtime
from throughtime.cli import main
from throughtime.data import IGNORE
from throughtime.errors import InputError
from throughtime.models.config import CELLS, ModelConfig
from throughtime.runs import Run
from throughtime.tasks import FillTask
from throughtime.tasks.recorded import task_of
from throughtime.training import TrainingConfig
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import start_run, train
from throughtime.training.reporting import Silent

MODEL = ModelConfig(hidden=9, embedding=7, cell="gru", bidirectional=True)
TRAINING = TrainingConfig(bptt="full", batch=16, steps=6, no_baselines=True)
THINGS = {"cat": "milk", "dog": "bones", "cow": "grass", "boy": "cake"}


@pytest.fixture
def file(tmp_path):
    """300 sentences: what somebody eats follows from who it is, and the other way round; numbers make them differ."""
    draws = random.Random(1)
    rows = []
    for number in range(300):
        who = draws.choice(list(THINGS))
        rows.append(f"On day {number % 100}, the {draws.choice(['old', 'big'])} {who} eats {THINGS[who]}.")
    path = tmp_path / "book.txt"
    path.write_text("\n".join(rows) + "\n\nI have ___ it.\n")
    return path


def prepared(file, **settings):
    task = FillTask(data=(str(file),), **settings)
    return task, task.prepare()


def test_every_word_is_a_target_and_no_punctuation_mark(file):
    task, assets = prepared(file)
    decode = assets.vocabulary.decode
    seen = 0
    for batch in task.batches(assets, steps=64, batch=7).epoch():
        for b in range(batch.size):
            for t in range(int(batch.lengths[b])):
                name = decode([int(batch.inputs[t, b])]).strip()
                if name in (",", "."):
                    assert batch.targets[t, b] == IGNORE
                else:
                    assert batch.targets[t, b] == batch.inputs[t, b]
                seen += 1
        assert batch.targets[batch.lengths[0] :, 0].eq(IGNORE).all()
    assert seen > 1000
    assert not assets.vocabulary.unknown_symbols("cat milk ,")
    assert assets.vocabulary.unknown_symbols("I") == [
        "I"
    ]  # only in the sentence with a blank, which is left out


def test_equal_sentences_stay_on_one_side(file):
    _, assets = prepared(file)
    rows = assets.cache["rows"]
    parts = {part: {rows[n].lower() for n in numbers} for part, numbers in assets.splits.items()}
    assert len(rows) == 300 and all(parts.values())
    assert not parts["train"] & (parts["validation"] | parts["test"])
    assert not parts["validation"] & parts["test"]


def test_words_seen_once_in_training_are_unknown(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("one two. Two one three. one two four.")
    task, assets = prepared(path, validation=0, test=0)
    assert len(assets.vocabulary) == 2 + len(["one", "two", "."])
    inputs, targets = task._encoded(assets, "train")
    assert sum(int((ids == 0).sum()) for ids in inputs) == 3  # Two three four: asked, and counted as missed
    assert sum(int((each == 0).sum()) for each in targets) == 3
    _, assets = prepared(path, validation=0, test=0, lower=True)
    assert not assets.vocabulary.unknown_symbols("two")
    _, assets = prepared(path, validation=0, test=0, vocab_size=3)
    assert len(assets.vocabulary) == 3


def test_long_sentences_are_cut_and_lines_may_be_the_unit(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("a b c d e f g. H i\nj k\n-- !\nword\n")
    task = FillTask(data=(str(path),), length=5, validation=0, test=0)
    assert task._read()[0] == ["a b c d e", "f g .", "H i j k -", "- ! word"]
    task = FillTask(data=(str(path),), by="line", validation=0, test=0)
    assert task._read()[0] == ["a b c d e f g . H i", "j k"]
    task = FillTask(data=(str(path),), by="line", tokens="char", validation=0, test=0)
    assert task._read()[0] == ["a b c d e f g. H i", "j k", "word"]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_predictions_are_those_of_the_model_at_the_blank(file, cell, bidirectional):
    task, assets = prepared(file)
    model = task.build(ModelConfig(cell=cell, hidden=5, embedding=3, bidirectional=bidirectional), assets)
    text = "On day 7, the big ___ eats grass."
    (found,) = task.predict(model, assets, [{"text": text}])
    symbols = ["On", "day", "7", ",", "the", "big", "cat", "eats", "grass", "."]
    ids = assets.vocabulary.encode(" ".join(symbols))[:, None]
    chances = model.eval()(ids)[0][6, 0].detach().double().softmax(-1)
    names = [assets.vocabulary.decode([n]).strip() for n in range(len(assets.vocabulary))]
    answers = sorted(
        (n for n, name in enumerate(names) if n and any(map(str.isalnum, name))), key=lambda n: -chances[n]
    )[:5]
    assert found["answers"] == {names[n]: pytest.approx(float(chances[n]), abs=1e-5) for n in answers}
    assert (found["answer"], found["probability"]) == next(iter(found["answers"].items()))
    # Words that are not in the vocabulary, nothing on either side, and what stands in the blank of the batch do not matter.
    for odd in ("___", "___ zzz", "zzz ______"):
        (other,) = task.predict(model, assets, [{"text": odd}])
        assert len(other["answers"]) == 5
    (same,) = task.predict(model, assets, [{"text": text.replace("grass", "milk")}])
    assert (same == found) == (not bidirectional or cell == "none")  # none reads the neighbours alone


@pytest.mark.parametrize("text", ["no blank", "___ and ___", "a __ b", ""])
def test_another_number_of_blanks_is_refused(file, text):
    task, assets = prepared(file)
    model = task.build(MODEL, assets)
    with pytest.raises(
        InputError, match=r"expected a text with one blank, three underscores as in .*, got \d in"
    ) as e:
        list(task.predict(model, assets, [{"text": text}]))
    assert "\n" not in str(e.value)


def test_a_run_from_end_to_end(file, tmp_path):
    """It learns who eats what, from the right side too, and beats both trigrams, which see two words on each side."""
    training = TrainingConfig(bptt="full", batch=16, epochs=12, lr=0.02, warmup=0.0)
    losses = {}
    for both in (True, False):
        model = ModelConfig(hidden=12, embedding=12, cell="gru", bidirectional=both)
        task, run = start_run(FillTask(data=(str(file),)), model, training, tmp_path / f"run{both}")
        results = train(task, training, run).results["test"]
        assert set(results) == {
            "this model",
            "most frequent word",
            "trigrams, words before",
            "trigrams, both sides",
        }
        for values in results.values():
            assert set(values) == {"perplexity", "top_1", "top_5", "loss"}
        losses[both] = results["this model"]["loss"]
        assert losses[both] < results["most frequent word"]["loss"]
    assert losses[True] < losses[False] - 0.1
    trained = throughtime.load(tmp_path / "runTrue")
    for who, what in THINGS.items():
        assert trained.predict(f"On day 3, the old ___ eats {what}.")["answer"] == who
    assert trained.evaluate("test").values["loss"] == pytest.approx(losses[True], rel=1e-6)
    assert trained.evaluate(files=(str(file),)).count > 1000
    for run in ("runTrue", "runFalse"):
        with pytest.raises(InputError, match="only models of the next symbol can generate"):
            throughtime.load(tmp_path / run).generate("On")
    card = (tmp_path / "runTrue" / "README.md").read_text()
    assert "trigrams, both sides" in card and "an unknown word is no answer" in card


@pytest.mark.parametrize("cell", ["lstm", "none", "cnn"])
def test_resumed_to_the_same_bits(file, tmp_path, cell):
    model = ModelConfig(hidden=9, embedding=7, cell=cell, bidirectional=True, dropout=0.3)
    training = TrainingConfig(bptt="full", batch=16, steps=25, no_baselines=True, evaluate_every=4)

    class StopsAt(Silent):
        def evaluation(self, step, *rest):
            if step == 12:
                signal.raise_signal(signal.SIGINT)

    weights = []
    for name in ("whole", "stopped"):
        task, run = start_run(FillTask(data=(str(file),)), model, training, tmp_path / name)
        if name == "whole":
            train(task, training, run)
        else:
            with pytest.raises(Interrupted):
                train(task, training, run, report=StopsAt())
            run = Run.open(run.path)
            train(task_of(run), training, run, resume=True)
        weights.append(run.load_model())
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


@pytest.mark.parametrize("bptt", ["truncated:3", "randomized:3", "checkpointed:2"])
def test_strategies_that_cut_need_one_side(file, tmp_path, bptt):
    training = TrainingConfig(bptt=bptt, batch=16, steps=2, no_baselines=True)
    task = FillTask(data=(str(file),))
    with pytest.raises(InputError, match="is bidirectional and must read the whole sequence") as error:
        start_run(task, MODEL, training, tmp_path / "both")
    assert "\n" not in str(error.value) and not (tmp_path / "both").exists()
    for cell in ("lstm", "cnn"):
        task, run = start_run(task, ModelConfig(hidden=5, cell=cell), training, tmp_path / cell)
        assert train(task, training, run).step == 2


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("one\n\ntwo\n\n-- !\n", {}, r"expected a text with sentences of two words or more, found none: give another text"),
        ("Only ___ here.", {}, "found none"),
        ("a b. c d. e f.", {"tokens": "words"}, "tokens must be one of word, char, got 'words'. Did you mean 'word'"),
        ("a b. c d. e f.", {"by": "lines"}, "by must be one of sentence, line, got 'lines'"),
        ("a b. c d. e f.", {"test": "none.txt"}, r"no such file: none\.txt"),
        ("a b. c d. e f.", {"vocab_size": 2}, "vocab_size must be at least 3"),
    ],
)  # fmt: skip
def test_data_and_settings_that_cannot_be_used(tmp_path, monkeypatch, text, settings, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        prepared("book.txt", **settings)
    assert "\n" not in str(error.value)


def test_a_shared_sentence_of_two_files_is_reported(file, tmp_path):
    (tmp_path / "test.txt").write_text(
        "The dog sleeps. On day 1, the OLD cow eats grass. On day 1, the big cow eats grass."
    )
    text = file.read_text() + "On day 1, the old cow eats grass.\n"
    file.write_text(text)
    _, assets = prepared(file, test=str(tmp_path / "test.txt"), validation=0)
    (remark,) = assets.values["remarks"]
    assert "test texts are also train texts" in remark


def test_from_the_command_line(file, tmp_path, capsys, monkeypatch):
    """Flags that a task sets can be switched off; flow, influence and predict work on the run."""
    monkeypatch.chdir(tmp_path)
    sizes = ["--hidden", "8", "--embedding", "5", "--steps", "4", "--no-baselines", "--device", "cpu"]
    train_it = ["train", "fill", "--data", "book.txt", *sizes]
    assert main([*train_it, "--out", "both"]) == 0
    assert main([*train_it, "--no-bidirectional", "--out", "left"]) == 0
    for run, both in (("both", True), ("left", False)):
        assert throughtime.load(run).config.bidirectional == both
    capsys.readouterr()
    assert main([*train_it, "--resume", "--no-bidirectional", "--out", "both"]) == 2
    assert "--bidirectional contradicts the run" in capsys.readouterr().err
    assert main(["influence", "both", "--prompt", "the old cat eats milk"]) == 0
    assert main(["flow", "both", "--no-products"]) == 0
    assert "backward_layers.layers.l0_reverse" in capsys.readouterr().out
    (tmp_path / "asked.txt").write_text("the old ___ eats milk\n___\n")
    assert main(["predict", "both", "asked.txt"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("the old ___ eats milk\t") and second.startswith("___\t")
    (tmp_path / "asked.jsonl").write_text('{"text": "the old ___", "id": 3}\n')
    assert main(["predict", "left", "asked.jsonl"]) == 0
    assert '"answers": {"' in capsys.readouterr().out


def test_chinese_characters(tmp_path):
    path = tmp_path / "poems.txt"
    lines = ["白日依山盡，", "黃河入海流。", "欲窮千里目，", "更上一層樓。"]
    path.write_text("\n".join(f"{line}{other}" for line in lines for other in lines))
    training = TrainingConfig(bptt="full", batch=8, steps=4)
    task, run = start_run(
        FillTask(data=(str(path),), tokens="char", by="line"), MODEL, training, tmp_path / "run"
    )
    train(task, training, run)
    found = throughtime.load(run.path).predict("白日___山盡")
    assert all(len(answer) == 1 and answer.isalnum() for answer in found["answers"])


def test_what_ships_inside():
    task = FillTask(limit=300)
    assets = task.prepare()
    assert sum(map(len, assets.splits.values())) == 300 and assets.splits["test"]
    assert "the Python language reference" in task.describe(assets)


def test_the_time_machine(data_dir):
    path = data_dir / "time_machine" / "timemachine.txt"
    if not path.exists():
        pytest.skip("time_machine/timemachine.txt is not in THROUGHTIME_DATA")
    rows = FillTask(data=(str(path),))._read()[0]
    assert 1500 < len(rows) < 2500
    assert "' That is all right , ' said the Psychologist ." in rows


def test_lower_case_does_not_change_where_sentences_end(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("One cat. Two Dogs! THREE cows.")
    for lower, expected in (
        (False, ["One cat .", "Two Dogs !", "THREE cows ."]),
        (True, ["one cat .", "two dogs !", "three cows ."]),
    ):
        assert FillTask(data=(str(path),), lower=lower, validation=0, test=0)._read()[0] == expected
