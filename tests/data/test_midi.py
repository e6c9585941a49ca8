"""MIDI files and piano rolls: what is read, what is written, what is refused, what is the same music in another key."""

from __future__ import annotations

import io
from fractions import Fraction as F

import numpy as np
import pytest

from throughtime.data.music import Note, Tune, key_of, tune_of_frames, tune_of_melody
from throughtime.data.pieces import is_polyphonic, read_pieces, roll_of, same_music
from throughtime.data.readers.midi import read_midi, write_midi
from throughtime.data.readers.piano_rolls import read_piano_rolls
from throughtime.errors import InputError

mido = pytest.importorskip("mido", reason="mido is not installed: pip install 'throughtime[music]'")
scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed: pip install 'throughtime[music]'")


def file_of(*messages, ticks=96, more=()):
    file = mido.MidiFile(ticks_per_beat=ticks)
    for track in (messages, *more):
        file.tracks.append(mido.MidiTrack(track))
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


def on(pitch, time=0, velocity=64, channel=0):
    return mido.Message("note_on", note=pitch, time=time, velocity=velocity, channel=channel)


def test_what_is_written_is_read_again():
    notes = (
        Note(F(0), F(1, 2), 60),
        Note(F(1, 4), F(1, 12), 64),
        Note(F(1, 2), F(1, 4), 60),
        Note(F(1, 2), F(3, 16), 67),
        Note(F(3, 4), F(1), 21),
    )
    tune = Tune(notes, F(7, 4), "Tune ♪", "", "6/8", key_of("F#m"))
    again = read_midi(write_midi(tune), "x.mid", "air")
    assert again.notes == notes and again.length == F(7, 4) and again.genre == "air"
    assert (again.metre, again.key, again.title) == ("6/8", key_of("F#m"), "Tune ?")
    assert write_midi(tune) == write_midi(tune)
    assert read_midi(write_midi(Tune(notes, F(7, 4), key=key_of("Ddor"))), "x").key == key_of("Am")
    assert read_midi(write_midi(Tune(notes, F(7, 4), key=key_of("Gmix"))), "x").key == key_of("C")


def test_tracks_are_joined_drums_left_out_and_times_moved_to_the_grid():
    data = file_of(
        on(60), on(60, 95, 0), on(60, 1), mido.Message("note_off", note=60, time=50),
        more=([on(48), on(38, 0, 99, 9), on(38, 40, 0, 9), on(48, 152, 0), on(10, 0), on(10, 9, 0)],),
    )  # fmt: skip
    tune = read_midi(data, "x.mid")
    assert tune.notes == (
        Note(F(0), F(1, 2), 48),
        Note(F(0), F(1, 4), 60),
        Note(F(1, 4), F(6, 48), 60),
    )
    assert tune.metre == "4/4" and tune.key is None
    assert tune.melody() == [(60, F(1, 4)), (60, F(1, 8))]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "x.mid: expected a Standard MIDI File"),
        (b"MThd\0\0\0\6\0\0\0\1", "x.mid: expected a Standard MIDI File"),
        (b"RIFF and more of it", "x.mid: expected a Standard MIDI File"),
        (
            file_of(on(38, 0, 99, 9), on(38, 9, 0, 9)),
            "x.mid: expected a MIDI file with notes, got one without",
        ),
        (file_of(mido.MetaMessage("text", text="a")), "x.mid: expected a MIDI file with notes"),
        (file_of(on(60), on(60, 9, 0))[:-9], "x.mid: expected a Standard MIDI File"),
    ],
)
def test_files_that_cannot_be_read(data, problem):
    with pytest.raises(InputError) as caught:
        read_midi(data, "x.mid")
    assert str(caught.value).startswith(problem) and "\n" not in str(caught.value)


def mat(**arrays):
    out = io.BytesIO()
    scipy_io.savemat(out, arrays)
    return out.getvalue()


def cells(*rolls):
    found = np.empty((1, len(rolls)), dtype=object)
    for number, roll in enumerate(rolls):
        found[0, number] = np.asarray(roll)
    return found


def roll(steps=3, notes=(40, 44)):
    found = np.zeros((steps, 88), dtype=np.uint8)
    found[:, list(notes)] = 1
    return found


