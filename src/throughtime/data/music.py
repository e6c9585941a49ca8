"""Music as notes in time: as one melody, or as frames, each the set of notes that sound. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from throughtime.errors import InputError

LOWEST, KEYS = 21, 88  # the keys of a piano, as MIDI numbers from A0 on
STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}  # semitones above C
ACCIDENTALS = {"": 0, "#": 1, "b": -1, "##": 2, "bb": -2}
# Steps on the circle of fifths that the signature of a mode lies from that of the major key on the same tonic.
MODES = {
    "maj": 0,
    "ion": 0,
    "min": -3,
    "m": -3,
    "aeo": -3,
    "mix": -1,
    "dor": -2,
    "phr": -4,
    "lyd": 1,
    "loc": -5,
}
_FIFTHS = "FCGDAEB"
_KEY = re.compile(r"([A-Ga-g])([#b]?)\s*([A-Za-z]*)$")
_NOTE = re.compile(r"([A-Ga-g])(##|#|bb|b|)(-?\d)$")


class Note(NamedTuple):
    """A note; times are fractions of a whole note."""

    start: Fraction
    length: Fraction
    pitch: int  # MIDI number; 60 is middle C


class Key(NamedTuple):
    """A tonic and a mode."""

    tonic: str  # "C", "F#", "Bb"
    mode: str  # a name of MODES; "maj" and "min" for major and minor

    @property
    def pitch_class(self) -> int:
        """The tonic in semitones above C, 0 to 11."""
        return (STEPS[self.tonic[0]] + ACCIDENTALS[self.tonic[1:]]) % 12

    @property
    def sharps(self) -> int:
        """Sharps of the signature; flats are negative."""
        place = _FIFTHS.index(self.tonic[0]) - 1 + 7 * ACCIDENTALS[self.tonic[1:]]
        return place + MODES[self.mode]

    @property
    def signature(self) -> dict[str, int]:
        """Semitones that the signature adds to each letter, of those that it changes."""
        count = self.sharps
        letters = _FIFTHS[:count] if count > 0 else _FIFTHS[::-1][: -count if count else 0]
        return dict.fromkeys(letters, 1 if count > 0 else -1)

    @property
    def minor(self) -> bool:
        """Whether the third above the tonic is a minor one."""
        return MODES[self.mode] <= -2

    def __str__(self) -> str:
        return self.tonic + {"maj": "", "min": "m"}.get(self.mode, self.mode)


def key_of(text: str) -> Key:
    """A key from "C", "F#m", "Bb", "D dorian", "Amix".

    Raises: InputError for anything else.
    """
    found = _KEY.match(text.strip())
    if found is None:
        raise InputError(f"a key must be a note and a mode, as in C, F#m, Bb or Ddor, got {text!r}")
    letter, accidental, word = found.groups()
    word = word.lower()
    mode = "maj" if not word else "min" if word == "m" else word[:3]
    if mode not in MODES:
        names = "major, minor, dorian, mixolydian, phrygian, lydian, locrian"
        raise InputError(f"the mode of a key must be one of {names}, got {text!r}")
    mode = {"ion": "maj", "aeo": "min"}.get(mode, mode)
    key = Key(letter.upper() + accidental, mode)
    if abs(key.sharps) > 7:
        raise InputError(
            f"a key must have at most 7 sharps or flats, got {text!r}, which has {abs(key.sharps)}"
        )
    return key


def key_at(pitch_class: int, minor: bool) -> Key:
    """The major or minor key on a pitch class, the one with fewer accidentals."""
    names = [letter + accidental for accidental in ("", "#", "b") for letter in STEPS]
    keys = [Key(name, "min" if minor else "maj") for name in names]
    return min((key for key in keys if key.pitch_class == pitch_class % 12), key=lambda key: abs(key.sharps))


def pitch_of(text: str) -> int:
    """The MIDI number of a note's name: "C4" is 60, middle C.

    Raises: InputError for anything else, or a note that a piano does not have.
    """
    found = _NOTE.match(text.strip())
    if found is None:
        raise InputError(f"a note must be a letter and an octave, as in C4, F#5 or Bb3, got {text!r}")
    letter, accidental, octave = found.groups()
    pitch = 12 * (int(octave) + 1) + STEPS[letter.upper()] + ACCIDENTALS[accidental]
    if not LOWEST <= pitch < LOWEST + KEYS:
        raise InputError(f"a note must lie from A0 to C8, the keys of a piano, got {text!r}")
    return pitch


def name_of(pitch: int) -> str:
    """The name of a MIDI number, with sharps: 61 is "C#4"."""
    names = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    return f"{names[pitch % 12]}{pitch // 12 - 1}"


def bar_of(metre: str) -> Fraction | None:
    """The length of a bar in whole notes: "6/8" is 3/4; None for no metre.

    Raises: InputError for what is no metre.
    """
    if not metre:
        return None
    found = re.fullmatch(r"\s*\(?(\d+(?:\+\d+)*)\)?\s*/\s*(\d+)\s*", metre)
    if found is None or not int(found[2]) or not sum(map(int, found[1].split("+"))):
        raise InputError(f"a metre must be like 4/4 or 6/8, got {metre!r}")
    return Fraction(sum(map(int, found[1].split("+"))), int(found[2]))


@dataclass(frozen=True)
class Tune:
    """A piece of music: notes, and what its header says."""

    notes: tuple[Note, ...]  # by start, then pitch
    length: Fraction  # of all of it, rests at its end too
    title: str = ""
    genre: str = ""
    metre: str = ""
    key: Key | None = None
    pickup: Fraction = Fraction(0)  # what comes before the first bar line, where that is less than a bar
    part: str = ""  # "train", "validation" or "test" where the file says so

    def melody(self) -> list[tuple[int | None, Fraction]]:
        """The upper line: (pitch, or None for a rest, and length), one after the other; a rest at the end is left out.

        Of notes that start together the highest is taken. One that starts while a higher one of the line sounds is left out;
        any other ends the one before.
        """
        line: list[Note] = []
        for note in sorted(self.notes, key=lambda each: (each.start, -each.pitch)):
            if line:
                last = line[-1]
                if note.start == last.start or (
                    note.start < last.start + last.length and note.pitch <= last.pitch
                ):
                    continue
                line[-1] = last._replace(length=min(last.length, note.start - last.start))
            line.append(note)
        found: list[tuple[int | None, Fraction]] = []
        time = Fraction(0)
        for note in line:
            if note.start > time:
                found.append((None, note.start - time))
            found.append((note.pitch, note.length))
            time = note.start + note.length
        return found

    def frames(self, step: Fraction) -> list[tuple[int, ...]]:
        """The notes that sound in each step of so long: those that sound at its middle."""
        count = -(-self.length // step)
        found: list[set[int]] = [set() for _ in range(count)]
        for note in self.notes:
            first = -(-(note.start - step / 2) // step)
            last = -(-(note.start + note.length - step / 2) // step)
            for place in range(max(0, first), min(count, max(last, first))):
                found[place].add(note.pitch)
        return [tuple(sorted(each)) for each in found]


def tune_of_melody(line: Iterable[tuple[int | None, Fraction]], **header: object) -> Tune:
    """A tune of one voice."""
    notes, time = [], Fraction(0)
    for pitch, length in line:
        if pitch is not None:
            notes.append(Note(time, length, pitch))
        time += length
    return Tune(tuple(notes), time, **header)  # type: ignore[arg-type]


def tune_of_frames(frames: Iterable[Iterable[int]], step: Fraction, **header: object) -> Tune:
    """A tune of frames; a note in successive ones is one long note, since frames do not say where it is struck again."""
    notes: list[Note] = []
    open_: dict[int, int] = {}  # the frame in which each sounding note began
    number = 0
    for number, frame in enumerate([*frames, ()]):
        now = set(frame)
        for pitch in sorted(set(open_) - now):
            begun = open_.pop(pitch)
            notes.append(Note(begun * step, (number - begun) * step, pitch))
        for pitch in now - set(open_):
            open_[pitch] = number
    return Tune(tuple(sorted(notes, key=lambda note: (note.start, note.pitch))), number * step, **header)  # type: ignore[arg-type]
