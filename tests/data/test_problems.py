"""The adding problem, the copying problem and the echo task: drawn as the papers define them, and resumable."""

from __future__ import annotations

import math

import pytest
import torch

from throughtime.data import IGNORE
from throughtime.data.adding import Adding
from throughtime.data.copying import Copying
from throughtime.data.drawn import Drawn, held_out
from throughtime.data.echo import Echo
from throughtime.errors import InputError


def drawn(problem, batch, seed=0):
    return problem.draw(batch, torch.Generator().manual_seed(seed))


def same(left, right):
    return len(left) == len(right) and all(
        torch.equal(a.inputs, b.inputs) and torch.allclose(a.targets, b.targets, equal_nan=True)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("length", [2, 7, 50])
def test_adding_marks_one_number_in_each_half_and_asks_for_their_sum_at_the_end(length):
    inputs, targets = drawn(Adding(length), 500)
    values, marks = inputs.unbind(-1)
    assert inputs.shape == (length, 500, 2) and targets.shape == (length, 500, 1)
    half = length // 2
    for part in (marks[:half], marks[half:]):
        assert (part.sum(0) == 1).all() and ((part == 0) | (part == 1)).all()
        assert (part.sum(1) > 0).all()  # every step of a half is drawn
    assert ((values >= 0) & (values < 1)).all()
    assert targets[:-1].isnan().all()
    by_hand = [sum(values[t, b].item() for t in range(length) if marks[t, b]) for b in range(500)]
    assert targets[-1, :, 0].tolist() == pytest.approx(by_hand, abs=1e-6)  # float32 sums


def test_always_saying_one_has_the_variance_of_the_sum():
    _, targets = drawn(Adding(4), 200_000)
    # The variance of (s - 1)^2 is 1/15 - 1/36, so 200,000 of them have a mean within 5 * 0.00044 of theirs.
    assert Adding(4).baseline == pytest.approx(1 / 6)
    assert (targets[-1] - 1).square().mean().item() == pytest.approx(Adding(4).baseline, abs=0.0022)


@pytest.mark.parametrize("length", [1, 7])
def test_copying_is_laid_out_as_in_the_paper(length):
    inputs, targets = drawn(Copying(length), 300)
    assert inputs.shape == targets.shape == (length + 20, 300)
    letters = inputs[:10]
    assert letters.unique().tolist() == list(range(8))
    assert (inputs[10 : 10 + length - 1] == 8).all()
    assert (inputs[10 + length - 1] == 9).all()
    assert (inputs[10 + length :] == 8).all() and len(inputs[10 + length :]) == 10
    assert (targets[: length + 10] == 8).all()
    assert torch.equal(targets[length + 10 :], letters)
    # The guesser, written out: certain of the blanks, an eighth for each letter.
    chance = torch.where(targets == 8, 1.0, 1 / 8)
    assert -chance.log().mean().item() == pytest.approx(Copying(length).baseline, rel=1e-6)


def test_the_echoes_levels_are_those_of_the_definition():
    numbers = [Echo.entropy(), Echo.entropy((3,)), Echo.entropy((3, 8))]
    assert [round(number, 4) for number in numbers] == [0.6616, 0.5192, 0.4545]
    assert (Echo(9).baseline, Echo(9).optimum) == (numbers[0], numbers[2])
    assert numbers[2] < Echo.entropy((8,)) < numbers[0]


def test_the_echo_comes_three_and_eight_steps_later():
    inputs, targets = drawn(Echo(13), 40_000)
    assert (targets[:8] == IGNORE).all() and not (targets[8:] == IGNORE).any()
    three, eight = inputs[5:10], inputs[:5]
    for a, b, chance in ((0, 0, 0.5), (1, 0, 1.0), (0, 1, 0.25), (1, 1, 0.75)):
        found = targets[8:][(three == a) & (eight == b)].double()
        assert found.mean().item() == pytest.approx(chance, abs=5 * math.sqrt(0.25 / len(found)))
    for other in (8, 7, 6, 4, 1):  # no other coin says anything of the target at step 8
        found = targets[8][inputs[other] == 1].double().mean().item()
        assert found == pytest.approx(0.625, abs=5 * math.sqrt(0.25 / 18_000))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adding(1), "length must be at least 2"),
        (lambda: Copying(0), "length must be at least 1"),
        (lambda: Echo(8), "length must be at least 9"),
        (lambda: Drawn(Adding(4), 0, examples=5), "batch must be at least 1"),
        (lambda: Drawn(Adding(4), 2, examples=0), "examples must be at least 1"),
        (lambda: Drawn(Adding(4), 2, examples=5, rank=1), "rank must be from 0 to world - 1 = 0"),
        (lambda: held_out(Adding(4), 0, 3), "examples must be at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_nothing_repeats_and_everything_is_a_function_of_seed_and_place():
    make = lambda **more: Drawn(Adding(7), 3, examples=10, **more)  # noqa: E731
    streams = make(seed=4)
    windows = [window for _ in range(3) for window in streams.epoch()]
    assert len(streams) == 4 and len(windows) == 12 and streams.epochs_done == 3
    assert all(window.fresh and window.count == 3 for window in windows)
    assert len({window.inputs.sum().item() for window in windows}) == 12
    again = make(seed=4)
    assert same(windows, [window for _ in range(3) for window in again.epoch()])
    others = [make(seed=5), make(seed=4, world=2), make(seed=4, rank=1, world=2)]
    firsts = [next(iter(each.epoch())).inputs for each in others]
    assert not torch.equal(firsts[0], windows[0].inputs)
    assert not torch.equal(firsts[1], firsts[2])


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 6])
def test_a_position_that_was_saved_is_gone_on_from(taken):
    def windows(streams, count):
        found = []
        while len(found) < count:
            for window in streams.epoch():
                found.append(window)
                if len(found) == count:
                    break
        return found

    make = lambda: Drawn(Echo(11), 3, examples=10, seed=1)  # noqa: E731
    whole, first = windows(make(), 12), make()
    windows(first, taken)
    second = make()
    second.load_state_dict(first.state_dict())
    assert same(whole[taken:], windows(second, 12 - taken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "position is one with seed = 2, this one has 1"),
        ({"problem": "Echo(length=12)"}, r"problem = Echo\(length=12\), this one has Echo\(length=11\)"),
        ({"windows_done": 4}, "damaged: epoch 0, window 4 of 4"),
        ({"epochs_done": -1}, "damaged"),
    ],
)
def test_a_position_in_other_data_is_refused(change, message):
    streams = Drawn(Echo(11), 3, examples=10, seed=1)
    with pytest.raises(InputError, match=message):
        streams.load_state_dict(streams.state_dict() | change)


def test_the_held_out_sequences_are_always_the_same_and_no_training_sequences():
    first, again = list(held_out(Adding(7), 10, 4)), list(held_out(Adding(7), 10, 4))
    assert same(first, again)
    assert [window.inputs.shape[1] for window in first] == [4, 4, 2]
    assert [window.count for window in first] == [4, 4, 2]
    seen = {tuple(row) for w in first for row in w.inputs[..., 0].t().tolist()}
    trained = {
        tuple(row) for w in Drawn(Adding(7), 4, examples=100).epoch() for row in w.inputs[..., 0].t().tolist()
    }
    assert len(seen) == 10 and not seen & trained
