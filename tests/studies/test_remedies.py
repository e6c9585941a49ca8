"""The comparison of remedies: what one trial measures, what it prints, and what is kept when it is stopped."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

from throughtime.data import Assets
from throughtime.errors import InputError
from throughtime.files import json_text
from throughtime.models import ModelConfig
from throughtime.studies import remedies
from throughtime.studies.remedies import (
    REMEDIES,
    GradientDecay,
    Remedy,
    RemedyComparison,
    RemedySettings,
    RemedyTrial,
    compare_remedies,
    gradient_decay,
    run_trial,
)
from throughtime.studies.remedies_report import (
    concordance,
    half_life_text,
    outcome,
    plot,
    sentences,
    table,
    to_dict,
)
from throughtime.studies.workers import Stopped, run_cases
from throughtime.tasks import AddingTask

TINY = RemedySettings(lengths=(5, 9), steps=4, seeds=2, hidden=3, batch=2, every=3, validation=7)
TWO = (REMEDIES[0], REMEDIES[5])


def faded(left: float, half_life: float = 2.0) -> GradientDecay:
    return GradientDecay(half_life, 1.0, left, [1.0, left])


def made(learned: int | None, start: float, end: float, remedy: str = "GRU", length: int = 9) -> RemedyTrial:
    return RemedyTrial(remedy, length, 0, learned, 10, 0.04 if learned else 0.16, faded(start), faded(end))


def test_the_gradient_of_a_linear_network_halves_as_its_weight_says():
    model = ModelConfig(cell="rnn", hidden=3, nonlinearity="identity", embedding="onehot")
    task = AddingTask(length=21)
    network = task.build(model, Assets())
    with torch.no_grad():
        network.layers.weight_hh_l0.copy_(torch.eye(3) * 0.8)
    found = gradient_decay(network, task)
    # |dL/dh_{T-k}| = 0.8^k |W_hq^T dL/do|, whatever the input; the weights are float32 numbers.
    assert found.half_life == pytest.approx(math.log(2) / -math.log(0.8), rel=1e-5)
    assert found.r_squared == pytest.approx(1)
    assert len(found.norms) == 20
    assert found.fraction_left == pytest.approx(0.8**14, rel=1e-5)  # lag 15 beside lag 1
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.layers.weight_hh_l0.dtype == torch.float32


def test_orthogonal_keeps_and_a_larger_weight_doubles():
    model = ModelConfig(cell="rnn", hidden=3, nonlinearity="identity", embedding="onehot")
    task = AddingTask(length=13)
    network = task.build(model, Assets())
    for factor, left, text in ((1.0, 1.0, "constant"), (2.0, 2.0**8, "-1")):
        with torch.no_grad():
            network.layers.weight_hh_l0.copy_(torch.nn.init.orthogonal_(torch.empty(3, 3)) * factor)
        found = gradient_decay(network, task)
        assert found.fraction_left == pytest.approx(left, rel=1e-5)
        assert half_life_text([found], 13) == text


def test_a_trial_is_a_function_of_its_seed_and_leaves_the_random_state():
    before = torch.get_rng_state()
    first = run_trial(TWO[1], 9, 1, TINY)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == run_trial(TWO[1], 9, 1, TINY)
    assert first.start != run_trial(TWO[1], 9, 0, TINY).start
    assert first.start != first.end
    assert (first.steps, first.learned) == (4, None)


def test_it_ends_when_the_target_is_reached():
    easy = RemedySettings(lengths=(4,), steps=300, hidden=16, batch=32, every=20, validation=200)
    found = run_trial(REMEDIES[5], 4, 0, easy)
    assert found.learned is not None and found.learned % 20 == 0 and found.learned == found.steps < 300
    assert found.loss < 0.05


def test_what_diverges_is_said_to():
    wild = Remedy("RNN ReLU", {"cell": "rnn", "nonlinearity": "relu", "init": "identity"}, 1e37, "none")
    found = run_trial(wild, 9, 0, TINY)
    assert math.isnan(found.loss) and found.end is None and found.learned is None
    assert outcome([found]) == "no, diverged"
    comparison = RemedyComparison(TINY, (wild,), (found,), True)
    assert (
        table(comparison)[1][0][1].startswith("no, diverged [") and "-> none]" in table(comparison)[1][0][1]
    )
    assert json.loads(json_text(to_dict(comparison)))["trials"][0]["loss"] is None


def test_all_remedies_can_be_trained():
    settings = RemedySettings(lengths=(5,), steps=2, seeds=1, hidden=3, batch=2, every=2, validation=3)
    comparison = compare_remedies(settings, jobs=1)
    assert [each.remedy for each in comparison.trials] == [remedy.name for remedy in REMEDIES]
    assert all(each.steps == 2 and math.isfinite(each.loss) for each in comparison.trials)
    start = {each.remedy: each.start.fraction_left for each in comparison.trials}
    assert start["RNN tanh"] < start["RNN tanh, orthogonal"] <= 1
    assert start["RNN ReLU, identity"] > start["RNN tanh"]
    assert start["LSTM, forget bias 1"] > start["LSTM"]


def test_the_order_of_the_trials_is_not_that_in_which_they_end(monkeypatch):
    calls: list[tuple[float, str]] = []
    first = compare_remedies(TINY, TWO, jobs=1, progress=lambda *call: calls.append(call))
    assert calls == sorted(calls) and len(calls) == 8
    assert calls[-1] == (pytest.approx(1), "GRU, T = 9: not learned")
    assert first.complete and len(first.trials) == 8

    def backward(work, cases, jobs):
        return reversed(list(run_cases(work, cases, jobs)))

    monkeypatch.setattr(remedies, "run_cases", backward)
    assert compare_remedies(TINY, TWO, jobs=1).trials == first.trials


def test_ctrl_c_keeps_what_is_done(monkeypatch):
    def interrupted(remedy, length, seed, settings, stop):
        if (length, remedy.name) == (9, "GRU"):
            raise KeyboardInterrupt
        return run_trial(remedy, length, seed, settings)

    monkeypatch.setattr(remedies, "run_trial", interrupted)
    comparison = compare_remedies(TINY, TWO, jobs=1)
    assert not comparison.complete
    assert [(t.length, t.remedy) for t in comparison.trials] == [(5, "RNN tanh"), (5, "GRU"), (9, "RNN tanh")]
    assert [bool(cell) for cell in table(comparison)[1][1][1:]] == [True, False]
    with pytest.raises(Stopped):
        run_trial(TWO[0], 5, 0, TINY, stop=lambda: True)


def test_the_learners_are_counted_against_those_who_did_not_at_their_length():
    trials = [made(5, 0.1, 0.9), made(None, 0.2, 0.3), made(None, 0.05, 0.9), made(7, 0.9, 0.9, length=5)]
    # At T = 9 one learner and two others; at T = 5 there is nobody to compare with.
    assert concordance(trials, lambda t: t.start.fraction_left) == (0.5, 2)
    assert concordance(trials, lambda t: t.end.fraction_left) == (0.75, 2)  # a tie counts half
    comparison = RemedyComparison(RemedySettings(), (Remedy("GRU", {}, 1.0),), tuple(trials), True)
    text = "\n".join(sentences(comparison))
    assert "T = 9: learned by GRU (1 of 3)." in text
    assert "in 50% of 2 pairs before training and in 75% after" in text


def test_half_lives_are_ordered_through_infinity():
    assert half_life_text([faded(1, half) for half in (50.0, math.inf, -50.0)], 9) == "constant"
    assert half_life_text([faded(1, 3.0)], 9) == "3"
    assert half_life_text([faded(1, math.nan)], 9) == "zero"
    assert outcome([made(5, 1, 1), made(None, 1, 1)]) == "5 (1 of 2)"
    assert outcome([made(None, 1, 1)]) == "no, 0.160"


@pytest.mark.filterwarnings("default")  # matplotlib may warn of its own dependencies
def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    trials = (made(5, 0.1, 0.9), made(None, 0.0, 0.0, "RNN tanh"))
    comparison = RemedyComparison(RemedySettings(), (REMEDIES[0], REMEDIES[5]), trials, True)
    figure = plot(comparison, tmp_path / "picture.png")
    figure.draw_without_rendering()
    ticks = [
        label.get_text()
        for each in figure.axes
        for label in (*each.get_xticklabels(), *each.get_yticklabels())
    ]
    assert ticks and not any("$" in tick for tick in ticks)
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    left, right = figure.axes
    assert [text.get_text() for text in left.texts] == ["no\n0.160", "5"]
    assert len([line for line in right.lines if len(line.get_xdata()) == 1]) == 2
    with pytest.raises(InputError, match="at least one trial"):
        plot(RemedyComparison(RemedySettings(), (), (), False))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lengths": (3,)}, "lengths must be at least 4, got 3"),
        ({"lengths": ()}, "lengths must be"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"target": 0.2}, "target must be below 1/6"),
        ({"target": 0.0}, "target must be above 0"),
    ],
)
def test_settings_that_cannot_be_used(wrong, message):
    with pytest.raises(InputError, match=message):
        RemedySettings(**wrong)


def test_the_example_runs(capsys):
    path = Path(__file__).parents[2] / "examples" / "remedies.py"
    specification = importlib.util.spec_from_file_location("example_remedies", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.main(RemedySettings(lengths=(5,), steps=2, seeds=1, hidden=3, batch=2, every=2, validation=3))
    assert "GRU, layer norm" in capsys.readouterr().out
