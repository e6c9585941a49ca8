"""Forecasting from end to end: parts by time, training, resuming, and forecasts of files and of rows as they arrive."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import throughtime
from throughtime.cli import main
from throughtime.data import Assets
from throughtime.data.step_inputs import Ahead
from throughtime.errors import InputError
from throughtime.flow import influence, measure
from throughtime.metrics.forecasting import LEVELS
from throughtime.models.config import ModelConfig
from throughtime.tasks import ForecastTask
from throughtime.tasks.forecast_predict import QUANTILES, RowForecasts, forecast
from throughtime.training import TrainingConfig
from throughtime.training.loop import start_run, train

MODEL = ModelConfig(cell="gru", hidden=7, embedding=2)
TRAINING = TrainingConfig(bptt="full", steps=6, batch=5, evaluate_every=5, no_baselines=True)
SMALL: dict[str, Any] = {"horizon": 3, "context": 16, "paths": 20}


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Two monthly series with a season, a trend and a missing value, and columns of promotions and weather."""
    draws = np.random.default_rng(5)
    rows = ["month,a,b,promo,rain"]
    for n in range(90):
        wave = np.sin(2 * np.pi * n / 12)
        a, b = 50 + 0.2 * n + 9 * wave + draws.normal(), 500 - 80 * wave + 5 * draws.normal()
        rows.append(
            f"{2000 + n // 12}-{n % 12 + 1:02},{'' if n == 40 else f'{a:.3f}'},{b:.2f},{n % 5 == 0:d},{n % 7}"
        )
    path = tmp_path / "monthly.csv"
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def prepared(file: str, **settings: Any) -> tuple[ForecastTask, Assets]:
    task = ForecastTask(data=(file,), **{"target": ("a,b",), **SMALL, **settings})
    return task, task.prepare()


def trained(file: str, folder: Path, **settings: Any) -> throughtime.Trained:
    task, run = start_run(prepared(file, **settings)[0], MODEL, TRAINING, folder / "run")
    train(task, TRAINING, run)
    return throughtime.load(run.path)


def test_parts_are_divided_by_time(file: str) -> None:
    task, assets = prepared(file, validation=0.1, test=20)
    assert assets.values["borders"] == [[61, 70, 90]] * 2 and assets.values["season"] == 12
    values = [each.values[:61] for each in assets.cache["table"].series]
    for (shift, scale, deviation, error), each in zip(assets.values["scales"], values, strict=True):
        known = each[~np.isnan(each)]
        assert (shift, scale, deviation) == pytest.approx((known.mean(), known.std(), known.std()))
        differences = np.abs(each[12:] - each[:-12])
        assert error == pytest.approx(np.nanmean(differences))
    task, assets = prepared(file, borders=(40, 60, 80))
    assert assets.values["borders"] == [[40, 60, 80]] * 2
    origins, end = task._origins(assets, "test", 90, [40, 60, 80])
    assert (origins[0], origins[-1], end) == (59, 76, 80)  # forecasts of steps 60 .. 79, whole
    few, _ = prepared(file, origins=3)[0]._origins(assets, "test", 90, [40, 60, 80])
    assert few == [59, 67, 76]
    assert "1 missing values are neither targets nor counted" in task.describe(assets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 90}, r"series 'a' has 90 steps, 62 of them to train on: a horizon of 90 steps needs more"),
        ({"horizon": 15}, r"the validation part of series 'a' has 14 steps, fewer than the horizon, 15: give it more with"),
        ({"validation": 0.6, "test": 0.5}, "must leave some data to train on"),
        ({"validation": 1.5}, "validation must be a fraction below 1, or a whole number of steps, got 1.5"),
        ({"borders": (40, 30, 80)}, "borders must be three ascending rows"),
        ({"borders": (40, 60, 91)}, r"borders must lie in the data, and series 'a' has 90 steps"),
        ({"head": "negbin"}, "negbin predicts counts, 0, 1, 2, .*, and series 'a' has other numbers"),
        ({"head": "negbin", "scaling": "log"}, "negbin predicts counts, which are scaled by their mean, got scaling log"),
        ({"head": "student", "past": ("rain",)}, "past columns are not known in the future, .* use head quantiles"),
        ({"known": ("prom",)}, r"monthly\.csv:1: expected a column 'prom', .* Did you mean 'promo'"),
        ({"head": "studnt"}, "Did you mean 'student'"),
        ({"scaling": "log", "target": ("rain",)}, "scaling log needs positive values, and series 'rain' has 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_forecast_is_one_line(file: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        prepared(file, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("head", "settings"),
    [
        ("quantiles", {"known": ("promo",), "past": ("rain",), "lags": (12, 3), "linear": 5}),
        ("student", {"known": ("promo",), "anchor": "season", "lags": (12,)}),
        ("normal", {"scaling": "log", "linear": 4}),
        ("negbin", {"target": ("promo", "rain")}),
    ],
)  # fmt: skip
def test_every_head_trains_and_its_metrics_are_finite(
    file: str, tmp_path: Path, head: str, settings: dict[str, Any]
) -> None:
    found = trained(file, tmp_path, head=head, **settings)
    values = found.evaluate("test").values
    assert list(values) == ["crps", "mase", "smape", "coverage80", "mae", "mse", "loss"]
    assert all(np.isfinite(value) for value in values.values())
    assert found.evaluate("test").values == values  # paths are drawn alike each time


