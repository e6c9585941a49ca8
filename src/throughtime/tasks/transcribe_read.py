"""Recordings and texts of the user's own for `transcribe`: read, turned into frames, and divided into parts."""

from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

import torch

from throughtime.data.readers.audio import UnreadableError, fingerprint, mono, read_recording, resampled
from throughtime.data.readers.transcripts import Transcripts, plain_text, read_transcripts, spaced_text
from throughtime.data.split import check_disjoint, group_keys, split_examples
from throughtime.data.text import Source
from throughtime.errors import InputError, nearest
from throughtime.tasks.files import condition
from throughtime.tasks.transcribe import PARTS, Clip, TranscribeTask, too_short

_ADVICE = "correct it, or leave bad recordings out with --skip-bad"


class _Part(NamedTuple):
    clips: list[Clip]
    columns: dict[str, list[str]]
    sources: list[Source]


class Reading:
    """One reading of all data of a task: the rate is that of the first recording, unless it is given."""

    def __init__(self, task: TranscribeTask, rate: int | None) -> None:
        self.task, self.rate = task, rate
        self.remarks: list[str] = []
        self.bad: list[str] = []
        self.rates: Counter[int] = Counter()

    def read(self) -> tuple[list[Clip], tuple[Source, ...], dict[str, list[int]], list[str], int]:
        """What `TranscribeTask._read` returns."""
        task = self.task
        data = self._part(task.data, task.limit)
        parts = self._split(data)
        clips, sources = list(data.clips), list(data.sources)
        for part in PARTS[1:]:
            if isinstance(file := getattr(task, part), str):
                more = self._part((file,), None)
                parts[part] = list(range(len(clips), len(clips) + len(more.clips)))
                clips += more.clips
                sources += more.sources
        assert self.rate is not None
        for rate, count in sorted(self.rates.items()):
            if rate != self.rate:
                self.remarks.append(f"{count:,} recordings resampled from {rate} Hz to {self.rate} Hz")
        if self.bad:
            self.remarks.append(f"bad recordings skipped: {len(self.bad)}; the first is {self.bad[0]}")
        if "speaker" not in data.columns:  # of different speakers, the same text is another recording
            self.remarks += check_disjoint(**{part: [clips[n].text for n in parts[part]] for part in PARTS})
        return clips, tuple(sources), parts, self.remarks, self.rate

    def _part(self, paths: tuple[str, ...], limit: int | None) -> _Part:
        task = self.task
        others = [condition(where)[0] for where in (task.validation_where, task.test_where) if where]
        found = read_transcripts(
            paths,
            text=task.text,
            speaker=task.speaker,
            others=tuple(dict.fromkeys(others)),
            skip_bad=task.skip_bad,
        )
        self.remarks += found.remarks
        numbers = list(range(len(found)))
        if limit is not None and limit < len(numbers):
            numbers = sorted(random.Random(f"limit/{task.split_seed}").sample(numbers, limit))
        clips: list[Clip] = []
        kept: list[int] = []
        recordings: list[Source] = []
        for number in numbers:
            clip = self._clip(found, number, recordings)
            if clip is not None:
                clips.append(clip)
                kept.append(number)
        if not clips:
            raise InputError(f"no recording of {', '.join(paths)} can be used; the first: {self.bad[0]}")
        columns = {name: [values[number] for number in kept] for name, values in found.columns.items()}
        names = [found.files[number] for number in kept]
        return _Part(clips, columns, [*found.sources, fingerprint(paths[0], [""] * len(names), recordings)])

    def _clip(self, found: Transcripts, number: int, recordings: list[Source]) -> Clip | None:
        """A recording; None for one that is left out."""
        task, place = self.task, found.places[number]
        text = (plain_text if task.symbols == "plain" else spaced_text)(found.texts[number])
        try:
            recording = read_recording(found.files[number])
        except UnreadableError as error:
            self._skip(f"{place}: {error}")
            return None
        if not text:
            self._skip(f"{place}: the text {found.texts[number][:40]!r} has no letters or digits")
            return None
        self.rate = self.rate or recording.rate
        samples = resampled(mono(recording.samples), recording.rate, self.rate)
        frames = task._front(self.rate).of(torch.from_numpy(samples))
        if problem := too_short(text, len(frames), text):
            self._skip(f"{place}: {problem}")
            return None
        self.rates[recording.rate] += 1
        recordings.append(recording.source)
        return Clip(frames, text, place)

    def _skip(self, problem: str) -> None:
        if not self.task.skip_bad:
            raise InputError(f"{problem}; {_ADVICE}")
        self.bad.append(problem)

    def _split(self, data: _Part) -> dict[str, list[int]]:
        task, count = self.task, len(data.clips)
        apart = {
            part: self._matching(data, getattr(task, f"{part}_where"), f"{part}_where") for part in PARTS[1:]
        }
        if both := set(apart["validation"]) & set(apart["test"]):
            raise InputError(
                f"validation_where and test_where both choose {len(both)} recordings, the first {data.clips[min(both)].place}"
            )
        taken = {number for numbers in apart.values() for number in numbers}
        rest = [number for number in range(count) if number not in taken]
        if not rest:
            raise InputError("validation_where and test_where leave no recordings to train on")
        keys = data.columns.get("speaker") or group_keys([clip.text for clip in data.clips])
        held = {
            part: 0.0 if apart[part] or isinstance(value := getattr(task, part), str) else float(value)
            for part in PARTS[1:]
        }
        split = split_examples(
            len(rest),
            validation=held["validation"],
            test=held["test"],
            seed=task.split_seed,
            groups=[keys[number] for number in rest],
        )
        parts = {part: [rest[place] for place in getattr(split, part)] for part in PARTS}
        return parts | {part: numbers for part, numbers in apart.items() if numbers}

    def _matching(self, data: _Part, where: str | None, name: str) -> list[int]:
        column, values = condition(where)
        if not column:
            return []
        there = data.columns[column]
        for value in values:
            if value not in there:
                raise InputError(
                    f"{name}: no recording has {column} = {value!r}.{nearest(value, set(there))}"
                )
        return [number for number, value in enumerate(there) if value in values]
