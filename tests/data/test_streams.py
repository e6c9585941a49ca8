"""The two samplings: what they cover, how they continue, and that a loaded position is the same position."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from throughtime.data import IGNORE, Streams, evaluation_windows
from throughtime.errors import InputError


def numbered(n):
    """Each symbol is its own position, so that a window says where it comes from."""
    return torch.arange(n)


def same(left, right):
    return len(left) == len(right) and all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) and a[2:] == b[2:]
        for a, b in zip(left, right, strict=True)
    )


settings = st.fixed_dictionaries(
    {
        "sampling": st.sampled_from(["sequential", "random"]),
        "jitter": st.booleans(),
        "seed": st.integers(0, 2**40),
    }
)
sizes = st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(0, 90))


@given(settings, sizes, st.integers(1, 3))
def test_every_window_is_in_place(options, size, world):
    steps, batch, more = size
    ids = numbered(batch * world * steps + steps + more)
    ranks = [Streams(ids, steps, batch, rank=rank, world=world, **options) for rank in range(world)]
    for _ in range(2):
        epochs = [list(streams.epoch()) for streams in ranks]
        seen = torch.cat([window.inputs.flatten() for epoch in epochs for window in epoch])
        assert len(seen.unique()) == len(seen)  # no position twice, on any rank
        for epoch in epochs:
            assert len(epoch) == len(ranks[0])
            for index, window in enumerate(epoch):
                assert torch.equal(window.targets, window.inputs + 1)
                assert torch.equal(
                    window.inputs, window.inputs[:1] + torch.arange(len(window.inputs))[:, None]
                )
                assert window.inputs.shape[1] == batch
                assert window.num_targets == window.targets.numel()
                assert window.reset == (options["sampling"] == "random" or index == 0)
            assert all(len(window.inputs) == steps for window in epoch[:-1])
        if options["sampling"] == "sequential":
            for epoch in epochs:
                for before, after in itertools.pairwise(epoch):
                    assert torch.equal(before.targets[-1], after.inputs[0])
            assert seen.max() - seen.min() + 1 == len(seen)  # all ranks together: one part of the text
            assert len(ids) - 1 - len(seen) < batch * world + steps  # what is left out is less than this
        else:
            assert all(len(window.inputs) == steps for epoch in epochs for window in epoch)


@given(settings, sizes, st.data())
def test_a_loaded_position_continues_as_if_never_stopped(options, size, data):
    steps, batch, more = size
    ids = torch.randint(0, 50, (batch * steps + steps + more,))

    def windows(streams, number):
        taken = []
        while len(taken) < number:
            for window in streams.epoch():
                taken.append(window)
                if len(taken) == number:
                    break
        return taken

    total = 3 * len(Streams(ids, steps, batch, **options))
    stop = data.draw(st.integers(0, total - 1))
    whole = windows(Streams(ids, steps, batch, **options), total)
    first = Streams(ids, steps, batch, **options)
    head = windows(first, stop)
    second = Streams(ids.clone(), steps, batch, **options)
    second.load_state_dict(first.state_dict())
    assert same(head + windows(second, total - stop), whole)
    assert same(windows(first, total - stop), whole[stop:])  # leaving a loop early is no different


def test_the_position_saved_with_the_last_window_is_the_next_epoch():
    streams = Streams(numbered(100), 5, 3)
    for _ in streams.epoch():
        state = streams.state_dict()
    assert (state["epochs_done"], state["batches_done"]) == (1, 0)


@pytest.mark.parametrize("sampling", ["sequential", "random"])
def test_epochs_seeds_and_jitter_differ(sampling):
    def epochs(**options):
        streams = Streams(numbered(1000), 7, 3, sampling=sampling, **options)
        return [list(streams.epoch()) for _ in range(4)]

    jittered = epochs(seed=1)
    assert not all(same(jittered[0], other) for other in jittered[1:])
    assert not all(same(one, other) for one, other in zip(jittered, epochs(seed=2), strict=True))
    offsets = {int(min(window.inputs.min() for window in epoch)) % 7 for epoch in epochs(seed=1)}
    assert len(offsets) > 1
    still = epochs(jitter=False)
    assert same(still[0], still[1]) == (sampling == "sequential")


def test_sequential_windows_are_views():
    ids = numbered(1000)
    window = next(Streams(ids, 7, 3).epoch())
    assert window.inputs.untyped_storage().data_ptr() == ids.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "seed = 1, this one has 2"),
        ({"batch": 2}, "batch = 3, this one has 2"),
        ({"steps": 6}, "steps = 5, this one has 6"),
        ({"ids": torch.zeros(100, dtype=torch.int64)}, "checksum"),
        ({"ids": torch.arange(101)}, "symbols = 100"),
        ({"sampling": "random"}, "sampling = sequential"),
    ],
)
def test_a_position_in_something_else_is_refused(change, message):
    options = {"ids": numbered(100), "steps": 5, "batch": 3, "seed": 1}
    state = Streams(**options).state_dict()
    with pytest.raises(InputError, match=message):
        Streams(**options | change).load_state_dict(state)
    for damage in ({"batches_done": 10**6}, {"epochs_done": -1}, {"batches_done": None}):
        with pytest.raises(InputError, match="damaged"):
            Streams(**options).load_state_dict(state | damage)


@pytest.mark.parametrize("sampling", ["sequential", "random"])
@pytest.mark.parametrize("jitter", [True, False])
def test_the_least_text_is_named_and_is_enough(sampling, jitter):
    least = 3 * 2 * 5 + (5 if jitter else 1)
    options = {"sampling": sampling, "jitter": jitter, "world": 2}
    assert len(Streams(numbered(least), 5, 3, **options)) == 1
    for short in (least - 1, 1, 0):
        with pytest.raises(
            InputError, match=f"need {least} symbols, got {short}; use more text, a smaller batch"
        ):
            Streams(numbered(short), 5, 3, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((numbered(9).float(), 2, 2), "int64 tensor"),
        ((numbered(9).view(3, 3), 2, 2), r"got torch.int64 \[3, 3\]"),
        ((numbered(9), 0, 2), "steps must be at least 1"),
        ((numbered(9), 2, -1), "batch must be at least 1, got -1"),
    ],
)
def test_impossible_sizes_are_refused(arguments, message):
    for windows in (Streams, evaluation_windows):
        with pytest.raises(InputError, match=message):
            windows(*arguments)
    with pytest.raises(InputError, match="rank"):
        Streams(numbered(99), 2, 2, rank=2, world=2)
    with pytest.raises(InputError, match="Did you mean 'random'"):
        Streams(numbered(99), 2, 2, sampling="randm")


@given(st.integers(2, 120), st.integers(1, 9), st.integers(1, 20))
def test_evaluation_predicts_every_symbol_once(n, steps, batch):
    ids = numbered(n)
    windows = list(evaluation_windows(ids, steps, batch))
    real = torch.cat([window.targets.flatten() for window in windows])
    real = real[real != IGNORE]
    assert sorted(real.tolist()) == list(range(1, n))
    assert sum(window.num_targets for window in windows) == n - 1
    assert [window.reset for window in windows] == [True] + [False] * (len(windows) - 1)
    for before, after in itertools.pairwise(windows):
        continues = after.targets[0] != IGNORE
        assert torch.equal(before.targets[-1][continues], after.inputs[0][continues])
    for window in windows:
        masked = window.targets == IGNORE
        assert torch.equal(window.targets[~masked], window.inputs[~masked] + 1)
        assert 0 <= int(window.inputs.min()) <= int(window.inputs.max()) < n


def test_evaluation_needs_two_symbols():
    with pytest.raises(InputError, match="at least 2 symbols"):
        evaluation_windows(numbered(1), 3, 2)
