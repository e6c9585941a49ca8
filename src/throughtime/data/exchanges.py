"""Dialogues as pairs of a history and the reply to it, and batches in which each reply stands beside other candidates."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from throughtime.data.batch import IGNORE, Batch
from throughtime.data.examples import context_of
from throughtime.data.readers.dialogues import Dialogue
from throughtime.data.split import group_keys

CANDIDATES = 10  # replies that a reply is ranked among, itself included


class Turn(NamedTuple):
    """What one side said."""

    own: bool  # of the side that replies now
    text: str


class Exchange(NamedTuple):
    """A reply, and all turns before it in its dialogue."""

    history: tuple[Turn, ...]
    reply: str


def exchanges_of(
    dialogue: Dialogue, speaker: str | None = None, *, both_sides: bool = False, turns: int | None = None
) -> list[Exchange]:
    """The replies of a dialogue with what was said before them.

    Args: speaker, the one who replies; None: whoever did not begin. both_sides: every turn but the first is a reply. turns: so
    many of the last turns are the history; None: all.
    """
    found = []
    for place in range(1, len(dialogue.turns)):
        who = dialogue.speakers[place]
        answers = who == speaker if speaker is not None else who != dialogue.speakers[0]
        if answers or both_sides:
            first = 0 if turns is None else max(0, place - turns)
            before = zip(dialogue.speakers[first:place], dialogue.turns[first:place], strict=True)
            found.append(
                Exchange(tuple(Turn(each == who, text) for each, text in before), dialogue.turns[place])
            )
    return found


def draw_candidates(replies: Sequence[str], seed: int, count: int = CANDIDATES) -> list[list[int]]:
    """For each reply the numbers of up to count - 1 others with different texts, drawn without replacement.

    Replies that differ only in case and spaces are one text; of those that are equal the first stands for all. Where a split has
    fewer different replies, all others are taken. The same replies and seed give the same candidates on every machine.
    """
    keys = group_keys(replies)
    first: dict[str, int] = {}
    for number, key in enumerate(keys):
        first.setdefault(key, number)
    pool = list(first)
    draws = random.Random(f"candidates/{seed}")
    found = []
    for key in keys:
        drawn = draws.sample(pool, min(count, len(pool)))
        others = [each for each in drawn if each != key][: count - 1]
        found.append([first[each] for each in others])
    return found


def candidate_batches(
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    context: Sequence[Tensor],
    candidates: Sequence[Sequence[int]],
    batch: int,
) -> Iterator[Batch]:
    """Each reply with its candidates behind it, rows with the same history, about `batch` rows at a time, whole groups.

    The targets of candidates are masked, so that losses count the true replies alone; what a candidate's targets would be follows
    from its inputs. See `throughtime.metrics.replies`.
    Args: inputs, [start, y_1, ..., y_n] of each reply; targets; context, the ids of each history; candidates, of
    `draw_candidates`.
    """
    order = sorted(range(len(inputs)), key=lambda number: -len(context[number]))
    rows: list[tuple[int, int]] = []  # history, reply
    for place, number in enumerate(order):
        rows += [(number, number), *((number, other) for other in candidates[number])]
        if len(rows) >= batch or place == len(order) - 1:
            own = [
                targets[reply] if reply == history else torch.full_like(targets[reply], IGNORE)
                for history, reply in rows
            ]
            chosen = [inputs[reply] for _, reply in rows]
            yield Batch.of(
                pad_sequence(chosen),
                pad_sequence(own),
                torch.tensor([len(each) for each in chosen]),
                context=context_of(context, torch.tensor([history for history, _ in rows])),
            )
            rows = []
