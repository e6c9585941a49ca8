"""A batch: what `of` checks and masks, and that windows and rows keep every target, once."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from throughtime.data.batch import IGNORE, Batch, count_targets, masked, unmasked
from throughtime.errors import InputError

T, B = 7, 3
LENGTHS = [7, 4, 0]


def numbered(*shape):
    """Each entry is its own position plus 1: none is the padding's value, none the mask."""
    return torch.arange(1, math.prod(shape) + 1).view(*shape)


def test_padding_is_masked_in_targets_per_step():
    whole, real = numbered(T, B), numbered(T, B, 2).double()
    batch = Batch.of(numbered(T, B), {"symbols": whole, "values": real}, LENGTHS)
    for b, length in enumerate(LENGTHS):
        assert torch.equal(batch.targets["symbols"][:length, b], whole[:length, b])
        assert (batch.targets["symbols"][length:, b] == IGNORE).all()
        assert torch.equal(batch.targets["values"][:length, b], real[:length, b])
        assert batch.targets["values"][length:, b].isnan().all()
    assert batch.targets["values"].dtype == torch.float64
    assert batch.num_targets == 11 + 2 * 11
    assert (whole != IGNORE).all() and not real.isnan().any()  # the caller's own tensors stay
    assert batch.lengths.tolist() == LENGTHS and batch.lengths.dtype == torch.int64
    assert (batch.steps, batch.size, batch.reset, batch.per_sequence) == (T, B, True, False)


def test_padding_of_targets_may_hold_anything():
    targets = torch.full((T, B), math.nan)
    targets[:4, 1] = 1.0
    targets[:, 0] = 2.0
    inputs = torch.full((T, B, 2), math.inf)
    batch = Batch.of(inputs, targets, LENGTHS)
    assert batch.num_targets == 11
    assert batch.inputs is inputs  # not copied, not read


def test_masked_targets_inside_a_row_stay_masked():
    targets = numbered(T, B)
    targets[2, 0] = IGNORE
    assert Batch.of(numbered(T, B), targets, LENGTHS).num_targets == 10
    assert Batch.of(numbered(T, B), targets).num_targets == T * B - 1
    real = numbered(T, B).float()
    real[2, 0] = math.nan
    assert Batch.of(numbered(T, B), real).num_targets == T * B - 1
    assert Batch.of(numbered(T, B)).num_targets == 0


