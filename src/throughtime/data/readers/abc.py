"""ABC notation: tunes read from text, and written.

Read: the fields X T R M L K (others are passed over), notes with accidentals that hold to the end of the bar, octaves,
lengths, broken rhythm, tuplets, ties, rests, chords, repeats with first and second endings (written out), inline fields. Passed
over, since they say nothing of pitch and length: grace notes, slurs, decorations, chord symbols, lyrics, comments. Not read:
more than one voice (V:), overlays (&), transposing clefs. Source: the ABC standard 2.1 (abcnotation.com, 2011).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from throughtime.data.music import STEPS, Key, Note, Tune, bar_of, key_of
from throughtime.errors import InputError

_FIELD = re.compile(r"([A-Za-z]):(.*)")
_BAR = re.compile(r"(\[\||:*\|+[\]:]*|::+)(\s*\[?(\d[\d,\-]*))?|\[(\d[\d,\-]*)")
_NOTE = re.compile(r"(\^\^|\^|__|_|=|)([A-Ga-g])([,']*)")
_LENGTH = re.compile(r"(\d*)(/*)(\d*)")
_TUPLET = re.compile(r"\((\d)(?::(\d*))?(?::(\d*))?")
_INLINE = re.compile(r"\[([A-Za-z]):([^\]]*)\]")
_CHORD = re.compile(r"\[([^\]|:]*)\]")
_PASSED = re.compile(r'"[^"]*"|![^!|]*!|\+[a-z]+\+|\{[^}]*\}|[\s`~.HLMOPSTuvy)$]|\(')
_TIE, _BROKEN = re.compile("-"), re.compile("<+|>+")
_ACCIDENTAL = {"^^": 2, "^": 1, "=": 0, "_": -1, "__": -2}
_WRITTEN = {alter: sign for sign, alter in _ACCIDENTAL.items()}


@dataclass
class _Sound:
    pitches: tuple[int, ...]  # empty: a rest
    length: Fraction
    tied: frozenset[int] = frozenset()  # pitches that go on in the next sound


@dataclass
class _Bar:
    start: bool = False  # a repeat begins behind it
    end: bool = False  # go back to the last start
    double: bool = False
    ending: frozenset[int] = frozenset()  # the times that what follows is played


@dataclass
class _State:
    """What the reader of one tune knows."""

    name: str
    line: int = 1
    header: dict[str, str] = field(default_factory=dict)
    key: Key | None = None
    signature: dict[str, int] = field(default_factory=dict)
    metre: str = ""
    unit: Fraction | None = None
    altered: dict[str, int] = field(default_factory=dict)  # in this bar
    elements: list[_Sound | _Bar] = field(default_factory=list)
    voices: set[str] = field(default_factory=set)

    def fail(self, problem: str) -> InputError:
        return InputError(f"{self.name}:{self.line}: {problem}")


def read_tunes(text: str, name: str = "ABC", problems: list[str] | None = None) -> list[Tune]:
    """The tunes of a file: each from a line X: to the next blank line; a text without X: is one tune.

    Args: problems: takes what is wrong with each tune that cannot be read, which is then left out; None: that is an error.
    Raises: InputError with file and line.
    """
    found = []
    for first, lines, above in _blocks(text):
        try:
            found.append(_tune(first, lines, above, name))
        except InputError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return found


def _blocks(text: str) -> Iterator[tuple[int, list[str], list[str]]]:
    """(number of the first line, lines, the file's own header fields) of each tune."""
    lines = text.removeprefix("\ufeff").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("X:")]
    if not starts:
        yield 1, lines, []
        return
    head = lines[: starts[0]]
    above = head[: head.index("")] if "" in head else head
    above = [line for line in above if re.match("[MLR]:", line)]
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
        block = lines[start:stop]
        end = next((number for number, line in enumerate(block) if not line.strip()), len(block))
        yield start + 1, block[:end], above


def _tune(first: int, lines: list[str], above: list[str], name: str) -> Tune:
    state = _State(name)
    for line in above:
        _field(state, line[0], line[2:])
    for number, line in enumerate(lines, start=first):
        state.line = number
        line = line.partition("%")[0].rstrip().removesuffix("\\")
        if len(line) > 1 and (found := _FIELD.match(line)) and not line.startswith("|"):
            _field(state, found[1], found[2])
        else:
            _music(state, line)
    sounds, bars = _played(state.elements)
    if not any(sound.pitches for sound in sounds):
        raise state.fail("expected notes, got none: a tune is a header and, after the line K:, its notes")
    bar = bar_of(state.header.get("M", ""))
    pickup = bars[0] if bar is not None and len(bars) > 1 and bars[0] < bar else Fraction(0)
    notes, time = _joined(sounds)
    return Tune(
        notes,
        time,
        title=state.header.get("T", ""),
        genre=state.header.get("R", "").lower(),
        metre=state.header.get("M", ""),
        key=key_of(state.header["K"]) if state.header.get("K") else None,
        pickup=pickup,
    )


