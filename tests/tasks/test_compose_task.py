"""Music: what is learned and written, what a run restores, the metrics and baselines by hand, what is refused."""

from __future__ import annotations

import csv
import io
import math
import os
import random
from fractions import Fraction as F
from pathlib import Path

import numpy as np
import pytest
import torch

import throughtime
from throughtime.cli import main
from throughtime.data import Assets
from throughtime.data.batch import IGNORE, Batch
from throughtime.data.music import key_of, tune_of_melody
from throughtime.data.readers.abc import read_tunes, write_tune
from throughtime.data.readers.midi import read_midi, write_midi
from throughtime.errors import InputError, RunError
from throughtime.metrics.music import FrameLikelihood, NoteLikelihood
from throughtime.models.config import ModelConfig
from throughtime.models.music import NoteOutputs
from throughtime.models.set_outputs import IndependentNotes
from throughtime.runs import Run
from throughtime.runtime import roll_text, save_music
from throughtime.tasks import ComposeTask
from throughtime.tasks.baselines.compose import Chain, frame_baselines, markov_baselines
from throughtime.tasks.compose_steps import END, PLAYED, REST, START, changed, context_of, encode
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

pytest.importorskip("mido", reason="mido is not installed: pip install 'throughtime[music]'")
scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed: pip install 'throughtime[music]'")
MODEL = ModelConfig(cell="gru", hidden=24, embedding=16)


def scales(path, count=24):
    """Tunes that run up a scale (R:up) or down (R:down) in eighths, in several keys; the end comes after an octave."""
    tunes = []
    for number in range(count):
        key = key_of(("C", "D", "F", "G", "A", "Bb", "E", "Eb")[number % 8])
        steps = [0, 2, 4, 5, 7, 9, 11, 12]
        line = [(60 + key.pitch_class + step, F(1, 8)) for step in steps]
        line = line if number % 2 == 0 else line[::-1]
        line[number // 8] = (line[number // 8][0], F(1, 4))  # so that no two are the same music
        genre = "up" if number % 2 == 0 else "down"
        tunes.append(write_tune(tune_of_melody(line, title=f"n{number}", genre=genre, metre="4/4", key=key)))
    path.write_text("\n".join(tunes))
    return str(path)


def mat(path, seed=0):
    """Frames of a chord and the same an octave above, in turn; two notes always sound together."""
    draws, parts = random.Random(seed), {}
    for name, count in (("traindata", 12), ("validdata", 3), ("testdata", 4)):
        cells = np.empty((1, count), dtype=object)
        for number in range(count):
            roll = np.zeros((draws.randint(6, 12), 88), dtype=np.uint8)
            low = draws.randint(30, 40)
            for step in range(len(roll)):
                if draws.random() < 0.7:
                    roll[step, [low + 12 * (step % 2), low + 4 + 12 * (step % 2)]] = 1
            cells[0, number] = roll
        parts[name] = cells
    scipy_io.savemat(path, parts)
    return str(path)


def trained_on(data, folder, model=MODEL, steps=60, **settings):
    training = TrainingConfig(bptt="full", batch=8, steps=steps, lr=0.02, warmup=0.0, no_baselines=True)
    task, run = start_run(ComposeTask(data=(data,), **settings), model, training, folder)
    train(task, training, run)
    return throughtime.load(run.path)


@pytest.fixture(scope="module")
def melodies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("melodies")
    return trained_on(scales(folder / "scales.abc"), folder / "run", steps=150)


@pytest.fixture(scope="module")
def chords(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chords")
    return trained_on(mat(folder / "chords.mat"), folder / "run", chain=8, steps=30)


def test_it_learns_what_a_genre_and_a_key_are(melodies):
    found = melodies.evaluate("test").values
    assert list(found) == ["nll", "nll_pitch", "nll_length", "loss"]
    assert (
        found["nll"]
        == pytest.approx(found["loss"])
        == pytest.approx(found["nll_pitch"] + found["nll_length"])
    )
    assert found["nll_pitch"] < 0.4
    for genre, rising in (("up", True), ("down", False)):
        pitches = [note.pitch for note in melodies.compose(genre=genre, key="D", temperature=0).notes]
        assert pitches == sorted(pitches, reverse=not rising) and len(pitches) > 3
        assert {pitch % 12 for pitch in pitches} <= {2, 4, 6, 7, 9, 11, 1}
    assert "24 for" not in melodies.task.describe(melodies.assets)
    assert "16 pieces to train on, 4 for validation, 4 for test; melody; genres: down, up" in (
        melodies.task.describe(melodies.assets)
    )


def test_the_same_seed_writes_the_same_music(melodies, chords):
    for trained, options in ((melodies, {"length": 30}), (chords, {"length": 12})):
        first = trained.compose(seed=1, **options)
        assert first == trained.compose(seed=1, **options)
        assert any(trained.compose(seed=seed, **options).notes != first.notes for seed in range(2, 6))
    started = melodies.compose(seed=1, start="E4", key="E")
    assert started.notes[0].pitch == 64 and str(started.key) == "E"
    chord = chords.compose(seed=1, start="C3,E3", length=3)
    assert {note.pitch for note in chord.notes if note.start == 0} == {48, 52}
    assert chord.length <= 3 * F(1, 8)
    assert len(melodies.compose(seed=1, length=1).notes) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"genre": "jig"}, "genre must be one of"),
        ({"start": "H4"}, "a note must be a letter and an octave"),
        ({"start": "C4,E4"}, "a melody starts with one note"),
        ({"key": "X"}, "a key must be a note and a mode"),
        ({"metre": "6/8"}, "metre must be one of 4/4"),
        ({"length": 0}, "length must be at least 1"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
    ],
)
def test_what_cannot_be_written(melodies, chords, options, problem):
    with pytest.raises(InputError, match=problem):
        melodies.compose(**options)
    with pytest.raises(InputError, match="knows no keys"):
        chords.compose(key="C")
    with pytest.raises(InputError, match="knows no genres"):
        chords.compose(genre="jig")


