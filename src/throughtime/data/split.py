"""Training, validation and test parts of examples, at random and without leaks."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

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
) -> Split:
    """Divide rows 0 .. n-1 at random; rows of one group stay together, and each part has about the same fractions of labels.

    Args: groups: a key for each row, for text `group_keys(texts)`, so that no text is in two parts; None: every row alone.
    labels: a class for each row; None: only the sizes count. validation, test: fractions of the rows.
    Groups are shuffled, then ordered by class (of a group with several, the most frequent) and size; each goes to the part that
    is furthest behind its fraction of the rows so far. The first of each class is for training, so no class is unknown there.
    The same seed gives the same split on every machine.
    Raises: InputError for fractions below 0 or that leave nothing to train on, or keys that are not one for each row.
    Cost: O(n log n).
    """
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
    parts: dict[str, list[int]] = {part: [] for part in fractions}
    behind = dict.fromkeys(fractions, 0.0)  # rows that a part should have by now, less those that it has
    for of_class in by_class.values():
        for place, rows in enumerate(of_class):
            for part, fraction in fractions.items():
                behind[part] += fraction * len(rows)
            wanted = [part for part in fractions if fractions[part] > 0]
            part = "train" if place == 0 else max(wanted, key=behind.__getitem__)
            behind[part] -= len(rows)
            parts[part].extend(rows)
    return Split(**{part: tuple(sorted(rows)) for part, rows in parts.items()})


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
