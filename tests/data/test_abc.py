"""ABC notation against notes written down by hand, and what cannot be read."""

from __future__ import annotations

from fractions import Fraction as F

import pytest

from throughtime.data.music import Key, Note, Tune, bar_of, key_at, key_of, name_of, pitch_of
from throughtime.data.pieces import MELODIES
from throughtime.data.readers.abc import _blocks, _field, _music, _played, _State, read_tunes, write_tune
from throughtime.errors import InputError


def heard(body: str, header: str = "L:1/4\nM:4/4\nK:C\n") -> list[tuple[str, F]]:
    """Names and lengths in quarter notes of a melody."""
    (tune,) = read_tunes(header + body)
    return [("z" if pitch is None else name_of(pitch), length * 4) for pitch, length in tune.melody()]


def names(body: str, key: str = "C") -> str:
    return " ".join(name for name, _ in heard(body, f"L:1/4\nK:{key}\n"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("C c C, c' c,", "C4 C5 C3 C6 C4"),
        ("^F _B =B __B ^^C", "F#4 A#4 B4 A4 D4"),
        ("^F F | F", "F#4 F#4 F4"),  # to the end of the bar
        ("^F f =F f", "F#4 F#5 F4 F5"),  # in all octaves, as the standard says
        ("^F F- | F F", "F#4 F#4 F4 F4"),  # a tie of another pitch binds nothing
    ],
)
def test_pitches(body: str, expected: str) -> None:
    assert names(body) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("D", "F#4 C#5"),
        ("Bm", "F#4 C#5"),
        ("F", "F4 C5"),
        ("Ab", "F4 C5"),
        ("Ador", "F#4 C5"),
        ("G mixolydian", "F4 C5"),
        ("E phr", "F4 C5"),
        ("F#", "F#4 C#5"),
        ("D exp ^c =f", "F4 C#5"),
        ("C clef=treble", "F4 C5"),
        ("HP", "F#4 C#5"),
        ("none", "F4 C5"),
    ],
)
def test_keys(key: str, expected: str) -> None:
    assert names("F c", key) == expected


def test_key_signatures_follow_the_circle_of_fifths() -> None:
    assert [key_of(name).sharps for name in ("C", "G", "D", "F", "Bb", "F#", "Gb", "Am", "F#m", "Ddor")] == [
        0, 1, 2, -1, -2, 6, -6, 0, 3, 0,
    ]  # fmt: skip
    assert key_of("Bb").signature == {"B": -1, "E": -1} and key_of("A").signature == {"F": 1, "C": 1, "G": 1}
    assert key_of("Bb").pitch_class == 10 and str(key_at(10, False)) == "Bb" and str(key_at(9, True)) == "Am"
    assert (pitch_of("C4"), pitch_of("Bb3"), pitch_of("F#5"), name_of(60)) == (60, 58, 78, "C4")
    assert bar_of("6/8") == F(3, 4) and bar_of("2+3/8") == F(5, 8) and bar_of("") is None
    for bad in ("H", "Cfoo", "C####"):
        with pytest.raises(InputError):
            key_of(bad)
    with pytest.raises(InputError, match="as in C4"):
        pitch_of("H4")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("C2 C C/ C// C3/2 C/4", [2, 1, F(1, 2), F(1, 4), F(3, 2), F(1, 4)]),
        ("C>D C<D C>>D", [F(3, 2), F(1, 2), F(1, 2), F(3, 2), F(7, 4), F(1, 4)]),
        ("(3CDE (2CD (3:2:2CD C", [F(2, 3)] * 3 + [F(3, 2)] * 2 + [F(2, 3)] * 2 + [1]),
        ("C-C D2-|D E", [2, 3, 1]),
        ("C z D x E", [1, 1, 1, 1, 1]),
        ("C Z D", [1, 4, 1]),
        ("[L:1/8]C D [M:3/4]Z C", [F(1, 2), F(1, 2), 3, F(1, 2)]),
        ('"Am"C {de}D !trill!E ~F .G (A B) u c\\', [1] * 8),
    ],
)
def test_lengths(body: str, expected: list[F]) -> None:
    assert [length for _, length in heard(body)] == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("|:C D:| E", "C4 D4 C4 D4 E4"),
        ("C D:| E", "C4 D4 C4 D4 E4"),
        ("|:C D |1 E :|2 F || G", "C4 D4 E4 C4 D4 F4 G4"),
        ("|:C [1 D :|[2 E |] F :|", "C4 D4 C4 E4 F4 F4"),
        ("|:C::D:|", "C4 C4 D4 D4"),
        ("|:C|1,2 D:|3 E|]", "C4 D4 C4 D4 C4 E4"),
        ("C|D||E|]", "C4 D4 E4"),
    ],
)
def test_repeats(body: str, expected: str) -> None:
    assert names(body) == expected


