"""Rows of a time series as they arrive, and the forecast after each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from throughtime.data.assets import Assets
from throughtime.data.forecasting import ScaledSeries, unscaled
from throughtime.data.readers.time_series import Row, Series, SeriesTable, check_kind, missing_steps, row_of
from throughtime.data.readers.times import Step, Time, later, parse_time, time_text
from throughtime.errors import InputError
from throughtime.metrics.forecasting import LEVELS
from throughtime.models.forecaster import forecast_quantiles
from throughtime.sessions.processor import Carried, Processor
from throughtime.tasks.task import Record

if TYPE_CHECKING:
    from throughtime.tasks.forecast import ForecastTask

QUANTILES = tuple("median" if level == 0.5 else f"q{round(100 * level)}" for level in LEVELS)


class RowReader:
    """Rows to the steps that a model reads, each row continued from what was carried of its series: a few last values.

    Raises: InputError for a run with known columns: those of the steps ahead do not come with a row.
    """

    def __init__(self, task: ForecastTask, assets: Assets) -> None:
        self.task, self.assets = task, assets
        self.step, self.columns = Step(*assets.values["step"]), task.run_columns(assets)
        self.memory = task.layout(assets).memory
        if self.columns.known:
            raise InputError(
                f"after each row the known columns ({', '.join(self.columns.known)}) of the next steps are not there: give a "
                "file that ends with rows of them"
            )

    def rows(self, record: Record, before: Time | None, number: int) -> list[Row]:
        """What a record says of each series. Without a time it is of the next step. Args: before, the time of the last row."""
        typed = self.task.columns[0]  # the name that a typed line is given
        if typed in record and typed not in self.columns.targets and len(self.columns.targets) == 1:
            record = record | {self.columns.targets[0]: record[typed]}
        if self.columns.time not in record:
            example = str(self.assets.values["example"])
            time = example if before is None else time_text(later(before, 1, self.step), example)
            record = record | {self.columns.time: time}
        return row_of(record, self.columns, number)

    def read(self, row: Row, carried: Carried) -> tuple[ScaledSeries, int, Carried]:
        """The last steps of a row's series, the number of them that were read before, and what is to be carried.

        Between two rows steps may be missing: they are read too.
        """
        check_kind(row, self.step)
        missing = 0
        if carried:
            missing = missing_steps(parse_time(carried["time"]), row, self.step, self.task.gaps == "fill")
        held = [_number(value) for value in carried.get("values", ())]
        values = np.array(held + [np.nan] * missing + [row.value])
        past = [tuple(map(_number, each)) for each in carried.get("past", ())]
        past += [tuple(np.nan for _ in row.past)] * missing + [row.past]
        series = Series(
            row.series,
            later(row.time, 1 - len(values), self.step),
            values,
            np.zeros((len(values), 0)),
            np.array(past).reshape(len(values), -1),
        )
        (one,) = self.task.scaled(self.assets, SeriesTable((series,), self.step, self.columns, row.text))
        known = ~np.isnan(values)
        places = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
        filled = np.where(places >= 0, values[np.maximum(places, 0)], np.nan)
        return (
            one,
            len(held),
            {
                "time": row.text,
                "series": row.series,
                "steps": carried.get("steps", 0) + missing + 1,
                "values": list(map(_as_json, filled[-self.memory :].tolist())),
                "past": [list(map(_as_json, each)) for each in past[-self.memory :]],
            },
        )

    def times(self, row_time: str) -> list[str]:
        """Of the steps after a row."""
        time = parse_time(row_time)
        return [
            time_text(later(time, ahead, self.step), row_time) for ahead in range(1, self.task.horizon + 1)
        ]


class ForecastProcessor(Processor):
    """Takes rows of one series, and gives the quantiles of the steps after each, in the data's units.

    Raises: InputError for known columns, several targets, and a head that forecasts by drawing paths from the model's state.
    """

    def __init__(self, task: ForecastTask, assets: Assets) -> None:
        self.task, self.reader = task, RowReader(task, assets)
        columns = self.reader.columns
        if task.head != "quantiles":
            raise InputError(
                f"a run with head {task.head} cannot be streamed: its forecasts are drawn step by step; use predict"
            )
        if len(columns.targets) != 1:
            raise InputError(
                f"a stream is of one series, and the run has the targets {', '.join(columns.targets)}: use predict"
            )
        self.columns = [
            each for each in (columns.time, columns.series, *columns.targets, *columns.past) if each
        ]
        self._scales = assets.values["scales"]

    def about(self) -> dict[str, Any]:
        return {
            "kind": "series",
            "takes": f"rows of one series, in order: dicts with the columns {', '.join(self.columns)}, or values alone, of "
            "the next steps; null is a missing value",
            "gives": f"forecasts: for each row the times of the next {self.task.horizon} steps and their quantiles, lists",
            "columns": self.columns,
            "labels": list(QUANTILES),
        }

    def read(self, data: Any, carried: Carried) -> tuple[Tensor, Carried]:
        rows = [data] if isinstance(data, dict) else data
        if not isinstance(rows, list | tuple):
            raise InputError(f"a chunk must be a list of rows, got {type(data).__name__}")
        (target,), found = self.reader.columns.targets, list[Tensor]()
        count, places, origins = 0, list[int](), list[str]()
        kept = dict(carried)
        for number, each in enumerate(rows, start=1):
            record = each if isinstance(each, dict) else {target: "" if each is None else each}
            record = {name: "" if value is None else value for name, value in record.items()}
            if self.reader.columns.series and self.reader.columns.series not in record and "series" in kept:
                record[self.reader.columns.series] = kept["series"]
            before = parse_time(kept["time"]) if "time" in kept else None
            (row,) = self.reader.rows(record, before, number)
            if kept.get("series", row.series) != row.series:
                raise InputError(
                    f"a stream is of one series: it has read {kept['series']!r}, got {row.series!r}"
                )
            one, start, kept = self.reader.read(row, kept)
            steps = one.rows(start, len(one))
            count += len(steps)
            kept["number"] = int(one.number)
            found.append(steps)
            places.append(count - 1)
            origins.append(row.text)
        steps = torch.cat(found) if found else torch.zeros(0)
        return steps, {**kept, "read": [places, origins]}

    def write(self, outputs: Tensor, carried: Carried) -> tuple[Any, Carried]:
        kept = dict(carried)
        places, origins = kept.pop("read", ((), ()))
        if not places:
            return {"forecasts": []}, kept
        chosen = forecast_quantiles(outputs.cpu()[list(places)], self.task.horizon, LEVELS)
        scales = torch.tensor([self._scales[kept["number"]]] * len(places))
        values = unscaled(chosen, scales, self.task.how).tolist()
        return {
            "forecasts": [
                {"origin": origin, "time": self.reader.times(origin), **by_name(rows)}
                for origin, rows in zip(origins, values, strict=True)
            ]
        }, kept


def by_name(rows: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Quantiles of H steps, [H, Q], as a list of H for each."""
    return dict(zip(QUANTILES, map(list, zip(*rows, strict=True)), strict=True))


def _as_json(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
