"""BPTT strategies compared: the same data for all, the gradient's statistics, what is kept when it is stopped."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from throughtime.bench.timing import Timing
from throughtime.errors import InputError
from throughtime.files import json_text
from throughtime.studies import strategies_run
from throughtime.studies.strategies import QUICK_STRATEGIES, Problem, StrategySettings
from throughtime.studies.strategies_measure import (
    Learner,
    StrategyTraining,
    bias_and_variance,
    gradient_error,
    learn,
    peak_memory,
    variance_over_batches,
)
from throughtime.studies.strategies_report import HEAD, plot, sentences, table, to_dict, updates_in_equal_time
from throughtime.studies.strategies_run import StrategyComparison, compare_strategies
from throughtime.studies.workers import Stopped, run_cases

STRATEGIES = ("full", "truncated:W", "randomized:W")


@pytest.fixture
def settings(tmp_path) -> StrategySettings:
    """A text of 1,800 characters, and a copy task of 22 steps cut every 4."""
    book = tmp_path / "book.txt"
    book.write_text("the quick brown fox jumps over the lazy dog and sleeps " * 40)
    return StrategySettings(
        data=str(book), window=3, length=2, task_window=4, strategies=STRATEGIES, text_steps=6, task_steps=6,
        text_hidden=13, task_hidden=13, batch=3, seeds=1, draws=8, evaluations=3, timing_seconds=0.01, memory_updates=1,
    )  # fmt: skip


@pytest.fixture
def copy(settings: StrategySettings) -> Problem:
    return settings.problems()[1]


def timed(seconds: float) -> Timing:
    return Timing(seconds, seconds, seconds, seconds, 5, 0, False)


def test_the_statistics_of_draws_that_are_known():
    """C = diag(scale^2): variance tr(C) / |g|^2, and the z score is standard normal where there is no bias."""
    full, scale = torch.randn(30), torch.linspace(0.1, 2, 30)
    size, n = float(full.norm()), 40
    scores, variances, biases = [], [], []
    for _ in range(300):
        draws = full + scale * torch.randn(n, 30)
        bias, error, z, along, along_error, variance = bias_and_variance(full, draws)
        assert error == pytest.approx(math.sqrt(variance / n))
        assert abs(along - 1) < 6 * along_error
        scores.append(z)
        variances.append(variance)
        biases.append(bias**2)
    expected = float(scale.square().sum()) / size**2
    assert sum(variances) / 300 == pytest.approx(expected, rel=0.02)
    assert sum(biases) / 300 == pytest.approx(expected / n, rel=0.1)
    found = torch.tensor(scores)
    assert abs(float(found.mean())) < 4 / math.sqrt(300)
    assert float(found.std()) == pytest.approx(1, rel=0.2)


def test_a_bias_below_the_noise_of_one_draw_is_seen():
    full = torch.randn(30)
    draws = 0.9 * full + 0.5 * full.norm() / math.sqrt(30) * torch.randn(400, 30)
    bias, error, z, along, along_error, variance = bias_and_variance(full, draws)
    assert bias == pytest.approx(0.1, rel=0.15)
    assert z > 10
    assert variance == pytest.approx(0.25, rel=0.1) and error < 0.03
    assert abs(along - 0.9) < 4 * along_error


def test_a_gradient_that_is_not_random_has_no_error():
    full = torch.tensor([3.0, 4.0])
    assert bias_and_variance(full, full[None]) == (0.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    bias, error, z, along, *_ = bias_and_variance(full, torch.tensor([[3.0, 0.0]]))
    assert (bias, error, z, along) == (pytest.approx(0.8), 0.0, math.inf, pytest.approx(9 / 25))


def test_only_the_gradient_differs_between_strategies(copy: Problem):
    """A window as long as the sequence cuts nothing: then the training is that of the full gradient, to the bit."""
    whole = learn(copy, f"truncated:{copy.length}", seed=1, evaluations=3)
    full = learn(copy, "full", seed=1, evaluations=3)
    assert whole.losses == full.losses and full.steps == [0, 2, 4, 6]
    cut = learn(copy, "truncated:4", seed=1, evaluations=3)
    assert cut.losses[0] == full.losses[0] and cut.final != full.final
    assert learn(copy, "full", seed=2, evaluations=3).losses != full.losses


def test_the_state_is_carried_through_a_text_and_reset_where_a_sequence_begins(settings: StrategySettings):
    text, copy = settings.problems()
    for problem, carried in ((text, True), (copy, False)):
        learner, states = Learner(problem, "full", seed=0), []
        learner.model.register_forward_pre_hook(lambda model, args, states=states: states.append(args[1]))
        for _ in range(2):
            learner.update()
        assert states[0] is None
        assert (states[1] is not None) == carried


def test_bias_and_variance_of_the_strategies(copy: Problem):
    full, regular, random, regulariser = (
        gradient_error(copy, spec, draws=100, warmup=1.0)
        for spec in ("full", "truncated:4", "randomized:4", "random_window:2-6")
    )
    assert (full.bias, full.variance, full.draws, full.biased) == (0.0, 0.0, 1, False)
    assert regular.biased and regular.bias > 0.05 and regular.variance == 0 and regular.draws == 1
    assert not random.biased and random.variance > 0 and random.draws == 100
    assert random.bias < 3 * random.error
    assert abs(random.along - 1) < 4 * random.along_error
    assert regulariser.biased  # cut at random, not reweighted


def test_the_full_gradient_varies_over_batches(copy: Problem):
    small, large = (variance_over_batches(replace(copy, batch=batch), 30, warmup=0.5) for batch in (2, 32))
    assert 0 < large < small


def test_a_training_that_diverges_ends_in_no_number(copy: Problem):
    found = learn(replace(copy, lr=3e37), "full", seed=0, evaluations=3)
    assert math.isnan(found.final) and found.steps[-1] < copy.steps
    assert len(found.steps) == len(found.losses)


def test_stopping_between_two_updates(copy: Problem):
    answers = iter([False, False, True])
    with pytest.raises(Stopped):
        learn(copy, "full", seed=0, evaluations=3, stop=lambda: next(answers))


def test_the_loss_between_two_looks():
    training = StrategyTraining("copy", "full", 0, [0, 10, 20], [3.0, 2.0, 1.5], 0.0)
    assert [training.loss_at(step) for step in (0, 5, 10, 15, 20, 99)] == [3.0, 2.5, 2.0, 1.75, 1.5, 1.5]


def test_equal_time_is_that_of_the_quickest(settings: StrategySettings, copy: Problem):
    found = StrategyComparison(settings, settings.problems(), {}, 1)
    for spec, seconds in zip(copy.strategies, (0.2, 0.1, 0.4), strict=True):
        found.seconds[copy.name, spec] = timed(seconds)
    counts = [updates_in_equal_time(found, copy, spec) for spec in copy.strategies]
    assert counts == pytest.approx([copy.steps / 2, copy.steps, copy.steps / 4])


@pytest.fixture
def no_processes(monkeypatch):
    """No memory: it takes a process for each."""

    def here(work, cases, jobs, *, process_each=False):
        if process_each:
            return iter([(number, 1.5 if number else None) for number in range(len(cases))])
        return run_cases(work, cases, jobs)

    monkeypatch.setattr(strategies_run, "run_cases", here)


def test_all_of_it_in_a_table_a_picture_and_json(settings: StrategySettings, no_processes, tmp_path):
    calls = []
    found = compare_strategies(
        settings, jobs=1, progress=lambda fraction, text: calls.append((fraction, text))
    )
    assert found.complete and calls[-1][0] == pytest.approx(1)
    assert [fraction for fraction, _ in calls] == sorted(fraction for fraction, _ in calls)
    head, rows = table(found)
    assert head == HEAD and len(rows) == 6
    assert [row[1] for row in rows] == [spec for problem in found.problems for spec in problem.strategies]
    assert all(cell for row in rows for cell in row[1:])
    assert rows[0][5] == "not known"  # the memory, where the system does not count it
    assert rows[0][6] == "0.000" and "+-" in rows[2][6]
    said = sentences(found)
    assert any("truncated:4 differs from the full gradient by" in line for line in said)
    assert any("randomized:3 ends" in line and "lower in" in line for line in said)
    values = json.loads(json_text(to_dict(found)))
    assert len(values["results"]) == 6 and values["complete"]
    assert str(tmp_path) not in json.dumps(values["problems"])
    picture = tmp_path / "bptt.png"
    figure = plot(found, picture)
    figure.draw_without_rendering()
    ticks = [
        label.get_text()
        for each in figure.axes
        for label in (*each.get_xticklabels(), *each.get_yticklabels())
    ]
    assert ticks and not any("$" in tick for tick in ticks)
    assert len(figure.axes) == 8 and picture.stat().st_size > 10_000


def test_what_is_done_is_kept_when_it_is_stopped(settings: StrategySettings, no_processes, monkeypatch):
    done = []

    def interrupted(problem, spec, seed, evaluations, stop):
        if done:
            raise KeyboardInterrupt
        done.append(spec)
        return learn(problem, spec, seed, evaluations, stop)

    monkeypatch.setattr(strategies_run, "learn", interrupted)
    found = compare_strategies(settings, jobs=1)
    assert not found.complete and len(found.trainings) == 1 and len(found.gradients) == 6
    _, rows = table(found)
    assert sum(bool(row[2]) for row in rows) == 1
    assert sentences(found) and plot(found)


@pytest.mark.skipif(sys.platform != "linux", reason="the count of resident pages is Linux's")
def test_full_takes_more_memory_than_truncated(settings: StrategySettings):
    text = replace(replace(settings, data=None).problems()[0], length=256, batch=16)
    text = replace(text, model=replace(text.model, hidden=512))
    cases = [(text, "full", 2), (text, "truncated:4", 2)]
    peaks = dict(run_cases(peak_memory, cases, 2, process_each=True))
    assert peaks[0] is not None and peaks[1] is not None
    # 256 steps of 16 x 512 units are 8 MiB for each tensor that is kept, and a GRU keeps several; the allocator's share varies
    # by some MiB from process to process.
    assert peaks[0] > 16 + peaks[1]


def test_without_the_book_the_text_that_ships_inside_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("THROUGHTIME_DATA", str(tmp_path))
    text = QUICK_STRATEGIES.problems()[0]
    assert text.title == "Python's language reference" and text.task.data == ()
    (tmp_path / "time_machine").mkdir()
    (tmp_path / "time_machine" / "timemachine.txt").write_text("x")
    text = QUICK_STRATEGIES.problems()[0]
    assert text.title == "The Time Machine" and text.task.data[0].endswith("timemachine.txt")


def test_the_window_is_put_into_the_strategies():
    text, task = StrategySettings(window=20, task="echo", task_window=6).problems()
    assert text.strategies == ("full", "truncated:20", "randomized:20", "polynomial:20")
    assert task.strategies == ("full", "truncated:6", "randomized:6", "polynomial:6")
    assert text.length == 80 and task.length == 40
    assert [problem.name for problem in StrategySettings(task="none").problems()] == ["text"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "coppy"}, "Did you mean 'copy'?"),
        ({"cell": "gruu"}, "Did you mean 'gru'?"),
        ({"draws": 3}, "draws must be at least 4, got 3"),
        ({"warmup": 0.0}, "warmup must be above 0 and at most 1, got 0.0"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"strategies": ("full", "full")}, "strategies must be at least one, each once"),
        ({"strategies": ("ful",)}, "Did you mean 'full'?"),
        ({"strategies": ("truncated",)}, "truncated:WINDOW"),
        ({"task": "echo", "length": 8}, "length must be at least 9"),
    ],
)
def test_settings_that_cannot_be_used(options, message):
    with pytest.raises(InputError) as raised:
        StrategySettings(**options)
    assert message in str(raised.value)


def test_a_picture_of_nothing_is_refused(settings: StrategySettings):
    with pytest.raises(InputError, match="a picture needs a measurement, got none"):
        plot(StrategyComparison(settings, settings.problems(), {}, 1))
    assert StrategyComparison(settings, settings.problems(), {}, 1).of("copy", "full") == []


def test_the_example_runs(settings: StrategySettings, no_processes, capsys, monkeypatch):
    monkeypatch.setattr(strategies_run, "available_cores", lambda: 1)
    path = Path(__file__).parents[2] / "examples" / "bptt.py"
    specification = importlib.util.spec_from_file_location("example_bptt", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.main(replace(settings, task="none", strategies=("full", "truncated:W/1"), text_steps=2))
    assert "truncated:3/1 differs from the full gradient by" in capsys.readouterr().out