def test_the_metrics_do_not_depend_on_the_batch(file: str, tmp_path: Path) -> None:
    """Series one after the other, or side by side; of a quantile head also its loss, against forecasts one by one."""
    found = trained(file, tmp_path)
    one, two = (found.evaluate("test", batch=batch).values for batch in (1, 2))
    assert one == pytest.approx(two, rel=1e-5)
    task: Any = found.task
    series, borders = task._series(found.assets, "test")
    errors = []
    for each, border in zip(series, borders, strict=True):
        raw = found.assets.cache["table"].series[series.index(each)].values
        first = border[1] - 1 - 15  # as in training windows, `context` steps are read before the first origin
        for origin in range(border[1] - 1, border[2] - 3):
            quantiles, _ = forecast(task, found.model, each, first, origin + 1, None, 0)
            for k in range(3):
                errors += (np.abs(raw[origin + 1 + k] - float(quantiles[k, 4])),)
    assert one["mae"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_the_loss_leaves_missing_targets_out(file: str) -> None:
    for head in ("quantiles", "student"):
        task, assets = prepared(file, head=head)
        model = task.build(MODEL, assets).double()
        batch = next(iter(task.batches(assets, steps=1, batch=9).epoch()))
        batch = batch._replace(inputs=batch.inputs.double(), targets=batch.targets.double())
        assert bool(batch.targets.isnan().any())
        outputs, _ = batch.run(model)
        total = task.loss(outputs, batch)
        losses, known = task._losses(outputs.detach(), batch.targets)
        assert float(total.detach()) == pytest.approx(float(losses[known].sum()))
        assert not bool(losses.isnan().any())
        assert int(known.sum()) == batch.num_targets
        total.backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
        at = tuple(known.nonzero()[7].tolist())
        changed = batch.targets.clone()
        changed[at] = torch.nan
        less = task.loss(outputs.detach(), batch._replace(targets=changed))
        assert float(total.detach() - less) == pytest.approx(float(losses[at]), rel=1e-9)


@pytest.mark.parametrize("bptt", ["truncated:5", "randomized:6", "checkpointed:4"])
def test_strategies_that_cut_train(file: str, tmp_path: Path, bptt: str) -> None:
    training = TrainingConfig(bptt=bptt, steps=3, batch=4, no_baselines=True)
    task, run = start_run(prepared(file, head="student")[0], MODEL, training, tmp_path / "run")
    assert np.isfinite(train(task, training, run).loss)


def test_resumed_is_the_same_to_the_bit(file: str, tmp_path: Path) -> None:
    def weights(folder: str, stop: bool) -> dict[str, torch.Tensor]:
        training = TrainingConfig(
            bptt="full", steps=8, batch=4, checkpoint_steps=3, no_baselines=True, evaluate_every=5
        )
        task, run = start_run(prepared(file, head="student")[0], MODEL, training, tmp_path / folder)
        if stop:
            with pytest.raises(KeyboardInterrupt):
                train(task, training, run, report=Stops())
            train(task, training, run, resume=True)
        else:
            train(task, training, run)
        return dict(run.load_model())

    class Stops:
        """Stops after the checkpoint of step 3."""

        def __getattr__(self, name: str) -> Any:
            return lambda *values: None

        def evaluation(self, step: int, evaluation: Any, best: bool) -> None:
            raise KeyboardInterrupt

    whole, resumed = weights("whole", False), weights("resumed", True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_same_seed_is_the_same_training(file: str, tmp_path: Path) -> None:
    first, second = trained(file, tmp_path / "1"), trained(file, tmp_path / "2")
    for mine, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_chunked_history_gives_the_forecast_of_the_whole(file: str, tmp_path: Path) -> None:
    for head in ("quantiles", "student"):
        task, assets = prepared(file, head=head, anchor="season", lags=(12,))
        model = task.build(MODEL, assets)
        one = task.scaled(assets, assets.cache["table"])[0]
        whole, _ = forecast(task, model, one, 0, 80, None, 3)
        _, state = forecast(task, model, one, 0, 33, None, 3)
        _, state = forecast(task, model, one, 33, 60, state, 3)
        found, _ = forecast(task, model, one, 60, 80, state, 3)
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-4)
        fresh, _ = forecast(task, model, one, 78, 80, None, 3)
        assert not torch.allclose(fresh, whole, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("head", ["quantiles", "student"])
def test_a_stream_forecasts_after_each_row_what_the_file_forecasts_after_its_end(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], head: str
) -> None:
    run = str(trained(file, tmp_path, head=head, lags=(12,), linear=6).path)
    capsys.readouterr()
    assert main(["predict", run, file]) == 0
    from_file = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["time"] for row in from_file] == ["2007-07", "2007-08", "2007-09"] * 2
    assert [row["series"] for row in from_file] == ["a"] * 3 + ["b"] * 3
    data = Path(file).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["predict", run]) == 0
    streamed = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(streamed) == 90 * 2 * 3 and streamed[0]["origin"] == "2000-01"
    last = [row for row in streamed if row["origin"] == "2007-06"]
    for mine, theirs in zip(last, from_file, strict=True):
        assert (mine["time"], mine["series"]) == (theirs["time"], theirs["series"])
        for name in QUANTILES:
            assert float(mine[name]) == pytest.approx(float(theirs[name]), rel=1e-3)
        numbers = [float(theirs[name]) for name in QUANTILES]
        assert numbers == sorted(numbers) and len(numbers) == len(LEVELS)