def _field(state: _State, letter: str, value: str) -> None:
    """Take in a field; of those that a tune has several times, its header keeps the first."""
    value = value.strip()
    try:
        if letter == "K":
            value = _set_key(state, value)
        elif letter == "M":
            value = {"C": "4/4", "C|": "2/2", "none": ""}.get(value, value)
            bar_of(value)
            state.metre = value
        elif letter == "L":
            found = re.fullmatch(r"(\d+)\s*(?:/\s*(\d+))?", value)
            if not found or not int(found[1]) or (found[2] and not int(found[2])):
                raise InputError(f"a note length must be like 1/8, got {value!r}")
            state.unit = Fraction(int(found[1]), int(found[2] or 1))
        elif letter == "V":
            state.voices.add(value.split()[0] if value else "")
            if len(state.voices) > 1:
                raise InputError(
                    "expected one voice, got a second one (V:): put each voice into a tune of its own"
                )
    except InputError as error:
        raise state.fail(str(error)) from None
    before_the_notes = letter != "T" and not state.elements  # where the last one counts
    if letter in "TRMK" and (before_the_notes or letter not in state.header):
        state.header[letter] = value


def _set_key(state: _State, value: str) -> str:
    """Set the signature; the key as `key_of` reads it, or "" for none."""
    if re.search(r"\b(transpose|octave)=", value):
        raise InputError(
            f"expected a key without transpose= or octave=, got {value!r}: write the notes as they sound"
        )
    words = [
        word
        for word in value.split()
        if "=" not in word[1:] and word not in ("treble", "bass", "alto", "tenor")
    ]
    extra = [found for word in words if (found := re.fullmatch(r"(\^\^|\^|__|_|=)([A-Ga-g])", word))]
    words = [word for word in words if not re.match(r"[\^_=]", word) and word != "exp"]
    text = " ".join(words)
    if text in ("HP", "Hp"):  # the Highland pipes: notes as in D major
        text = "D"
    state.key = None if text in ("", "none") else key_of(text)
    state.signature = state.key.signature if state.key else {}
    for found in extra:
        state.signature = state.signature | {found[2].upper(): _ACCIDENTAL[found[1]]}
    return str(state.key) if state.key else ""


def _music(state: _State, line: str) -> None:
    """Read a line of notes."""
    at = 0
    broken: Fraction | None = None  # what the next note's length is multiplied by
    tuplet: tuple[Fraction, int] = (Fraction(1), 0)  # factor, and notes that it still holds for
    while at < len(line):
        last = state.elements[-1] if state.elements else None
        if found := _INLINE.match(line, at):
            _field(state, found[1], found[2])
        elif (found := _TUPLET.match(line, at)) is not None:
            tuplet = _tuplet(state, found)
        elif (found := _BAR.match(line, at)) is not None:
            state.elements.append(_bar(found))
            state.altered = {}
        elif found := _PASSED.match(line, at):
            pass
        elif line[at] == "-" and isinstance(last, _Sound) and last.pitches:
            last.tied, found = frozenset(last.pitches), _TIE.match(line, at)
        elif (found := _BROKEN.match(line, at)) and isinstance(last, _Sound):
            short = Fraction(1, 2 ** len(found[0]))
            mine, broken = (2 - short, short) if found[0][0] == ">" else (short, 2 - short)
            last.length *= mine
        else:
            sound, end = _sound(state, line, at)
            if tuplet[1]:
                sound.length, tuplet = sound.length * tuplet[0], (tuplet[0], tuplet[1] - 1)
            if broken is not None:
                sound.length, broken = sound.length * broken, None
            state.elements.append(sound)
            at = end
            continue
        assert found is not None
        at = found.end()
    if broken is not None or tuplet[1]:
        raise state.fail("a broken rhythm (> or <) or a tuplet lacks its notes at the end of the line")