def test_music_from_the_command_line(melodies, tmp_path, capsys):
    run = str(melodies.path)

    def command(*options):
        capsys.readouterr()
        status = main(["generate", run, *options])
        return status, *capsys.readouterr()

    status, out, err = command("--genre", "up", "--key", "G", "--seed", "3", "--roll")
    assert status == 0 and out.startswith("X:1\nT:up by throughtime\nR:up\nM:4/4\nL:1/8\nK:G\n")
    assert "seed 3\n" in err and " G4 " in err
    (tune,) = read_tunes(out)
    assert tune.notes == melodies.compose(genre="up", key="G", seed=3).notes
    file = tmp_path / "tune.mid"
    assert command("--genre", "up", "--key", "G", "--seed", "3", "--out", str(file))[:2] == (0, "")
    assert read_midi(file.read_bytes(), "x").notes == tune.notes
    assert command("--seed", "3", "--out", str(tmp_path / "tune.png"))[0] == 0
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
    for options, problem in (
        (
            ["--out", str(tmp_path / "tune.wav")],
            "music is written to a file ending in .mid, .midi, .abc, .png",
        ),
        (["--out", str(tmp_path / "none" / "tune.mid")], "there is no folder"),
        (["--prompt", "C"], "--prompt is for runs that write text"),
        (["--genre", "upp"], "Did you mean 'up'"),
    ):
        status, out, err = command(*options)
        assert status == 2 and out == "" and problem in err and err.count("\n") == 1
    with pytest.raises(InputError, match="only models of the next symbol can generate"):
        melodies.generate("C")