def test_rows_are_answered_before_the_next_is_read(file: str, tmp_path: Path) -> None:
    found = trained(file, tmp_path)
    taken = []

    def rows() -> Any:
        for n in range(3):
            taken.append(n)
            yield {"month": f"2007-{7 + n:02}", "a": 60.0 + n, "b": "500"}

    answers = found.predict(rows())
    first = next(answers)
    assert taken == [0] and set(first) == {"a", "b"}
    assert first["a"]["time"] == ["2007-08", "2007-09", "2007-10"] and len(first["b"]["q10"]) == 3
    assert next(answers)["a"]["time"][0] == "2007-09"


def test_a_stream_that_cannot_be_read_on(file: str, tmp_path: Path) -> None:
    found = trained(file, tmp_path)
    task: Any = found.task
    for second, message in (
        ("2007-07", "2007-07 is there twice in series 'a'"),
        ("2007-05", "2007-05 comes after a later time"),
        ("2007-10", "2 rows are missing .*: expected 2007-08, got 2007-10"),
        ("2007-08-15", "are 1 month apart, so 2007-08"),
    ):
        stream = RowForecasts(task, found.model, found.assets)
        rows = [{"month": month, "a": 1, "b": 2} for month in ("2007-07", second)]
        with pytest.raises(InputError, match=message) as error:
            list(stream.answers(rows))
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="expected a number in 'a'"):
        found.predict({"month": "2007-07", "a": "x", "b": 1})


def test_known_columns_of_the_future_are_rows_without_a_value(file: str, tmp_path: Path) -> None:
    found = trained(file, tmp_path, known=("promo",))
    task: Any = found.task
    with pytest.raises(
        InputError, match=r"\(promo\) must be given for 3 steps after the last value of series 'a', got 0"
    ):
        task.predict_file(found.model, found.assets, file, io.StringIO(), form="csv", skip_bad=False)
    with pytest.raises(InputError, match="give a file that ends with rows of them"):
        found.predict({"month": "2007-07", "a": 1, "b": 1, "promo": 1})
    outs = []
    for promo in (0, 1):
        more = Path(file).with_name(f"more{promo}.csv")
        future = "".join(f"2007-{7 + n:02},,,{promo},\n" for n in range(3))
        more.write_text(Path(file).read_text() + future)
        out = io.StringIO()
        task.predict_file(found.model, found.assets, str(more), out, form="csv", skip_bad=False)
        outs.append(list(csv.DictReader(io.StringIO(out.getvalue()))))
    assert [row["time"] for row in outs[0]] == ["2007-07", "2007-08", "2007-09"] * 2
    assert outs[0] != outs[1]  # what is known of the future matters


