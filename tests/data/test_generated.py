"""The adding problem, the copying problem and the echo task: generated as the papers define them, and resumable."""

from __future__ import annotations

import math

import pytest
import torch

from throughtime.data import IGNORE, count_targets
from throughtime.data.generated import Generated, held_out
from throughtime.errors import InputError
from throughtime.tasks import AddingTask, CopyTask, EchoTask
from throughtime.tasks.echo import entropy


def generate(task, batch, seed=0):
    found = task.draw(batch, torch.Generator().manual_seed(seed))
    assert found.reset and found.num_targets == count_targets(found.targets)
    return found.inputs, found.targets


def batches_of(task, batch, *, examples, **options):
    return Generated(task.draw, task.title, batch, examples=examples, **options)


def without_memory(task):
    return next(iter(task.levels.values()))


def same(left, right):
    return len(left) == len(right) and all(
        torch.equal(a.inputs, b.inputs) and torch.allclose(a.targets, b.targets, equal_nan=True)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("length", [2, 7, 50])
def test_adding_marks_one_number_in_each_half_and_asks_for_their_sum_at_the_end(length):
    inputs, targets = generate(AddingTask(length=length), 500)
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
    task = AddingTask(length=4)
    _, targets = generate(task, 200_000)
    # The variance of (s - 1)^2 is 1/15 - 1/36, so 200,000 of them have a mean within 5 * 0.00044 of theirs.
    assert without_memory(task) == pytest.approx(1 / 6)
    assert (targets[-1] - 1).square().mean().item() == pytest.approx(without_memory(task), abs=0.0022)


@pytest.mark.parametrize("length", [1, 7])
def test_copying_is_laid_out_as_in_the_paper(length):
    task = CopyTask(length=length)
    inputs, targets = generate(task, 300)
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
    assert -chance.log().mean().item() == pytest.approx(without_memory(task), rel=1e-6)


def test_the_echoes_levels_are_those_of_the_definition():
    numbers = [entropy(), entropy((3,)), entropy((3, 8))]
    assert [round(number, 4) for number in numbers] == [0.6616, 0.5192, 0.4545]
    assert list(EchoTask(length=9).levels.values()) == numbers
    assert numbers[2] < entropy((8,)) < numbers[0]


def test_the_echo_comes_three_and_eight_steps_later():
    inputs, targets = generate(EchoTask(length=13), 40_000)
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
        (lambda: AddingTask(length=1), "length must be at least 2"),
        (lambda: CopyTask(length=0), "length must be at least 1"),
        (lambda: EchoTask(length=8), "length must be at least 9"),
        (lambda: batches_of(AddingTask(length=4), 0, examples=5), "batch must be at least 1"),
        (lambda: batches_of(AddingTask(length=4), 2, examples=0), "examples must be at least 1"),
        (
            lambda: batches_of(AddingTask(length=4), 2, examples=5, rank=1),
            "rank must be from 0 to world - 1 = 0",
        ),
        (lambda: held_out(AddingTask(length=4).draw, "x", "test", 0, 3), "examples must be at least 1"),
        (lambda: held_out(AddingTask(length=4).draw, "x", "test", 3, 0), "batch must be at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_nothing_repeats_and_everything_is_a_function_of_seed_and_place():
    make = lambda **more: batches_of(AddingTask(length=7), 3, examples=10, **more)  # noqa: E731
    streams = make(seed=4)
    windows = [window for _ in range(3) for window in streams.epoch()]
    assert len(streams) == 4 and len(windows) == 12 and streams.epochs_done == 3
    assert all(window.reset and window.num_targets == 3 for window in windows)
    assert len({window.inputs.sum().item() for window in windows}) == 12
    again = make(seed=4)
    assert same(windows, [window for _ in range(3) for window in again.epoch()])
    others = [make(seed=5), make(seed=4, world=2), make(seed=4, rank=1, world=2)]
    firsts = [next(iter(each.epoch())).inputs for each in others]
    assert not torch.equal(firsts[0], windows[0].inputs)
    assert not torch.equal(firsts[1], firsts[2])


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 6])
def test_a_saved_position_is_continued(taken):
    def windows(streams, count):
        found = []
        while len(found) < count:
            for window in streams.epoch():
                found.append(window)
                if len(found) == count:
                    break
        return found

    make = lambda: batches_of(EchoTask(length=11), 3, examples=10, seed=1)  # noqa: E731
    whole, first = windows(make(), 12), make()
    windows(first, taken)
    second = make()
    second.load_state_dict(first.state_dict())
    assert same(whole[taken:], windows(second, 12 - taken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "position is one with seed = 2, this one has 1"),
        ({"name": "echo12"}, "name = echo12, this one has echo11"),
        ({"batches_done": 4}, "damaged: epoch 0, batch 4 of 4"),
        ({"epochs_done": -1}, "damaged"),
    ],
)
def test_a_position_in_other_data_is_refused(change, message):
    streams = batches_of(EchoTask(length=11), 3, examples=10, seed=1)
    with pytest.raises(InputError, match=message):
        streams.load_state_dict(streams.state_dict() | change)


def test_the_held_out_sequences_are_always_the_same_and_no_training_sequences():
    task = AddingTask(length=7)
    first, again, test = (
        list(held_out(task.draw, task.title, split, 10, 4)) for split in ("validation", "validation", "test")
    )
    assert same(first, again)
    assert not same(first, test)
    assert [batch.size for batch in first] == [4, 4, 2]
    assert [batch.num_targets for batch in first] == [4, 4, 2]
    seen = {tuple(row) for each in (first, test) for b in each for row in b.inputs[..., 0].t().tolist()}
    trained = {
        tuple(row)
        for batch in batches_of(task, 4, examples=100).epoch()
        for row in batch.inputs[..., 0].t().tolist()
    }
    assert len(seen) == 20 and not seen & trained