def test_what_could_come_next(melodies, chords, tmp_path, capsys):
    found = melodies.predict("[R:up][K:C][M:4/4]CDEFGA")
    assert found["next"][0].startswith("B4 ") and found["steps"] == 6 and found["loss"] < 2.5
    assert found["probability"] == sorted(found["probability"], reverse=True)
    assert melodies.predict("[R:up][K:C][M:4/4]CDEFGABc2")["next"][0] == "end"
    assert chords.predict("[CE][ce][CE]")["steps"] == 3
    with pytest.raises(InputError, match="the tune:1: expected a note"):
        melodies.predict("CDq")
    file = tmp_path / "one.abc"
    file.write_text("X:1\nT:mine\nR:up\nM:4/4\nL:1/8\nK:C\nCDEFGAB c2|\n")
    capsys.readouterr()
    assert main(["predict", str(melodies.path), str(file)]) == 0
    head, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["piece", "title", "step", "notes", "loss"]
    assert [row[3] for row in rows] == [
        "C4 1/8",
        "D4 1/8",
        "E4 1/8",
        "F4 1/8",
        "G4 1/8",
        "A4 1/8",
        "B4 1/8",
        "C5 1/4",
        "end",
    ]
    by_hand = melodies.evaluate(files=[str(file)])
    assert (
        sum(float(row[4]) for row in rows) / 9 == pytest.approx(by_hand.loss, abs=1e-3) and by_hand.count == 9
    )
    assert main(["predict", str(chords.path), str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("1,mine,1,C4,")


def test_steps_of_a_melody():
    (tune,) = read_tunes("M:3/4\nL:1/4\nK:D\nR:air\nD|F z A|d2|\n")
    other = tune_of_melody([(60, F(1, 2))], genre="", metre="4/4")
    task = ComposeTask()
    assets = task.prepare()
    inputs, targets = encode(assets, tune, F(1, 8))
    lengths, places = assets.labels["length"], assets.labels["place"]
    quarter, half = lengths.index("1/4"), lengths.index("1/2")
    tonic = 62 - 21 + 11 - 2  # of D4, counted from the tonic
    assert targets.tolist() == [
        [tonic, quarter], [tonic + 4, quarter], [REST, quarter], [tonic + 7, quarter], [tonic + 12, half], [END, IGNORE],
    ]  # fmt: skip
    assert inputs[0].tolist() == [START, len(lengths), places.index("1/2")]
    assert inputs[1:, :2].tolist() == targets[:-1].tolist()
    assert [places[place] for place in inputs[1:, 2].tolist()] == ["0", "1/4", "1/2", "0", "1/2"]
    context = context_of(assets, tune)
    names = [
        *assets.labels["genre"],
        *assets.labels["metre"],
        *["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"],
        "minor",
    ]
    assert [name for name, on in zip(names, context.tolist(), strict=True) if on] == ["3/4", "D"]
    assert encode(assets, other, F(1, 8))[1][0].tolist() == [60 - 21 + 11, half]
    # The same tune in another key has the same steps.
    moved = tune_of_melody([(pitch and pitch + 3, length) for pitch, length in tune.melody()],
                           metre="3/4", key=key_of("F"), pickup=F(1, 4))  # fmt: skip
    assert torch.equal(encode(assets, moved, F(1, 8))[0], inputs)


def test_training_moves_pieces_to_other_keys_and_hides_what_they_are():
    task = ComposeTask()
    assets = task.prepare()
    inputs, targets = task._encoded(assets, "train")
    context = task._context(assets, "train")
    assert isinstance(context, torch.Tensor)
    start = len(assets.labels["genre"]) + len(assets.labels["metre"])
    batch = Batch.of(inputs[0][:, None], targets[0][:, None], context=context[:1])
    tonic, seen, hidden = int(context[0, start : start + 12].argmax()), set(), set()
    for seed in range(60):
        found = changed(assets, batch, random.Random(seed), 6, 0.3)
        assert found.num_targets == len(targets[0])
        played = (targets[0][:, 0] < PLAYED) & (targets[0][:, 0] >= 0)
        by = (found.targets[:, 0, 0] - targets[0][:, 0])[played]
        assert len(set(by.tolist())) == 1, "a piece is moved as a whole"
        assert torch.equal(found.targets[:, 0, 0][~played], targets[0][:, 0][~played])
        assert torch.equal(found.inputs[1:, 0, 0], found.targets[:-1, 0, 0])
        key = found.context[0, start : start + 12]
        if bool(key.any()):
            new = int(key.argmax())
            shift = int(by[0]) + new - tonic  # in semitones: what is counted from the tonic, and the tonic
            assert -6 <= shift <= 6 and int(by[0]) % 12 == 0
            seen.add(shift)
        else:
            assert float(found.context[0, start:].sum()) == 0
            assert -6 <= int(by[0]) - tonic <= 6
        hidden.add((bool(key.any()), bool(found.context[0, : len(assets.labels["genre"])].any())))
    assert len(seen) > 8 and len(hidden) == 4
    rolls = torch.zeros(4, 2, 88, dtype=torch.uint8)
    rolls[:, 0, 0] = rolls[:, 1, 87] = rolls[:, 1, 80] = 1
    frames = Batch.of(torch.cat([torch.zeros_like(rolls[:1]), rolls[:-1]]), rolls.to(torch.int8), [4, 2])
    chords = Assets(values={"music": {"form": "polyphony", "keys": False}})
    for seed in range(20):
        found = changed(chords, frames, random.Random(seed), 6, 0.3)
        assert found.num_targets == 6
        assert (found.targets[:4, 0] == 1).sum() == 4 and (found.targets[:2, 1] == 1).sum() == 4
        assert torch.equal(found.inputs[1:, 0], found.targets[:3, 0].to(torch.uint8))


@pytest.mark.parametrize("steps", [3, 5])
def test_frames_count_from_the_second_and_by_piece(steps):
    torch.manual_seed(0)
    head = IndependentNotes(4, 5)
    hidden = torch.randn(steps, 3, 4)  # T == B for 3
    targets = (torch.rand(steps, 3, 5) < 0.5).to(torch.int8)
    batch = Batch.of(torch.zeros(steps, 3, 5), targets, [steps, 2, 1])
    losses = head.nll(hidden, batch.targets)
    pieces = [losses[1:steps, 0], losses[1:2, 1]]  # the third has no second frame
    whole, by_piece = FrameLikelihood(), FrameLikelihood(by_piece=True)
    for first in (0, 2):  # in two windows, and the totals of both added
        part = batch.window(first, first + 2) if first == 0 else batch.window(2, steps)
        for metric in (whole, by_piece):
            if metric is whole:
                metric.update(NoteOutputs(hidden[first : first + part.steps], head), part, torch.zeros(()))
    by_piece.update(NoteOutputs(hidden, head), batch, torch.zeros(()))
    assert whole.value() == pytest.approx(float(torch.cat(pieces).mean().detach()), rel=1e-6)
    assert by_piece.value() == pytest.approx(
        np.mean([float(each.mean().detach()) for each in pieces]), rel=1e-6
    )
    assert math.isnan(FrameLikelihood().value()) and math.isnan(NoteLikelihood().value())
    assert not whole.higher_is_better and whole.name == "nll" and by_piece.name == "nll_piece"


def test_markov_chains_by_hand():
    chain = Chain([["a", "b", "a", "b", "b"]], 1, 4)
    zero = {"a": (2 + 2 / 4) / 7, "b": (3 + 2 / 4) / 7, "c": (2 / 4) / 7}
    first = (1 + 1 * zero["a"]) / 2  # after nothing: a, once
    after_a = (2 + 1 * zero["b"]) / 3
    after_b = (0 + 2 * zero["c"]) / 4
    assert chain.nll(["a", "b", "c"]) == pytest.approx(
        [-math.log(each) for each in (first, after_a, after_b)]
    )
    total = sum(math.exp(-chain.nll(["a", "b", symbol])[2]) for symbol in "abc") + math.exp(
        -chain.nll(["a", "b", "d"])[2]
    )
    assert total == pytest.approx(1)
    up = torch.tensor([[50, 0], [52, 0], [54, 1], [END, IGNORE]])
    found = markov_baselines([up] * 5, [up], [up], 101, 2)
    (name, best), trivial = list(found.items())[-1], found["frequencies in the key"]
    assert name.startswith("Markov chain of") and best["nll"] < trivial["nll"] / 2
    assert trivial["nll"] == pytest.approx(trivial["nll_pitch"] + trivial["nll_length"])
    # The kind of chain is chosen on validation data, not on what it is measured on.
    draws = random.Random(0)
    bound, free = (
        [
            torch.tensor(
                [
                    [50 + pitch, pitch if tied else draws.randint(0, 1)]
                    for pitch in draws.choices((0, 1), k=40)
                ]
            )
            for _ in range(16)
        ]
        for tied in (True, False)
    )
    assert "chain of notes" in list(markov_baselines(bound[:8], bound[8:], free, 101, 2))[-1]
    assert "chain of pitches" in list(markov_baselines(free[:8], free[8:], bound, 101, 2))[-1]


def test_baselines_of_frames_by_hand():
    roll = torch.zeros(4, 88, dtype=torch.int8)
    roll[::2, 40] = 1
    found = frame_baselines([roll] * 3, [roll[:3]])
    often, rare = (6 + 0.5) / 13, 0.5 / 13
    off = -87 * math.log(1 - rare)
    assert found["frequency of each note"]["nll"] == pytest.approx(
        (-math.log(1 - often) - math.log(often)) / 2 + off
    )
    after_off, after_on = (6 + 0.5) / 7, (0 + 0.5) / 7
    rest = -87 * math.log(1 - 0.5 / 13)
    wanted = (-math.log(1 - after_on) - math.log(after_off)) / 2 + rest
    assert found["each note from its own last state"]["nll"] == pytest.approx(wanted)
    linear = found["each note from the last frame, logistic regression"]
    assert isinstance(linear, str) or linear["loss"] < found["frequency of each note"]["loss"]


def test_published_parts_are_kept_and_the_chain_beats_independent_notes(chords, tmp_path):
    assert [len(chords.assets.splits[part]) for part in ("train", "validation", "test")] == [12, 3, 4]
    found = chords.evaluate("test").values
    assert list(found) == ["nll", "nll_piece", "loss"]
    alone = trained_on(chords.task.data[0], tmp_path / "alone", notes="independent", steps=30)
    assert found["nll"] < alone.evaluate("test").values["nll"]
    assert chords.task.step_names(chords.assets, torch.eye(88)[[0, 39]]) == ["A0", "C4"]


@pytest.mark.parametrize("cell", ["lstm", "cnn"])
def test_a_resumed_training_ends_in_the_same_bits(cell, tmp_path, monkeypatch):
    from throughtime.training.trainer import Trainer

    data, weights = scales(tmp_path / "scales.abc"), []
    training = TrainingConfig(bptt="full", batch=5, steps=9, checkpoint_steps=4, no_baselines=True)
    for name in ("whole", "cut"):
        model = ModelConfig(cell=cell, hidden=7, embedding=5, dropout=0.3)
        task, run = start_run(ComposeTask(data=(data,)), model, training, tmp_path / name)
        if name == "cut":
            after = Trainer._after_step

            def killed(self, after=after):
                after(self)
                if self.steps == 6:
                    raise KeyboardInterrupt

            monkeypatch.setattr(Trainer, "_after_step", killed)
            with pytest.raises(KeyboardInterrupt):
                train(task, training, run)
            monkeypatch.setattr(Trainer, "_after_step", after)
            run = Run.open(run.path)
        train(task, training, run, resume=name == "cut")
        weights.append(run.load_model())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"form": "melody", "data": "chords.mat"}, "a .mat holds frames"),
        ({"data": "scales.abc", "limit": 2, "validation": 0.9, "test": 0.09}, None),
        ({"data": "missing.abc"}, "no such file"),
    ],
)
def test_data_that_does_not_fit(settings, problem, tmp_path):
    mat(tmp_path / "chords.mat")
    scales(tmp_path / "scales.abc")
    task = ComposeTask(**{**settings, "data": (str(tmp_path / settings["data"]),)})
    if problem is None:
        assert task.prepare().splits["train"]
        return
    with pytest.raises(InputError, match=problem):
        task.prepare()


