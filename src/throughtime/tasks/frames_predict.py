"""Predictions of `frames` for files: a row for each frame, answered as it arrives where the model reads forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from throughtime.data.assets import Assets
from throughtime.data.readers.frame_folders import find_videos, read_image
from throughtime.data.readers.long_table import LongTable
from throughtime.data.readers.records import open_source, write_records
from throughtime.data.readers.series import scaled
from throughtime.errors import InputError
from throughtime.sessions.processor import Carried, Processor
from throughtime.sessions.stream import stream
from throughtime.tasks.classify_numbers import names_of
from throughtime.tasks.frames import FramesTask, kept_of
from throughtime.tasks.label_processor import numbers_about, rows_of
from throughtime.tasks.task import Record, run_one

Step = tuple[str, Record, Tensor]  # the name of the sequence, what is written again, the frame [D]


def write_predictions(
    task: FramesTask, model: nn.Module, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
) -> str:
    """Write the rows of a file with the label and probability of each; see `Task.predict_file`."""
    remarks: list[str] = []
    steps = _long(task, file, skip_bad, remarks) if form == "long" else _frames(task, file, form)
    write: Callable[[Record], None] | None = None
    for record, label, probability in _answers(task, model, assets, steps):
        row = dict(record)
        for name, value in (("label", label), ("probability", round(probability, 6))):
            row[f"predicted_{name}" if name in record else name] = value
        if write is None:
            write = write_records(out, "tsv" if Path(file).suffix in (".tsv", ".tab") else "csv", list(row))
        write(row)
    return "; ".join(remarks)


def _long(task: FramesTask, file: str, skip_bad: bool, remarks: list[str]) -> Iterator[Step]:
    """The rows of a long table, as they come."""
    with open_source(file) as stream:
        table = LongTable(
            stream,
            name="standard input" if file == "-" else file,
            label=task.label or "label",
            features=names_of(task.features),
            per_step=True,
            labelled=False,
            skip_bad=skip_bad,
        )
        for row in table:
            yield row.sequence, dict(row.record), torch.tensor(row.values)
        if table.bad:
            remarks.append(f"{table.name}: {len(table.bad)} bad rows skipped; the first is {table.bad[0]}")


def _frames(task: FramesTask, file: str, form: str) -> Iterator[Step]:
    """The frames of an .npz file, or of folders of images, each read when it is asked for."""
    if file == "-":
        raise InputError(f"{form} is not read from standard input: name a file or a folder")
    if form == "npz":
        series = task.series_of((file,), labelled=False)
        for name, values, labels in zip(series.names, series.values, series.labels, strict=True):
            for step, frame in enumerate(values):
                known = {} if labels is None else {"label": labels[step]}
                yield name, {"sequence": name, "step": step, **known}, frame
        return
    for video in find_videos(file):
        for image in video.files:
            values = torch.from_numpy(read_image(image, task.size or (), task.color)).flatten()
            yield video.name, {"sequence": video.name, "frame": image.name}, values


def _answers(
    task: FramesTask, model: nn.Module, assets: Assets, steps: Iterable[Step]
) -> Iterator[tuple[Record, str, float]]:
    """(what is written again, label, probability) of each frame; each as it comes where the model reads forward."""
    processor = FrameProcessor(task, assets)
    backward = getattr(model, "bidirectional", False)
    running = None if backward else stream(model, processor)
    for _, sequence in groupby(steps, key=lambda step: step[0]):
        if running is None:
            rows = list(sequence)
            frames, _ = processor.read(torch.stack([frame for _, _, frame in rows]), {})
            answer, _ = processor.write(run_one(model, frames), {})
            yield from zip([record for _, record, _ in rows], *answer.values(), strict=True)
            continue
        running.reset()
        for _, record, frame in sequence:
            found = running.feed(frame[None])
            yield record, found["labels"][0], found["probabilities"][0]


class FrameProcessor(Processor):
    """Takes frames as rows of numbers, and gives the likeliest label of each and its probability."""

    def __init__(self, task: FramesTask, assets: Assets) -> None:
        kept = kept_of(assets)
        self.size, self.scale, self.frame = int(kept["size"]), kept["scale"], kept["frame"]
        self.columns, self.labels = names_of(task.features), assets.labels["label"]

    def about(self) -> dict[str, Any]:
        return {
            **numbers_about(self.size, self.columns),
            "gives": "labels: the likeliest of each step; probabilities: theirs",
            "labels": list(self.labels),
            "frame": self.frame,
        }

    def read(self, data: Any, carried: Carried) -> tuple[Tensor, Carried]:
        return scaled(rows_of(data, self.size), self.scale), carried

    def write(self, outputs: Tensor, carried: Carried) -> tuple[Any, Carried]:
        if not len(outputs):
            return {"labels": [], "probabilities": []}, carried
        chances, best = outputs.cpu().double().softmax(-1).max(-1)
        labels = [self.labels[number] for number in best.tolist()]
        return {"labels": labels, "probabilities": chances.tolist()}, carried
