"""Music as numbers: what a step of a melody or of polyphony is, and the vector that says what is written."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from throughtime.data.assets import Assets
from throughtime.data.batch import IGNORE, Batch
from throughtime.data.music import KEYS, LOWEST, Key, Tune, bar_of, name_of
from throughtime.data.pieces import roll_of
from throughtime.data.transposed import (
    frames_range,
    move_frames,
    move_notes,
    notes_range,
    one_target_a_step,
)
from throughtime.errors import InputError

# Pitches are counted from the tonic, so that a tune has the same numbers in every key; where no key is known, from C.
PLAYED = (
    KEYS + 11
)  # from the lowest key of a piano under the highest tonic, B, to the highest over the lowest, C
REST, END, PITCHES = PLAYED, PLAYED + 1, PLAYED + 2  # of what is written: also a rest, and the end
START = END  # of what is read: an end is never read, so its number is the start's
LATER = "later"  # in a bar: a place that no training note starts at, or no bar is known


def labels_of(tunes: Sequence[Tune], form: str) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The labels of a run, and the usual metre of each genre ("" of all tunes together).

    genre, metre; of melodies also length, of notes, and place, where in a bar notes start; all as text.
    """
    found = {
        "genre": tuple(sorted({tune.genre for tune in tunes if tune.genre})),
        "metre": tuple(sorted({tune.metre for tune in tunes if tune.metre})),
    }
    counts: dict[str, Counter[str]] = {}
    for tune in tunes:
        for genre in {"", tune.genre}:
            counts.setdefault(genre, Counter())[tune.metre] += 1
    usual = {genre: max(sorted(each), key=each.__getitem__) for genre, each in counts.items()}
    if form == "melody":
        lengths = {length for tune in tunes for _, length in tune.melody()}
        found["length"] = tuple(map(str, sorted(lengths)))
        places = {place for tune in tunes for place in _places(tune)} - {None}
        found["place"] = (*map(str, sorted(place for place in places if place is not None)), LATER)
    return found, usual


def _places(tune: Tune) -> list[Fraction | None]:
    """Where in its bar each note of the melody starts, and the end; None where there is no metre."""
    bar = bar_of(tune.metre)
    if bar is None:
        return [None] * (len(tune.melody()) + 1)
    time = first_place(tune)
    found: list[Fraction | None] = []
    for _, length in [*tune.melody(), (None, Fraction(0))]:
        found.append(time % bar)
        time += length
    return found


def first_place(tune: Tune) -> Fraction:
    """Where in its bar a tune starts: 0, or late in it where there is a pickup."""
    bar = bar_of(tune.metre)
    return bar - tune.pickup if bar is not None and tune.pickup else Fraction(0)


