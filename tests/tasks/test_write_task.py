"""Text in a style: what is read and predicted, styles that are dropped, what is written, baselines, and runs from end to end."""

from __future__ import annotations

import itertools
import math
import random
import signal
from collections import Counter

import numpy as np
import pytest
import torch

import throughtime
from throughtime.cli import main
from throughtime.data.batch import IGNORE
from throughtime.data.text import END
from throughtime.errors import InputError
from throughtime.metrics.style import StyleNats
from throughtime.models.config import CELLS, ModelConfig
from throughtime.models.styled import NO_STYLE
from throughtime.runs import Run
from throughtime.tasks.baselines.write import Texts, _weight, shape, style_baselines, style_judge
from throughtime.tasks.recorded import task_of
from throughtime.tasks.write import WriteTask, style_number
from throughtime.training import TrainingConfig
from throughtime.training.interrupt import Interrupted
from throughtime.training.loop import start_run, train
from throughtime.training.reporting import Silent

MODEL = ModelConfig(hidden=24, embedding=8, cell="gru")
TRAINING = TrainingConfig(bptt="full", batch=16, steps=6, no_baselines=True)


@pytest.fixture
def file(tmp_path):
    """300 texts in two styles: letters that go up, and letters that go down."""
    draws = random.Random(1)
    rows = ["text,label"]
    for _ in range(150):
        for style, step in (("up", 1), ("down", -1)):
            start, length = draws.randrange(8, 18), draws.randrange(3, 8)
            rows.append(f"{''.join(chr(97 + start + step * n) for n in range(length))},{style}")
    path = tmp_path / "letters.csv"
    path.write_text("\n".join(rows))
    return path


def prepared(file, **settings):
    task = WriteTask(data=(str(file),), **settings)
    return task, task.prepare()


@pytest.mark.parametrize("tokens", ["char", "word", "bpe"])
def test_a_text_is_read_behind_its_end_and_predicted_with_it(tmp_path, tokens):
    texts = ["one two\nthree", " four, five", f"six{END} seven"]
    path = tmp_path / "a.jsonl"
    path.write_text(
        "\n".join(f'{{"text": {text!r}, "label": "x"}}'.replace("'", '"') for text in texts).replace(
            "\\x03", "\\u0003"
        )
    )
    task, assets = prepared(
        path, tokens=tokens, validation=0, test=0, vocab_size=300 if tokens == "bpe" else None
    )
    (end,) = assets.vocabulary.encode(END).tolist()
    inputs, targets = task._encoded(assets, "train")
    for text, read, predicted in zip(texts, inputs, targets, strict=True):
        ids = assets.vocabulary.encode(text.replace(END, "")).tolist()
        assert read.tolist() == [end, *ids] and predicted.tolist() == [*ids, end]
        assert assets.vocabulary.decode(ids) == text.replace(END, "")
    task, assets = prepared(
        path, tokens=tokens, validation=0, test=0, length=3, vocab_size=260 if tokens == "bpe" else 5
    )
    (end,) = assets.vocabulary.encode(END).tolist()
    for text, read, predicted in zip(texts, *task._encoded(assets, "train"), strict=True):
        whole = len(assets.vocabulary.encode(text.replace(END, ""))) + 1
        assert len(read) == len(predicted) == min(whole, 3) and torch.equal(read[1:], predicted[:-1])
        assert (predicted[-1] == end) == (whole <= 3)  # a text that is cut does not end