OTHERS = {"validdata": cells(roll()), "testdata": cells(roll())}


def test_piano_rolls_keep_their_parts(tmp_path):
    data = mat(traindata=cells(roll(3), roll(5)), validdata=cells(roll(2)), testdata=cells(roll(4), roll(1)))
    found = read_piano_rolls(data, "x.mat")
    assert [part for part, _ in found] == ["train", "train", "validation", "test", "test"]
    assert [len(each) for _, each in found] == [3, 5, 2, 4, 1]
    assert found[0][1].dtype == np.uint8 and found[0][1][:, [39, 40, 44]].tolist() == [[0, 1, 1]] * 3
    (tmp_path / "x.mat").write_bytes(data)
    pieces = read_pieces([str(tmp_path / "x.mat")])
    assert pieces.parts == [part for part, _ in found] and is_polyphonic(pieces.items)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"no matlab", "x.mat: expected a MATLAB file, got one that cannot be read"),
        (b"", "x.mat: expected a MATLAB file, got one that cannot be read"),
        (mat(traindata=cells(roll()), validdata=cells(roll())), "got none of the name testdata"),
        (mat(traindata=cells(np.ones((3, 87))), **OTHERS), "traindata[0] must be numbers [T, 88]"),
        (mat(traindata=cells(2 * roll()), **OTHERS), "must hold zeros and ones, got 2"),
        (mat(traindata=cells(roll()), validdata="text", testdata=cells(roll())), "validdata[0] must be numbers"),
    ],
)  # fmt: skip
def test_matlab_files_that_cannot_be_read(data, problem):
    with pytest.raises(InputError) as caught:
        read_piano_rolls(data, "x.mat")
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_folders_name_genres_and_bad_files_are_left_out(tmp_path):
    tune = tune_of_melody([(60, F(1, 4)), (64, F(1, 4))])
    for name in ("jig", "reel"):
        (tmp_path / "all" / name).mkdir(parents=True)
        (tmp_path / "all" / name / "a.mid").write_bytes(write_midi(tune))
    (tmp_path / "all" / "b.abc").write_text("X:1\nK:C\nCDE|\n\nX:2\nK:C\nCq|\n")
    with pytest.raises(InputError, match=r"b\.abc:7: expected a note"):
        read_pieces([str(tmp_path / "all")])
    (tmp_path / "all" / "c.mid").write_bytes(b"no")
    pieces = read_pieces([str(tmp_path / "all")], skip_bad=True)
    assert [item.genre for item in pieces.items] == ["", "jig", "reel"] and len(pieces.sources) == 3
    (remark,) = pieces.remarks
    assert remark.startswith("2 pieces that cannot be read left out; the first is ") and "b.abc:7" in remark
    assert not is_polyphonic(pieces.items)
    (tmp_path / "x.txt").write_text("CDE")
    (tmp_path / "empty").mkdir()
    for wrong, problem in (
        ("x.txt", "music must be in a file ending in .abc"),
        ("empty", "expected a folder with files"),
    ):
        with pytest.raises(InputError, match=problem):
            read_pieces([str(tmp_path / wrong)])


def test_frames_and_back():
    tune = Tune((Note(F(0), F(1, 2), 60), Note(F(1, 8), F(1, 4), 64), Note(F(3, 4), F(1, 8), 60)), F(7, 8))
    frames = tune.frames(F(1, 8))
    assert frames == [(60,), (60, 64), (60, 64), (60,), (), (), (60,)]
    again = tune_of_frames(frames, F(1, 8))
    assert again.notes == tune.notes and again.length == F(7, 8)
    assert roll_of(tune, F(1, 8)).sum(1).tolist() == [1, 2, 2, 1, 0, 0, 1]
    assert tune_of_frames([], F(1, 8)).length == 0


def test_the_same_music_in_another_key():
    tune = tune_of_melody([(60, F(1, 4)), (64, F(1, 4))])
    moved, other = (
        tune_of_melody([(low, F(1, 4)), (low + step, F(1, 4))]) for low, step in ((65, 4), (60, 3))
    )
    assert same_music(tune) == same_music(moved) != same_music(other)
    assert same_music(roll(3, (40, 44))) == same_music(roll(3, (50, 54))) != same_music(roll(3, (50, 53)))
