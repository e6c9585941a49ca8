"""The language model's task: which symbols it trains on, and what its loss is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from throughtime.data import IGNORE, embedded_text
from throughtime.errors import InputError, RunError
from throughtime.models import ModelConfig, settings_to_dict
from throughtime.runs import Run
from throughtime.tasks import TextConfig, TextTask

TEXT = "Ab cd. ÄB\n cd!\n" * 20
MODEL = ModelConfig(hidden=5, embedding=3)


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def task(file, **settings) -> TextTask:
    return TextTask.create(TextConfig(data=(str(file),), **settings), MODEL)


def test_the_text_and_its_two_parts(file):
    made = task(file, validation=0.25)
    assert made.vocabulary.decode(made.ids) == TEXT
    assert len(made.train_ids) == len(TEXT) * 3 // 4
    assert made.vocabulary.decode(made.train_ids) + made.vocabulary.decode(made.validation_ids) == TEXT
    assert made.unit == "character"
    assert task(file, tokens="word").unit == "word"


def test_without_files_it_reads_what_python_carries():
    made = TextTask.create(TextConfig(limit=1000), MODEL)
    assert made.vocabulary.decode(made.ids) == embedded_text()[:1000]


def test_normalisation_comes_before_the_limit_and_the_vocabulary_before_both(file):
    made = task(file, normalize="letters", limit=7, validation=0)
    assert made.vocabulary.decode(made.ids) == "ab cd ä"
    assert len(made.vocabulary) == len(set("abcd ä")) + 1
    made = task(file, normalize="lower", limit=8, validation=0)
    assert made.vocabulary.decode(made.ids) == "ab cd. ä"
    file.write_text("123 456")
    with pytest.raises(InputError, match="nothing is left of the text with normalize = letters"):
        task(file, normalize="letters")


def test_the_courses_setting(data_dir):
    made = task(data_dir / "time_machine/timemachine.txt", normalize="letters", limit=10_000, validation=0)
    assert (len(made.ids), len(made.vocabulary)) == (10_000, 28)
    assert made.validation(35, 32) is None


def test_the_loss_is_the_sum_over_unmasked_targets(file):
    made = task(file)
    torch.manual_seed(0)
    logits = torch.randn(7, 3, 5, dtype=torch.float32) * 4
    targets = torch.randint(5, (7, 3))
    targets[2, 1] = targets[6] = IGNORE
    expected = -sum(
        logits[t, b].log_softmax(-1)[targets[t, b]].item()
        for t in range(7)
        for b in range(3)
        if targets[t, b] >= 0
    )
    assert made.loss(logits, targets).item() == pytest.approx(expected, rel=1e-6)  # float32
    assert made.loss(logits.bfloat16(), targets).dtype == torch.float32


def test_windows_of_another_text_are_normalised_and_cover_it(file):
    made = task(file, normalize="letters")
    windows = list(made.windows("AB 12 cdÄ", 2, 1))
    symbols = torch.cat([window.targets for window in windows])[:, 0]
    assert made.vocabulary.decode(symbols) == "b cdä"
    assert [window.fresh for window in windows] == [True, False, False]


def test_too_short_for_what_is_asked(file):
    file.write_text("abcdefghij")
    with pytest.raises(
        InputError,
        match=r"the text is too short: of its 10 symbols the validation part, 0.1 of them, must be at least 2, got 1",
    ):
        task(file)
    with pytest.raises(InputError, match=r"4 streams of one window of 5 steps need 25 symbols, got 10"):
        task(file, validation=0).streams(5, 4)


def test_a_run_gives_back_the_task_and_the_model(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = TextTask.create(TextConfig(data=("text.txt",)), MODEL)
    run = Run.create(tmp_path / "run", settings_to_dict(made.config, made.model), made.vocabulary)
    with pytest.raises(RunError, match="no weights yet"):
        TextTask.restore(run)
    model = made.build()
    run.save_model(model.state_dict())
    monkeypatch.chdir("/")
    restored, again = TextTask.restore(Run.open(tmp_path / "run"))
    assert again.config == made.config  # with the files' full paths
    assert torch.equal(again.ids, made.ids)
    assert not restored.training
    for name, value in model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value)

    file.unlink()
    TextTask.restore(Run.open(tmp_path / "run"))  # needs no text: generating works without
    run.save_model({"x": torch.zeros(1)})
    with pytest.raises(RunError, match=r"are not those of its config\.toml"):
        TextTask.restore(run)


def test_the_run_of_something_else(file, tmp_path):
    vocabulary = task(file).vocabulary
    with pytest.raises(RunError, match=r"has no \[text\] and \[model\]"):
        TextTask.from_run(Run.create(tmp_path / "a", {"music": {}}, vocabulary))
    with pytest.raises(RunError, match=r"config.toml is damaged: \[model\] has no setting 'hiden'"):
        TextTask.from_run(Run.create(tmp_path / "b", {"text": {}, "model": {"hiden": 3}}, vocabulary))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": "chars"}, "tokens must be one of char, word, bpe, got 'chars'. Did you mean 'char'"),
        ({"normalize": "letter"}, "Did you mean 'letters'"),
        ({"sampling": "sequence"}, "Did you mean 'sequential'"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
        ({"validation": 1.0}, "validation must be a share from 0 up to 1"),
        ({"validation": math.nan}, "validation must be a share"),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(InputError, match=message):
        TextConfig(**settings)


def test_a_bidirectional_language_model_is_remarked_on(file):
    assert task(file).remarks() == []
    config = ModelConfig(hidden=5, bidirectional=True)
    (remark,) = TextTask.create(TextConfig(data=(str(file),)), config).remarks()
    assert "sees the symbol that it is to predict" in remark