def _sound(state: _State, line: str, at: int) -> tuple[_Sound, int]:
    """A note, a chord or a rest, and where it ends."""
    if line[at] in "zxZX":
        length, end = _length(state, line, at + 1)
        if line[at] in "ZX":  # whole bars
            bar = bar_of(state.metre)
            if bar is None:
                raise state.fail(f"a rest of whole bars ({line[at]}) needs a metre (M:)")
            length = bar * length / _unit(state)
        return _Sound((), length), end
    if found := _CHORD.match(line, at):
        pitches: list[int] = []
        tied: set[int] = set()
        inner, place = Fraction(0), 0
        while place < len(found[1]):
            if passed := _PASSED.match(found[1], place):
                place = passed.end()
                continue
            if found[1][place] == "-" and pitches:
                tied.add(pitches[-1])
                place += 1
                continue
            pitch, place = _pitch(state, found[1], place)
            length, place = _length(state, found[1], place)
            pitches.append(pitch)
            inner = inner or length
        if not pitches:
            raise state.fail(f"a chord must hold notes, got {found[0]!r}")
        length, end = _length(state, line, found.end())
        return _Sound(tuple(sorted(set(pitches))), inner * length / _unit(state), frozenset(tied)), end
    pitch, end = _pitch(state, line, at)
    length, end = _length(state, line, end)
    return _Sound((pitch,), length), end


def _pitch(state: _State, line: str, at: int) -> tuple[int, int]:
    found = _NOTE.match(line, at)
    if found is None:
        raise state.fail(
            f"expected a note, a rest or a bar line, got {line[at : at + 10]!r} in column {at + 1}: see docs/compose.md for what "
            "of ABC is read"
        )
    sign, letter, octaves = found.groups()
    name = letter.upper()
    if sign:
        state.altered[name] = _ACCIDENTAL[sign]
    pitch = (
        60 + STEPS[name] + (12 if letter.islower() else 0) + 12 * (octaves.count("'") - octaves.count(","))
    )
    pitch += state.altered.get(name, state.signature.get(name, 0))
    if not 0 <= pitch <= 127:
        raise state.fail(
            f"a note must lie in the range of MIDI, 0 to 127, got {found[0]!r}, which is {pitch}"
        )
    return pitch, found.end()


def _length(state: _State, line: str, at: int) -> tuple[Fraction, int]:
    """A length behind a note ("", "2", "/", "3/2", "//"), and where it ends."""
    found = _LENGTH.match(line, at)
    assert found is not None
    whole, slashes, below = found.groups()
    end = found.end() if slashes else found.end(1)
    divisor = (int(below) if below else 2 ** len(slashes)) if slashes else 1
    if (whole and not int(whole)) or not divisor:
        raise state.fail(f"a length must not be zero, got {found[0]!r}")
    return Fraction(int(whole or 1), divisor) * _unit(state), end


def _unit(state: _State) -> Fraction:
    """L:, or as the metre says: 1/16 where a bar is shorter than 3/4, else 1/8."""
    if state.unit is None:
        bar = bar_of(state.metre)
        return Fraction(1, 16) if bar is not None and bar < Fraction(3, 4) else Fraction(1, 8)
    return state.unit


def _tuplet(state: _State, found: re.Match[str]) -> tuple[Fraction, int]:
    """(p:q:r: the next r notes take the time of q, where they are written as p."""
    p = int(found[1])
    compound = bool(re.match(r"(6|9|12)/", state.metre))
    usual = {2: 3, 3: 2, 4: 3, 6: 2, 8: 3}.get(p, 3 if compound else 2)
    q = int(found[2]) if found[2] else usual
    r = int(found[3]) if found[3] else p
    if p < 2 or not q or not r:
        raise state.fail(f"a tuplet must be of 2 to 9 notes, got {found[0]!r}")
    return Fraction(q, p), r


def _bar(found: re.Match[str]) -> _Bar:
    line, ending = found[1] or "", found[3] or found[4]
    times: set[int] = set()
    for part in (ending or "").split(","):
        if part.strip("-"):
            low, _, high = part.partition("-")
            times |= set(range(int(low or high), int(high or low) + 1))
    two = line.startswith("::")
    return _Bar(
        start=two or line.endswith(":"),
        end=two or line.startswith(":"),
        double="||" in line or "]" in line or line == "[|",
        ending=frozenset(times),
    )