def test_json_lines_stay_json_lines(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(trained(file, tmp_path).path)
    lines = [
        json.dumps({"month": row["month"], "a": row["a"] or None, "b": float(row["b"])})
        for row in csv.DictReader(io.StringIO(Path(file).read_text()))
    ]
    path = tmp_path / "monthly.jsonl"
    path.write_text("\n".join(lines) + "\n")
    capsys.readouterr()
    assert main(["predict", run, str(path)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (
        len(rows) == 6
        and list(rows[0])[:3] == ["time", "series", "q10"]
        and isinstance(rows[0]["median"], float)
    )


def test_evaluating_other_files(file: str, tmp_path: Path) -> None:
    found = trained(file, tmp_path)
    assert (
        found.evaluate(files=[file]).count == (90 - 16 - 3 + 1) * 2 * 3 - 3
    )  # the first 16 steps are only read; a missing one
    other = tmp_path / "other.csv"
    other.write_text(Path(file).read_text().replace("month,a,b", "month,a,c"))
    with pytest.raises(InputError, match=r"expected a column 'b', .*"):
        found.evaluate(files=[str(other)])
    other.write_text("month,a,b\n" + "".join(f"{n},1,2\n" for n in range(50)))
    with pytest.raises(
        InputError, match=r"other\.csv:2: expected times that are dates \(the step is 1 month\), got '0'"
    ) as error:
        found.evaluate(files=[str(other)])
    assert "\n" not in str(error.value)
    Path(file).write_text(Path(file).read_text() + "2007-07,1,2,0,0\n")
    with pytest.raises(InputError, match=r"monthly\.csv has changed since the run was made"):
        throughtime.load(found.path).evaluate("test")


def test_gradients_and_influence_can_be_measured(file: str, tmp_path: Path) -> None:
    for head in ("quantiles", "student"):
        found = trained(file, tmp_path / head, head=head)
        task: Any = found.task
        batch = next(task.evaluation_batches(found.assets, "validation", steps=8, batch=2))
        assert (head == "student") == isinstance(batch.context, Ahead)
        result = measure(
            found.model,
            (batch.inputs, batch.targets),
            lengths=batch.lengths,
            loss=task.flow_loss(),
            lags=8,
            products=False,
        )
        assert result.steps == batch.steps
        matrix = influence(found.model, batch.inputs[:12]).matrix
        assert matrix.shape == (12, 12) and bool((matrix.triu(1) == 0).all())
        assert task.step_names(found.assets, batch.inputs[:3, 0]) == ["-2", "-1", "+0"]


def test_what_ships_inside_beside_its_baselines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Few steps are enough to be better than repeating the last value."""
    run = str(tmp_path / "sunspots")
    assert main(["train", "forecast", "--steps", "40", "--hidden", "16", "--lr", "0.01", "--out", run]) == 0
    assert (
        "1 series, step 1, season 11; 217 steps to train on, 46 for validation, 46 for test"
        in capsys.readouterr().out
    )
    found = throughtime.load(run)
    card = (Path(run) / "README.md").read_text()
    for words in ("seasonal naive: 11 steps before", "Theta", "season 11", "crps", "coverage80"):
        assert words in card
    task: Any = found.task
    naive = task.baseline(found.assets, "test")["naive: the last value"]
    assert found.evaluate("test").values["crps"] < naive["crps"]
    answer = found.predict({"year": 2009, "sunspots": 3.1})
    assert answer["time"][0] == "2010" and len(answer["median"]) == 12
    assert found.predict("3.1")["median"] == pytest.approx(found.predict({"sunspots": 3.1})["median"])


def test_a_published_protocol_on_real_data(data_dir: Path) -> None:
    """ETTh1, its oil temperature: the published borders, and the windows and scaled errors of the naive forecast by hand."""
    path = data_dir / "forecast" / "ETTh1.csv"
    if not path.exists():
        pytest.skip(f"{path} is not there: this test reads ETTh1")
    task = ForecastTask(
        data=(str(path),), target=("OT",), borders=(8640, 11520, 14400), horizon=24, units="scaled"
    )
    assets = task.prepare()
    assert assets.values["season"] == 24
    values = assets.cache["table"].series[0].values
    shift, scale, _, _ = assets.values["scales"][0]
    assert (shift, scale) == pytest.approx((values[:8640].mean(), values[:8640].std()))
    origins, _ = task._origins(assets, "test", len(values), assets.values["borders"][0])
    assert len(origins) == 2880 - 24 + 1
    z = (values - shift) / scale
    few = ForecastTask(**{**vars(task), "origins": 8})
    chosen, _ = few._origins(assets, "test", len(values), assets.values["borders"][0])
    assert (chosen[0], chosen[-1], len(chosen)) == (11519, 14375, 8)
    errors = np.stack([z[t + 1 : t + 25] - z[t] for t in chosen])
    found = few.baseline(assets, "test")["naive: the last value"]
    assert isinstance(found, dict)
    assert (found["mse"], found["mae"]) == pytest.approx((np.square(errors).mean(), np.abs(errors).mean()))
