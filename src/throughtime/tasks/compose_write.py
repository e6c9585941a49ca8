"""A trained model of music at work: it writes, says what could come next, and how surprising each step of a piece is."""

from __future__ import annotations

import csv
import secrets
from collections.abc import Sequence
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from throughtime.data.assets import Assets
from throughtime.data.music import (
    KEYS,
    LOWEST,
    Key,
    Tune,
    bar_of,
    key_of,
    name_of,
    pitch_of,
    tune_of_frames,
    tune_of_melody,
)
from throughtime.data.pieces import read_pieces
from throughtime.errors import InputError, one_of
from throughtime.layers.eval_mode import evaluating
from throughtime.models.music import MusicModel
from throughtime.tasks.compose_steps import (
    END,
    PLAYED,
    REST,
    START,
    context_of,
    context_size,
    encode,
    names_of_steps,
    pitch_name,
    pitch_number,
    pitch_of_number,
    place_number,
)

if TYPE_CHECKING:
    from throughtime.tasks.compose import ComposeTask

MOST_NOTES = 400  # of a melody that does not come to its end
FRAMES = 64  # that are written where nothing is said
NEXT = 5  # notes that `answer` names


def write(
    task: ComposeTask,
    model: nn.Module,
    assets: Assets,
    *,
    length: int | None = None,
    temperature: float = 1.0,
    seed: int | None = None,
    genre: str = "",
    start: str = "",
    key: str = "",
    metre: str = "",
) -> Tune:
    """A new piece of music: from a genre, from a first note, or from nothing at all.

    Args:
        length: notes of a melody, which may end earlier (by default when the model ends it); frames of polyphony.
        temperature: below 1 likelier notes, above 1 more varied ones, 0 the likeliest.
        seed: the same one writes the same music; None: another each time.
        genre: one that training data has; "" for none.
        start: the first note, "C4"; of polyphony also several, "C3,E4,G4".
        key: "D", "Em"; the melody is written in it. "": none is told to the model, and it writes in any.
        metre: "6/8"; "": the usual one of the genre.

    Raises: InputError for what the model does not know, or a value out of range.
    """
    if length is not None and length < 1:
        raise InputError(f"length must be at least 1, got {length}")
    if not 0 <= temperature < float("inf"):
        raise InputError(f"temperature must be 0 or more, got {temperature}")
    kept, genres = assets.values["music"], assets.labels["genre"]
    if genre:
        if not genres:
            raise InputError("the model knows no genres: its training data has none; leave genre out")
        one_of("genre", genre, genres)
    tonality = key_of(key) if key else None
    if tonality is not None and not kept["keys"]:
        raise InputError("the model knows no keys: its training data has none; leave key out")
    metres = assets.labels["metre"]
    if metre and metre not in metres:
        raise InputError(f"metre must be one of {', '.join(metres) or '(none)'}, got {metre!r}")
    metre = metre or kept["metres"].get(genre, "")
    first = [pitch_of(each) for each in start.split(",")] if start else []
    header = {"title": f"{genre or 'music'} by throughtime", "genre": genre, "metre": metre, "key": tonality}
    generator = torch.Generator().manual_seed(secrets.randbits(32) if seed is None else seed)
    writer = _Writer(model, assets, Tune((), Fraction(0), **header))  # type: ignore[arg-type]
    with evaluating(model), torch.inference_mode():
        if kept["form"] == "polyphony":
            frames = writer.frames(length or FRAMES, first, temperature, generator)
            return tune_of_frames(frames, task.step, **header)
        if len(first) > 1:
            raise InputError(f"a melody starts with one note, got {start!r}")
        return tune_of_melody(writer.notes(length, first, temperature, generator), **header)


