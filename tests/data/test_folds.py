"""Folds for cross-validation: disjoint, together everything, groups whole, classes in proportion."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from throughtime.data.split import fold_of, split_examples
from throughtime.errors import InputError


def rows(count=103, classes=5, seed=3):
    """Group keys and labels: groups of one to four rows, the classes of very different sizes."""
    draws = random.Random(seed)
    groups, labels = [], []
    while len(groups) < count:
        label = min(draws.randrange(classes), draws.randrange(classes))
        size = draws.randint(1, 4)
        groups += [f"{label}/{len(groups)}"] * size
        labels += [label] * size
    return groups, labels


@pytest.mark.parametrize("n", [2, 3, 5, 11])
@pytest.mark.parametrize("validation", [0.0, 0.15])
def test_folds_divide_all_rows(n, validation):
    groups, labels = rows()
    total, sizes = Counter(labels), []
    tested: list[int] = []
    for k in range(1, n + 1):
        split = split_examples(
            len(groups), validation=validation, test=0.9, groups=groups, labels=labels, fold=(k, n)
        )
        parts = [set(split.train), set(split.validation), set(split.test)]
        assert sum(map(len, parts)) == len(groups) == len(set.union(*parts))
        of_group = [{groups[row] for row in part} for part in parts]
        assert (
            not of_group[0] & of_group[1] and not of_group[0] & of_group[2] and not of_group[1] & of_group[2]
        )
        assert {labels[row] for row in split.train} == set(total)  # nothing unknown is tested
        for label, count in Counter(labels[row] for row in split.test).items():
            assert count <= total[label] / n + 5
        assert len(split.validation) == pytest.approx(validation * len(groups), abs=6)
        tested += split.test
        sizes.append(len(split.test))
        again = split_examples(len(groups), validation=validation, groups=groups, labels=labels, fold=(k, n))
        assert again == split
    assert sorted(tested) == list(range(len(groups)))
    assert max(sizes) - min(sizes) <= 6


def test_no_class_is_in_one_fold_alone():
    """Two groups of very different size for each class: without care both could go to the fold that is behind."""
    for seed in range(20):
        draws = random.Random(seed)
        labels, groups = [], []
        for label in range(6):
            for group in range(2):
                size = draws.choice([1, 9])
                labels += [label] * size
                groups += [(label, group)] * size
        for k in (1, 2, 3):
            split = split_examples(
                len(labels), validation=0.0, groups=groups, labels=labels, fold=(k, 3), seed=seed
            )
            assert {labels[row] for row in split.train} == set(range(6))


def test_without_a_fold_the_split_is_what_it_was():
    groups, labels = rows()
    split = split_examples(len(groups), validation=0.2, test=0.2, groups=groups, labels=labels)
    assert len(split.test) == pytest.approx(0.2 * len(groups), abs=5)
    folds = [
        split_examples(len(groups), groups=groups, labels=labels, fold=(1, 5), seed=seed).test
        for seed in (0, 1)
    ]
    assert folds[0] != folds[1]


def test_folds_that_cannot_be():
    with pytest.raises(
        InputError, match=r"with folds each label needs two different examples, and 'b' has one"
    ):
        split_examples(5, groups=["x", "y", "z", "b", "b"], labels=["a", "a", "a", "b", "b"], fold=(1, 2))
    with pytest.raises(InputError, match="as many folds as different examples, 4, got 5"):
        split_examples(4, fold=(1, 5), validation=0)
    with pytest.raises(InputError, match="leave some rows to train on"):
        split_examples(10, fold=(1, 2), validation=0.5)
    assert fold_of("2/5") == (2, 5)
    for wrong in ("", "5", "0/5", "6/5", "1/1", "a/b", "1/5/2", "-1/5", "1.5/3", "1 / 5"):
        with pytest.raises(InputError, match="fold must be K/N"):
            fold_of(wrong)


@pytest.mark.parametrize("sizes", [[500] * 6, [1000, 10, 10, 7, 3], [5, 4, 300, 2]])
def test_as_many_folds_as_groups_test_each_group_alone(sizes):
    groups = [name for name, size in enumerate(sizes) for _ in range(size)]
    random.Random(1).shuffle(groups)
    tested = []
    for k in range(1, len(sizes) + 1):
        split = split_examples(len(groups), validation=0.1, groups=groups, fold=(k, len(sizes)))
        (group,) = {groups[row] for row in split.test}
        assert len(split.test) == sizes[group]
        tested.append(group)
    assert sorted(tested) == list(range(len(sizes)))
