"""Training, validation and test parts of examples, at random and without leaks."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from throughtime.errors import InputError


class Split(NamedTuple):
    """Row numbers of each part, ascending, no row in two parts."""

    train: tuple[int, ...]
    validation: tuple[int, ...] = ()
    test: tuple[int, ...] = ()


def split_examples(
    n: int,
    *,
    validation: float = 0.1,
    test: float = 0.0,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    labels: Sequence[Hashable] | None = None,
    fold: tuple[int, int] | None = None,
) -> Split:
    """Divide rows 0 .. n-1 at random; rows of one group stay together, and each part has about the same fractions of labels.

    Args: groups: a key for each row, for text `group_keys(texts)`, so that no text is in two parts; None: every row alone.
    labels: a class for each row; None: only the sizes count. validation, test: fractions of the rows.
    Groups are shuffled, then ordered by class (of a group with several, the most frequent) and size; each goes to the part that
    is furthest behind its fraction of the rows so far. The first of each class is for training, so no class is unknown there.
    fold: (k, n): the test part is the k-th of n folds, whatever `test` is. Those of k = 1 .. n share no row, are all rows
    together, and have about the same fractions of labels; as every group is tested once, each class needs two groups.
    The same seed gives the same split on every machine.
    Raises: InputError for fractions below 0 or that leave nothing to train on, keys that are not one for each row, or folds that
        cannot be made.
    Cost: O(n log n).
    """
    if fold is not None:
        test = 1 / fold[1]
    fractions = {"train": 1 - validation - test, "validation": validation, "test": test}
    if not (validation >= 0 and test >= 0 and fractions["train"] > 0):  # so NaN is refused too
        raise InputError(
            f"validation and test must be fractions from 0 up to 1 that leave some rows to train on, got {validation} and {test}"
        )
    for name, keys in (("groups", groups), ("labels", labels)):
        if keys is not None and len(keys) != n:
            raise InputError(f"{name} must be one for each of the {n} rows, got {len(keys)}")
    members: defaultdict[Hashable, list[int]] = defaultdict(list)
    for row in range(n):
        members[row if groups is None else groups[row]].append(row)
    shuffled = list(members.values())
    random.Random(f"split/{seed}").shuffle(shuffled)
    shuffled.sort(key=len, reverse=True)  # stable; the small groups even out what the large ones leave
    by_class: dict[Hashable, list[list[int]]] = (
        {label: [] for label in labels} if labels is not None else {0: []}
    )
    for rows in shuffled:
        label = Counter(labels[row] for row in rows).most_common(1)[0][0] if labels is not None else 0
        by_class[label].append(rows)
    tested: tuple[int, ...] = ()
    if fold is not None:
        tested = _fold(by_class, *fold)
        held = set(tested)
        for label, of_class in by_class.items():
            by_class[label] = [rows for rows in of_class if rows[0] not in held]
        fractions = {"train": 1 - validation / (1 - test), "validation": validation / (1 - test)}
    parts = _dealt(by_class, fractions, first="train")
    return Split(**{"test": tested, **{part: _rows(groups) for part, groups in parts.items()}})


def _fold(by_class: dict[Hashable, list[list[int]]], k: int, n: int) -> tuple[int, ...]:
    """The rows of the k-th of n folds.

    Raises: InputError for a class of one group, which would be unknown where it is tested, and for more folds than groups.
    """
    if alone := [label for label, of_class in by_class.items() if len(of_class) == 1]:
        raise InputError(
            f"with folds each label needs two different examples, and {alone[0]!r} has one: give it more, or leave it out"
        )
    count = sum(map(len, by_class.values()))
    if n > count:
        raise InputError(f"there can be as many folds as different examples, {count}, got {n}")
    return _rows(_dealt(by_class, dict.fromkeys(range(n), 1 / n))[k - 1])


def _dealt(
    by_class: dict[Hashable, list[list[int]]], fractions: dict[Any, float], first: Any = None
) -> dict[Any, list[list[int]]]:
    """The groups of each part: each goes to the part that is furthest behind its fraction of the rows so far.

    The first group of a class goes to `first`, if it is given; else the second goes to another part than the first, so that no
    part has a whole class.
    """
    parts: dict[Any, list[list[int]]] = {part: [] for part in fractions}
    behind = dict.fromkeys(fractions, 0.0)  # rows that a part should have by now, less those that it has
    for of_class in by_class.values():
        taken = None
        for place, rows in enumerate(of_class):
            for part, fraction in fractions.items():
                behind[part] += fraction * len(rows)
            wanted = [
                part
                for part in fractions
                if fractions[part] > 0 and (first is not None or place != 1 or part != taken)
            ]
            taken = first if place == 0 and first is not None else max(wanted, key=behind.__getitem__)
            behind[taken] -= len(rows)
            parts[taken].append(rows)
    return parts


def _rows(groups: list[list[int]]) -> tuple[int, ...]:
    return tuple(sorted(row for rows in groups for row in rows))


def fold_of(spec: str, name: str = "fold") -> tuple[int, int]:
    """Read "2/5": the second of five folds.

    Raises: InputError naming the argument.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", spec)
    if found is None or not (1 <= int(found[1]) <= int(found[2]) and int(found[2]) >= 2):
        raise InputError(
            f"{name} must be K/N, the K-th of N folds, as in 1/5, with N at least 2, got {spec!r}"
        )
    return int(found[1]), int(found[2])


def group_keys(texts: Sequence[str]) -> list[str]:
    """A key for each text; texts that differ only in case, white space or Unicode form have the same one."""
    return [" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts]


def check_disjoint(**parts: Sequence[str]) -> list[str]:
    """One sentence for each two parts that share texts (compared as `group_keys` does); an empty list where none do.

    Nothing is removed: a published test set stays comparable with what others report, and the user is told how many of its
    texts were trained on. Example: `check_disjoint(training=a, validation=b, test=c)`.
    """
    keys = {name: group_keys(texts) for name, texts in parts.items()}
    names = list(parts)
    found = []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            known = dict(zip(reversed(keys[first]), reversed(parts[first]), strict=True))
            shared = [text for text, key in zip(parts[second], keys[second], strict=True) if key in known]
            if shared:
                example = shared[0] if len(shared[0]) <= 60 else shared[0][:60] + "..."
                found.append(
                    f"{len(shared):,} of the {len(keys[second]):,} {second} texts are also {first} texts, such as "
                    f"{example!r}: they are kept, and results on the {second} part are too good by that"
                )
    return found
