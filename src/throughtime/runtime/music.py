"""Written music as files and pictures: ABC, MIDI, and piano rolls."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from throughtime.data.music import Tune, bar_of, name_of
from throughtime.data.readers.abc import write_tune
from throughtime.data.readers.midi import write_midi
from throughtime.errors import InputError
from throughtime.files import write_output
from throughtime.flow import drawing

SUFFIXES = (".mid", ".midi", ".abc", ".png")
_SHARP = {1, 3, 6, 8, 10}  # the black keys


def save_music(tune: Tune, path: str | Path) -> None:
    """Write a tune to a file, whole or not at all: MIDI, ABC, or a picture of its piano roll, by the suffix; "-" is ABC to
    standard output.

    Raises: InputError for another suffix, RunError for a path that cannot be written.
    """
    write_output(path, encoded(tune, path))


def check_suffix(path: str | Path) -> str:
    """The suffix of a file of music, ".abc" for standard output.

    Raises: InputError for one that is not written.
    """
    suffix = ".abc" if str(path) == "-" else Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"music is written to a file ending in {', '.join(SUFFIXES)}, or to -, got {path}")
    return suffix


def encoded(tune: Tune, path: str | Path) -> bytes:
    """The bytes of a file of that name."""
    suffix = check_suffix(path)
    if suffix == ".abc":
        return write_tune(tune).encode()
    return write_midi(tune) if suffix != ".png" else _picture(tune)


def _picture(tune: Tune) -> bytes:
    import io

    held = io.BytesIO()
    fig = piano_roll(tune)
    with drawing.style():
        fig.savefig(held, format="png", dpi=80, facecolor="white")
    return held.getvalue()


def piano_roll(tune: Tune) -> Any:
    """A matplotlib figure: a bar for each note, time in quarter notes, the black keys' rows gray, a line for each bar.

    Raises: InputError without matplotlib, or for a tune without notes.
    """
    if not tune.notes:
        raise InputError("expected a tune with notes to draw, got none")
    with drawing.style():
        low = min(note.pitch for note in tune.notes) - 2
        high = max(note.pitch for note in tune.notes) + 2
        quarters = float(tune.length * 4)
        fig = drawing.figure(min(12.0, max(5.0, quarters * 0.14 + 1)), max(2.0, (high - low) * 0.08 + 0.9))
        axes = fig.subplots()
        axes.grid(False)
        for pitch in range(low, high + 1):
            if pitch % 12 in _SHARP:
                axes.axhspan(pitch - 0.5, pitch + 0.5, color="#00000010", linewidth=0)
        bar = bar_of(tune.metre)
        if bar is not None:
            line = tune.pickup or bar
            while line < tune.length:
                axes.axvline(float(line * 4), color="#00000030", linewidth=0.6)
                line += bar
        axes.barh(
            [note.pitch for note in tune.notes],
            [float(note.length * 4) * 0.97 for note in tune.notes],
            left=[float(note.start * 4) for note in tune.notes],
            height=0.85,
            color=drawing.COLORS[0],
        )
        octaves = [pitch for pitch in range(low, high + 1) if pitch % 12 == 0]
        axes.set_yticks(octaves, [name_of(pitch) for pitch in octaves])
        axes.set(xlim=(0, quarters), ylim=(low - 0.5, high + 0.5), xlabel="quarter notes", title=tune.title)
    return fig


def roll_text(tune: Tune, columns: int = 80) -> str:
    """The piano roll in characters: a line for each pitch, the highest first; `#` where a note starts, `=` where it goes on.

    As many quarter notes as `columns` hold, in steps of the shortest note; what comes later is left out and said so.
    """
    if not tune.notes:
        raise InputError("expected a tune with notes to draw, got none")
    step = max(min(note.length for note in tune.notes), Fraction(1, 16))
    room = max(8, columns - 5)
    count = -(-tune.length // step)
    rows: dict[int, list[str]] = {}
    for pitch in range(max(n.pitch for n in tune.notes), min(n.pitch for n in tune.notes) - 1, -1):
        rows[pitch] = ["." if pitch % 12 == 0 else " "] * min(count, room)
    for note in tune.notes:
        first, last = (
            int(note.start / step),
            max(int((note.start + note.length) / step), int(note.start / step) + 1),
        )
        for place in range(first, min(last, room, count)):
            rows[note.pitch][place] = "#" if place == first else "="
    lines = [f"{name_of(pitch):>4} {''.join(row)}".rstrip() for pitch, row in rows.items()]
    shown = min(count, room)
    rest = "" if count <= room else f"; {count - shown} more columns are left out"
    lines.append(f"     a column is {step} of a whole note{rest}")
    return "\n".join(lines) + "\n"
