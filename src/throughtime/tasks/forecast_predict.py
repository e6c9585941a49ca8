"""Forecasts of a trained run: after the end of a file, or after each row as it arrives, the state carried."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from throughtime.data.assets import Assets
from throughtime.data.forecasting import ScaledSeries, unscaled
from throughtime.data.readers.records import open_source, write_records
from throughtime.data.readers.time_series import (
    Row,
    SeriesRows,
    SeriesTable,
    read_series,
)
from throughtime.data.readers.times import Step, Time, later, parse_time, time_text
from throughtime.data.step_inputs import Ahead
from throughtime.errors import InputError
from throughtime.layers.eval_mode import evaluating
from throughtime.metrics.forecasting import LEVELS
from throughtime.models.forecaster import forecast_quantiles
from throughtime.tasks.forecast_processor import QUANTILES, RowReader, by_name
from throughtime.tasks.task import Record

if TYPE_CHECKING:
    from throughtime.tasks.forecast import ForecastTask

_CHUNK = 512  # steps of a history that are read at a time


def predict_file(
    task: ForecastTask,
    model: nn.Module,
    assets: Assets,
    file: str,
    out: IO[str],
    *,
    form: str,
    skip_bad: bool,
) -> str:
    """See `ForecastTask.predict_file`."""
    if file == "-":
        return _predict_stream(task, model, assets, out, None if form == "csv" else form, skip_bad)
    step = Step(*assets.values["step"])
    fill = task.gaps == "fill"
    table = read_series([file], task.run_columns(assets), step=step, fill=fill, skip_bad=skip_bad)
    write = write_records(out, form, ("time", "series", *QUANTILES))
    for each, one in zip(table.series, task.scaled(assets, table), strict=True):
        known = np.flatnonzero(~np.isnan(each.values))
        if not len(known):
            raise InputError(f"{file}: series {each.name!r} has no value to forecast from")
        last = int(known[-1])
        if table.columns.known and len(each) - 1 - last < task.horizon:
            raise InputError(
                f"{file}: the known columns ({', '.join(table.columns.known)}) must be given for {task.horizon} steps after "
                f"the last value of series {each.name!r}, got {len(each) - 1 - last}: add rows with an empty {each.name!r}"
            )
        quantiles, _ = forecast(task, model, one, 0, last + 1, None, last)
        for time, row in zip(_times(each.start, last, task.horizon, table), quantiles.tolist(), strict=True):
            write({"time": time, "series": each.name} | dict(zip(QUANTILES, map(_short, row), strict=True)))
    return "; ".join(table.remarks)


def forecast(
    task: ForecastTask, model: nn.Module, series: ScaledSeries, start: int, stop: int, state: Any, seed: int
) -> tuple[Tensor, Any]:
    """Quantiles [H, Q] in the data's units of the steps after step stop-1, and the state there.

    Reads steps start .. stop-1 in chunks from `state`, that of the steps before, None at the start; cutting a history anywhere
    changes nothing. Args: seed, of the paths of a distribution.
    """
    device = next(model.parameters()).device
    scales = torch.tensor([series.scale])
    drawn = task.head != "quantiles"
    with evaluating(model), torch.inference_mode():
        for first in range(start, stop, _CHUNK):
            end = min(first + _CHUNK, stop)
            context = None
            if drawn and end == stop:
                ahead = series.ahead[stop : stop + series.horizon]
                came = torch.full((1, series.horizon), torch.nan)
                context = Ahead(ahead[None].to(device), torch.tensor([seed]), came, scales)
            rows = series.rows(first, end)[:, None].to(device)
            outputs, state = model(rows, state) if context is None else model(rows, state, context=context)
    quantiles = forecast_quantiles(outputs if drawn else outputs[-1], series.horizon, LEVELS).cpu()
    return unscaled(quantiles, scales, task.how)[0], state


class RowForecasts:
    """Reads rows of one or several series and forecasts after each; keeps their states and a few last values.

    Raises: InputError as `RowReader`.
    """

    def __init__(self, task: ForecastTask, model: nn.Module, assets: Assets) -> None:
        self.task, self.model, self.reader = task, model, RowReader(task, assets)
        self._carried: dict[str, tuple[dict[str, Any], Any]] = {}  # of each series, and the model's state

    def answers(self, records: Iterable[Record]) -> Iterator[Record]:
        """For each record the times and quantiles of the steps after it, lists of H; of several series by their names."""
        for number, record in enumerate(records, start=1):
            first, _ = next(iter(self._carried.values()), (None, None))
            before = None if first is None else parse_time(first["time"])
            found = {
                row.series: {"time": times, **by_name(quantiles.tolist())}
                for row in self.reader.rows(record, before, number)
                for times, quantiles in [self.after(row)]
            }
            yield next(iter(found.values())) if len(found) == 1 else found

    def after(self, row: Row) -> tuple[list[str], Tensor]:
        """The times and the quantiles [H, Q] of the steps after a row."""
        carried, state = self._carried.get(row.series, ({}, None))
        one, start, carried = self.reader.read(row, carried)
        quantiles, state = forecast(self.task, self.model, one, start, len(one), state, carried["steps"] - 1)
        self._carried[row.series] = carried, state
        return self.reader.times(row.text), quantiles


def _predict_stream(
    task: ForecastTask, model: nn.Module, assets: Assets, out: IO[str], form: str | None, skip_bad: bool
) -> str:
    running = RowForecasts(task, model, assets)
    with open_source("-") as source:
        rows = SeriesRows(
            source, running.reader.columns, name="standard input", form=form, skip_bad=skip_bad, headless=True
        )
        write = write_records(out, rows.format, ("origin", "time", "series", *QUANTILES))
        for several in rows:
            for row in several:
                try:
                    times, quantiles = running.after(row)
                except InputError as error:
                    raise InputError(f"standard input:{row.line}: {error}") from None
                for time, values in zip(times, quantiles.tolist(), strict=True):
                    found = dict(zip(QUANTILES, map(_short, values), strict=True))
                    write({"origin": row.text, "time": time, "series": row.series} | found)
    return rows.remark


def _times(start: Time, last: int, horizon: int, table: SeriesTable) -> list[str]:
    """Of the steps after step `last`, as the file writes times."""
    return [
        time_text(later(start, last + ahead, table.step), table.example) for ahead in range(1, horizon + 1)
    ]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
