"""Ragged examples: each once an epoch, padded and masked, the same after a saved position, divided among processes."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from throughtime.data.batch import IGNORE
from throughtime.data.examples import Examples, evaluation_batches
from throughtime.errors import InputError


def numbered(lengths):
    """Sequence i holds only the number i, so that a batch says where its rows come from."""
    return [torch.full((length,), number + 1) for number, length in enumerate(lengths)]


def numbers_of(batch):
    return (batch.inputs[0] - 1).tolist()


many = st.lists(st.integers(1, 30), min_size=1, max_size=150)


@given(many, st.integers(1, 7), st.integers(1, 4), st.integers(0, 3))
def test_every_example_once_an_epoch(lengths, batch, world, seed):
    if len(lengths) < world:
        return
    inputs, targets = numbered(lengths), torch.arange(len(lengths)) + 1
    ranks = [Examples(inputs, targets, batch, seed=seed, rank=rank, world=world) for rank in range(world)]
    for _ in range(2):
        epochs = [list(examples.epoch()) for examples in ranks]
        assert {len(epoch) for epoch in epochs} == {len(ranks[0])}
        assert sorted(n for epoch in epochs for each in epoch for n in numbers_of(each)) == list(
            range(len(lengths))
        )
        for together in zip(*epochs, strict=True):
            sizes = [each.size for each in together]
            assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1 and max(sizes) <= batch + 1
            for each in together:
                assert each.lengths.tolist() == [lengths[number] for number in numbers_of(each)]
                assert each.steps == int(each.lengths.max())
                assert torch.equal(each.targets, each.inputs[0]) and each.per_sequence and each.reset
                inside = torch.arange(each.steps)[:, None] < each.lengths
                assert torch.equal(each.inputs, torch.where(inside, each.inputs[:1], 0))
        assert sum(each.size != batch for each in epochs[0]) <= 1


def test_similar_lengths_are_together_and_the_order_changes():
    lengths = torch.randint(1, 200, (3000,)).tolist()
    examples = Examples(numbered(lengths), torch.zeros(3000, dtype=torch.int64), 16, seed=1)
    first, second = list(examples.epoch()), list(examples.epoch())
    padded = sum(each.inputs.numel() for each in first)
    assert padded < 1.05 * sum(lengths)  # unsorted it would be about twice as many
    assert [numbers_of(each) for each in first] != [numbers_of(each) for each in second]
    together = {frozenset(numbers_of(each)) for each in first} & {
        frozenset(numbers_of(each)) for each in second
    }
    assert not together
    few = Examples(
        numbered(lengths[:320]), torch.zeros(320), 16
    )  # one pool, sorted by length before it is cut
    sizes = [each.steps for each in few.epoch()]
    assert sizes != sorted(sizes)
    other = Examples(numbered(lengths), torch.zeros(3000, dtype=torch.int64), 16, seed=2)
    assert numbers_of(next(other.epoch())) != numbers_of(first[0])


def test_targets_for_each_step_are_padded_and_masked():
    inputs = [torch.ones(2, 3), torch.ones(5, 3)]
    (batch,) = Examples(inputs, [torch.tensor([1, 2]), torch.tensor([3, 4, 5, 6, 7])], 2).epoch()
    assert batch.inputs.shape == (5, 2, 3) and not batch.per_sequence and batch.num_targets == 7
    rows = {tuple(row) for row in batch.targets.t().tolist()}
    assert rows == {(1, 2, IGNORE, IGNORE, IGNORE), (3, 4, 5, 6, 7)}
    (batch,) = Examples(inputs, [torch.zeros(2, 1), torch.zeros(5, 1)], 2).epoch()
    assert int(batch.targets.isnan().sum()) == 3


@given(many, st.integers(1, 5), st.data())
def test_a_loaded_position_goes_on_as_if_never_stopped(lengths, batch, data):
    def make():
        return Examples(numbered(lengths), torch.arange(len(lengths)), batch, seed=5)

    def batches(examples):
        while True:
            yield from examples.epoch()

    total = 3 * len(make())
    stop = data.draw(st.integers(0, total))
    first, second = make(), make()
    expected = list(itertools.islice(batches(first), total))
    stopped = make()
    list(itertools.islice(batches(stopped), stop))
    second.load_state_dict(stopped.state_dict())
    for ours, theirs in zip(expected[stop:], batches(second), strict=False):
        assert torch.equal(ours.inputs, theirs.inputs) and torch.equal(ours.targets, theirs.targets)


def test_a_position_in_other_data_is_refused():
    state = Examples(numbered([2, 3]), torch.tensor([0, 1]), 1).state_dict()
    for inputs, targets, batch in (
        (numbered([3, 2]), torch.tensor([0, 1]), 1),
        (numbered([2, 3]), torch.tensor([1, 1]), 1),
        (numbered([2, 3]), torch.tensor([0, 1]), 2),
    ):
        with pytest.raises(InputError, match="saved position"):
            Examples(inputs, targets, batch).load_state_dict(state)


@given(many, st.integers(1, 9))
def test_evaluation_keeps_the_original_numbers(lengths, batch):
    inputs = numbered(lengths)
    found = torch.zeros(len(lengths), dtype=torch.int64)
    steps = []
    for each, numbers in evaluation_batches(inputs, None, batch):
        found[numbers] += each.inputs[0]
        assert each.targets is None and each.lengths.tolist() == [lengths[n] for n in numbers]
        steps.extend(each.lengths.tolist())
    assert torch.equal(found, torch.arange(len(lengths)) + 1)
    assert steps == sorted(lengths, reverse=True)
    pairs = evaluation_batches(inputs, torch.arange(len(lengths)), batch)
    assert all(torch.equal(each.targets, numbers) for each, numbers in pairs)


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        ([], torch.zeros(0), {}, "at least one sequence"),
        ([torch.ones(2)], torch.zeros(2), {}, "each of the 1 sequences, got 2"),
        ([torch.ones(2)], torch.tensor(3), {}, "each of the 1 sequences, got 0"),
        ([torch.ones(2), torch.ones(0)], torch.zeros(2), {}, "sequence 1 has no steps"),
        ([torch.tensor(1.0)], torch.zeros(1), {}, "sequence 0 has no steps"),
        (
            [torch.ones(2, 3), torch.ones(2, 4)],
            torch.zeros(2),
            {},
            r"float32 \[t, 3\] and torch.float32 \[t, 4\]",
        ),
        ([torch.ones(2), torch.ones(2).long()], torch.zeros(2), {}, "all of one dtype"),
        ([torch.ones(2)], [torch.ones(3)], {}, r"sequence 0 has 2 steps, its targets are \[3\]"),
        ([torch.ones(2)], torch.zeros(1), {"batch": 0}, "batch must be at least 1"),
        ([torch.ones(2)], torch.zeros(1), {"world": 2}, "2 processes need at least 2 sequences, got 1"),
        ([torch.ones(2)], torch.zeros(1), {"rank": 1}, "rank must be"),
    ],
)
def test_what_cannot_be_batched_is_refused(inputs, targets, options, message):
    with pytest.raises(InputError, match=message):
        Examples(inputs, targets, **{"batch": 2, **options})