def test_as_many_steps_as_rows_is_not_ambiguous():
    """T == B: [T, B] and [B] are distinguished by `per_sequence`, and by nothing else."""
    inputs = numbered(3, 3)
    step = Batch.of(inputs, numbered(3, 3), [3, 2, 1])
    assert step.num_targets == 6 and step.targets.tolist() == [[1, 2, 3], [4, 5, IGNORE], [7, IGNORE, IGNORE]]
    one = Batch.of(inputs, torch.tensor([4, 5, 6]), [3, 2, 1], per_sequence=True)
    assert one.num_targets == 3 and one.targets.tolist() == [4, 5, 6]
    vectors = Batch.of(inputs, numbered(3, 3), [3, 2, 1], per_sequence=True)  # [B, 3]: a vector for each row
    assert vectors.num_targets == 9 and torch.equal(vectors.targets, numbered(3, 3))
    with pytest.raises(InputError, match=r"targets must be \[3, 3, ...\], as the inputs, got \[3\]"):
        Batch.of(inputs, torch.tensor([4, 5, 6]))
    # Windows and rows of it.
    assert one.window(0, 2).targets.tolist() == [IGNORE, 5, 6]
    assert step.window(1, 3).targets.tolist() == [[4, 5, IGNORE], [7, IGNORE, IGNORE]]
    assert one.rows(torch.tensor([2, 0])).targets.tolist() == [6, 4]
    assert step.rows(torch.tensor([2, 0])).targets.tolist() == [[3, 1], [IGNORE, 4], [IGNORE, 7]]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None,), {}, r"inputs must be tensors \[T, B, ...\], time first"),
        ((torch.zeros(5),), {}, "or one without a batch"),
        (({"a": torch.zeros(5, 2), "b": torch.zeros(4, 2)},), {}, r"the same T and B, got \[4, 2, ...\] and \[5, 2, ...\]"),
        ((torch.zeros(0, 2),), {}, r"at least one step and one sequence, got \[T, B\] = \[0, 2\]"),
        ((torch.zeros(5, 0),), {}, r"got \[T, B\] = \[5, 0\]"),
        ((torch.zeros(5, 2), torch.zeros(2, 5)), {}, r"targets must be \[5, 2, ...\], as the inputs, got \[2, 5\]: put time"),
        ((torch.zeros(5, 2), torch.zeros(5, 2)), {"per_sequence": True}, r"targets must be \[2, ...\], one for each sequence"),
        ((torch.zeros(5, 2), torch.zeros(())), {}, r"targets must be \[5, 2, ...\]"),
        ((torch.zeros(5, 2),), {"context": torch.zeros(5)}, r"context must be \[2, ...\], one for each sequence, got \[5\]"),
        ((torch.zeros(5, 2), torch.zeros(5, 2, dtype=torch.bool)), {}, "must have room for the mask -100, got torch.bool"),
        ((torch.zeros(5, 2), torch.zeros(5, 2, dtype=torch.uint8)), {}, "got torch.uint8: convert them with .long()"),
        (
            (torch.zeros(5, 2), {"a": torch.zeros(5, 2), "b": torch.zeros(5, 2, dtype=torch.bool)}),
            {},
            "got torch.bool: convert",
        ),
        ((torch.zeros(5, 2), None, [5, 6]), {}, "lengths must lie between 0 and T = 5, got 5 to 6"),
        ((torch.zeros(5, 2), None, [-1, 5]), {}, "between 0 and T = 5, got -1 to 5"),
        ((torch.zeros(5, 2), None, [5]), {}, r"must be whole numbers \[2\], one for each sequence, got torch.int64 \[1\]"),
        ((torch.zeros(5, 2), None, [5.0, 2.0]), {}, "got torch.float32"),
    ],
)  # fmt: skip
def test_what_is_no_batch_is_refused(arguments, options, message):
    with pytest.raises(InputError, match=message) as error:
        Batch.of(*arguments, **options)
    assert "\n" not in str(error.value)


ragged = st.tuples(st.integers(1, 9), st.integers(1, 4)).flatmap(
    lambda size: st.tuples(
        st.just(size),
        st.one_of(st.none(), st.lists(st.integers(0, size[0]), min_size=size[1], max_size=size[1])),
        st.lists(st.integers(1, size[0]), max_size=4),
        st.booleans(),
        st.booleans(),
    )
)


@given(ragged)
def test_windows_hold_each_target_once(case):
    (steps, size), lengths, cuts, per_sequence, real = case
    shape = (size,) if per_sequence else (steps, size)
    targets = {"a": numbered(*shape), "b": numbered(*shape, 2)}
    if real:
        targets = {name: leaf.float() for name, leaf in targets.items()}
    whole = Batch.of(
        {"x": numbered(steps, size)}, targets, lengths, context=numbered(size), per_sequence=per_sequence
    )
    places = sorted({0, steps, *cuts})
    windows = [whole.window(start, stop) for start, stop in itertools.pairwise(places)]
    for name, leaf in whole.targets.items():
        kept = torch.cat([window.targets[name][unmasked(window.targets[name])] for window in windows])
        assert sorted(kept.tolist()) == sorted(leaf[unmasked(leaf)].tolist())
        assert all(window.targets[name].dtype == leaf.dtype for window in windows)
    assert sum(count_targets(window.targets) for window in windows) == whole.num_targets
    assert torch.equal(torch.cat([window.inputs["x"] for window in windows]), whole.inputs["x"])
    assert [window.reset for window in windows] == [True] + [False] * (len(windows) - 1)
    assert all(window.num_targets == whole.num_targets for window in windows)  # what a mean divides by
    assert all(window.context is whole.context for window in windows)
    if lengths is not None:
        assert torch.equal(torch.stack([window.lengths for window in windows]).sum(0), whole.lengths)
        assert all(int(window.lengths.max()) <= window.steps for window in windows)
    # A window of a window is the window.
    for start in range(steps - 1):
        assert same(whole.window(start, steps).window(1, steps - start), whole.window(start + 1, steps))


