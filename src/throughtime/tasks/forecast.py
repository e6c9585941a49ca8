"""Forecasting: the next values of one or several time series, with quantiles."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.options import Settings
from throughtime.tasks.files import FileTask, check_sources, full_path, reading_again
from throughtime.tasks.task import Record, data_option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.forecasting import ScaledSeries
    from throughtime.data.generated import Generated
    from throughtime.data.readers.time_series import Columns, SeriesTable
    from throughtime.data.step_inputs import StepInputs
    from throughtime.metrics import Metric
    from throughtime.sessions.processor import Processor

HEADS = ("quantiles", "student", "normal", "negbin")
_EMBEDDED_SEASON = 11  # years of a cycle of sunspots


@dataclass(frozen=True)
class ForecastTask(FileTask):
    """Train a forecaster of time series: the next values, with quantiles that say how sure they are.

    Reads CSV, TSV or JSON lines with a column of times and a column of numbers for each series (or, with a column `series`, one
    series after the other). Splits are by time: the last part is for test, the one before it for validation. Without --data it
    forecasts the yearly numbers of sunspots, 1700 to 2008.
    """

    name = "forecast"
    shape = "many to many"
    reads = "CSV, TSV, JSON lines with times"
    examples = (
        "throughtime train forecast",
        "throughtime train forecast --data passengers.csv --horizon 12 --scaling log --anchor season",
        "throughtime train forecast --data sales.csv --series shop --target sold --known holiday --head negbin",
        "throughtime train forecast --data ETTh1.csv --target OT --horizon 24 --borders 8640,11520,14400",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "cell": "gru", "hidden": 32, "embedding": 8, "bptt": "full", "batch": 32, "steps": 600, "lr": 3e-3, "dropout": 0.1,
    }  # fmt: skip
    without = ("tied", "pooling", "window", "bidirectional")
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "csv": (".csv", ""), "tsv": (".tsv", ".tab"), "jsonl": (".jsonl", ".ndjson", ".json"),
    }  # fmt: skip

    validation: float = data_option(
        0.15, "Validation data, the part before the test data: a fraction or a number of steps.", metavar="FRACTION|STEPS", low=0,
    )  # fmt: skip
    test: float = data_option(
        0.15, "Test data, the last part, evaluated once: a fraction, or a number of steps.", metavar="FRACTION|STEPS", low=0
    )  # fmt: skip
    limit: int | None = data_option(None, "Use only the first N steps of each series.", metavar="N", low=1)
    horizon: int = data_option(12, "Steps to forecast.", metavar="H", low=1, high=10_000)
    time: str = data_option(
        "", "Column of the times. Default: time, date, ds, month, ..., else the first.", metavar="NAME"
    )
    series: str = data_option(
        "", "Column that names the series. Default: series or unique_id, if there is one.", metavar="NAME"
    )
    target: tuple[str, ...] = data_option(
        (),
        "Columns to forecast. Default: all columns; beside a column of names y, value or target.",
        metavar="NAMES",
    )
    known: tuple[str, ...] = data_option(
        (), "Columns of numbers that are known in the future too.", metavar="NAMES"
    )
    past: tuple[str, ...] = data_option(
        (), "Columns of numbers that are known up to now; quantiles only.", metavar="NAMES"
    )
    gaps: str = data_option(
        "refuse",
        "Missing rows: refuse, or fill with missing values.",
        metavar="HOW",
        choices=("refuse", "fill"),
    )
    head: str = data_option(
        "quantiles", "What is predicted: quantiles of all steps at once, or a distribution of the next step (student, normal, "
        "negbin for counts) from which paths are drawn.", metavar="NAME", choices=HEADS,
    )  # fmt: skip
    scaling: str | None = data_option(
        None, "Of each series, from its training part: standard; mean (of |y|, no shift); log or sqrt (then standard). Default: "
        "standard, with negbin mean, of what ships inside sqrt.", metavar="HOW", choices=("standard", "mean", "log", "sqrt"),
    )  # fmt: skip
    anchor: str = data_option(
        "last", "What forecasts are relative to: none, the last value, or the season before.", metavar="WHAT",
        choices=("none", "last", "season"),
    )  # fmt: skip
    season: int | None = data_option(
        None, "Steps of a season. Default: a year of months, a week of days, a day of hours; else 1.", metavar="N", low=1,
        high=100_000,
    )  # fmt: skip
    lags: tuple[int, ...] | None = data_option(
        None,
        "Also read the values N steps before the one to predict.",
        metavar="N[,N...]",
        low=1,
        high=100_000,
    )
    linear: int = data_option(
        0, "Add an autoregression on the last N values.", metavar="N", low=0, high=100_000
    )
    context: int | None = data_option(
        None,
        "Steps of a training window. Default: the largest of 64, 4 seasons and 2 horizons.",
        metavar="N",
        low=2,
        high=10**6,
    )
    paths: int = data_option(
        200, "Paths drawn from a distribution for each forecast.", metavar="N", low=2, high=100_000
    )
    origins: int | None = data_option(
        None,
        "Forecast from at most N steps of a part, evenly spaced. Default: from every step.",
        metavar="N",
        low=1,
    )
    borders: tuple[int, ...] | None = data_option(
        None,
        "Rows at which training, validation and test parts end, in place of fractions.",
        metavar="N,N,N",
        low=1,
    )
    units: str = data_option(
        "data", "Of CRPS, MAE and MSE: the data's, or scaled by each training part's standard deviation.", metavar="WHICH",
        choices=("data", "scaled"),
    )  # fmt: skip
    skip_bad: bool = data_option(False, "Leave out rows that cannot be read, and count them.")

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        for name in ("validation", "test"):
            value = getattr(self, name)
            if value >= 1 and value != round(value):
                raise InputError(
                    f"{name} must be a fraction below 1, or a whole number of steps, got {value:g}"
                )
        if self.validation < 1 and self.test < 1 and self.validation + self.test >= 1:
            raise InputError(
                f"validation and test together must leave some data to train on, got {self.validation:g} and {self.test:g}"
            )
        if self.borders is not None and (
            len(self.borders) != 3 or sorted(set(self.borders)) != list(self.borders)
        ):
            raise InputError(
                "borders must be three ascending rows, the ends of the training, validation and test parts, got "
                f"{list(self.borders)}"
            )
        if self.head == "negbin" and self.scaling not in (None, "mean"):
            raise InputError(
                f"negbin predicts counts, which are scaled by their mean, got scaling {self.scaling}: leave it out"
            )
        if self.past and self.head != "quantiles":
            raise InputError(
                f"past columns are not known in the future, into which {self.head} draws step by step: use head quantiles"
            )

    @property
    def unit(self) -> str:
        return "value"

    @property
    def title(self) -> str:
        return super().title if self.data else "sunspots"

    @property
    def how(self) -> str:
        """How series are scaled."""
        return self.scaling or ("mean" if self.head == "negbin" else "standard" if self.data else "sqrt")

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (_names(self.target) or ("value",))[:1]

    def on(self, files: tuple[str, ...]) -> Self:
        return replace(
            self, data=tuple(map(full_path, files)), validation=0.0, test=0.0, limit=None, borders=None
        )

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets
        from throughtime.data.forecasting import Covariates, Scale
        from throughtime.data.readers.times import season_of

        table = self._read()
        season = self.season or (season_of(table.step) if self.data else _EMBEDDED_SEASON)
        ends = [self._borders(each.name, len(each)) for each in table.series]
        remarks = list(table.remarks)
        for each in table.series:
            missing = int((each.values != each.values).sum())
            if missing:
                remarks.append(
                    f"series {each.name!r}: {missing:,} missing values are neither targets nor counted"
                )
            if self.head == "negbin" and ((each.values < 0) | (each.values % 1 > 0)).any():
                raise InputError(
                    f"negbin predicts counts, 0, 1, 2, ..., and series {each.name!r} has other numbers"
                )
        train = [end[0] for end in ends]
        scales = [
            Scale.of(each, end, self.how, season) for each, end in zip(table.series, train, strict=True)
        ]
        assets = Assets(sources=table.sources, cache={"table": table})
        assets.values = {
            "season": season,
            "step": list(table.step),
            "columns": {
                name: getattr(table.columns, name) for name in ("time", "series", "targets", "known", "past")
            },
            "example": table.example,
            "series": [each.name for each in table.series],
            "scales": [list(each) for each in scales],
            "covariates": list(Covariates.of(table.series, train)),
            "borders": [list(end) for end in ends],
            "remarks": remarks,
        }
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.metrics.forecasting import LEVELS
        from throughtime.models.forecaster import Forecaster

        values = _values(assets)
        return Forecaster(
            config,
            self.layout(assets),
            self.head,
            horizon=self.horizon,
            levels=LEVELS,
            scales=[scale for _, scale, _, _ in values["scales"]],
            anchor=self.anchor,
            season=values["season"],
            linear=self.linear,
            paths=self.paths,
        )

    def layout(self, assets: Assets) -> StepInputs:
        """The numbers that the model reads at each step."""
        from datetime import datetime

        from throughtime.data.readers.times import Step, calendar, parse_time
        from throughtime.data.step_inputs import StepInputs

        values = _values(assets)
        lags = self.lags or ()
        window = max(self.linear, values["season"] if self.anchor == "season" else 1)
        if self.head != "quantiles":  # while paths are drawn, the window is all that is known of the past
            window = max(window, 2, *lags)
        start = parse_time(values["example"])
        waves = calendar([start], Step(*values["step"])).shape[1] if isinstance(start, datetime) else 0
        horizon = self.horizon if self.head == "quantiles" else 0
        known, past = (len(values["columns"][name]) for name in ("known", "past"))
        return StepInputs(window, lags, waves, known, past, horizon)

    def batches(
        self, assets: Assets, *, steps: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> Generated:
        from throughtime.data.forecasting import random_windows
        from throughtime.data.generated import Generated

        series, borders = self._series(assets, "train")
        ends = [border[0] for border in borders]
        context = self._context(assets)
        draw = random_windows(series, ends, context, self.horizon if self.head == "quantiles" else 1)
        checksum = zlib.crc32(
            b"".join(each.values[:end].numpy().tobytes() for each, end in zip(series, ends, strict=True))
        )
        examples = max(1, -(-sum(ends) // context))
        name = f"forecast/{checksum:08x}/{context}"
        return Generated(
            draw, name, batch, examples=max(examples, batch * world), seed=seed, rank=rank, world=world
        )

    def evaluation_batches(
        self, assets: Assets, split: str, *, steps: int, batch: int
    ) -> Iterator[Batch] | None:
        from throughtime.data.forecasting import origin_batches

        series, borders = self._series(assets, split)
        found = [
            self._origins(assets, split, len(each), border)
            for each, border in zip(series, borders, strict=True)
        ]
        if not any(origins for origins, _ in found):
            return None
        chosen = [(each, *pair) for each, pair in zip(series, found, strict=True) if pair[0]]
        return origin_batches(
            [each for each, _, _ in chosen],
            [origins for _, origins, _ in chosen],
            [limit for _, _, limit in chosen],
            self._context(assets),
            drawn=self.head != "quantiles",
            batch=batch,
        )

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        from throughtime.models.forecaster import Forecast

        parameters = outputs.steps if isinstance(outputs, Forecast) else outputs
        losses, known = self._losses(parameters, batch.targets)
        total: Tensor = losses[known].sum()
        return total

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.forecasting import forecast_metrics

        return forecast_metrics(_values(assets)["season"], self._read_forecasts)

    def flow_loss(self) -> Callable[[Any, Any], Tensor]:
        return lambda outputs, targets: self._losses(outputs, targets)[0].flatten(2).sum(-1)

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        import numpy as np
        import torch

        from throughtime.metrics.forecasting import Forecasts, scores
        from throughtime.tasks.baselines.forecast import Case, forecast_baselines

        series, borders = self._series(assets, split)
        table, values = self._table(assets, split), _values(assets)
        cases, rest = [], []
        for one, each, border in zip(series, table.series, borders, strict=True):
            origins, limit = self._origins(assets, split, len(each), border)
            if not origins:
                continue
            cases.append(Case(each.values, border[0], origins, self.horizon, values["season"]))
            ahead = np.asarray(origins)[:, None] + np.arange(1, self.horizon + 1)
            known = np.append(each.values[:limit], np.nan)
            unit = one.scale.deviation if self.units == "scaled" else 1.0
            full = torch.ones(len(origins), dtype=torch.float64)
            actual = torch.from_numpy(known[np.minimum(ahead, limit)])
            rest.append((actual, unit * full, one.scale.seasonal_error * full))
        found: dict[str, dict[str, float] | str] = {}
        for name, quantiles in forecast_baselines(cases):
            if isinstance(quantiles, str):
                found[name] = quantiles
                continue
            forecasts = [
                Forecasts(torch.from_numpy(each), *more) for each, more in zip(quantiles, rest, strict=True)
            ]
            found[name] = scores(forecasts, values["season"])
        return found

    def predict(self, model: Any, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The forecast after each record {time: ..., target: ...}, the state carried: times and quantiles, lists of H each."""
        from throughtime.tasks.forecast_predict import RowForecasts

        return RowForecasts(self, model, assets).answers(records)

    def processor(self, model: Any, assets: Assets) -> Processor:
        from throughtime.tasks.forecast_processor import ForecastProcessor

        return ForecastProcessor(self, assets)

    def predict_file(
        self, model: Any, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
    ) -> str:
        """Of a file the H steps after its end, a row for each series and step; of standard input those after each row."""
        from throughtime.tasks.forecast_predict import predict_file

        return predict_file(self, model, assets, file, out, form=form, skip_bad=skip_bad)

    def describe(self, assets: Assets) -> str:
        values = _values(assets)
        source = ", ".join(path.rpartition("/")[2] for path in self.data) or "yearly numbers of sunspots"
        parts = [sum(column) for column in zip(*values["borders"], strict=True)]
        from throughtime.data.readers.times import Step

        names = values["series"]
        what = "1 series" if len(names) == 1 else f"{len(names)} series"
        remarks = "".join(f"; {remark}" for remark in values["remarks"])
        return (
            f"{source}: {what}, step {Step(*values['step'])}, season {values['season']}; {parts[0]:,} steps to train on, "
            f"{parts[1] - parts[0]:,} for validation, {parts[2] - parts[1]:,} for test; {self.horizon} steps ahead{remarks}"
        )

    def describe_loss(self, loss: float) -> str:
        what = "scaled CRPS" if self.head == "quantiles" else "nats"
        return f"loss {loss:.4f} ({what})"

    def next_steps(self, path: str, config: ModelConfig, assets: Assets) -> list[str]:
        import shlex

        file = shlex.quote(assets.sources[0].path if assets.sources else "FILE")
        return [f"throughtime evaluate {path}", f"throughtime predict {path} {file}"]

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        return [f"{number - len(inputs) + 1:+d}" for number in range(len(inputs))]

    def scaled(self, assets: Assets, table: SeriesTable) -> list[ScaledSeries]:
        """The series of a table as the model reads them.

        Raises: InputError for a series that the run does not know, or another step.
        """
        from throughtime.data.forecasting import Covariates, Scale, ScaledSeries
        from throughtime.data.readers.times import Step
        from throughtime.errors import nearest

        values, layout = _values(assets), self.layout(assets)
        known = values["series"]
        if list(table.step) != values["step"]:
            raise InputError(
                f"the run's series have a step of {Step(*values['step'])}, got one of {table.step}"
            )
        found = []
        for each in table.series:
            if each.name not in known and not len(known) == len(table.series) == 1:
                raise InputError(
                    f"the run has no series {each.name!r}: it knows {', '.join(known[:10])}.{nearest(each.name, known)}"
                )
            number = known.index(each.name) if each.name in known else 0
            found.append(
                ScaledSeries(
                    each,
                    table.step,
                    layout,
                    Scale(*values["scales"][number]),
                    Covariates(*values["covariates"]),
                    number=number,
                    horizon=self.horizon,
                    how=self.how,
                    counts=self.head == "negbin",
                )
            )
        return found

    def request(self) -> Columns:
        """The columns that were asked for."""
        from throughtime.data.readers.time_series import Columns

        return Columns(self.time, self.series, _names(self.target), _names(self.known), _names(self.past))

    def run_columns(self, assets: Assets) -> Columns:
        """The columns that the run was made from."""
        from throughtime.data.readers.time_series import Columns

        found = _values(assets)["columns"]
        names = (tuple(found[name]) for name in ("targets", "known", "past"))
        return Columns(found["time"], found["series"], *names)

    def _read(self, columns: Columns | None = None, step: Any = None) -> SeriesTable:
        from throughtime.data.readers.time_series import read_series, yearly_sunspots

        if not self.data:
            table = yearly_sunspots()
        else:
            columns = columns or self.request()
            table = read_series(
                self.data, columns, step=step, fill=self.gaps == "fill", skip_bad=self.skip_bad
            )
        if self.limit is None:
            return table
        cut = tuple(
            replace(
                each,
                values=each.values[: self.limit],
                known=each.known[: self.limit],
                past=each.past[: self.limit],
            )
            for each in table.series
        )
        return replace(table, series=cut)

    def _table(self, assets: Assets, split: str) -> SeriesTable:
        from throughtime.data.readers.times import Step

        if split == "all":
            return self._read(self.run_columns(assets), Step(*_values(assets)["step"]))
        if "table" not in assets.cache:
            with nullcontext() if not self.data else reading_again():
                table = self._read(self.run_columns(assets))
            check_sources(assets, table.sources)
            assets.cache["table"] = table
        found: SeriesTable = assets.cache["table"]
        return found

    def _series(self, assets: Assets, split: str) -> tuple[list[ScaledSeries], list[list[int]]]:
        """The series, and the borders of the parts of each."""
        if split == "all":
            found = self.scaled(assets, self._table(assets, split))
            return found, [[len(each)] * 3 for each in found]
        if "scaled" not in assets.cache:
            assets.cache["scaled"] = self.scaled(assets, self._table(assets, split))
        return assets.cache["scaled"], _values(assets)["borders"]

    def _borders(self, name: str, length: int) -> tuple[int, int, int]:
        """The ends of the parts of a series of so many steps.

        Raises: InputError for a series that is too short.
        """
        if self.borders is not None:
            if self.borders[2] > length:
                raise InputError(
                    f"borders must lie in the data, and series {name!r} has {length} steps, got {list(self.borders)}"
                )
            ends = self.borders
        else:
            test, validation = (
                round(length * part) if part < 1 else int(part) for part in (self.test, self.validation)
            )
            ends = (length - test - validation, length - test, length)
        if ends[0] <= self.horizon:
            raise InputError(
                f"series {name!r} has {length} steps, {max(ends[0], 0)} of them to train on: a horizon of {self.horizon} steps "
                "needs more; give a longer series, a shorter --horizon, or less for validation and test"
            )
        for part, start, end in (("validation", ends[0], ends[1]), ("test", ends[1], ends[2])):
            if 0 < end - start < self.horizon:
                raise InputError(
                    f"the {part} part of series {name!r} has {end - start} steps, fewer than the horizon, {self.horizon}: give "
                    f"it more with --{part} {self.horizon}, or a shorter --horizon"
                )
        return ends[0], ends[1], ends[2]

    def _context(self, assets: Assets) -> int:
        return self.context or max(64, 4 * _values(assets)["season"], 2 * self.horizon)

    def _origins(self, assets: Assets, split: str, length: int, border: list[int]) -> tuple[list[int], int]:
        """The steps to forecast from in a part, and its end. Every forecast lies inside the part, whole."""
        import numpy as np

        if split == "all":  # the first steps are only read
            start, end = min(self._context(assets), max(1, length - self.horizon)), length
        else:
            start, end = (border[0], border[1]) if split == "validation" else (border[1], border[2])
        found = list(range(start - 1, end - self.horizon))
        if end - start < self.horizon or not found:
            return [], end
        if self.origins is not None and self.origins < len(found):
            chosen = np.linspace(0, len(found) - 1, self.origins).round().astype(int)
            found = [found[place] for place in sorted(set(chosen.tolist()))]
        return found, end

    def _losses(self, parameters: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each target and which are known, both shaped as the targets [T, B, steps]; 0 where not known."""
        import torch

        from throughtime.metrics.forecasting import LEVELS
        from throughtime.models.heads import make_head

        known = ~targets.isnan()
        safe = torch.where(known, targets, torch.ones_like(targets))
        head = make_head(self.head, self.horizon, LEVELS)
        if self.head == "quantiles":
            losses = head.loss(parameters, safe)
        else:
            losses = head.loss(parameters, safe[..., 0]).unsqueeze(-1)
        return torch.where(known, losses, torch.zeros_like(losses)), known

    def _read_forecasts(self, outputs: Any, batch: Batch) -> Any:
        """The forecasts of an evaluation batch, in the data's units."""
        import torch

        from throughtime.data.forecasting import unscaled
        from throughtime.data.step_inputs import Ahead
        from throughtime.metrics.forecasting import LEVELS, Forecasts
        from throughtime.models.forecaster import forecast_quantiles

        if isinstance(batch.context, Ahead):
            targets, scales = batch.context.targets, batch.context.scales
        else:
            steps = len(batch.targets)
            targets, scales = batch.targets.flatten(0, 1), batch.context.repeat(steps, 1)
            outputs = outputs.flatten(0, 1)
        chosen = ~targets.isnan().all(-1)
        quantiles = forecast_quantiles(outputs, self.horizon, LEVELS)[chosen].cpu()
        scales = scales[chosen].cpu()
        unit = scales[:, 2] if self.units == "scaled" else torch.ones(len(scales))
        actual = unscaled(targets[chosen].cpu(), scales, self.how)
        return Forecasts(unscaled(quantiles, scales, self.how), actual, unit, scales[:, 3])


def _names(names: Iterable[str]) -> tuple[str, ...]:
    """Names that were given one by one, or with commas between them."""
    return tuple(part.strip() for name in names for part in name.split(",") if part.strip())


def _values(assets: Assets) -> dict[str, Any]:
    if "scales" not in assets.values:
        raise RunError("the run's assets.json is damaged: it has no scales")
    return assets.values