def test_a_fraction_of_the_styles_is_dropped_anew_each_epoch(file):
    task, assets = prepared(file, style_dropout=0.3, validation=0, test=0)
    data = task.batches(assets, steps=1, batch=16, seed=5)
    epochs = [list(data.epoch()) for _ in range(3)]
    dropped = [sum(int((batch.context == NO_STYLE).sum()) for batch in epoch) for epoch in epochs]
    assert all(50 < number < 130 for number in dropped)
    known = {
        assets.vocabulary.decode(ids): number
        for ids, number in zip(
            task._encoded(assets, "train")[0], task._context(assets, "train").tolist(), strict=True
        )
    }
    seen = Counter()
    for epoch in epochs:
        for batch in epoch:
            for b, number in enumerate(batch.context.tolist()):
                text = assets.vocabulary.decode(batch.inputs[: batch.lengths[b], b])
                assert number in (NO_STYLE, known[text])
                seen[text, number == NO_STYLE] += 1
    assert any(seen[text, True] and seen[text, False] for text in known)
    data = task.batches(assets, steps=1, batch=16, seed=5)
    state = data.state_dict()
    again = [list(data.epoch()) for _ in range(3)]
    assert all(
        torch.equal(a.context, b.context)
        for one, two in zip(epochs, again, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    whole, _ = prepared(file, style_dropout=0.0, validation=0, test=0)
    whole_data = whole.batches(assets, steps=1, batch=16, seed=5)
    assert not any((batch.context == NO_STYLE).any() for batch in whole_data.epoch())
    with pytest.raises(InputError, match=r"fraction"):
        whole_data.load_state_dict(state)
    for batch in task.evaluation_batches(assets, "train", steps=1, batch=7):
        assert (batch.context != NO_STYLE).all()


def test_style_nats_is_what_two_losses_say(file):
    task, assets = prepared(file)
    torch.manual_seed(1)
    model = task.build(MODEL, assets).eval()
    metric, total, texts = StyleNats(), 0.0, 0
    metric.begin(model)
    with torch.no_grad():
        for batch in task.evaluation_batches(assets, "validation", steps=1, batch=7):
            inside = torch.arange(batch.steps)[:, None] < batch.lengths
            batch = batch._replace(inputs=torch.where(inside, batch.inputs, 1))
            outputs, _ = batch.run(model)
            metric.update(outputs, batch, task.loss(outputs, batch))
            for b, length in enumerate(batch.lengths.tolist()):
                losses = []
                for context in (None, batch.context[b : b + 1]):
                    logits, _ = model(batch.inputs[:length, b : b + 1], context=context)
                    chances = logits[:, 0].double().log_softmax(-1)
                    losses.append(-sum(float(chances[t, batch.targets[t, b]]) for t in range(length)))
                    assert (batch.targets[length:, b] == IGNORE).all()
                total += losses[0] - losses[1]
                texts += 1
    assert metric.value() == pytest.approx(total / texts, abs=1e-4) and abs(total) > 1e-3
    both = StyleNats()
    both.totals += metric.totals
    both.totals += metric.totals
    assert both.value() == metric.value() and math.isnan(StyleNats().value())


def test_ngrams_of_a_style_against_counts(file):
    """Of order 1 and 2 by hand; the mixture is no worse than either of its parts on the part its weight is chosen on."""
    draws = np.random.default_rng(0)
    texts = [
        Texts(
            [np.append(draws.integers(1, 4, draws.integers(1, 6)) + 3 * (n % 2), 0) for n in range(count)],
            [n % 2 for n in range(count)],
        )
        for count in (40, 13, 11)
    ]
    train, validation, test = texts
    found = style_baselines(*texts, 7, 0, 2)
    expected = 0.0
    for ids, style in zip(test.ids, test.styles, strict=True):
        counts = Counter(int(n) for each in train.of(style) for n in each)
        total = sum(counts.values()) + 7
        expected -= sum(math.log((counts[int(n)] + 1) / total) for n in ids)
    assert found["symbol frequencies of the style"] == pytest.approx(expected)
    own = style_baselines(train, validation, validation, 7, 0, 2)
    assert own["2-gram, Kneser-Ney, its style and all"] < own["2-gram, Kneser-Ney, all styles"]
    # A text is not seen through the text before it: the order of the texts changes nothing.
    order = range(10, -1, -1)
    shuffled = Texts([test.ids[n] for n in order], [test.styles[n] for n in order])
    for name, nats in style_baselines(train, validation, shuffled, 7, 0, 4).items():
        assert nats == pytest.approx(style_baselines(train, validation, test, 7, 0, 4)[name]), name
    with pytest.raises(InputError, match="texts to train on and to test with"):
        style_baselines(train, validation, Texts([], []), 7, 0, 2)
    a, b = np.log([0.5, 0.1, 0.4]), np.log([0.1, 0.6, 0.2])
    grid = [
        float(np.logaddexp(a + np.log(w), b + np.log1p(-w)).sum()) for w in np.linspace(0.001, 0.999, 999)
    ]
    assert _weight(a, b) == pytest.approx(0.001 + 0.998 * np.argmax(grid) / 998, abs=0.01)
    assert _weight(np.zeros(0), np.zeros(0)) == 0.5


def test_the_judge_sees_letters_and_shapes():
    expected = ["^", "2", ",", "3", "\n", "$"]
    pieces = [" ".join(expected[at : at + n]) for n in (1, 2, 3, 4) for at in range(7 - n)]
    assert shape("ab, cde\n") == pieces
    draws = random.Random(1)
    texts = [
        "，".join("".join(draws.choices("天地玄黃宇宙", k=size)) for _ in range(4))
        for size in (5, 7)
        for _ in range(40)
    ]
    styles = ["five"] * 40 + ["seven"] * 40
    judge = style_judge(texts[::2], styles[::2])
    assert judge(texts[1::2], styles[1::2]) == 1.0
    assert judge(texts[1::2], [{"five": "seven", "seven": "five"}[style] for style in styles[1::2]]) == 0.0
    # The mean over styles, not over texts.
    assert judge([*texts[1:40:2], texts[41]], ["five"] * 20 + ["five"]) == pytest.approx(20 / 21)
    assert judge([*texts[1:40:2], texts[41]], ["five"] * 20 + ["seven"]) == 1.0
    with pytest.raises(InputError, match="at least two styles"):
        style_judge(["a", "b"], ["x", "x"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has learned both styles, and what its training returned."""
    folder = tmp_path_factory.mktemp("write")
    draws = random.Random(1)
    rows = ["text,label"]
    for _ in range(200):
        for style, step in (("up", 1), ("down", -1)):
            start, length = draws.randrange(8, 18), draws.randrange(3, 8)
            rows.append(f"{''.join(chr(97 + start + step * n) for n in range(length))},{style}")
    (folder / "letters.csv").write_text("\n".join(rows))
    training = TrainingConfig(bptt="full", batch=16, epochs=30, lr=0.02, warmup=0.0)
    task, run = start_run(
        WriteTask(data=(str(folder / "letters.csv"),), judged=20, style_dropout=0.2),
        MODEL,
        training,
        folder / "run",
    )
    return train(task, training, run), throughtime.load(run.path)


def goes(text):
    """The style of a text, or None where it is neither."""
    steps = {ord(b) - ord(a) for a, b in itertools.pairwise(text)}
    return {frozenset({1}): "up", frozenset({-1}): "down"}.get(frozenset(steps))


def test_a_run_from_end_to_end(run):
    result, trained = run
    for split in ("validation", "test"):
        table = result.results[split]
        assert set(table) == {
            "this model", "symbol frequencies of the style", "6-gram, Kneser-Ney, all styles",
            "6-gram, Kneser-Ney, its style and all", "texts of this part",
        }  # fmt: skip
        model = table["this model"]
        assert set(model) == {
            "bits_per_character",
            "perplexity",
            "style_nats",
            "loss",
            "style_accuracy",
            "copied",
        }
        assert model["perplexity"] == pytest.approx(math.exp(model["loss"]), rel=1e-6)
        assert model["bits_per_character"] == pytest.approx(model["loss"] / math.log(2), rel=1e-6)
        assert model["loss"] < table["symbol frequencies of the style"]["loss"] - 1
        assert model["style_accuracy"] > 0.9 and table["texts of this part"]["style_accuracy"] > 0.9
        assert 0.2 < model["style_nats"] < 2 * math.log(2)
        assert 0 < model["copied"] < 1
    card = (trained.path / "README.md").read_text()
    assert "style_accuracy" in card and "loss of a whole text without its style" in card
    for style in ("up", "down"):
        texts = ["".join(trained.generate(style=style, seed=seed, temperature=0.5)) for seed in range(20)]
        assert sum(goes(text) == style for text in texts) >= 16, texts
        assert len(set(texts)) > 5 and not any(END in text for text in texts)
        assert trained.predict(style)["written"]
    assert {goes("".join(trained.generate(seed=seed))) for seed in range(20)} >= {"up", "down"}


@pytest.mark.parametrize("style", ["up", "down", None])
@pytest.mark.parametrize("prompt", ["", "mn"])
def test_native_and_reference_write_the_same_greedy_text(run, style, prompt):
    trained = run[1]
    texts = {}
    for backend in ("native", "reference"):
        found = trained.generate(prompt, style=style, temperature=0, backend=backend)
        assert found.backend == backend
        texts[backend] = "".join(found)
    assert texts["native"] == texts["reference"]
    assert texts["native"] or prompt
    quantized = trained.generate(prompt, style=style, temperature=0, weights="bf16")
    assert quantized.backend == "native" and "".join(quantized) is not None
    # The same as the decoder of `throughtime.decoding` writes, which predict and style_accuracy use.
    task, model = trained.task, trained.model
    written = task.write(model, trained.assets, [style, style], [prompt, prompt], temperature=0)
    assert written == [prompt + texts["native"]] * 2


def test_a_session_begins_in_its_style_and_goes_back_to_it(run):
    trained = run[1]
    session = trained.session("down")
    first = session.logits.clone()
    assert session.position == 0
    session.feed("mlk")
    assert session.position == 3 and not torch.equal(session.logits, first)
    session.reset()
    assert torch.equal(session.logits, first)
    ids = trained.assets.vocabulary.encode(f"{END}mlk")[:, None]
    expected, _ = trained.model(ids, context=torch.tensor([style_number(trained.assets, "down")]))
    torch.testing.assert_close(session.feed("mlk"), expected[-1, 0].detach(), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(trained.session("up").logits, first, atol=1e-3)


def test_from_the_command_line(run, tmp_path, capsys, monkeypatch):
    trained = run[1]
    path = str(trained.path)
    assert main(["generate", path, "--style", "up", "--prompt", "mn", "--greedy"]) == 0
    out = capsys.readouterr()
    assert goes(out.out) == "up" and out.out.startswith("mn") and "native, greedy" in out.err
    assert main(["generate", path, "--style", "upp"]) == 2
    assert (
        capsys.readouterr().err
        == "throughtime: the model has no style 'upp': it writes down, up. Did you mean 'up'?\n"
    )
    assert main(["influence", path, "--prompt", "mno"]) == 0
    assert "<end>" in capsys.readouterr().out
    assert main(["flow", path, "--no-products"]) == 0
    assert main(["evaluate", path, "--split", "test"]) == 0
    capsys.readouterr()
    (tmp_path / "asked.csv").write_text("label,text\nup,mn\ndown,mn\n")
    assert main(["predict", path, str(tmp_path / "asked.csv")]) == 0
    head, up, down = capsys.readouterr().out.splitlines()
    assert head == "label,text,written" and up.startswith("up,mn,mno") and down.startswith("down,mn,mnm"[:11])
    (tmp_path / "asked.txt").write_text("up\nsideways\n")
    assert main(["predict", path, str(tmp_path / "asked.txt")]) == 2
    assert "no style 'sideways'" in capsys.readouterr().err
    (tmp_path / "book.txt").write_text("abc " * 900)
    small = ["--hidden", "8", "--steps", "3", "--no-baselines", "--out", str(tmp_path / "book")]
    assert main(["train", "text", "--data", str(tmp_path / "book.txt"), *small]) == 0
    assert main(["generate", str(tmp_path / "book"), "--style", "up"]) == 2
    assert "only runs of write have styles" in capsys.readouterr().err


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("every_step", [True, False])
def test_every_cell(file, tmp_path, cell, every_step):
    config, task = (
        ModelConfig(cell=cell, hidden=9, embedding=7),
        WriteTask(data=(str(file),), every_step=every_step),
    )
    if cell in ("none", "cnn") and not every_step:
        with pytest.raises(InputError, match=f"{cell} carries no recurrent state that a style could begin"):
            start_run(task, config, TRAINING, tmp_path / "run")
        return
    task, run = start_run(task, config, TRAINING, tmp_path / "run")
    assert train(task, TRAINING, run).step == 6
    trained = throughtime.load(run.path)
    found = trained.generate("m", style="up", length=5, seed=1)
    assert len("".join(found)) <= 5
    assert found.backend == ("native" if cell in ("rnn", "gru", "lstm") else "reference")


@pytest.mark.parametrize("bptt", ["truncated:3", "randomized:3", "checkpointed:2"])
def test_every_strategy(file, tmp_path, bptt):
    training = TrainingConfig(bptt=bptt, batch=16, steps=2, no_baselines=True)
    task, run = start_run(WriteTask(data=(str(file),)), MODEL, training, tmp_path / "run")
    assert train(task, training, run).step == 2


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_resumed_to_the_same_bits(file, tmp_path, cell):
    model = ModelConfig(hidden=9, embedding=7, cell=cell, dropout=0.3)
    training = TrainingConfig(bptt="full", batch=16, steps=25, no_baselines=True, evaluate_every=4)

    class StopsAt(Silent):
        def evaluation(self, step, *rest):
            if step == 12:
                signal.raise_signal(signal.SIGINT)

    weights = []
    for name in ("whole", "stopped"):
        task, run = start_run(
            WriteTask(data=(str(file),), style_dropout=0.5), model, training, tmp_path / name
        )
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


def test_equal_texts_stay_on_one_side_and_the_frequent_styles_are_kept(tmp_path):
    draws = random.Random(3)
    rows = [f"{draws.choice('abc')} {n % 60},{'xyz'[min(n % 9, 2)]}" for n in range(200)]
    rows += [row.upper().replace(",X", ",x").replace(",Y", ",y").replace(",Z", ",z") for row in rows[::3]]
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "\n".join(rows))
    task, assets = prepared(path, validation=0.2, test=0.2)
    texts = {
        part: {" ".join(t.lower().split()) for t in task._columns(assets, part)[0]} for part in assets.splits
    }
    assert all(texts.values()) and not texts["train"] & (texts["validation"] | texts["test"])
    assert assets.labels["label"] == ("x", "y", "z")
    task, assets = prepared(path, styles=1)
    assert assets.labels["label"] == ("z",) and set(task._columns(assets, "test")[1]) == {"z"}
    task, run = start_run(task, MODEL, TRAINING, tmp_path / "run")
    train(task, TRAINING, run)  # one style is a language model of texts
    assert throughtime.load(run.path).evaluate("test").values["style_nats"] is not None


def test_a_model_without_dropped_styles_has_no_style_nats(file):
    for fraction, names in ((0.0, 2), (1.0, 2), (0.1, 3)):
        task, assets = prepared(file, style_dropout=fraction)
        assert len(task.metrics(assets)) == names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "word"}, "by must be one of line, paragraph, file, got 'word'"),
        ({"style_dropout": 1.5}, "style_dropout must be at least 0 and at most 1"),
        ({"label": "genre"}, "expected a column 'genre'"),
        ({"test": "none.txt"}, "no such file"),
    ],
)
def test_settings_that_cannot_be_used(file, settings, message):
    with pytest.raises(InputError, match=message) as error:
        prepared(file, **settings)
    assert "\n" not in str(error.value)


def test_what_ships_inside():
    task = WriteTask(limit=300)
    assets = task.prepare()
    assert assets.labels["label"] == ("comment", "docstring", "error", "function", "if", "import")
    assert "300" in task.describe(assets) or sum(map(len, assets.splits.values())) == 300
    assert "lines of Python's standard library: 240 texts" in task.describe(assets)


def test_poems_of_real_data(data_dir):
    path = data_dir / "chinese_classics" / "song_ci" / "ci.song.0.json"
    if not path.exists():
        pytest.skip("chinese_classics/song_ci is not in THROUGHTIME_DATA")
    task, assets = prepared(path, text="paragraphs", label="rhythmic", styles=10)
    assert len(assets.labels["label"]) == 10 and "浣溪沙" in assets.labels["label"]
    texts, styles = task._columns(assets, "train")
    assert "\n" in texts[0] and len(texts) == len(styles) > 200