def test_the_same_tune_in_two_files_is_reported(tmp_path):
    line = [(60, F(1, 4)), (64, F(1, 4)), (67, F(1, 2))]
    for name, shift in (("train", 0), ("test", 5)):
        moved = tune_of_melody([(pitch + shift, length) for pitch, length in line])
        (tmp_path / f"{name}.mid").write_bytes(write_midi(moved))
    task = ComposeTask(data=(str(tmp_path / "train.mid"),), validation=0.0, test=str(tmp_path / "test.mid"))
    (remark,) = task.prepare().values["remarks"]
    assert remark.startswith("1 of the 1 test pieces are also train pieces, maybe in another key")


def test_runs_that_are_damaged_and_models_that_are_refused(melodies, tmp_path):
    assert Run.open(melodies.path).assets.labels["genre"] == ("down", "up")
    with pytest.raises(RunError, match=r"assets\.json is damaged"):
        melodies.task.build(MODEL, Assets())
    with pytest.raises(InputError, match="reads the notes that it is to write"):
        melodies.task.build(ModelConfig(cell="gru", bidirectional=True), melodies.assets)
    for cell in ("cnn", "none"):
        assert "no initial state" in melodies.task.remarks(ModelConfig(cell=cell))[0]
        model = melodies.task.build(ModelConfig(cell=cell, hidden=8), melodies.assets)
        assert model.initial is None


