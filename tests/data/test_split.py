"""Splits: every row once, groups whole, classes in proportion, and leaks found."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughtime.data.split import Split, check_disjoint, group_keys, split_examples
from throughtime.errors import InputError

rows = st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abcd")), min_size=1, max_size=80)
fractions = st.sampled_from([(0.1, 0.1), (0.2, 0.0), (0.0, 0.3), (0.0, 0.0), (0.45, 0.45)])


@given(rows, fractions, st.integers(0, 5))
def test_every_row_once_and_no_group_in_two_parts(pairs, sizes, seed):
    groups, labels = zip(*pairs, strict=True)
    validation, test = sizes
    split = split_examples(
        len(pairs), validation=validation, test=test, seed=seed, groups=groups, labels=labels
    )
    assert sorted(row for part in split for row in part) == list(range(len(pairs)))
    seen = [{groups[row] for row in part} for part in split]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert split.train
    for part, fraction in ((split.validation, validation), (split.test, test)):
        assert fraction > 0 or not part
        assert all(tuple(sorted(each)) == each for each in split)


@pytest.mark.parametrize("per_class", [3, 10, 100])
def test_sizes_and_classes_are_in_proportion(per_class):
    n, classes = per_class * 77, 77
    labels = [row % classes for row in range(n)]
    split = split_examples(n, validation=0.2, test=0.1, seed=3, labels=labels)
    assert len(split.validation) == pytest.approx(0.2 * n, abs=classes * 0.2 + 2)
    assert len(split.test) == pytest.approx(0.1 * n, abs=classes * 0.1 + 2)
    for part, fraction in zip(split, (0.7, 0.2, 0.1), strict=True):
        counts = Counter(labels[row] for row in part)
        assert all(abs(counts[label] - fraction * per_class) <= 2 for label in range(classes))
    assert set(labels) == {labels[row] for row in split.train}


def test_groups_of_very_different_sizes():
    groups = [0] * 50 + list(range(1, 11))
    for seed in range(10):
        split = split_examples(60, validation=0.1, seed=seed, groups=groups)
        assert len(split.validation) == 6 and set(range(50)) <= set(split.train)
    small = split_examples(1000, validation=0.1, seed=1, groups=[row // 2 for row in range(1000)])
    assert abs(len(small.validation) - 100) <= 2


def test_the_seed_decides_and_is_the_same_on_every_machine():
    assert split_examples(12, validation=0.25, seed=0) == split_examples(12, validation=0.25, seed=0)
    assert split_examples(12, validation=0.25, seed=0) == EXPECTED
    assert len({split_examples(40, seed=seed) for seed in range(8)}) == 8


EXPECTED = Split((0, 1, 2, 5, 6, 7, 8, 9, 11), (3, 4, 10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0.5, "test": 0.5}, "leave some rows to train on, got 0.5 and 0.5"),
        ({"validation": -0.1}, "fractions from 0"),
        ({"validation": float("nan")}, "fractions from 0"),
        ({"groups": [1]}, "groups must be one for each of the 4 rows, got 1"),
        ({"labels": [1] * 5}, "labels must be one for each of the 4 rows, got 5"),
    ],
)
def test_what_cannot_be_split_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        split_examples(4, **options)


def test_leaks_between_parts_are_counted():
    assert group_keys([" Ａ  card\n", "a CARD"]) == ["a card", "a card"]
    training, test = ["Lost card", "new card", "new  CARD"], ["New card", "other", "new card", "x" * 99]
    (message,) = check_disjoint(training=training, validation=["else"], test=test)
    assert message.startswith("2 of the 4 test texts are also training texts, such as 'New card'")
    assert check_disjoint(training=training, validation=["else"]) == []
    assert len(check_disjoint(a=["x"], b=["x"], c=["x"])) == 3
