"""Transcription: what is read and refused, the loss and its gradient, streams in any pieces, Morse code, resuming."""

from __future__ import annotations

import csv
import io
import wave

import numpy as np
import pytest
import torch

import throughtime
from throughtime import bptt
from throughtime.cli import main
from throughtime.data.batch import Batch
from throughtime.data.inside import morse
from throughtime.errors import InputError
from throughtime.kernels.native.generation.interface import unavailable
from throughtime.layers.eval_mode import evaluating
from throughtime.models.config import ModelConfig
from throughtime.runs import Run
from throughtime.sessions.engine import engine_of
from throughtime.sessions.stream import Stream
from throughtime.tasks.baselines.transcribe import decode_morse
from throughtime.tasks.transcribe import TranscribeTask
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

RATE = 8000
MODEL = ModelConfig(hidden=11, cell="gru")


def write_wav(path, samples, rate=RATE):
    with wave.open(str(path), "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes((samples * 32767).astype("<i2").tobytes())


def tones(text, seed):
    """A tone for each letter, a..e."""
    draws = np.random.default_rng(seed)
    time = np.arange(int(0.12 * RATE)) / RATE
    parts = [np.zeros(300)]
    for letter in text:
        hertz = 0 if letter == " " else 400 + 500 * "abcde".index(letter)
        parts += [0.5 * np.sin(2 * np.pi * hertz * time), np.zeros(draws.integers(200, 500))]
    return np.concatenate(parts) + 0.001 * draws.standard_normal(sum(map(len, parts)))


def clips(folder, count=24, speakers=4):
    """A folder of recordings with a table; the last row of the table is `count` + 1."""
    folder.mkdir(exist_ok=True)
    draws = np.random.default_rng(5)
    rows = []
    for number in range(count):
        text = "".join(draws.choice(list("abcde"), draws.integers(2, 6)))
        write_wav(folder / f"{number}.wav", tones(text, number))
        rows.append([f"{number}.wav", text.upper() + "!", f"s{number % speakers}"])
    with open(folder / "clips.csv", "w", newline="") as table:
        csv.writer(table).writerows([["path", "text", "speaker"], *rows])
    return str(folder / "clips.csv")


def trained_on(data, folder, model=MODEL, steps=3, bptt_="full", **settings):
    training = TrainingConfig(bptt=bptt_, batch=5, steps=steps, lr=0.01, warmup=0.0, no_baselines=True)
    task, run = start_run(
        TranscribeTask(data=() if data is None else (data,), **settings), model, training, folder
    )
    train(task, training, run)
    return throughtime.load(run.path)


def test_it_learns_letters_of_tones_and_every_part_of_a_run_works(tmp_path, capsys):
    data = clips(tmp_path / "clips", 60)
    trained = trained_on(data, tmp_path / "run", ModelConfig(hidden=32, cell="gru"), 220, mels=20)
    assert trained.assets.labels["symbol"] == tuple("abcde")
    found = trained.evaluate("validation").values
    assert list(found) == ["cer", "wer", "loss"] and found["cer"] < 0.3
    path = tmp_path / "clips" / "0.wav"
    record = trained.predict(str(path))
    assert set(record) == {"transcript", "score"} and record["score"] <= 0
    capsys.readouterr()
    assert main(["predict", str(trained.path), str(path)]) == 0
    assert capsys.readouterr().out == record["transcript"] + "\n"
    assert main(["predict", str(trained.path), data]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 60 and "transcript" in rows[0]
    assert (
        main(["predict", str(trained.path), str(path), "--show", "--picture", str(tmp_path / "p.png")]) == 0
    )
    drawn = capsys.readouterr().out
    assert record["transcript"] in drawn and (tmp_path / "p.png").stat().st_size > 1000
    assert main(["predict", str(trained.path), str(path), "--set", "beam=8"]) == 0
    assert main(["flow", str(trained.path), "--no-products"]) == 0
    assert main(["influence", str(trained.path)]) == 0


@pytest.mark.parametrize("cell", ["lstm", "mingru", "cnn"])
@pytest.mark.parametrize("options", [{}, {"beam": 6}])
def test_a_stream_in_any_pieces_is_the_whole_recording(tmp_path, cell, options):
    trained = trained_on(
        clips(tmp_path / "clips"), tmp_path / "run", ModelConfig(hidden=8, cell=cell), 25, mels=8
    )
    trained.task = TranscribeTask(**{**trained.task.to_table(), **options, "data": trained.task.data})
    samples = torch.tensor(tones("abcdeabc", 3), dtype=torch.float32)
    expected = trained.predict({"samples": samples})["transcript"]
    listener = trained.stream()
    assert listener.native == (cell == "lstm" and unavailable() is None)
    front = trained.task.front(trained.assets)

    def emissions():
        return Stream(engine_of(trained.model, stepwise=True))

    whole = emissions().feed(front.of(samples)).log_softmax(-1)
    for size in (1, 7, 800, 5000):
        if size == 1 and (cell != "lstm" or options):
            continue
        pieces = samples.split(size)
        texts = [listener.feed(piece)["text"] for piece in pieces]
        assert "".join([*texts, listener.flush()["text"]]) == expected
        steps, state, model = [], None, emissions()
        for piece in pieces:
            new, state = front.feed(piece, state)
            steps += [model.feed(new)] if len(new) else []
        if len(new := front.flush(state)):
            steps.append(model.feed(new))
        assert torch.equal(torch.cat(steps).log_softmax(-1), whole)
    # A snapshot goes on as often as one likes.
    begin = listener.feed(samples[:3333])["text"]
    kept = listener.snapshot()
    ends = []
    for _ in range(2):
        ends.append(begin + listener.feed(samples[3333:])["text"] + listener.flush()["text"])
        listener.restore(kept)
    assert ends == [expected, expected]
    # Near what the model says of the whole sequence in one call.
    steps = front.of(samples)
    with evaluating(trained.model), torch.inference_mode():
        outputs, _ = trained.model(steps[:, None])
    torch.testing.assert_close(outputs.log_probabilities()[:, 0], whole, atol=1e-4, rtol=1e-4)


def test_samples_of_standard_input_are_transcribed_as_they_come(tmp_path, monkeypatch, capsys):
    trained = trained_on(clips(tmp_path / "clips"), tmp_path / "run", ModelConfig(hidden=8), 25, mels=8)
    path = tmp_path / "x.wav"
    write_wav(path, tones("abc", 1))
    expected = trained.predict(str(path))["transcript"]
    data = path.read_bytes()
    for stream in (data, data[44:]):  # WAV, and raw samples
        monkeypatch.setattr("sys.stdin", type("Input", (), {"buffer": io.BytesIO(stream)}))
        capsys.readouterr()
        assert main(["predict", str(trained.path), "-", "--format", "pcm"]) == 0
        assert capsys.readouterr().out == expected + "\n"
    write_wav(path, tones("abc", 1), 16000)
    assert main(["predict", str(trained.path), str(path), "--format", "pcm"]) == 2
    assert (
        "expected a WAV stream of 16-bit samples, 1 channel, 8000 Hz, got 16 bits, 1 channels, 16000 Hz"
        in (capsys.readouterr().err)
    )


def test_a_bidirectional_model_reads_whole_recordings_alone(tmp_path):
    both = ModelConfig(hidden=6, bidirectional=True)
    trained = trained_on(clips(tmp_path / "clips"), tmp_path / "run", both, mels=8)
    assert "transcript" in trained.predict({"samples": tones("ab", 1)})
    with pytest.raises(InputError, match="a bidirectional model cannot stream"):
        trained.stream()


def task_model_batch(tmp_path, size=6):
    task = TranscribeTask(data=(clips(tmp_path / "clips"),), mels=8, low=20.0)
    assets = task.prepare()
    torch.manual_seed(1)
    model = task.build(ModelConfig(hidden=9, cell="lstm"), assets)
    batch = next(task.evaluation_batches(assets, "train", steps=0, batch=size))
    return task, model, batch


def test_the_loss_is_that_of_each_row_alone_whatever_lies_in_the_padding(tmp_path):
    task, model, batch = task_model_batch(tmp_path)
    assert batch.lengths.min() < batch.lengths.max() and batch.num_targets == int((batch.targets >= 0).sum())
    inside = torch.arange(batch.steps)[:, None] < batch.lengths
    dirty = batch._replace(inputs=torch.where(inside[..., None], batch.inputs, torch.nan))
    whole = task.loss(dirty.run(model)[0], dirty)
    whole.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    alone = 0.0
    for row in range(batch.size):
        steps = int(batch.lengths[row])
        logits, _ = model(batch.inputs[:steps, row : row + 1])
        target = batch.targets[row][batch.targets[row] >= 0]
        alone += torch.nn.functional.ctc_loss(
            logits.log_probabilities(), target[None], [steps], [len(target)], reduction="sum"
        )
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)


def test_checkpointed_bptt_has_the_gradient_of_full_and_others_are_refused(tmp_path):
    task, model, batch = task_model_batch(tmp_path)
    gradients = []
    for strategy in ("full", "checkpointed:7", "checkpointed:50"):
        model.zero_grad()
        found = bptt.parse(strategy).backward(
            lambda window, state: window.run(model, state), task.loss, batch
        )
        gradients.append((found.loss, [parameter.grad.clone() for parameter in model.parameters()]))
    for loss, each in gradients[1:]:
        torch.testing.assert_close(loss, gradients[0][0])
        torch.testing.assert_close(each, gradients[0][1], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="CTC needs the gradient through whole sequences, and truncated"):
        trained_on(str(tmp_path / "clips"), tmp_path / "cut", bptt_="truncated:9", mels=8)
    trained_on(str(tmp_path / "clips"), tmp_path / "run", bptt_="checkpointed:9", mels=8)


def test_as_many_steps_as_rows():
    from throughtime.models.transcriber import Emissions

    targets = torch.tensor([[1, 2, -100], [2, 2, -100], [1, -100, -100], [-100, -100, -100]])
    batch = Batch.of(torch.zeros(4, 4, 1), targets, [4, 4, 2, 3], per_sequence=True)
    losses = Emissions(torch.zeros(4, 4, 3), batch.lengths).losses(batch.targets)
    # Of 81 paths of 4 frames, those of the text 1 2: 15; of 2 2: 5; of 9 paths of 2 frames, those of 1: 3.
    expected = -torch.tensor([15 / 81, 5 / 81, 3 / 9, 1.0]).log()
    torch.testing.assert_close(losses, expected)


def resumed(tmp_path, name, steps):
    training = TrainingConfig(bptt="full", batch=5, steps=steps, lr=0.01, no_baselines=True)
    return start_run(TranscribeTask(limit=30, mels=8), MODEL, training, tmp_path / name), training


def test_resuming_gives_the_same_bits(tmp_path, monkeypatch):
    from throughtime.training.trainer import Trainer

    (task, run), training = resumed(tmp_path, "whole", 6)
    train(task, training, run)
    (task, other), training = resumed(tmp_path, "cut", 6)
    after = Trainer._after_step

    def interrupted(self):
        after(self)
        if self.steps == 3:
            self._save()
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_after_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(task, training, other)
    monkeypatch.setattr(Trainer, "_after_step", after)
    again = Run.open(other.path)
    train(throughtime.load(other.path).task, training, again, resume=True)
    mine, theirs = (Run.open(each.path).load_model() for each in (run, other))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_no_word_and_no_speaker_is_in_two_parts(tmp_path):
    parts = {
        part: {word for m in morse.messages(part, 80) for word in m.text.split()} for part in morse.PARTS
    }
    assert not (parts["train"] & parts["validation"] or parts["train"] & parts["test"])
    assert not parts["validation"] & parts["test"]
    task = TranscribeTask(
        data=(clips(tmp_path / "clips"),), mels=8, low=20.0, test_where="speaker=s2", validation=0.3
    )
    assets = task.prepare()
    speakers = {part: {number % 4 for number in numbers} for part, numbers in assets.splits.items()}
    assert (
        speakers["test"] == {2} and speakers["validation"] and not speakers["train"] & speakers["validation"]
    )
    assert sum(map(len, assets.splits.values())) == 24


def test_the_classical_decoder_reads_clean_code_and_loses_to_noise():
    # Of a single letter nobody can tell a dot from a dash: the speed shows in longer messages alone.
    held = [each for each in morse.messages("test", 450) if len(each.text) >= 8][:40]
    clean = [decode_morse(morse.sound(each, noise=False)) for each in held]
    assert sum(text == each.text for text, each in zip(clean, held, strict=True)) >= 38
    noisy = [decode_morse(morse.sound(each._replace(snr=-20.0))) for each in held]
    assert sum(text == each.text for text, each in zip(noisy, held, strict=True)) < 20
    assert np.array_equal(morse.sound(held[0]), morse.sound(held[0]))
    assert decode_morse(np.zeros(100, np.float32)) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda f: (f / "clips.csv").write_text("path,text\n0.wav,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"),
            "needs at least 63 frames",
        ),
        (
            lambda f: (f / "clips.csv").write_text("path,text\nnone.wav,a\n"),
            r"clips.csv:2: no such recording: none.wav",
        ),
        (
            lambda f: (f / "clips.csv").write_text("path,text\n0.wav,!!\n"),
            r"clips.csv:2: the text '!!' has no letters",
        ),
        (lambda f: (f / "clips.csv").write_text("path,words\n0.wav,a\n"), "expected a column 'text'"),
        (lambda f: (f / "0.wav").write_bytes(b"RIFFxx"), r"clips.csv:2: .*0.wav: cannot be read"),
        (lambda f: write_wav(f / "0.wav", np.zeros(4000)), "is silent"),
        (lambda f: (f / "more.csv").write_text("path,text\n"), "holds 2 tables"),
        (lambda f: (f / "clips.csv").unlink(), "expected a table .* or the layout of LibriSpeech"),
    ],
)
def test_refusals_of_data(tmp_path, change, words):
    clips(tmp_path / "clips", 5)
    change(tmp_path / "clips")
    with pytest.raises(InputError, match=words):
        TranscribeTask(data=(str(tmp_path / "clips"),), mels=8, low=20.0).prepare()