def test_pictures_of_what_is_written(melodies, tmp_path):
    tune = melodies.compose(genre="up", key="C", temperature=0)
    text = roll_text(tune, 40)
    assert text.splitlines()[-1].startswith("     a column is 1/8 of a whole note")
    first = f"{tune.notes[0].pitch}"
    assert first and "#" in text and max(map(len, text.splitlines()[:-1])) <= 40
    save_music(tune, tmp_path / "tune.abc")
    assert read_tunes((tmp_path / "tune.abc").read_text())[0].notes == tune.notes
    with pytest.raises(InputError, match="music is written to a file ending in"):
        save_music(tune, tmp_path / "tune.xyz")


def test_embedded_melodies_are_divided_by_tune():
    task = ComposeTask()
    assets = task.prepare()
    sizes = [len(assets.splits[part]) for part in ("train", "validation", "test")]
    assert sum(sizes) == 73 and min(sizes) >= 9
    genres = {task._items(assets, part)[0].genre for part in ("train",)}
    assert genres <= set(assets.labels["genre"])
    assert {"jig", "reel", "nursery", "carol", "hymn", "song", "classical"} == set(assets.labels["genre"])


def test_the_published_chorales():
    data = Path(os.environ.get("THROUGHTIME_DATA", ""), "poly_music", "JSB_Chorales.mat")
    if "THROUGHTIME_DATA" not in os.environ or not data.is_file():
        pytest.skip(f"no {data}: THROUGHTIME_DATA names the folder of public data sets")
    task = ComposeTask(data=(str(data),))
    assets = task.prepare()
    sizes = {part: [len(targets) for targets in task._encoded(assets, part)[1]] for part in assets.splits}
    assert {part: (len(each), sum(each)) for part, each in sizes.items()} == {
        "train": (229, 13_807),
        "validation": (76, 4_602),
        "test": (77, 4_725),
    }
    assert "polyphony; genres: none" in task.describe(assets)