def encode(assets: Assets, item: Any, step: Fraction) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a piece.

    Melody: inputs int64 [T + 1, 3], the note before and the place in the bar of the one to come; targets [T + 1, 2], pitch and
    length, the end last. A length that no training tune has is read as the nearest one.
    Polyphony: inputs uint8 [T, 88], the frame before; targets int8 [T, 88].
    """
    if assets.values["music"]["form"] == "polyphony":
        roll = torch.from_numpy(roll_of(item, step))
        if not len(roll):
            raise InputError(
                "a piece must have at least one frame, got one that is shorter than half a frame"
            )
        return torch.cat([torch.zeros_like(roll[:1]), roll[:-1]]), roll.to(torch.int8)
    if not isinstance(item, Tune):
        raise InputError("the model reads melodies, got frames: give ABC or MIDI")
    lengths = [Fraction(each) for each in assets.labels["length"]]
    targets = [(pitch_number(pitch, item.key), _nearest(lengths, length)) for pitch, length in item.melody()]
    rows, before = [], (START, len(lengths))
    for note, place in zip([*targets, (END, IGNORE)], _places(item), strict=True):
        rows.append((*before, place_number(assets, place)))
        before = note
    return torch.tensor(rows), torch.tensor([*targets, (END, IGNORE)])


def place_number(assets: Assets, place: Fraction | None) -> int:
    """The number of a place in the bar."""
    places = assets.labels["place"]
    return places.index(str(place)) if str(place) in places else len(places) - 1


def pitch_number(pitch: int | None, key: Key | None) -> int:
    """The number of a pitch, or of a rest."""
    if pitch is None:
        return REST
    if not LOWEST <= pitch < LOWEST + KEYS:
        raise InputError(f"a note must lie from A0 to C8, the keys of a piano, got {name_of(pitch)}")
    return pitch - LOWEST + 11 - (0 if key is None else key.pitch_class)


def pitch_of_number(number: int, key: Key | None) -> int | None:
    """The pitch of a number; None for a rest."""
    return None if number == REST else number + LOWEST - 11 + (0 if key is None else key.pitch_class)


def _nearest(lengths: list[Fraction], length: Fraction) -> int:
    return min(range(len(lengths)), key=lambda number: (abs(lengths[number] - length), number))


def context_size(assets: Assets) -> int:
    """Numbers in the vector that says what is written: a place for each genre and metre, 12 tonics, and minor."""
    keys = 13 if assets.values["music"]["keys"] else 0
    return len(assets.labels["genre"]) + len(assets.labels["metre"]) + keys


def context_of(assets: Assets, item: Any) -> Tensor:
    """That vector [C] of a piece: ones where something is known, zeros elsewhere."""
    genres, metres = assets.labels["genre"], assets.labels["metre"]
    found = torch.zeros(context_size(assets))
    if not isinstance(item, Tune):
        return found
    if item.genre in genres:
        found[genres.index(item.genre)] = 1
    if item.metre in metres:
        found[len(genres) + metres.index(item.metre)] = 1
    if item.key is not None and assets.values["music"]["keys"]:
        start = len(genres) + len(metres)
        found[start + item.key.pitch_class] = 1
        found[start + 12] = float(item.key.minor)
    return found


def changed(assets: Assets, batch: Batch, draws: random.Random, most: int, hide: float) -> Batch:
    """A training batch in other keys: each piece is moved by up to `most` semitones, within the keys of a piano.

    With probability `hide` each, the genre of a piece is hidden, and its key, so that the model learns to write without them.
    """
    batch = one_target_a_step(batch)
    if assets.values["music"]["form"] == "polyphony":
        shifts = [
            draws.randint(max(-most, -low), min(most, KEYS - 1 - high)) for low, high in frames_range(batch)
        ]
        batch = move_frames(batch, shifts)
        tonics: list[int | None] = [None] * batch.size
    else:
        tonics = _tonics(assets, batch)
        ranges = notes_range(batch, PLAYED)
        shifts = []
        for (low, high), tonic in zip(ranges, tonics, strict=True):
            first = 11 - (tonic or 0)  # the number of the lowest key
            shifts.append(draws.randint(max(-most, first - low), min(most, first + KEYS - 1 - high)))
    if batch.context is None:
        return move_notes(batch, shifts, PLAYED) if "length" in assets.labels else batch
    genres = len(assets.labels["genre"])
    start = genres + len(assets.labels["metre"])
    context, moves = batch.context.clone(), []
    for b, (shift, tonic) in enumerate(zip(shifts, tonics, strict=True)):
        if draws.random() < hide:
            context[b, :genres] = 0
        context[b, start : start + 12] = context[b, start : start + 12].roll(shift)
        # Counted from a tonic that moves too, the notes stay, but for whole octaves.
        moves.append(shift if tonic is None else (tonic + shift) // 12 * 12)
        if draws.random() < hide:
            context[b, start:] = 0
            moves[-1] = shift + (tonic or 0)
    batch = batch._replace(context=context)
    return move_notes(batch, moves, PLAYED) if "length" in assets.labels else batch


def _tonics(assets: Assets, batch: Batch) -> list[int | None]:
    """The pitch class of each row's tonic, as its context has it; None where none is known."""
    start = len(assets.labels["genre"]) + len(assets.labels["metre"])
    if batch.context is None or not assets.values["music"]["keys"]:
        return [None] * batch.size
    tonics = batch.context[:, start : start + 12]
    return [int(row.argmax()) if bool(row.any()) else None for row in tonics]


def names_of_steps(assets: Assets, inputs: Tensor) -> list[str]:
    """What each step of inputs [T, ...] reads, in words: a note's name and length, or the names of a frame's notes.

    The notes of a melody are named as if it were in C: inputs do not say which key it is in.
    """
    rows = inputs.reshape(len(inputs), -1).tolist()
    if assets.values["music"]["form"] == "polyphony":
        return ["+".join(name_of(LOWEST + key) for key, on in enumerate(row) if on) or "-" for row in rows]
    lengths = assets.labels["length"]
    return ["start" if row[0] == START else f"{pitch_name(row[0], None)} {lengths[row[1]]}" for row in rows]


def pitch_name(number: int, key: Key | None) -> str:
    """The name of a number among the outputs."""
    if number == END:
        return "end"
    pitch = pitch_of_number(number, key)
    return "rest" if pitch is None else name_of(pitch)