def same(left, right):
    def equal(a, b):
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and a.shape == b.shape and a.nan_to_num(-7).equal(b.nan_to_num(-7))
        return a == b

    return all(equal(a, b) for a, b in zip(left, right, strict=True))


def test_the_target_of_a_sequence_is_in_the_window_in_which_it_ends():
    batch = Batch.of(numbered(T, 4), numbered(4), [7, 3, 4, 0], per_sequence=True)
    windows = [batch.window(0, 3), batch.window(3, 6), batch.window(6, 7)]
    assert [window.targets.tolist() for window in windows] == [
        [IGNORE, 2, IGNORE, 4],  # a row of no steps ends at once
        [IGNORE, IGNORE, 3, IGNORE],
        [1, IGNORE, IGNORE, IGNORE],
    ]
    assert [window.lengths.tolist() for window in windows] == [[3, 3, 3, 0], [3, 0, 1, 0], [1, 0, 0, 0]]
    equal = Batch.of(
        numbered(T, 2), numbered(2).float(), per_sequence=True
    )  # no lengths: all end at the last step
    assert equal.window(0, 6).targets.isnan().all()
    assert equal.window(6, 7).targets.tolist() == [1.0, 2.0]


def test_the_window_of_everything_is_the_batch_itself_and_others_are_views():
    batch = Batch.of(numbered(T, B), numbered(T, B))
    assert batch.window(0, T) is batch
    assert batch.window(0, T + 5) is batch
    assert batch.window(2, 5).inputs.untyped_storage().data_ptr() == batch.inputs.untyped_storage().data_ptr()
    later = Batch.of(numbered(T, B), reset=False)
    assert not later.window(0, 3).reset


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([2, 0]), torch.tensor([True, False, True])])
@pytest.mark.parametrize("per_sequence", [False, True])
def test_rows_have_their_own_count(index, per_sequence):
    targets = numbered(B, 2) if per_sequence else numbered(T, B, 2)
    targets.view(-1)[0] = IGNORE
    batch = Batch.of(
        (numbered(T, B),), targets, [7, 4, 2], context={"c": numbered(B, 5)}, per_sequence=per_sequence
    )
    part = batch.rows(index)
    chosen = torch.arange(B)[index]
    again = Batch.of(
        (numbered(T, B)[:, chosen],),
        targets[chosen] if per_sequence else targets[:, chosen],
        torch.tensor([7, 4, 2])[chosen],
        context={"c": numbered(B, 5)[chosen]},
        per_sequence=per_sequence,
    )
    assert torch.equal(part.inputs[0], again.inputs[0])
    assert torch.equal(part.context["c"], again.context["c"])
    assert same(part[1:3], again[1:3]) and part[4:] == again[4:]
    assert part.num_targets != batch.num_targets


def test_lengths_stay_on_the_cpu():
    batch = Batch.of({"x": numbered(T, B)}, numbered(T, B), torch.tensor(LENGTHS), context=numbered(B)).to(
        "meta"
    )
    assert batch.inputs["x"].device.type == batch.targets.device.type == batch.context.device.type == "meta"
    assert batch.lengths.device.type == "cpu"


def test_a_model_gets_lengths_and_context_only_where_there_are_any():
    calls = []

    def model(inputs, state, **extra):
        calls.append((state, sorted(extra)))
        return inputs, "next"

    assert Batch.of(numbered(T, B)).run(model, "state")[1] == "next"
    Batch.of(numbered(T, B), lengths=LENGTHS).run(model)
    Batch.of(numbered(T, B), lengths=LENGTHS, context=numbered(B)).run(model, 1)
    assert calls == [("state", []), (None, ["lengths"]), (1, ["context", "lengths"])]


def test_masking_spreads_over_the_axes_of_the_target():
    kept = torch.tensor([True, False])
    found = masked({"a": numbered(2, 3), "b": numbered(2).double()}, kept)
    assert found["a"].tolist() == [[1, 2, 3], [IGNORE] * 3]
    assert found["b"][0] == 1 and found["b"][1].isnan()