def test_chords_and_ties_inside_them() -> None:
    (tune,) = read_tunes("L:1/4\nK:C\n[CE]2 [GB-]|B [c'e]\n")
    assert tune.notes == (
        Note(F(0), F(1, 2), 60),
        Note(F(0), F(1, 2), 64),
        Note(F(1, 2), F(1, 4), 67),
        Note(F(1, 2), F(1, 2), 71),
        Note(F(1), F(1, 4), 76),
        Note(F(1), F(1, 4), 84),
    )
    assert tune.melody() == [(64, F(1, 2)), (71, F(1, 2)), (84, F(1, 4))]
    assert tune.frames(F(1, 4)) == [(60, 64), (60, 64), (67, 71), (71,), (76, 84)]


def test_a_file_of_tunes_with_headers_and_free_text() -> None:
    head = "% mine\nM:3/4\nR:Waltz\n\nX:1\nT:One\nT:also called\nK:G\nG6|\n\nfree text\n\n"
    text = head + "X:2\nM:6/8\nR:jig\nK:Em\nw:la\nE|E3E2|]\n"
    one, two = read_tunes(text)
    assert (one.title, one.genre, one.metre, one.key) == ("One", "waltz", "3/4", Key("G", "maj"))
    assert read_tunes("M:4/4\nL:1/4\nK:C\nCDE")[0].pickup == 0  # a bar that is not yet full
    assert (two.genre, two.metre, two.pickup) == ("jig", "6/8", F(1, 8))
    assert one.notes == (Note(F(0), F(3, 4), 67),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("X:1\nK:C\nCDq\n", "x.abc:3: expected a note, a rest or a bar line, got 'q' in column 3"),
        ("X:1\nK:H\nC\n", "x.abc:2: a key must be a note and a mode"),
        ("X:1\nM:4\nK:C\nC\n", "x.abc:2: a metre must be like 4/4"),
        ("X:1\nL:0\nK:C\nC\n", "x.abc:2: a note length must be like 1/8"),
        ("X:1\nK:C\nV:1\nC\nV:2\nC\n", "x.abc:5: expected one voice, got a second one"),
        ("X:1\nK:C\nC & E\n", "x.abc:3: expected a note"),
        ("X:1\nK:C transpose=2\nC\n", "x.abc:2: expected a key without transpose="),
        ("X:1\nK:C\nC0\n", "x.abc:3: a length must not be zero"),
        ("X:1\nK:C\n(3CD\n", "x.abc:3: a broken rhythm"),
        ("X:1\nK:C\nC>\n", "x.abc:3: a broken rhythm"),
        ("X:1\nM:none\nK:C\nZ C\n", "x.abc:4: a rest of whole bars"),
        ("X:1\nK:C\nc''''''''\n", "x.abc:3: a note must lie in the range of MIDI"),
        ("X:1\nT:nothing\nK:C\n", "x.abc:3: expected notes, got none"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        read_tunes(text, "x.abc")
    assert str(caught.value).startswith(problem) and "\n" not in str(caught.value)
    problems: list[str] = []
    (tune,) = read_tunes(text + "\nX:9\nK:C\nC\n", "x.abc", problems)
    assert len(problems) == 1 and problems[0].startswith(problem) and len(tune.notes) == 1


def test_what_is_written_is_read_again() -> None:
    notes = (
        Note(F(0), F(1, 4), 61),
        Note(F(1, 4), F(2), 66),
        Note(F(1, 4), F(1, 3), 73),
        Note(F(1), F(1, 2), 85),
        Note(F(2), F(1, 2), 60),
    )
    tune = Tune(notes, F(5, 2), "A tune", "air", "3/4", key_of("Bbm"), F(1, 4))
    text = write_tune(tune)
    (again,) = read_tunes(text)
    assert again.notes == notes and (again.title, again.genre, again.metre, again.key) == (
        "A tune", "air", "3/4", tune.key,
    )  # fmt: skip


def test_every_bar_of_the_melodies_inside_is_full() -> None:
    """But for the first and the last one, which together are a bar where there is a pickup."""
    text = MELODIES.read_text(encoding="utf-8")
    tunes = read_tunes(text, MELODIES.name)
    assert len(tunes) == 73 and len({tune.title for tune in tunes}) == 73
    for first, lines, _ in _blocks(text):
        state = _State(MELODIES.name)
        for number, line in enumerate(lines, start=first):
            state.line = number
            if len(line) > 1 and line[1] == ":" and line[0].isalpha():
                _field(state, line[0], line[2:])
            else:
                _music(state, line)
        _, bars = _played(state.elements)
        bar, title = bar_of(state.metre), state.header["T"]
        assert bar is not None
        inner = bars[1:-1] if bars[0] < bar else bars
        assert set(inner) == {bar}, (title, bars)
        assert bars[0] == bar or bars[0] + bars[-1] == bar, title
    for tune in tunes:
        assert (
            tune.genre and tune.key is not None and len(tune.notes) == len([p for p, _ in tune.melody() if p])
        )
        (again,) = read_tunes(write_tune(tune))
        assert (again.notes, again.pickup) == (tune.notes, tune.pickup), tune.title
