"""The forecaster: inputs, anchor, state over a cut, padding, and paths drawn as if written out step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from throughtime.data.batch import Batch
from throughtime.data.step_inputs import Ahead, StepInputs
from throughtime.errors import InputError
from throughtime.models.config import ModelConfig
from throughtime.models.forecaster import Forecast, Forecaster, forecast_quantiles
from throughtime.models.heads import Normal

CONFIG = ModelConfig(cell="gru", hidden=13, embedding=3)
LEVELS = (0.1, 0.5, 0.9)


def layout(**changes: object) -> StepInputs:
    return replace(StepInputs(window=5, lags=(2, 4), calendar=2, known=1, past=0, horizon=0), **changes)  # type: ignore[arg-type]


def model(head: str, inputs: StepInputs, cell: str = "gru", **changes: object) -> Forecaster:
    options = {"horizon": 4, "levels": LEVELS, "scales": [2.0, 5.0], "anchor": "last", "paths": 3} | changes
    return Forecaster(replace(CONFIG, cell=cell), inputs, head, **options).double().eval()  # type: ignore[arg-type]


def series(inputs: StepInputs, steps: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [T, B, size] of random series, and what is ahead [B, T + 4, C + K]."""
    filled = torch.randn(rows, steps, dtype=torch.float64)
    ahead = torch.randn(rows, steps + 4, inputs.calendar + inputs.known, dtype=torch.float64)
    numbers = torch.arange(rows) % 2
    past = torch.randn(rows, steps, inputs.past, dtype=torch.float64)
    end = steps + max(1, inputs.horizon)
    found = inputs.rows(filled, torch.ones_like(filled), ahead[:, 1:end], past, numbers, 0, steps)
    return found.transpose(0, 1), ahead


def test_rows_are_as_documented() -> None:
    inputs = layout(horizon=3, past=2)
    filled, observed = torch.arange(10.0) ** 2, torch.ones(10)
    observed[6] = 0
    ahead, past = torch.randn(13, 3), torch.randn(10, 2)
    rows = inputs.rows(filled, observed, ahead[6:11], past[5:8], torch.tensor(1), 5, 8)
    assert rows.shape == (3, inputs.size)
    t = 6
    features, window, future, number = inputs.split(rows)
    expected = [filled[t], observed[t], filled[t] - filled[t - 1], filled[t - 1], filled[t - 3]]
    torch.testing.assert_close(features[1, :5], torch.stack(expected))
    torch.testing.assert_close(features[1, 5:8], ahead[t + 1])
    torch.testing.assert_close(features[1, 8:], past[t])
    torch.testing.assert_close(window[1], filled[t - 4 : t + 1])
    torch.testing.assert_close(future[1, :, 0], ahead[t + 1 : t + 4, 2])
    assert number.tolist() == [1, 1, 1]


def test_rows_of_the_last_values_alone_are_the_same() -> None:
    """What a stream keeps, and what paths are drawn with."""
    inputs = layout()
    filled = torch.randn(30)
    ahead, past = torch.randn(31, 3), torch.zeros(30, 0)
    whole = inputs.rows(filled, torch.ones(30), ahead[1:], past, torch.tensor(0), 0, 30)
    memory = inputs.memory
    assert memory == 5
    last = inputs.rows(
        filled[-memory:], torch.ones(memory), ahead[30:], past[-1:], torch.tensor(0), memory - 1, memory
    )
    torch.testing.assert_close(last[0], whole[-1], rtol=0, atol=0)


@pytest.mark.parametrize("head", ["quantiles", "normal", "student", "negbin"])
@pytest.mark.parametrize("cell", ["lstm", "mingru"])
def test_a_history_in_chunks_is_the_whole_history(head: str, cell: str) -> None:
    inputs = layout(horizon=4 if head == "quantiles" else 0)
    forecaster = model(head, inputs, cell, linear=3, anchor="season", season=3)
    rows, _ = series(inputs, 11, 3)
    whole, end = forecaster(rows)
    state, parts = None, []
    for chunk in rows.split([4, 1, 6]):
        found, state = forecaster(chunk, state)
        parts.append(found)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-12)
    assert not torch.allclose(forecaster(rows[4:])[0], whole[4:], atol=1e-6)  # the state does carry something
    assert end is not None


def test_padding_may_hold_anything() -> None:
    """Rows of different lengths are what they are alone; T == B."""
    inputs = layout()
    forecaster = model("student", inputs)
    rows, ahead = series(inputs, 7, 7)
    lengths = torch.tensor([7, 3, 1, 5, 2, 7, 4])
    inside = torch.arange(7)[:, None] < lengths
    padded = torch.where(inside[..., None], rows, torch.nan)
    padded[..., -1] = rows[..., -1]  # the number of the series is a place in a table, in the padding too
    context = Ahead(ahead[:, 1:5], torch.zeros(7, dtype=torch.long), torch.zeros(7, 4), torch.zeros(7, 4))
    found, _ = forecaster(padded, None, lengths=lengths, context=context)
    assert isinstance(found, Forecast) and bool(found.paths.isfinite().all())
    for b in range(7):
        alone, _ = forecaster(rows[: lengths[b], b : b + 1])
        torch.testing.assert_close(found.steps[: lengths[b], b : b + 1], alone, rtol=0, atol=1e-12)


