"""Sequences of numbers with labels, from the formats people have them in; and what scales them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from throughtime.data.readers.arrays import is_idx, labels_of, read_digits, read_npz, sequences_of
from throughtime.data.readers.frame_folders import read_videos
from throughtime.data.readers.long_table import LongTable
from throughtime.data.readers.records import find_column
from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError

TABLES = (".csv", ".tsv", ".tab")


@dataclass(frozen=True)
class Series:
    """N sequences of numbers."""

    values: list[Tensor]  # float32 [t, D] each
    labels: list[
        Any
    ]  # of each a text, or a tuple with a text for each of its steps; None where the source has none
    names: list[str]  # what messages and predictions call each
    features: tuple[str, ...] = ()  # D names, where the source has them
    frame: tuple[int, int, int] | None = None  # (H, W, C) where a step is an image and D = H * W * C
    columns: dict[str, list[str]] = field(
        default_factory=dict
    )  # more that was asked for, one value for each sequence
    sources: tuple[Source, ...] = ()
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)


def read_series(
    paths: Sequence[str | Path],
    *,
    per_step: bool = False,
    label: str = "label",
    features: Sequence[str] = (),
    others: Sequence[str] = (),
    labelled: bool = True,
    skip_bad: bool = False,
    size: tuple[int, ...] = (),
    color: bool = False,
) -> Series:
    """Read sequences from one or more files or folders, one after the other.

    .csv, .tsv: a long table (`throughtime.data.readers.long_table`). .npz: arrays x, y, lengths and others [N]
    (`throughtime.data.readers.arrays`). IDX files: images and the labels beside them, a row of an image is a step. With
    `per_step`,
    folders of images (`throughtime.data.readers.frame_folders`), `size` (H, W) and `color` as in `read_image`.
    Args: per_step: labels are of steps, not of sequences; labelled: False where labels may be missing; others: columns, or
    arrays, with one value for each sequence, as text; features: columns of a long table, by default all that hold numbers.
    Raises: InputError for what cannot be read, with file and line; for files that do not have the same numbers at each step.
    """
    found: Series | None = None
    for path in paths:
        if Path(path).is_dir():
            part = _read_folder(path, per_step, size, color)
        elif Path(path).suffix.lower() == ".npz":
            part = _read_npz(path, per_step, label, others)
        elif is_idx(path):
            part = _read_idx(path, per_step, others)
        else:
            part = _read_table(path, per_step, label, features, others, labelled, skip_bad)
        if labelled and any(each is None for each in part.labels):
            raise InputError(
                f"{path}: expected labels, got none: a column 'label', an array y, or a file of labels"
            )
        if found is None:
            found, features = part, part.features or features
            continue
        if part.values[0].shape[1] != found.values[0].shape[1] or part.frame != found.frame:
            raise InputError(
                f"{path}: expected {_at_a_step(found)}, as in {paths[0]}, got {_at_a_step(part)}"
            )
        found = replace(
            found,
            values=found.values + part.values,
            labels=found.labels + part.labels,
            names=found.names + part.names,
            columns={name: found.columns[name] + part.columns[name] for name in others},
            sources=found.sources + part.sources,
            remarks=found.remarks + part.remarks,
        )
    if found is None:
        raise InputError("expected at least one file of sequences, got none: name one")
    return found


def holds_series(path: str | Path, text: str = "text") -> bool:
    """Whether a file holds sequences of numbers: .npz, IDX, or a long table, which has a column `sequence` and no text.

    A pipe or a file that is not there is none: it cannot be read twice.
    """
    file = Path(path)
    if not file.is_file():
        return False
    found = file.stat()
    return _holds_series(str(file), text, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=32)
def _holds_series(path: str, text: str, changed: int, size: int) -> bool:
    """The same of a regular file as it is since it was changed."""
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix == ".npz" or is_idx(file):
        return True
    if suffix not in TABLES:
        return False
    with open(file, "rb") as stream:
        line = stream.readline().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    names = [each.strip(' \r\n"') for each in line.split("," if suffix == ".csv" else "\t")]
    return _has_column(names, "sequence") and not _has_column(names, text)


def found_features(
    path: str | Path, *, label: str, others: Sequence[str] = (), labelled: bool = True
) -> tuple[str, ...]:
    """The columns of numbers of a long table in a regular file; of any other file none.

    Raises: InputError as `throughtime.data.readers.long_table.LongTable`.
    """
    if Path(path).suffix.lower() not in TABLES or not Path(path).is_file():
        return ()
    with open(path, "rb") as stream:
        return LongTable(
            stream, name=str(path), label=label, others=others, labelled=labelled, skip_bad=True
        ).features


def parse_values(value: Any, features: int, name: str = "values") -> Tensor:
    """Numbers as a record holds them, float32 [t, D]: a list of steps, each a list of D numbers, or JSON of it.

    Where D is 1, a list of numbers does. Arrays and tensors are taken too. Raises: InputError for anything else.
    """
    what = f"{name!r} must be a list of steps, each a list of {features} finite numbers"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise InputError(f"{what}, as in [[0.1, 0.2], [0.3, 0.4]], got {value!r:.60}") from None
    try:
        found = torch.as_tensor(np.asarray(value, np.float32))
    except (ValueError, TypeError):
        raise InputError(f"{what}, got {value!r:.60}") from None
    if found.dim() == 1 and features == 1:
        found = found[:, None]
    if found.dim() > 2 and found[0].numel() == features:
        found = found.flatten(1)
    if found.dim() != 2 or found.shape[1] != features or len(found) == 0:
        raise InputError(f"{what}, got shape {list(found.shape)}")
    if not bool(found.isfinite().all()):
        step, place = (~found.isfinite()).nonzero()[0].tolist()
        raise InputError(f"{what}, got {float(found[step, place])} in step {step}, number {place}")
    return found


def sequence_keys(values: Sequence[Tensor]) -> list[Hashable]:
    """A key for each sequence, the same for the same numbers."""
    return [hashlib.sha256(each.numpy().tobytes()).digest() for each in values]


def check_disjoint_series(parts: Mapping[str, Sequence[Tensor]]) -> list[str]:
    """One sentence for each two parts that share sequences; an empty list where none do. Nothing is removed."""
    keys = {name: sequence_keys(each) for name, each in parts.items()}
    found = []
    for first, second in combinations(parts, 2):
        known = set(keys[first])
        if number := sum(key in known for key in keys[second]):
            found.append(
                f"{number:,} of the {len(keys[second]):,} {second} sequences are also {first} sequences: they are kept, and "
                f"results on the {second} part are too good by that"
            )
    return found


def fit_scale(values: Sequence[Tensor], how: str) -> dict[str, list[float]]:
    """Mean and standard deviation of all steps [t, D]: of each feature ("each"), or one of all ("all"); {} for "none".

    A feature that never changes has deviation 1 here. Sums are taken in float64, twice over the data.
    """
    if how == "none":
        return {}

    def mean_of(parts: Any) -> Tensor:
        total, count = torch.zeros(()), 0
        for part in parts:
            total, count = total + part.sum(0), count + len(part)
        mean: Tensor = total / count
        return mean.mean(0, keepdim=True) if how == "all" else mean

    mean = mean_of(each.double() for each in values)
    deviation = mean_of((each.double() - mean).square() for each in values).sqrt()
    deviation = torch.where(deviation > 1e-12 * mean.abs().clamp(min=1e-12), deviation, 1.0)
    return {"mean": mean.tolist(), "deviation": deviation.tolist()}


def scaled(values: Tensor, scale: dict[str, list[float]]) -> Tensor:
    """The same [t, D], less the mean, divided by the deviation, as `fit_scale` found them; {} changes nothing."""
    if not scale:
        return values
    mean, deviation = (torch.tensor(scale[name], dtype=values.dtype) for name in ("mean", "deviation"))
    return (values - mean) / deviation


def _read_table(
    path: str | Path,
    per_step: bool,
    label: str,
    features: Sequence[str],
    others: Sequence[str],
    labelled: bool,
    skip_bad: bool,
) -> Series:
    data, source = read_bytes(path)
    table = LongTable(
        io.BytesIO(data),
        name=str(path),
        label=label,
        features=features,
        others=others,
        per_step=per_step,
        labelled=labelled,
        skip_bad=skip_bad,
    )
    values: list[Tensor] = []
    labels: list[Any] = []
    names: list[str] = []
    columns: dict[str, list[str]] = {name: [] for name in others}
    for rows in table.sequences():
        values.append(torch.tensor([row.values for row in rows], dtype=torch.float32))
        labels.append(tuple(row.label for row in rows) if per_step and table.label else rows[0].label)
        names.append(rows[0].sequence)
        for name, column in table.others.items():
            columns[name].append(rows[0].record[column])
    if not values:
        why = f"; {len(table.bad)} bad rows, the first is {table.bad[0]}" if table.bad else ""
        raise InputError(f"{path}: expected rows of numbers below the header, found none{why}")
    for name, each in zip(names, values, strict=True):
        if not bool(each.isfinite().all()):
            raise InputError(f"{path}: sequence {name!r} has a number that is too large for 32 bits")
    remarks = []
    if table.ignored:
        remarks.append(f"{Path(path).name}: columns that are not read: {', '.join(table.ignored)}")
    if table.bad:
        remarks.append(
            f"{path}: sequences with bad rows skipped ({len(table.bad)} bad rows); the first is {table.bad[0]}"
        )
    return Series(values, labels, names, table.features, None, columns, (source,), tuple(remarks))


def _read_npz(path: str | Path, per_step: bool, label: str, others: Sequence[str]) -> Series:
    arrays, source = read_npz(path)
    if label != "label" and label in arrays:
        arrays["y"] = arrays[label]
    parts, frame = sequences_of(arrays, path, image=per_step)
    labels = labels_of(arrays, path, [len(part) for part in parts], per_step)
    columns = {}
    for name in others:
        if name not in arrays:
            raise InputError(f"{path}: expected an array {name!r}, the arrays are {', '.join(arrays)}")
        if arrays[name].shape != (len(parts),):
            raise InputError(f"{path}: {name} must be [{len(parts)}], got {list(arrays[name].shape)}")
        columns[name] = [str(each) for each in arrays[name].tolist()]
    return Series(
        [torch.from_numpy(part) for part in parts],
        labels if labels is not None else [None] * len(parts),
        [str(number) for number in range(len(parts))],
        frame=frame,
        columns=columns,
        sources=(source,),
    )


def _read_idx(path: str | Path, per_step: bool, others: Sequence[str]) -> Series:
    if per_step or others:
        what = "a label for each step" if per_step else f"{others[0]!r}"
        raise InputError(f"{path}: an IDX file has images with a label each, and not {what}")
    images, labels, sources = read_digits(path)
    return Series(
        list(torch.from_numpy(images)),
        list(labels) if labels is not None else [None] * len(images),
        [str(number) for number in range(len(images))],
        sources=tuple(sources),
    )


def _read_folder(path: str | Path, per_step: bool, size: tuple[int, ...], color: bool) -> Series:
    if not per_step:
        raise InputError(f"{path}: expected a file of sequences, got a folder; name the files inside it")
    videos, values, labels, source = read_videos(path, size=size, color=color)
    height, width, channels = values[0].shape[1:]
    return Series(
        [torch.from_numpy(each.reshape(len(each), -1)) for each in values],
        list(labels) if labels is not None else [None] * len(values),
        [video.name for video in videos],
        frame=(height, width, channels),
        sources=(source,),
    )


def _has_column(names: Sequence[str], asked: str) -> bool:
    try:
        find_column(names, asked)
    except InputError:
        return False
    return True


def _at_a_step(series: Series) -> str:
    count = series.values[0].shape[1]
    return (
        f"images of {' x '.join(map(str, series.frame))}" if series.frame else f"{count} numbers at each step"
    )
