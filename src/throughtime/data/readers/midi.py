"""Standard MIDI files: notes read from them, and written. With mido (`pip install 'throughtime[music]'`)."""

from __future__ import annotations

import io
from collections import defaultdict
from fractions import Fraction
from importlib import import_module
from typing import Any

from throughtime.data.music import KEYS, LOWEST, Key, Note, Tune, bar_of, key_of
from throughtime.errors import InputError

GRID = Fraction(
    1, 48
)  # of a whole note: starts and ends are moved to the nearest multiple; triplet sixteenths fit
_DRUMS = 9  # the channel whose notes are drums
_TICKS = 480  # of a quarter note, in what is written


def _mido() -> Any:
    """The library.

    Raises: InputError, saying what to install.
    """
    try:
        return import_module("mido")
    except ImportError:
        raise InputError(
            "MIDI files need mido, which is not installed: pip install 'throughtime[music]'"
        ) from None


def read_midi(data: bytes, name: str, genre: str = "") -> Tune:
    """The notes of all tracks and channels but drums, those that a piano has; the first time and key signatures.

    Times are those of the score, not of a performance: tempo is left out, and starts and ends move to the nearest 1/48 of a
    whole note, so that no note is shorter than that. A file without a time signature is in 4/4, as the format says.
    Raises: InputError for a file that cannot be read, holds no notes, or counts time in seconds (SMPTE).
    """
    mido = _mido()
    try:
        file = mido.MidiFile(file=io.BytesIO(data))
    except Exception as error:  # mido raises whatever a damaged byte leads to
        what = str(error) or type(error).__name__
        raise InputError(
            f"{name}: expected a Standard MIDI File, got one that cannot be read ({what})"
        ) from None
    if file.ticks_per_beat <= 0 or file.ticks_per_beat >= 0x8000:
        raise InputError(
            f"{name}: expected a MIDI file whose time is in ticks of a quarter note, got one in seconds (SMPTE)"
        )
    metre, key, title = "4/4", None, ""
    sounding: defaultdict[tuple[int, int, int], list[int]] = defaultdict(list)
    spans: set[tuple[Fraction, Fraction, int]] = set()
    for number, track in enumerate(file.tracks):
        time = 0
        for message in track:
            time += message.time
            if message.type == "time_signature" and time == 0:
                metre = f"{message.numerator}/{message.denominator}"
            elif message.type == "key_signature" and key is None:
                key = key_of(message.key)
            elif message.type == "track_name" and not title:
                title = message.name.strip()
            elif message.type in ("note_on", "note_off") and message.channel != _DRUMS:
                place = (number, message.channel, message.note)
                if message.type == "note_on" and message.velocity:
                    sounding[place].append(time)
                elif sounding[place]:
                    start = _on_grid(sounding[place].pop(0), file.ticks_per_beat)
                    end = max(_on_grid(time, file.ticks_per_beat), start + GRID)
                    if LOWEST <= message.note < LOWEST + KEYS:
                        spans.add((start, end - start, message.note))
    if not spans:
        raise InputError(
            f"{name}: expected a MIDI file with notes, got one without (drums, channel 10, are not read)"
        )
    notes = tuple(Note(*span) for span in sorted(spans, key=lambda span: (span[0], span[2], span[1])))
    length = max(note.start + note.length for note in notes)
    return Tune(notes, length, title=title, genre=genre, metre=metre if bar_of(metre) else "", key=key)


def _on_grid(ticks: int, per_quarter: int) -> Fraction:
    return round(Fraction(ticks, 4 * per_quarter) / GRID) * GRID


def write_midi(tune: Tune, tempo: int = 110) -> bytes:
    """A Standard MIDI File of one track; tempo in quarter notes a minute.

    A pickup is not marked: the format has no sign for it.
    """
    mido = _mido()
    track = mido.MidiTrack()
    if tune.title:  # what Latin-1, the file's encoding, cannot spell becomes "?"
        track.append(
            mido.MetaMessage("track_name", name=tune.title.encode("latin-1", "replace").decode("latin-1"))
        )
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(tempo)))
    if tune.metre and (bar := bar_of(tune.metre)):
        below = int(tune.metre.rpartition("/")[2])
        if below & (below - 1) == 0:
            track.append(mido.MetaMessage("time_signature", numerator=int(bar * below), denominator=below))
    if tune.key is not None:
        track.append(mido.MetaMessage("key_signature", key=_signature(tune.key)))
    # A note that ends comes before one that starts at the same time, so that a repeated note is struck again.
    events = [(note.start + note.length, 0, note.pitch) for note in tune.notes]
    events += [(note.start, 1, note.pitch) for note in tune.notes]
    now = 0
    for time, on, pitch in sorted(events):
        ticks = round(time * 4 * _TICKS)
        kind = "note_on" if on else "note_off"
        track.append(mido.Message(kind, note=pitch, velocity=80 if on else 0, time=ticks - now))
        now = ticks
    track.append(mido.MetaMessage("end_of_track", time=max(0, round(tune.length * 4 * _TICKS) - now)))
    out = io.BytesIO()
    mido.MidiFile(type=0, ticks_per_beat=_TICKS, tracks=[track]).save(file=out)
    return out.getvalue()


def _signature(key: Key) -> str:
    """The major or minor key with the same signature: MIDI has no other modes."""
    from throughtime.data.music import MODES

    if key.minor and key.mode != "min":
        names = [f"{letter}{sign}" for sign in ("", "#", "b") for letter in "CDEFGAB"]
        return next(f"{name}m" for name in names if Key(name, "min").sharps == key.sharps)
    if MODES[key.mode] not in (0, -3):
        names = [f"{letter}{sign}" for sign in ("", "#", "b") for letter in "CDEFGAB"]
        return next(name for name in names if Key(name, "maj").sharps == key.sharps)
    return str(key)
