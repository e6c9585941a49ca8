"""The language model's task: which symbols it trains on, what its loss and metrics are, and that a run restores it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import throughtime
from throughtime.data import IGNORE, Batch, embedded_text
from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.tasks import TextTask
from throughtime.tasks.recorded import model_config_of, restore_model, task_of
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

TEXT = "Ab cd. ÄB\n cd!\n" * 20
MODEL = ModelConfig(hidden=5, embedding=3)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def prepared(file, **settings):
    """A task and its assets."""
    task = TextTask(data=(str(file),), **settings)
    return task, task.prepare()


def decoded(task, assets, split):
    return assets.vocabulary.decode(task.ids(assets, split))


def test_the_text_and_its_parts(file):
    task, assets = prepared(file, validation=0.25)
    assert decoded(task, assets, "all") == TEXT
    assert len(task.ids(assets, "train")) == len(TEXT) * 3 // 4
    assert decoded(task, assets, "train") + decoded(task, assets, "validation") == TEXT
    assert len(task.ids(assets, "test")) == 0
    assert task.unit == "character"
    assert prepared(file, tokens="word")[0].unit == "word"
    task, assets = prepared(file, validation=0.25, test=0.1)
    assert "".join(decoded(task, assets, split) for split in ("train", "validation", "test")) == TEXT
    assert len(task.ids(assets, "test")) == len(TEXT) // 10


def test_parts_from_files(file, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("cd Ab " * 5)
    task, assets = prepared(file, validation=str(other), test=0.1)
    assert decoded(task, assets, "validation") == "cd Ab " * 5
    assert decoded(task, assets, "train") + decoded(task, assets, "test") == TEXT
    assert decoded(task, assets, "all") == TEXT
    assert [source.path for source in assets.sources] == [str(file), str(other)]


def test_without_files_it_reads_what_python_carries():
    task = TextTask(limit=1000)
    assert decoded(task, task.prepare(), "all") == embedded_text()[:1000]


def test_normalization_comes_before_the_limit_and_the_vocabulary_after_both(file):
    task, assets = prepared(file, normalize="letters", limit=7, validation=0)
    assert decoded(task, assets, "all") == "ab cd ä"
    assert len(assets.vocabulary) == len(set("abcd ä")) + 1
    task, assets = prepared(file, normalize="lower", limit=8, validation=0)
    assert decoded(task, assets, "all") == "ab cd. ä"
    file.write_text("123 456")
    with pytest.raises(InputError, match="nothing is left of the text with normalize = letters"):
        prepared(file, normalize="letters")


def test_the_letters_of_the_time_machine(data_dir):
    path = data_dir / "time_machine/timemachine.txt"
    task, assets = prepared(path, normalize="letters", limit=10_000, validation=0)
    assert (len(task.ids(assets, "train")), len(assets.vocabulary)) == (10_000, 28)
    assert task.evaluation_batches(assets, "validation", steps=35, batch=32) is None


def test_the_loss_is_the_sum_over_unmasked_targets():
    task = TextTask()
    torch.manual_seed(0)
    logits = torch.randn(7, 3, 5, dtype=torch.float32) * 4
    targets = torch.randint(5, (7, 3))
    targets[2, 1] = targets[6] = IGNORE
    batch = Batch.of(torch.zeros(7, 3), targets)
    expected = -sum(
        logits[t, b].log_softmax(-1)[targets[t, b]].item()
        for t in range(7)
        for b in range(3)
        if targets[t, b] >= 0
    )
    assert task.loss(logits, batch).item() == pytest.approx(expected, rel=1e-6)  # float32
    assert task.loss(logits.bfloat16(), batch).dtype == torch.float32


def test_batches_of_another_text_are_normalized_and_cover_it(file, tmp_path):
    task, assets = prepared(file, normalize="letters")
    other = tmp_path / "other.txt"
    other.write_text("AB 12 cdÄ")
    on_other = task.on((str(other),))
    batches = list(on_other.evaluation_batches(assets, "all", steps=2, batch=1))
    symbols = torch.cat([batch.targets for batch in batches])[:, 0]
    assert assets.vocabulary.decode(symbols) == "b cdä"
    assert [batch.reset for batch in batches] == [True, False, False]
    assert decoded(task, assets, "all") != decoded(
        on_other, assets, "all"
    )  # each in its own place in the cache


def test_too_short_for_what_is_asked(file):
    file.write_text("abcdefghij")
    with pytest.raises(
        InputError,
        match=r"the text is too short: its validation part, 0.1 of 10 characters, must be at least 2 characters, got 1",
    ):
        prepared(file)
    task, assets = prepared(file, validation=0)
    with pytest.raises(InputError, match=r"4 streams of one window of 5 steps need 25 symbols, got 10"):
        task.batches(assets, steps=5, batch=4)


def test_metrics_are_those_of_the_symbols(file):
    task, assets = prepared(file)
    batch = Batch.of(torch.zeros(1, 3), torch.tensor([[1, 2, IGNORE]]))
    loss = torch.tensor(2 * math.log(8), dtype=torch.float64)
    for tokens, first in (("char", "bits_per_character"), ("word", "perplexity"), ("bpe", "perplexity")):
        task, assets = prepared(file, tokens=tokens)
        metrics = task.metrics(assets)
        for metric in metrics:
            metric.update(None, batch, loss)
        values = {metric.name: metric.value() for metric in metrics}
        assert next(iter(values)) == first and values["perplexity"] == pytest.approx(8)
        characters = sum(len(assets.vocabulary.decode([symbol])) for symbol in (1, 2))
        assert values["bits_per_character"] == pytest.approx(6 / characters)


def test_baselines_are_those_of_the_split(file):
    task, assets = prepared(file, validation=0.2, test=0.1)
    found = task.baseline(assets, "test")
    assert list(found) == ["symbol frequencies", "6-gram, Kneser-Ney"]
    trivial, strong = (found[name] for name in found)
    assert strong["loss"] < trivial["loss"]  # the text repeats itself
    assert trivial["bits_per_character"] == pytest.approx(trivial["loss"] / math.log(2))
    assert task.baseline(assets, "validation") != found


def test_a_run_restores_the_task_and_the_model(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task, run = start_run(
        TextTask(data=("text.txt",)), MODEL, TrainingConfig(batch=2, window=4), tmp_path / "run"
    )
    with pytest.raises(RunError, match="no weights yet"):
        restore_model(run, task)
    model = task.build(MODEL, run.assets)
    run.save_model(model.state_dict())
    monkeypatch.chdir("/")
    run = Run.open(tmp_path / "run")
    again = task_of(run)
    restored = restore_model(run, again)
    assert again == task and again.data == (str(file),)  # with full paths
    assert model_config_of(run) == MODEL
    assert torch.equal(again.ids(run.assets, "train"), task.ids(task.prepare(), "train"))
    assert not restored.training
    for name, value in model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)

    before = torch.get_rng_state()
    file.unlink()
    restore_model(Run.open(run.path), again)  # needs no text: generating works without
    assert torch.equal(torch.get_rng_state(), before)
    run.save_model({"x": torch.zeros(1)})
    with pytest.raises(RunError, match=r"are not those of its config\.toml: .* should be .*, and is absent"):
        restore_model(run, again)


def test_a_changed_or_moved_file_when_evaluating(file, tmp_path):
    """The run knows its files by their checksums, wherever they lie."""
    training = TrainingConfig(batch=2, window=4, steps=2, no_baselines=True)
    task, run = start_run(TextTask(data=(str(file),)), MODEL, training, tmp_path / "run")
    train(task, training, run)
    expected = throughtime.load(run.path).evaluate("validation")

    moved = tmp_path / "moved.txt"
    file.rename(moved)
    with pytest.raises(InputError, match=r"no such file: .*text\.txt") as error:
        throughtime.load(run.path).evaluate("validation")
    assert "\n" not in str(error.value)
    trained = throughtime.load(run.path)
    assert trained.evaluate("validation", files=[moved]).values == expected.values

    moved.write_text(TEXT + "more")
    with pytest.raises(InputError, match=r"moved\.txt is not .*text\.txt, which the run was made from"):
        trained.evaluate("validation", files=[moved])  # what was read before is not used again
    moved.rename(file)
    with pytest.raises(
        InputError, match=r"has changed since the run was made \(320 bytes then, 324 now\): put"
    ) as error:
        throughtime.load(run.path).evaluate("validation")
    assert "\n" not in str(error.value) and str(file) in str(error.value)
    throughtime.load(run.path).evaluate(files=(str(file),))  # as other data it may be evaluated


def test_the_run_of_something_else(file, tmp_path):
    _, assets = prepared(file)
    with pytest.raises(RunError, match=r"task must be the name of a task, got None"):
        task_of(Run.create(tmp_path / "a", {"music": {}}, assets))
    with pytest.raises(RunError, match=r"it has no section \[text\]"):
        task_of(Run.create(tmp_path / "b", {"task": "text", "music": {}}, assets))
    run = Run.create(tmp_path / "c", {"task": "text", "text": {}, "model": {"hiden": 3}}, assets)
    assert task_of(run) == TextTask()
    with pytest.raises(RunError, match=r"config.toml is damaged: \[model\] has no setting 'hiden'"):
        model_config_of(run)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": "chars"}, "tokens must be one of char, word, bpe, space, got 'chars'. Did you mean 'char'"),
        ({"normalize": "letter"}, "Did you mean 'letters'"),
        ({"sampling": "sequence"}, "Did you mean 'sequential'"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"validation": 1.0}, "validation must be at least 0 and below 1, got 1.0"),
        ({"validation": math.nan}, "validation must be at least 0 and below 1, got nan"),
        ({"validation": ""}, "validation must be a fraction from 0 up to 1, or a file, got an empty name"),
        ({"validation": 0.5, "test": 0.5}, "must leave some data to train on, got 0.5 and 0.5"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(InputError, match=message):
        TextTask(**settings)


def test_a_bidirectional_language_model_is_remarked_on():
    assert TextTask().remarks(MODEL) == []
    (remark,) = TextTask().remarks(ModelConfig(hidden=5, bidirectional=True))
    assert "reads the symbol that it is to predict" in remark


def test_predictions(file):
    task, assets = prepared(file)
    model = task.build(MODEL, assets).double()
    text, none, one = task.predict(model, assets, [{"text": "Ab cd"}, {"text": ""}, {"text": "A"}])
    logits, _ = model(assets.vocabulary.encode("Ab cd")[:, None])
    chances = logits[:, 0].log_softmax(-1)
    by_hand = (
        -sum(chances[t, symbol].item() for t, symbol in enumerate(assets.vocabulary.encode("b cd").tolist()))
        / 4
    )
    assert text["symbols"] == 5 and text["loss"] == pytest.approx(by_hand, rel=1e-9)
    assert text["perplexity"] == pytest.approx(math.exp(by_hand), rel=1e-9)
    assert text["next"] == assets.vocabulary.decode([int(chances[-1].argmax())])
    assert none == {"symbols": 0, "loss": None, "perplexity": None, "next": None}
    assert (one["symbols"], one["loss"]) == (1, None) and one["next"]
    with pytest.raises(InputError, match="each record must have a column 'text', got 'x'"):
        list(task.predict(model, assets, [{"x": "a"}]))
