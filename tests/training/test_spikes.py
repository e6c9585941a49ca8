"""A jump of the loss is distinguished from its noise, and its cause is looked for in the steps before."""

from __future__ import annotations

import copy
import math
import random

import pytest

from throughtime.errors import InputError
from throughtime.training import TrainingConfig
from throughtime.training.spikes import CALM, LEAST, PAST, Place, Spike, Spikes, StepNumbers, Usual, describe


def noisy(number, seed=1):
    """Losses that fall, and norms, with the noise of a training."""
    draws = random.Random(seed)
    return [
        (2 + 2 * math.exp(-i / 80) + draws.gauss(0, 0.05), 0.5 * math.exp(draws.gauss(0, 0.4)))
        for i in range(number)
    ]


def feed(spikes, rows, clipped=False, reset=False, first=1, targets=1000):
    found = []
    for step, (loss, norm) in enumerate(rows, start=first):
        if spikes.judge(
            StepNumbers(step, step * targets, loss, norm, clipped, targets, Place(1, step, 99, reset, 0.1))
        ):
            found.append(step)
    return found


def test_noise_is_no_spike():
    assert [feed(Spikes(), noisy(1500, seed)) for seed in range(4)] == [[]] * 4


def test_small_changes_of_a_training_whose_steps_hardly_differ_are_no_spikes():
    rows = [(1e-3 * (1 + 1e-6 * (i % 3)), 0.1) for i in range(60)]
    assert feed(Spikes(), [*rows, (1.15e-3, 0.1)]) == []
    assert feed(Spikes(), [*rows, (1.25e-3, 0.1)]) == [61]


@pytest.mark.parametrize(("targets", "jump", "found"), [(32, 1.5, []), (32, 2.5, [101]), (1000, 1.5, [101])])
def test_a_step_of_few_targets_varies_by_itself(targets, jump, found):
    rows = [(4.0, 0.5)] * LEAST + noisy(100 - LEAST)
    rows = [(loss / 4 if step >= LEAST else loss, norm) for step, (loss, norm) in enumerate(rows)]
    assert feed(Spikes(), [*rows, (jump, 0.5)], targets=targets) == found


def test_near_zero_a_jump_must_count_beside_the_start():
    rows = [(4.0, 0.5)] * LEAST + [(0.01 + 0.002 * (i % 5), 0.01) for i in range(60)]
    at = len(rows) + 1
    assert (
        feed(Spikes(), [*rows, (0.15, 0.3)]) == []
    )  # neither a loss nor a norm that was not usual at the start
    assert feed(Spikes(), [*rows, (0.3, 0.01)]) == [at]
    assert feed(Spikes(), [*rows, (0.01, 0.6)]) == [at]


def test_a_jump_is_noticed_once_and_the_next_one_again():
    rows = noisy(200)
    for step in (*range(90, 95), 99, 130):
        rows[step - 1] = (6.0, 0.5)
    assert feed(Spikes(), rows) == [90, 130]  # 99 comes less than CALM steps after 94
    assert CALM == 10


def test_among_the_first_steps_only_a_value_that_is_not_finite_is_a_spike():
    rows = noisy(LEAST)
    assert feed(Spikes(), [*rows[:-1], (60.0, 0.5)]) == []
    assert feed(Spikes(), [*rows, (60.0, 0.5)]) == [LEAST + 1]
    for bad in ((math.nan, 0.5), (math.inf, 0.5), (2.0, math.nan), (2.0, math.inf)):
        assert feed(Spikes(), [rows[0], bad, bad]) == [2, 3]


def test_a_norm_that_jumps_counts_unless_it_was_clipped():
    rows = [*noisy(50), (2.5, 40.0)]
    assert feed(Spikes(), rows) == [51]
    assert feed(Spikes(), rows, clipped=True) == []
    assert feed(Spikes(), [*noisy(50), (2.5, 3.0)]) == []


def test_batches_that_start_from_no_state_are_compared_with_each_other():
    """The first window of an epoch has a higher loss: it knows nothing of what came before."""
    spikes, step = Spikes(), 1
    for _ in range(LEAST + 3):
        assert feed(spikes, [(0.9, 0.5)], reset=True, first=step) == []
        assert feed(spikes, [(0.1, 0.5)] * 9, first=step + 1) == []
        step += 10
    assert feed(spikes, [(0.9, 0.5)], first=step) == [step]
    assert feed(spikes, [(4.0, 0.5)], reset=True, first=step + 20) == []  # too soon after the last
    assert feed(spikes, [(0.1, 0.5)] * CALM, first=step + 21) == []
    assert feed(spikes, [(4.0, 0.5)], reset=True, first=step + 40) == [step + 40]