def test_an_untrained_autoregression_predicts_its_anchor() -> None:
    inputs = layout(horizon=4)
    rows, _ = series(inputs, 9, 2)
    for anchor in ("none", "last", "season"):
        forecaster = model("quantiles", inputs, anchor=anchor, season=3, linear=4)
        torch.nn.init.zeros_(forecaster.head.weight)
        torch.nn.init.zeros_(forecaster.head.bias)
        assert forecaster.covariates is not None
        torch.nn.init.zeros_(forecaster.covariates.weight)
        torch.nn.init.zeros_(forecaster.covariates.bias)
        found = forecast_quantiles(forecaster(rows)[0], 4, LEVELS)[:, :, :, 1]
        window = inputs.split(rows).window
        expected = {
            "none": torch.zeros(9, 2, 4, dtype=torch.float64),
            "last": window[..., -1:].expand(9, 2, 4),
            "season": window[..., [-3, -2, -1, -3]],
        }[anchor]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_paths_are_drawn_one_step_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the location for a draw, the path is what comes of appending each prediction to the series and reading it again."""
    monkeypatch.setattr(Normal, "sample", lambda self, parameters: parameters[..., 0])
    inputs = layout()
    forecaster = model("normal", inputs, linear=2)
    filled = torch.randn(2, 9, dtype=torch.float64)
    ahead = torch.randn(2, 14, 3, dtype=torch.float64)
    numbers, none = torch.tensor([0, 1]), torch.zeros(2, 13, 0, dtype=torch.float64)

    def read(values: torch.Tensor, context: Ahead | None = None) -> object:
        steps = values.shape[1]
        rows = inputs.rows(
            values, torch.ones_like(values), ahead[:, 1 : steps + 1], none[:, :steps], numbers, 0, steps
        )
        return forecaster(rows.transpose(0, 1), context=context)[0]

    context = Ahead(ahead[:, 9:13], torch.tensor([5, 6]), torch.zeros(2, 4), torch.zeros(2, 4))
    forecast = read(filled, context)
    assert isinstance(forecast, Forecast) and forecast.paths.shape == (2, 4, 3)
    for step in range(4):
        parameters = read(filled)
        assert isinstance(parameters, torch.Tensor)
        location = parameters[-1, :, 0]
        for path in range(3):
            torch.testing.assert_close(forecast.paths[:, step, path], location, rtol=0, atol=1e-10)
        filled = torch.cat([filled, location[:, None]], dim=1)


def test_drawing_leaves_the_random_numbers_of_others_alone_and_depends_on_its_seed() -> None:
    inputs = layout()
    forecaster = model("student", inputs, paths=50)
    rows, ahead = series(inputs, 6, 2)

    def draw(seed: int) -> torch.Tensor:
        context = Ahead(ahead[:, 1:5], torch.tensor([seed, 0]), torch.zeros(2, 4), torch.zeros(2, 4))
        found, _ = forecaster(rows, context=context)
        paths: torch.Tensor = found.paths
        return paths

    before = torch.get_rng_state()
    first = draw(1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, draw(1)) and not torch.equal(first, draw(2))
    quantiles = forecast_quantiles(Forecast(rows, first), 4, LEVELS)
    assert quantiles.shape == (2, 4, 3) and bool((quantiles.diff(dim=-1) >= 0).all())


def test_counts_are_drawn_in_the_units_of_the_data() -> None:
    inputs = layout()
    forecaster = model("negbin", inputs)
    rows, ahead = series(inputs, 6, 2)
    context = Ahead(ahead[:, 1:5], torch.tensor([1, 1]), torch.zeros(2, 4), torch.zeros(2, 4))
    paths = forecaster(rows, context=context)[0].paths
    counts = paths * torch.tensor([2.0, 5.0], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)


def test_crossing_quantiles_are_put_in_order() -> None:
    crossing = torch.tensor([[3.0, 1.0, 2.0, 5.0, 5.0, 4.0]])
    assert forecast_quantiles(crossing, 2, LEVELS).tolist() == [[[1, 2, 3], [4, 5, 5]]]


def test_a_bidirectional_model_is_refused() -> None:
    with pytest.raises(InputError, match="would read the values that it is to predict"):
        Forecaster(
            replace(CONFIG, bidirectional=True), layout(), "normal", horizon=4, levels=LEVELS, scales=[1.0]
        )


def test_the_batch_of_a_window_is_the_window() -> None:
    """What strategies that cut rely on: everything a step reads is in its row."""
    inputs = layout(horizon=4)
    forecaster = model("quantiles", inputs)
    rows, _ = series(inputs, 8, 3)
    batch = Batch.of(rows, torch.zeros(8, 3, 4, dtype=torch.float64))
    whole, _ = batch.run(forecaster)
    first, state = batch.window(0, 5).run(forecaster)
    second, _ = batch.window(5, 8).run(forecaster, state)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-12)
