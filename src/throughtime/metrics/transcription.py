"""Error rates of transcripts: edits between what was said and what was written, by character and by word."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from throughtime.data.batch import IGNORE, Batch
from throughtime.metrics.metric import Metric

Decode = Callable[[Any], list[list[int]]]  # a model's outputs to the symbols of each row
Text = Callable[[Sequence[int]], str]  # symbols to a text


def edit_distance(reference: Sequence[Any], hypothesis: Sequence[Any]) -> int:
    """The fewest insertions, deletions and substitutions, each counted 1, that turn one sequence into the other.

    Cost: O(n m) time in numpy, O(m) memory. Source: Levenshtein 1966, Soviet Physics Doklady 10(8).
    """
    if not len(reference) or not len(hypothesis):
        return max(len(reference), len(hypothesis))
    numbers: dict[Any, int] = {}
    first, second = (
        np.array([numbers.setdefault(each, len(numbers)) for each in side])
        for side in (reference, hypothesis)
    )
    columns = np.arange(len(second) + 1)
    row = columns.copy()
    for number, symbol in enumerate(first, 1):
        changed = np.empty_like(row)
        changed[0] = number
        changed[1:] = np.minimum(row[:-1] + (second != symbol), row[1:] + 1)
        # An insertion costs 1 more than the place before it: min over k <= j of changed[k] + (j - k).
        row = np.minimum.accumulate(changed - columns) + columns
    return int(row[-1])


class Breakdown(NamedTuple):
    """Classes of a condition of the recordings, such as the level of noise."""

    title: str
    classes: tuple[str, ...]
    of: Mapping[str, int]  # the class of a reference, by its text


class ErrorRate(Metric):
    """Edits over the length of the references: totals are both, so that batches, files and processes add up.

    Above 1 where more is written than was said. NaN without references.
    Args: decode, the symbols of each row of the model's outputs; text, of symbols; breakdowns, for tables in the model card;
    beside, other decoders to show in them, asked for when they are made: name -> totals of a metric of the same breakdowns.
    Totals are [1 + all classes, 2]: of everything, then of each class of each breakdown.
    """

    higher_is_better: ClassVar[bool] = False

    def __init__(
        self,
        decode: Decode,
        text: Text,
        breakdowns: Sequence[Breakdown] = (),
        beside: Callable[[], Mapping[str, Tensor]] = dict,
    ) -> None:
        super().__init__((1 + sum(len(each.classes) for each in breakdowns), 2))
        self.decode, self.text = decode, text
        self.breakdowns, self.beside = tuple(breakdowns), beside

    @staticmethod
    @abstractmethod
    def units(text: str) -> Sequence[str]:
        """What is counted of a text."""

    @classmethod
    def counts(cls, reference: str, hypothesis: str) -> tuple[int, int]:
        """(edits, length of the reference) of one transcript."""
        units = cls.units(reference)
        return edit_distance(units, cls.units(hypothesis)), len(units)

    def add(self, reference: str, hypothesis: str) -> None:
        """Take in one transcript."""
        counts = torch.tensor(self.counts(reference, hypothesis), dtype=torch.float64)
        self.totals[0] += counts
        first = 1
        for each in self.breakdowns:
            if (place := each.of.get(reference)) is not None:
                self.totals[first + place] += counts
            first += len(each.classes)

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        for symbols, found in zip(references(batch), self.decode(outputs), strict=True):
            self.add(self.text(symbols), self.text(found))

    def value(self) -> float:
        edits, length = self.totals[0].tolist()
        return edits / length if length else float("nan")

    def details(self) -> str:
        """A table for each breakdown, Markdown: a row for each decoder, a column for each class."""
        rows = {"this model": self.totals} | dict(self.beside()) if self.breakdowns else {}
        tables, first = [], 1
        for each in self.breakdowns:
            stop = first + len(each.classes)
            lines = [[f"{self.name} by {each.title}", *each.classes], ["---"] * (1 + len(each.classes))]
            lines += [[name, *map(_rate, totals[first:stop].tolist())] for name, totals in rows.items()]
            tables.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
            first = stop
        return "\n\n".join(tables)


class CharacterErrorRate(ErrorRate):
    """Edits of characters, spaces included."""

    name: ClassVar[str] = "cer"
    convention: ClassVar[str] = (
        "character edits over the characters of the references, spaces between words included, summed over the whole part "
        "(jiwer's cer); greedy decoding; both texts normalised as for training; a character that the training part has not is "
        "an error"
    )

    @staticmethod
    def units(text: str) -> Sequence[str]:
        return text


class WordErrorRate(ErrorRate):
    """Edits of words."""

    name: ClassVar[str] = "wer"
    convention: ClassVar[str] = (
        "word edits over the words of the references, words being what spaces separate, summed over the whole part (jiwer's "
        "wer); otherwise as cer"
    )

    @staticmethod
    def units(text: str) -> Sequence[str]:
        return text.split()


def references(batch: Batch) -> list[list[int]]:
    """The target symbols of each row of a batch: targets [B, U], IGNORE behind them."""
    return [[symbol for symbol in row if symbol != IGNORE] for row in batch.targets.tolist()]


def _rate(totals: Sequence[float]) -> str:
    edits, length = totals
    return f"{edits / length:.1%}" if length else ""