@pytest.mark.parametrize("cut", [3, 40, 92, 99])
def test_saved_and_restored_it_judges_the_same(cut):
    rows = noisy(200)
    for step in (90, 91, 105, 150):
        rows[step - 1] = (6.0, 0.5)
    whole, first, second = Spikes(), Spikes(), Spikes()
    wanted = feed(whole, rows)
    found = feed(first, rows[:cut])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert found + feed(second, rows[cut:], first=cut + 1) == wanted == [90, 105, 150]
    assert second.state_dict() == whole.state_dict()


def test_what_is_forgotten_is_not_compared_with():
    spikes = Spikes()
    rows = [(1.0, 0.5)] * 40
    feed(spikes, [*rows, *[(9.0, 0.5)] * PAST])
    spikes.forget(40)
    assert feed(spikes, [(1.0, 0.5), (2.0, 0.5)], first=90) == []  # none are left of the last PAST
    spikes = Spikes()
    feed(spikes, [*rows, *[(9.0, 0.5)] * 5])
    assert feed(spikes, [(9.0, 0.5)], first=60) == []
    spikes.forget(40)
    assert feed(spikes, [(9.0, 0.5)], first=60) == [60]


def cause(norms, here, kind="loss", clipped=(), clip="none", steps=PAST):
    """The cause that is named, for norms before and in the step."""
    place = Place(1, 9, 99, False, 0.1)
    before = [StepNumbers(n, n, 2.0, norm, n in clipped, 10, place) for n, norm in enumerate(norms, start=1)]
    last = len(norms) + 1
    at = StepNumbers(last, last, 9.0, here, last in clipped, 10, place)
    spike = Spike(kind, at, Usual(2.0, 0.1, steps), Usual(0.2, 0.02, steps), tuple(before))
    return describe(spike, clip, "", 0).partition(". ")[2]


def test_the_cause_is_looked_for_in_the_norms_before():
    grew = cause([0.2, 0.2, 1.5, 7.0], 9.0)
    assert grew.startswith(
        "The gradient grew first, at step 3, to 7.5 times its median of 0.2, and it was not clipped"
    )
    assert grew.endswith("train with clip = norm:1, or with a smaller lr")
    held = cause([0.2, 0.2, 1.5, 7.0], 9.0, clipped=(3, 4, 5), clip="norm:1")
    assert held.endswith(
        "it was clipped, and the steps were still too long: train with a smaller lr or a lower threshold"
    )
    steep = cause([0.2, 0.3, 0.2, 0.2], 9.0)
    assert (
        "led to a steep part of the loss surface, and the gradient of this step, 45 times the median, would move"
        in steep
    )
    assert cause([0.2, 0.3], 9.0, clipped=(3,)).endswith(
        "is clipped, but the steps that led there were too long: train with a smaller lr"
    )
    assert "the steps themselves were too long" in cause([0.2, 0.3, 0.2, 0.2], 0.4)
    assert "at step 5, to 45 times" in cause([0.2, 0.3, 0.2, 0.2], 9.0, kind="gradient")  # its own cause
    assert "at step 2, to infinitely many times" in cause([0.2, math.inf], math.nan, kind="number")
    few = cause(
        [4.0, 5.0, 2000.0], math.inf, kind="number", steps=2
    )  # too few to know what is usual: by those before
    assert "at step 3, to 400 times its median of 5" in few


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"on_spike": "rolback"}, "Did you mean 'rollback'"),
        ({"rollback_lr": 0.0}, "rollback_lr must be above 0 and at most 1"),
        ({"rollback_lr": 1.5}, "rollback_lr must be above 0 and at most 1"),
        ({"rollback_clip": "norm"}, "rollback_clip must be norm:THRESHOLD"),
        ({"rollbacks": 0}, "rollbacks must be at least 1"),
        ({"watch": -1}, "watch must be at least 0, got -1"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(InputError, match=words):
        TrainingConfig(**settings)
