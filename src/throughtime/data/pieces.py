"""Pieces of music from files: which files hold what, what a model calls a step, and the same music in another key."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.data.music import KEYS, LOWEST, Tune
from throughtime.data.readers.abc import read_tunes
from throughtime.data.readers.midi import read_midi
from throughtime.data.readers.piano_rolls import read_piano_rolls
from throughtime.data.text import Source, read_bytes, refuse_binary
from throughtime.errors import InputError

MELODIES = Path(__file__).parent / "inside" / "melodies.abc"
SUFFIXES = {".abc": "abc", ".mid": "midi", ".midi": "midi", ".mat": "mat"}
Roll = NDArray[np.uint8]


@dataclass
class Pieces:
    """Pieces, each a `Tune`, or a roll [T, 88] of zeros and ones of which nothing else is known."""

    items: list[Tune | Roll] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)  # of each: "train", ... where its file says so, else ""
    sources: tuple[Source, ...] = ()
    remarks: tuple[str, ...] = ()

    def add(self, more: Pieces) -> None:
        """Take in others."""
        self.items += more.items
        self.parts += more.parts
        self.sources += more.sources
        self.remarks += more.remarks


def read_pieces(files: Sequence[str], *, skip_bad: bool = False) -> Pieces:
    """The pieces of ABC, MIDI and MATLAB files, and of folders of them, in the order of their names; of none: what ships inside.

    The genre of a MIDI file in a folder below one that was named is that folder's name.
    Args: skip_bad: leave out tunes and files that cannot be read, and say so in `remarks`.
    Raises: InputError for what cannot be read, with its file, for ABC also its line.
    """
    found = Pieces()
    problems: list[str] = []
    if not files:
        data, source = read_bytes(MELODIES)
        found.items += read_tunes(data.decode(), MELODIES.name)
        # Where the package is installed says nothing of the data.
        found.sources = (source._replace(path=f"throughtime/data/inside/{MELODIES.name}"),)
    for file in files:
        for path, genre in _files(file):
            data, source = read_bytes(path)
            try:
                items, parts = _read(data, path, genre, problems if skip_bad else None)
            except InputError as error:
                if not skip_bad:
                    raise
                problems.append(str(error))
                continue
            found.items += items
            found.parts += parts
            found.sources += (source,)
    found.parts += [""] * (len(found.items) - len(found.parts))
    if problems:
        what = (
            "1 piece that cannot be read"
            if len(problems) == 1
            else f"{len(problems)} pieces that cannot be read"
        )
        found.remarks += (f"{what} left out; the first is {problems[0]}",)
    if not found.items:
        raise InputError(problems[0] if problems else "expected music, got none")
    return found


def _files(file: str) -> list[tuple[Path, str]]:
    """The files of a name, with their genres."""
    path = Path(file)
    if not path.is_dir():
        if path.exists() and path.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"{file}: music must be in a file ending in {', '.join(SUFFIXES)}, or a folder of such files"
            )
        return [(path, "")]
    found = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{file}: expected a folder with files ending in {', '.join(SUFFIXES)}, got none")
    return [(each, each.parent.name.lower() if each.parent != path else "") for each in found]


def _read(
    data: bytes, path: Path, genre: str, problems: list[str] | None
) -> tuple[list[Tune | Roll], list[str]]:
    name, kind = str(path), SUFFIXES[path.suffix.lower()]
    if kind == "mat":
        rolls = read_piano_rolls(data, name)
        return [roll for _, roll in rolls], [part for part, _ in rolls]
    if kind == "midi":
        return [read_midi(data, name, genre)], [""]
    refuse_binary(data, path)
    tunes = read_tunes(data.decode("utf-8", "replace"), name, problems)
    return [*tunes], [""] * len(tunes)


def is_polyphonic(items: Sequence[Tune | Roll]) -> bool:
    """Whether in most of the pieces several notes sound at once."""
    several = sum(1 for item in items if not isinstance(item, Tune) or len(item.notes) > len(item.melody()))
    return 2 * several > len(items)


def roll_of(item: Tune | Roll, step: Fraction) -> Roll:
    """The frames of a piece [T, 88], each of so many whole notes; a roll's own are as long as its file made them."""
    if not isinstance(item, Tune):
        return item
    frames = item.frames(step)
    roll = np.zeros((len(frames), KEYS), dtype=np.uint8)
    for number, frame in enumerate(frames):
        roll[number, [pitch - LOWEST for pitch in frame if LOWEST <= pitch < LOWEST + KEYS]] = 1
    return roll


def same_music(item: Tune | Roll) -> Hashable:
    """Equal for pieces that are the same in another key."""
    if isinstance(item, Tune):
        lowest = min(note.pitch for note in item.notes)
        return tuple((note.start, note.length, note.pitch - lowest) for note in item.notes)
    used = np.flatnonzero(item.any(0))
    lowest = int(used[0]) if len(used) else 0
    moved: Any = np.roll(item, -lowest, axis=1)
    return item.shape[0], moved.tobytes()