class _Writer:
    """A model step by step, its state carried."""

    def __init__(self, model: Any, assets: Assets, header: Tune) -> None:
        self.model: MusicModel = model
        self.assets, self.key, self.bar = assets, header.key, bar_of(header.metre)
        self.device = next(model.parameters()).device
        self.context = context_of(assets, header)[None].to(self.device) if context_size(assets) else None
        self.state: Any = None

    def hidden(self, row: Sequence[int]) -> Tensor:
        """What the head reads [H], after one more step."""
        inputs = torch.tensor(row, device=self.device)[None, None]
        outputs, self.state = self.model(inputs, self.state, context=self.context)
        found: Tensor = outputs.hidden[0, 0]
        return found

    def notes(
        self, most: int | None, first: Sequence[int], temperature: float, generator: torch.Generator
    ) -> list[tuple[int | None, Fraction]]:
        """A melody: pitches (None: a rest) and lengths, until it ends."""
        lengths = [Fraction(each) for each in self.assets.labels["length"]]
        found: list[tuple[int | None, Fraction]] = []
        before, time = (START, len(lengths)), Fraction(0)
        head: Any = self.model.head
        # Counted from the tonic, the numbers at both ends are no keys of a piano.
        lowest = 11 - (0 if self.key is None else self.key.pitch_class)
        never = [number for number in range(PLAYED) if not lowest <= number < lowest + KEYS]
        while len(found) < (most or MOST_NOTES):
            place = None if self.bar is None else time % self.bar
            hidden = self.hidden((*before, place_number(self.assets, place)))
            given = pitch_number(first[0], self.key) if first and not found else None
            banned = never if found else [*never, REST, END]
            before = head.sample(hidden, temperature, generator, pitch=given, without=banned)
            if before[0] == END:
                break
            found.append((pitch_of_number(before[0], self.key), lengths[before[1]]))
            time += lengths[before[1]]
        while found and found[-1][0] is None:
            found.pop()
        return found

    def frames(
        self, count: int, first: Sequence[int], temperature: float, generator: torch.Generator
    ) -> list[list[int]]:
        """Frames of polyphony, the pitches of each."""
        found: list[list[int]] = []
        before = [0] * KEYS
        for number in range(count):
            hidden = self.hidden(before)
            if first and not number:
                before = [int(key + LOWEST in first) for key in range(KEYS)]
            else:
                head: Any = self.model.head
                before = head.sample(hidden, temperature, generator).int().tolist()
            found.append([LOWEST + key for key, on in enumerate(before) if on])
        return found


def run_piece(task: ComposeTask, model: nn.Module, assets: Assets, item: Any) -> tuple[Any, Tensor, Tensor]:
    """The model's outputs for a piece [T, 1], its inputs [T, ...], and the loss of each step [T], nats."""
    inputs, targets = encode(assets, item, task.step)
    device = next(model.parameters()).device
    context = context_of(assets, item)[None].to(device) if context_size(assets) else None
    with evaluating(model), torch.inference_mode():
        outputs, _ = model(inputs[:, None].to(device), None, context=context)
        losses = outputs.nll(targets[:, None].to(device))[:, 0].cpu()
    return outputs, targets, losses


def answer(task: ComposeTask, model: nn.Module, assets: Assets, tune: Tune) -> dict[str, Any]:
    """What could follow a tune, and the mean loss of its steps so far (without the end, which a typed one need not be at).

    Of a melody the likeliest next notes with their probabilities; of polyphony the likelier value of each note, in the chain.
    """
    outputs, targets, losses = run_piece(task, model, assets, tune)
    head: Any = outputs.head
    if assets.values["music"]["form"] == "melody":
        known, key = losses[:-1], tune.key
        with torch.inference_mode():
            chances = head.probabilities(outputs.hidden[-1, 0]).cpu()
            ends = float(chances[END].sum())
            best, places = chances[:END].flatten().topk(min(NEXT, chances[:END].numel()))
        lengths = assets.labels["length"]
        pairs = [
            (f"{pitch_name(place // len(lengths), key)} {lengths[place % len(lengths)]}", chance)
            for chance, place in zip(best.tolist(), places.tolist(), strict=True)
        ]
        pairs = sorted([*pairs, ("end", ends)], key=lambda pair: -pair[1])[:NEXT]
        following = {
            "next": [name for name, _ in pairs],
            "probability": [round(chance, 4) for _, chance in pairs],
        }
    else:
        known = losses
        with torch.inference_mode():
            writer = _Writer(model, assets, tune)
            inputs, _ = encode(assets, tune, task.step)
            for row in [*inputs.tolist(), targets[-1].tolist()]:
                hidden = writer.hidden(row)
            frame = head.sample(hidden, 0.0)
        following = {"next": [name_of(LOWEST + key) for key, on in enumerate(frame.tolist()) if on]}
    return {"steps": len(known), "loss": round(float(known.mean()), 4), **following}


def write_losses(
    task: ComposeTask, model: nn.Module, assets: Assets, file: str, out: IO[str], *, skip_bad: bool
) -> str:
    """piece, title, step, notes, loss: a row for each step of each piece of a file, CSV."""
    if file == "-":
        raise InputError("music in a file format is not read from standard input: name the file")
    pieces = read_pieces((file,), skip_bad=skip_bad)
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["piece", "title", "step", "notes", "loss"])
    for number, item in enumerate(pieces.items, start=1):
        _, targets, losses = run_piece(task, model, assets, item)
        names = _names(assets, targets, item)
        for step, (name, loss) in enumerate(zip(names, losses.tolist(), strict=True), start=1):
            table.writerow([number, getattr(item, "title", ""), step, name, f"{loss:.4f}"])
    return "; ".join(pieces.remarks)


def _names(assets: Assets, targets: Tensor, item: Any) -> list[str]:
    """Each step in words."""
    if assets.values["music"]["form"] == "polyphony":
        return names_of_steps(assets, targets)
    key: Key | None = item.key
    lengths = assets.labels["length"]
    return [
        pitch_name(pitch, key) + (f" {lengths[length]}" if pitch != END else "")
        for pitch, length in targets.tolist()
    ]