def test_bad_recordings_are_left_out_when_asked(tmp_path):
    clips(tmp_path / "clips", 12)
    (tmp_path / "clips" / "3.wav").write_bytes(b"no sound")
    task = TranscribeTask(data=(str(tmp_path / "clips"),), mels=8, low=20.0, skip_bad=True)
    assets = task.prepare()
    assert sum(map(len, assets.splits.values())) == 11
    assert "bad recordings skipped: 1; the first is" in task.describe(assets)


def test_the_layout_of_librispeech(tmp_path):
    for speaker in (19, 26, 27):
        folder = tmp_path / "set" / str(speaker) / "7"
        folder.mkdir(parents=True)
        lines = []
        for number, text in enumerate(("ab cd", "ee da")):
            write_wav(folder / f"{speaker}-7-{number:04}.wav", tones(text, number))
            lines.append(f"{speaker}-7-{number:04} {text.upper()}\n")
        (folder / f"{speaker}-7.trans.txt").write_text("".join(lines))
    task = TranscribeTask(
        data=(str(tmp_path / "set"),), mels=8, low=20.0, test_where="speaker=26", validation=0
    )
    assets = task.prepare()
    assert assets.splits == {"train": [0, 1, 4, 5], "validation": [], "test": [2, 3]}
    assert assets.labels["symbol"] == tuple(" abcde")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lm": "runs/x"}, "a language model needs a beam"),
        ({"test_where": "speaker=x"}, "names a column of a file"),
        ({"data": ("x.csv",), "test": "y.csv", "test_where": "speaker=x"}, "both say what is in that part"),
    ],
)
def test_refusals_of_options(settings, words):
    with pytest.raises(InputError, match=words):
        TranscribeTask(**settings)


def test_a_text_run_is_a_language_model(tmp_path):
    from throughtime.tasks import TextTask

    (tmp_path / "book.txt").write_text("abc abc abc\n" * 200)
    training = TrainingConfig(batch=4, steps=60, lr=0.02, no_baselines=True)
    task, run = start_run(
        TextTask(data=(str(tmp_path / "book.txt"),)), ModelConfig(hidden=16), training, tmp_path / "lm"
    )
    train(task, training, run)
    from throughtime.tasks.transcribe_predict import language_model

    step = language_model(str(run.path), tuple(" abcde"))
    first, state = step(None, torch.tensor([0]))
    assert first.shape == (1, 8)
    second, _ = step(state, torch.tensor([2]))
    assert int(second[0, 1:7].argmax()) == 2, "b follows a"
    trained = trained_on(clips(tmp_path / "clips"), tmp_path / "run", mels=8)
    trained.task = TranscribeTask(**{**trained.task.to_table(), "data": (), "beam": 4, "lm": str(run.path)})
    assert "transcript" in trained.predict({"samples": tones("abc", 1)})
    with pytest.raises(InputError, match="lm must be a run of the task text"):
        language_model(str(trained.path), ("a",))
