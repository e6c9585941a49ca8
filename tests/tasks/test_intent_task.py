"""Intents: answers and handing over, calibration after training, what a resumed run keeps, folds, wrong input."""

from __future__ import annotations

import dataclasses
import random
import shutil

import pytest
import torch

import throughtime
from throughtime.data import IGNORE, Batch
from throughtime.data.assets import Assets
from throughtime.errors import InputError, RunError
from throughtime.metrics.calibration import choose_threshold, fit_temperature
from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.tasks import ClassifyTask, IntentTask
from throughtime.tasks.recorded import restore_model
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

MODEL = ModelConfig(cell="gru", hidden=13, embedding=9, bidirectional=True, pooling="max", dropout=0.2)
TRAINING = TrainingConfig(
    bptt="full", steps=30, batch=16, lr=0.02, warmup=0.0, no_baselines=True, checkpoint_steps=7
)
SUBJECTS = {
    "card": ("card", "cards", "visa"),
    "loan": ("loan", "credit", "mortgage"),
    "chat": ("hello", "thanks", "bye"),
}
ANSWERS = {"card": "Call us about the card, at once.", "loan": "See our loans.", "chat": ""}


def questions(path, count=120, answers=False):
    """Texts that name a subject of their label, some with a word of another one."""
    draws, rows = random.Random(5), []
    for number in range(count):
        label = list(SUBJECTS)[number % 3]
        other = draws.choice(list(SUBJECTS)) if draws.random() < 0.3 else label
        words = [
            draws.choice(SUBJECTS[label]),
            draws.choice(SUBJECTS[other]),
            draws.choice("abcdefg"),
            f"n{number}",
        ]
        draws.shuffle(words)
        rows.append(f'"{" ".join(words)}",{label}' + (f',"{ANSWERS[label]}"' if answers else ""))
    path.write_text(f"text,label{',answer' if answers else ''}\n" + "\n".join(rows) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """questions.csv, answers.csv, and a run trained on them."""
    folder = tmp_path_factory.mktemp("intent")
    data = questions(folder / "questions.csv")
    (folder / "answers.csv").write_text(
        "label,answer\n" + "".join(f'{k},"{v}"\n' for k, v in ANSWERS.items())
    )
    task = IntentTask(
        data=(data,),
        answers=str(folder / "answers.csv"),
        validation=0.3,
        test=0.2,
        subwords=50,
        target_precision=0.9,
    )
    task, run = start_run(task, MODEL, TRAINING, folder / "run")
    train(task, TRAINING, run)
    return folder


@pytest.fixture
def trained(folder):
    return throughtime.load(folder / "run")


def logits_of(trained, split):
    """Logits before the temperature, and targets, text by text."""
    task, assets, model = trained.task, trained.assets, trained.model
    inputs, targets = task._encoded(assets, split)
    with torch.inference_mode():
        rows = [model(each[:, None])[0][0] * model.head.temperature for each in inputs]
    return torch.stack(rows), targets


def test_calibration_is_that_of_the_validation_part(trained):
    logits, targets = logits_of(trained, "validation")
    head = trained.model.head
    temperature = fit_temperature(logits, targets)
    assert float(head.temperature) == pytest.approx(temperature, rel=1e-4) and temperature != 1
    confidence, predicted = (logits.double() / temperature).softmax(1).max(1)
    can = predicted != trained.assets.labels["label"].index("chat")
    expected = choose_threshold(confidence[can], (predicted == targets)[can], 0.9)
    assert float(head.threshold) == pytest.approx(expected, rel=1e-4)
    values = trained.evaluate("validation").values
    answered = can & (confidence >= expected)
    assert values["coverage"] == pytest.approx(float(answered.double().mean()))
    assert values["precision"] == pytest.approx(float((predicted == targets)[answered].double().mean()))
    assert values["precision"] >= 0.9 and 0 < values["coverage"] < 1
    assert list(values) == ["accuracy", "macro_f1", "coverage", "precision", "calibration_error", "loss"]


def test_predictions_answer_or_hand_over(trained):
    logits, _ = logits_of(trained, "test")
    texts, _ = trained.task._columns(trained.assets, "test")
    found = list(trained.predict(texts))
    labels, head = trained.assets.labels["label"], trained.model.head
    for row, one in zip(logits, found, strict=True):
        probability, best = (row.double() / float(head.temperature)).softmax(0).max(0)
        assert one["label"] == labels[best] and one["probability"] == pytest.approx(
            float(probability), abs=1e-5
        )
        sure = float(probability) >= float(head.threshold)
        assert one["answer"] == (ANSWERS[one["label"]] if sure else "")
        assert one["handed_over"] == (not one["answer"])
    kinds = {(one["label"] == "chat", one["handed_over"]) for one in found}
    assert {(False, False), (True, True)} <= kinds
    coverage = trained.evaluate("test").values["coverage"]
    assert coverage == pytest.approx(sum(not one["handed_over"] for one in found) / len(found))
    assert list(found[0]) == ["label", "probability", "answer", "handed_over"]
    for text in ("", "   "):
        assert trained.predict(text)["handed_over"] is True
    with pytest.raises(InputError, match="'text' must be a text, got 5"):
        trained.predict({"text": 5})


def test_a_misspelt_word_is_read_by_its_parts(trained):
    task, assets, model = trained.task, trained.assets, trained.model
    assert assets.vocabulary.unknown_symbols(" mortgagge") == [" mortgagge"]
    others = ("mortgagge", "zzz", "penguin", "quick", "sofa", "window", "blue")
    with torch.inference_mode():
        own, *vectors = (model.embedding(task._encode(assets, text)) for text in ("mortgage", *others))
    near, *rest = ((own - other).norm() for other in vectors)
    far = sum(rest) / len(rest)
    assert 0 < near < far
    assert task._encode(assets, "Card loan").shape == (2, 25)
    assert torch.equal(task._encode(assets, "  card loan "), task._encode(assets, "card loan"))


def test_a_resumed_training_ends_in_the_same_bits(folder, tmp_path):
    """Killed after 14 steps, or after the last one and before the calibration: the same weights, temperature and threshold."""
    expected = Run.open(folder / "run").load_model()
    assert expected["head.temperature"] != 1

    class Stop(Exception):
        pass

    class Killed(IntentTask):
        name = "intent"
        calls = []

        def training_loss(self, assets):
            loss = super().training_loss(assets)

            def counted(outputs, batch):
                self.calls.append(1)
                if len(self.calls) == 15:
                    raise Stop
                return loss(outputs, batch)

            return counted

        def after_training(self, model, assets):
            raise Stop

    settings = Run.open(folder / "run").config["intent"]
    task, run = start_run(IntentTask.from_table(settings), MODEL, TRAINING, tmp_path / "run")
    killed = Killed.from_table(settings)
    with pytest.raises(Stop):
        train(killed, TRAINING, run)
    assert Run.open(run.path).load_checkpoint()["steps"] == 14
    with pytest.raises(Stop):  # all steps are done, nothing is calibrated
        train(killed, TRAINING, Run.open(run.path), resume=True)
    assert Run.open(run.path).load_model()["head.temperature"] == 1
    with pytest.raises(RunError, match=r"the run has no threshold yet, .* continue it with --resume"):
        throughtime.load(run.path).predict("card")
    for _ in range(2):  # a complete training can be resumed again and again
        train(task, TRAINING, Run.open(run.path), resume=True)
        found = Run.open(run.path).load_model()
        assert found.keys() == expected.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_weights_of_another_run_come_without_its_threshold(folder, tmp_path):
    training = dataclasses.replace(TRAINING, init_from=str(folder / "run"), steps=1)
    settings = IntentTask.from_table(Run.open(folder / "run").config["intent"])
    again = dataclasses.replace(settings, answers=None)  # the answers of the other run stay
    task, run = start_run(again, MODEL, training, tmp_path / "run")
    assert run.assets.values["answers"] == ANSWERS
    seen = []

    class Looking(IntentTask):
        name = "intent"

        def after_training(self, model, assets):
            seen.append(float(model.head.temperature))
            return super().after_training(model, assets)

    train(Looking.from_table(task.to_table()), training, run)
    assert seen == [1.0]
    expected, found = Run.open(folder / "run").load_model(), run.load_model()
    assert float((found["head.weight"] - expected["head.weight"]).abs().max()) < 0.1


def test_the_training_loss_is_smoothed_and_the_reported_one_is_not():
    outputs = torch.randn(5, 4, dtype=torch.float64)
    targets = torch.tensor([0, 3, IGNORE, 1, 1])
    outputs[2] = float("nan")
    batch = Batch.of(torch.zeros(5, 5), targets, per_sequence=True)  # T == B
    plain, smooth = IntentTask(label_smoothing=0.0), IntentTask(label_smoothing=0.3)
    rows = [(outputs[b].log_softmax(0), int(targets[b])) for b in (0, 1, 3, 4)]
    loss = -sum(row[target].item() for row, target in rows)
    assert plain.training_loss(Assets())(outputs, batch).item() == pytest.approx(loss, rel=1e-12)
    assert smooth.loss(outputs, batch).item() == pytest.approx(loss, rel=1e-12)
    spread = -sum(row.mean().item() for row, _ in rows)
    assert smooth.training_loss(Assets())(outputs, batch).item() == pytest.approx(
        0.7 * loss + 0.3 * spread, rel=1e-6
    )


def test_padding_is_never_read(trained):
    """Rows of a batch give what they give alone, whatever the numbers in the padding."""
    task, assets, model = trained.task, trained.assets, trained.model
    inputs, targets = task._encoded(assets, "test")
    short, long = torch.cat([inputs[0][:1]]), inputs[1]
    padded = torch.full((len(long), 2, 25), 3)
    padded[:1, 0], padded[:, 1] = short, long
    batch = Batch.of(padded, targets[:2], [1, len(long)], per_sequence=True)
    with torch.inference_mode():
        together = batch.run(model)[0]
        alone = [model(each[:, None])[0][0] for each in (short, long)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-6, rtol=0)


@pytest.mark.parametrize("tokens", ["char", "bpe", "word"])
def test_other_tokens_have_no_n_grams(tmp_path, tokens):
    data = questions(tmp_path / "q.csv", answers=True)
    training = dataclasses.replace(TRAINING, steps=2)
    task = IntentTask(data=(data,), tokens=tokens, subwords=50 if tokens != "word" else 0, validation=0.2)
    task, run = start_run(task, ModelConfig(cell="lnlstm", hidden=5, embedding=3), training, tmp_path / "run")
    result = train(task, training, run)
    assert "accuracy" in result.results["test"]["this model"]
    assert run.assets.values["answers"] == ANSWERS
    first = next(iter(task.batches(run.assets, steps=1, batch=4).epoch()))
    assert first.inputs.dim() == 2
    assert throughtime.load(run.path).predict("card")["label"] in SUBJECTS


def test_a_model_that_reads_forward_trains_with_cuts(tmp_path):
    data = questions(tmp_path / "q.csv", 40)
    training = dataclasses.replace(TRAINING, steps=2, bptt="truncated:2")
    task, run = start_run(
        IntentTask(data=(data,), validation=0.2),
        ModelConfig(hidden=5, embedding=4),
        training,
        tmp_path / "run",
    )
    train(task, training, run)
    found = throughtime.load(run.path).predict("card")
    assert list(found) == ["label", "probability", "handed_over"]  # no answers were given


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"answers": "short.csv"},
            "each label needs an answer, and 'chat', 'loan' have none: add it, or an empty one",
        ),
        ({"answers": "empty.csv"}, r"expected answers in .*empty\.csv, found none"),
        ({"answers": "nowhere.csv"}, r"no such file: .*nowhere\.csv"),
        (
            {"answer": "reply_text"},
            r"q\.csv:2: expected a column 'reply_text', the columns are 'text', 'label'",
        ),
        ({"validation": 0.0}, "intent chooses its threshold on the validation part, and there is none"),
        ({"text": "txt"}, r"q\.csv:1: expected a column 'txt'.* Did you mean 'text'"),
    ],
)
def test_data_that_cannot_be_used(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    data = questions(tmp_path / "q.csv")
    (tmp_path / "short.csv").write_text("label,answer\ncard,Yes.\n")
    (tmp_path / "empty.csv").write_text("label,answer\ncard,\n")
    with pytest.raises(InputError, match=message) as error:
        IntentTask(data=(data,), **settings).prepare()
    assert "\n" not in str(error.value)
    for wrong in (
        {"answers": ""},
        {"target_precision": 1.0},
        {"fold": "3/2"},
        {"fold": "1/5", "test": "t.csv"},
    ):
        with pytest.raises(InputError):
            IntentTask(**wrong)
    with pytest.raises(InputError, match="onehot has no vectors for n-grams"):
        start_run(IntentTask(data=(data,)), ModelConfig(embedding="onehot"), TRAINING, tmp_path / "run")


def test_an_empty_text_is_refused_with_its_row(tmp_path):
    path = tmp_path / "q.csv"
    questions(path, 30)
    path.write_text(path.read_text() + ",card\n")
    with pytest.raises(InputError, match=r"q\.csv:32: expected 'text' to hold text, got an empty field"):
        IntentTask(data=(str(path),)).prepare()
    assert "bad row" in " ".join(IntentTask(data=(str(path),), skip_bad=True).prepare().values["remarks"])


@pytest.mark.parametrize("kind", [ClassifyTask, IntentTask])
def test_folds_of_a_task(tmp_path, kind):
    data = questions(tmp_path / "q.csv", 60)
    tested = []
    for k in (1, 2, 3):
        assets = kind(data=(data,), fold=f"{k}/3", validation=0.2).prepare()
        tested += assets.splits["test"]
        assert len(assets.splits["validation"]) in range(9, 16)
    assert sorted(tested) == list(range(60))
    # Other data is evaluated whole, also where its labels could not be in two folds.
    few = tmp_path / "few.csv"
    few.write_text("text,label\nvisa now,card\n")
    task = kind(data=(data,), fold="1/3", validation=0.2)
    (batch,) = task.on((str(few),)).evaluation_batches(task.prepare(), "all", steps=1, batch=4)
    assert batch.size == 1


def test_case_is_not_lost_from_the_vocabulary(tmp_path):
    """With lower, words that only occur with a capital letter are known too."""
    path = tmp_path / "q.csv"
    path.write_text("text,label\n" + "".join(f"Why me {n},a\nI know {n},b\n" for n in range(9)))
    for kind in (ClassifyTask, IntentTask):
        task = kind(data=(str(path),), tokens="word", lower=True, validation=0.4, test=0)
        vocabulary = task.prepare().vocabulary
        assert not vocabulary.unknown_symbols(task._inputs.normalized("Why me"))
        assert not any(symbol.isupper() for symbol in map(bytes.decode, vocabulary.symbols))


def test_the_questions_that_ship_inside_train_from_the_defaults(tmp_path):
    pytest.importorskip("sklearn")
    training = TrainingConfig(bptt="full", steps=3, batch=32)
    task, run = start_run(IntentTask(limit=300), MODEL, training, tmp_path / "run")
    result = train(task, training, run)
    for split in ("validation", "test"):
        rows = result.results[split]
        assert rows["majority class"]["accuracy"] < rows["TF-IDF, linear SVM"]["accuracy"]
        assert 0 <= rows["TF-IDF, linear SVM"]["coverage"] <= 1
    assert "questions about throughtime" in task.describe(run.assets) and task.title == "questions"
    assert "1 of them always handed over" in task.describe(run.assets)
    moved = tmp_path / "moved"
    shutil.copytree(run.path, moved)
    assert restore_model(Run.open(moved), task).head.calibrated
    assert throughtime.load(moved).predict("what is the weather tomorrow")["label"]


def test_banking77_has_77_intents(data_dir):
    folder = data_dir / "banking77"
    if not folder.is_dir():
        pytest.skip("banking77 is not in THROUGHTIME_DATA")
    task = IntentTask(data=(str(folder / "train.csv"),), test=str(folder / "test.csv"))
    assets = task.prepare()
    assert len(assets.labels["label"]) == 77 and len(assets.splits["test"]) == 3080
    assert assets.values["answers"] == {}
