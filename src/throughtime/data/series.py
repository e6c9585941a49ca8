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

from throughtime.data.arrays import is_idx, labels_of, read_digits, read_npz, sequences_of
from throughtime.data.frame_folders import read_videos
from throughtime.data.long_table import LongTable
from throughtime.data.records import find_column
from throughtime.data.text import Source, read_bytes
from throughtime.errors import InputError

TABLES = (".csv", ".tsv", ".tab")
TIMES = ("time", "date", "ds", "datetime", "timestamp", "month", "day", "week", "quarter", "year", "hour")
NAMES = ("series", "unique_id", "series_id", "item_id")
VALUES = ("y", "value", "target")
MISSING = ("", "nan", "na", "n/a", "null", "none", "-")  # how a missing value may be written, in any case
MOST_FILLED = 1_000_000  # missing steps in one gap: more is a mistake in a time

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Which column is what. As a request, "" and () leave it to `resolve`."""

    time: str = ""
    series: str = ""  # of the series' name; "" of a wide file
    targets: tuple[str, ...] = ()  # one series each; in a long file one column
    known: tuple[str, ...] = ()  # numbers that are known in the future too
    past: tuple[str, ...] = ()  # numbers that are known up to now

    def resolve(self, fields: Sequence[str]) -> Columns:
        """The columns of a file with this header.

        Raises: InputError for a column that is not there, with the nearest one, or no column of values.
        """
        if len(fields) == 1 and ";" in fields[0]:
            raise InputError(
                "expected columns with commas or tabs between them, got semicolons: convert the file"
            )
        for name in (*filter(None, (self.time, self.series)), *self.targets, *self.known, *self.past):
            if name not in fields:
                there = shortened(", ".join(map(repr, fields)), 120) or "none"
                raise InputError(
                    f"expected a column {name!r}, the columns are {there}.{nearest(name, fields)}"
                )
        asked = {*self.targets, *self.known, *self.past}
        free = [name for name in fields if name not in asked]
        time = self.time or next((name for name in free if name.casefold() in TIMES), "")
        time = time or next(
            (name for name in free if name != self.series and name.casefold() not in NAMES), ""
        )
        series = self.series or next((name for name in free if name.casefold() in NAMES and name != time), "")
        free = [name for name in free if name not in (time, series)]
        targets = self.targets or tuple(free)
        if series and not self.targets:
            usual = [name for name in free if name.casefold() in VALUES]
            targets = tuple(usual[:1] or free)
        if not targets or (series and len(targets) > 1):
            raise InputError(
                f"expected a column of values{' beside the one that names the series' if series else ''}, got "
                f"{', '.join(map(repr, targets)) or 'none'}: name the one to forecast with --target"
            )
        twice = [name for name in (time, series, *targets, *self.known, *self.past) if name]
        if len(set(twice)) < len(twice):
            raise InputError(f"a column can be only one of time, series, target, known and past, got {twice}")
        return replace(self, time=time, series=series, targets=targets)


class Row(NamedTuple):
    """What a row says of one series."""

    line: int
    time: Time
    text: str  # of the time
    series: str
    value: float  # NaN: missing
    known: tuple[float, ...]
    past: tuple[float, ...]


class SeriesRows:
    """Iterate over the rows of a binary stream, each as soon as it was read: a list with a `Row` for each series in it.

    Args: columns, a request; form, "csv", "tsv" or "jsonl", None to tell by the suffix of `name`, else by the first line.
    headless: take a first line that starts with a time and numbers for a row of the columns in their order (time, targets, known,
    past), not for a header. With `skip_bad` bad rows are left out and counted.
    Attributes: columns, resolved once the header was read; format.
    Raises: InputError with file and line, here for the header, while iterating for a row.
    """

    def __init__(
        self,
        stream: IO[bytes],
        columns: Columns,
        *,
        name: str,
        form: str | None = None,
        skip_bad: bool = False,
        headless: bool = False,
    ) -> None:
        self.name, self.skip_bad, self.skipped, self._first_skipped = name, skip_bad, 0, ""
        first = stream.readline()
        form = form or _form(first, name)
        if not first:
            raise InputError(f"{name}: expected a header and rows with a time and numbers, got an empty file")
        before = [first]
        self._headless = headless and form != "jsonl" and _is_data(first, form)
        if self._headless:
            separator = "\t" if form == "tsv" else ","
            names = [columns.time, columns.series, *columns.targets, *columns.known, *columns.past]
            header = separator.join(_quoted(each) for each in names if each)
            before.insert(0, f"{header}\n".encode())
        rest: Any = _Rest(before, stream)  # has what is read of a stream
        self._records = Records(rest, (), format=form, name=name, skip_bad=skip_bad)
        self.format = self._records.format
        self._asked: Columns = columns
        self.columns: Columns | None = None
        if self._records.fieldnames:
            self._resolve(self._records.fieldnames)

    def __iter__(self) -> Iterator[list[Row]]:
        for record in self._records:
            line = self._records.line - self._headless
            try:
                columns = self.columns or self._resolve(tuple(record))
                yield row_of(record, columns, line)
            except InputError as error:
                message = f"{self.name}:{line}: {error}"
                if not self.skip_bad:
                    raise InputError(message) from None
                self.skipped += 1
                self._first_skipped = self._first_skipped or message

    @property
    def remark(self) -> str:
        """What to tell the user about rows that were left out; often nothing."""
        if not self.skipped:
            return self._records.remark
        rows = self.skipped + self._records.skipped
        return f"{self.name}: {rows} bad row{'s' * (rows > 1)} skipped; the first is {self._first_skipped}"

    def _resolve(self, fields: tuple[str, ...]) -> Columns:
        try:
            self.columns = self._asked.resolve(fields)
        except InputError as error:
            raise InputError(f"{self.name}:1: {error}") from None
        return self.columns


def row_of(record: dict[str, Any], columns: Columns, line: int) -> list[Row]:
    """What a record says of each series, its values text or numbers.

    Raises: InputError for a time or a number that cannot be read.
    """
    for name in (columns.time, *columns.targets, *columns.known, *columns.past):
        if name not in record:
            there = shortened(", ".join(map(repr, record)), 120) or "none"
            raise InputError(f"expected a column {name!r}, got {there}.{nearest(name, record)}")
    text = as_text(record[columns.time])
    try:
        time = parse_time(text)
    except InputError as error:
        raise InputError(f"the time in {columns.time!r}: {error}") from None
    known, past = (
        tuple(_number(record[name], name) for name in names) for names in (columns.known, columns.past)
    )
    if columns.series:
        name = as_text(record.get(columns.series, "")).strip()
        if not name:
            raise InputError(f"expected the name of a series in {columns.series!r}, got an empty field")
        names = [(name, columns.targets[0])]
    else:
        names = [(target, target) for target in columns.targets]
    return [
        Row(line, time, text, name, _number(record[column], column), known, past) for name, column in names
    ]


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

    .csv, .tsv: a long table (`throughtime.data.long_table`). .npz: arrays x, y, lengths and others [N]
    (`throughtime.data.arrays`). IDX files: images and the labels beside them, a row of an image is a step. With `per_step`,
    folders of images (`throughtime.data.frame_folders`), `size` (H, W) and `color` as in `read_image`.
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
        step = step_of([row.time for _, row in longest])
    fill = fill or skip_bad
    series = tuple(_on_grid(name, found, step, fill, remarks) for name, found in rows.items())
    example = next(iter(rows.values()))[0][1].text
    return SeriesTable(series, step, columns, example, tuple(sources), tuple(remarks))


def yearly_sunspots() -> SeriesTable:
    """The mean number of sunspots in each year from 1700 to 2008, 309 values: what the task forecasts without data of the user's.

    Source: WDC-SILSO, Royal Observatory of Belgium, Brussels (version 1 of the series), as published by NOAA's National
    Geophysical Data Center.
    """
    path = resources.files("throughtime.data").joinpath("sunspots.csv")
    with resources.as_file(path) as file:
        return read_series([file])


def forward_filled(values: Values) -> Values:
    """[T] with each missing value replaced by the last one before it; those before the first by 0."""
    known = ~np.isnan(values)
    index = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    return np.where(index >= 0, np.where(known, values, 0.0)[np.maximum(index, 0)], 0.0)


def check_kind(row: Row, step: Step) -> None:
    """Refuse a number where the step is one of dates, and a date where it is one of numbers.

    Raises: InputError saying so.
    """
    if isinstance(row.time, float) != (step.unit == "number"):
        kind = "numbers" if step.unit == "number" else "dates"
        raise InputError(f"expected times that are {kind} (the step is {step}), got {row.text!r}")


def missing_steps(before: Time, row: Row, step: Step, fill: bool) -> int:
    """How many steps are missing between a time and the next row of the series; 0 where it is the next one.

    Raises: InputError for a time that is not later, not on the grid, or, without `fill`, not the next one.
    """
    distance = steps_between(before, row.time, step)
    expected = time_text(later(before, 1, step), row.text)
    if distance < NEAR:
        what = "is there twice" if distance > -NEAR else "comes after a later time"
        raise InputError(f"{row.text} {what} in series {row.series!r}: times must ascend, each once")
    if abs(distance - round(distance)) > NEAR * max(1.0, distance):
        raise InputError(
            f"the times of series {row.series!r} are {step} apart, so {expected} was expected, got {row.text}: "
            "bring the times on a regular grid first"
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

    Raises: InputError as `throughtime.data.long_table.LongTable`.
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
def _on_grid(name: str, rows: list[tuple[str, Row]], step: Step, fill: bool, remarks: list[str]) -> Series:
    places, last = [0], 0
    file, first = rows[0]
    try:
        check_kind(first, step)  # the others are of its kind
    except InputError as error:
        raise InputError(f"{file}:{first.line}: {error}") from None
    for (_, before), (file, row) in pairwise(rows):
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