def _played(elements: list[_Sound | _Bar]) -> tuple[list[_Sound], list[Fraction]]:
    """What sounds, with its repeats written out, and the length of each bar that holds something."""
    sounds: list[_Sound] = []
    bars: list[Fraction] = []
    jumps: dict[int, int] = {}  # how often each end of a repeat has led back
    at = start = 0
    times, skipping, ending, filled = 1, False, frozenset[int](), Fraction(0)
    while at < len(elements):
        each = elements[at]
        if isinstance(each, _Sound):
            if not skipping:
                sounds.append(each)
                filled += each.length
            at += 1
            continue
        if filled:
            bars.append(filled)
            filled = Fraction(0)
        if each.end and not skipping and jumps.get(at, 0) < max(1, len(ending)):
            jumps[at] = jumps.get(at, 0) + 1
            at, times, ending = start, times + 1, frozenset()
            continue
        if each.end or each.double:
            if not skipping and not each.ending:
                start, times = at + 1, 1
            skipping, ending = False, frozenset()
        if each.start:
            start, times, skipping, ending = at + 1, 1, False, frozenset()
        if each.ending:
            ending = each.ending
            skipping = times not in ending
        at += 1
    if filled:
        bars.append(filled)
    return sounds, bars


def _joined(sounds: list[_Sound]) -> tuple[tuple[Note, ...], Fraction]:
    """Notes in time; tied ones are one."""
    notes: list[Note] = []
    held: dict[int, int] = {}  # pitch to the number of the note that is tied on
    time = Fraction(0)
    for sound in sounds:
        now: dict[int, int] = {}
        for pitch in sound.pitches:
            if pitch in held:
                number = held[pitch]
                notes[number] = notes[number]._replace(length=notes[number].length + sound.length)
            else:
                number = len(notes)
                notes.append(Note(time, sound.length, pitch))
            now[pitch] = number
        held = {pitch: number for pitch, number in now.items() if pitch in sound.tied}
        time += sound.length
    return tuple(sorted(notes, key=lambda note: (note.start, note.pitch))), time


def write_tune(tune: Tune, number: int = 1) -> str:
    """A tune as ABC; notes that cross a bar line, or another note's start or end, are tied. `read_tunes` reads the same notes."""
    key = tune.key or Key("C", "maj")
    bar = bar_of(tune.metre)
    head = [f"X:{number}", f"T:{tune.title or 'untitled'}"]
    head += [f"R:{tune.genre}"] if tune.genre else []
    head += [f"M:{tune.metre or 'none'}", "L:1/8", f"K:{key if tune.key else 'none'}"]
    edges = {Fraction(0), tune.length}
    for note in tune.notes:
        edges |= {note.start, note.start + note.length}
    lines = []
    if bar is not None:
        line = tune.pickup or bar
        while line < tune.length:
            lines.append(line)
            line += bar
    edges |= set(lines)
    body: list[str] = []
    altered: dict[str, int] = {}
    written = 0
    for start, stop in pairwise(sorted(edges)):
        if start in lines:
            written += 1
            body.append("|\n" if written % 4 == 0 else "|")
            altered = {}
        sounding = [note for note in tune.notes if note.start < stop and note.start + note.length > start]
        names = [_spelled(note.pitch, key, altered) for note in sounding]
        length = _written((stop - start) * 8)
        ties = ["-" if note.start + note.length > stop else "" for note in sounding]
        if not names:
            body.append(f"z{length}")
        elif len(names) == 1:
            body.append(f"{names[0]}{length}{ties[0]}")
        else:
            inner = "".join(name + tie for name, tie in zip(names, ties, strict=True))
            body.append(f"[{inner}]{length}")
    return "\n".join([*head, "".join(body) + "|]"]) + "\n"


def _written(length: Fraction) -> str:
    if length == 1:
        return ""
    whole = str(length.numerator) if length.numerator != 1 else ""
    return whole if length.denominator == 1 else f"{whole}/{length.denominator}"


def _spelled(pitch: int, key: Key, altered: dict[str, int]) -> str:
    """A pitch as it is written in a bar where some letters were altered before; those are always written with their sign."""
    signature = key.signature
    flats = key.sharps < 0
    options = []
    for letter, step in STEPS.items():
        alter = (pitch - step + 6) % 12 - 6
        if abs(alter) <= 1:
            plain = alter != signature.get(letter, 0)
            options.append((plain, alter != 0, (alter > 0) == flats, letter, alter))
    _, _, _, letter, alter = min(options)
    sign = ""
    if letter in altered or alter != signature.get(letter, 0):
        sign, altered[letter] = _WRITTEN[alter], alter
    octave = (pitch - alter) // 12 - 5
    return sign + (letter + "," * -octave if octave < 1 else letter.lower() + "'" * (octave - 1))
