"""Metrics of taggers: exact spans, and the tag of each token."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from throughtime.data.batch import IGNORE, Batch, unmasked
from throughtime.data.readers.spans import spans_of, split_tag
from throughtime.errors import InputError
from throughtime.metrics.metric import Metric

Best = Callable[[Any, Tensor | None], Tensor]
"""(outputs, lengths) -> predicted labels [T, B]."""
_CORRECT, _PREDICTED, _EXPECTED = range(3)
_SHOWN = 40  # rows of a table that fits on a page


class SpanF1(Metric):
    """F1 of exact spans, over all types together: 2 correct / (predicted + expected).

    A predicted span is correct if one of the same type has the same first and last token. Tags of any scheme are read as
    conlleval reads them (`throughtime.data.readers.spans.spans_of`). A token whose target is masked is O on both sides.

    Args: tags, such as O, B-PER, I-PER, by the number of the label; best, the predicted labels of the model's outputs.
    Source: Tjong Kim Sang & De Meulder 2003, CoNLL, and its script conlleval.
    """

    name: ClassVar[str] = "f1"
    convention: ClassVar[str] = (
        "exact spans, type and both ends right, over all types together (conlleval's overall FB1, as a fraction)"
    )

    def __init__(self, tags: Sequence[str], best: Best) -> None:
        self.tags, self.best = tuple(tags), best
        types = [(split_tag(tag) or ("", tag))[1] for tag in tags]
        self.types = tuple(dict.fromkeys(each for each in types if each))
        super().__init__((len(self.types), 3))

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        targets, predicted = _both(outputs, batch, self.best)
        numbers = {label: number for number, label in enumerate(self.types)}
        for row in range(batch.size):
            length = int(batch.lengths[row]) if batch.lengths is not None else batch.steps
            expected = targets[row][:length]
            # A masked target is counted on neither side.
            found = [IGNORE if e == IGNORE else p for p, e in zip(predicted[row], expected, strict=False)]
            spans = [set(spans_of([self._tag(number) for number in side])) for side in (found, expected)]
            for column, group in (
                (_CORRECT, spans[0] & spans[1]),
                (_PREDICTED, spans[0]),
                (_EXPECTED, spans[1]),
            ):
                for span in group:
                    self.totals[numbers[span.label], column] += 1

    def value(self) -> float:
        correct, predicted, expected = self.totals.sum(0).tolist()
        return _ratio(2 * correct, predicted + expected)

    def details(self) -> str:
        """Precision, recall and F1 of each type."""
        return _table("Spans by type:", self.types, self.totals)

    def _tag(self, number: int) -> str:
        return "O" if number == IGNORE else self.tags[number]


class SpanPrecision(SpanF1):
    """Correct spans among the predicted ones."""

    name: ClassVar[str] = "precision"
    convention: ClassVar[str] = ""

    def value(self) -> float:
        correct, predicted, expected = self.totals.sum(0).tolist()
        return _ratio(correct, predicted) if predicted or not expected else 0.0

    def details(self) -> str:
        """Nothing: F1 shows them."""
        return ""


class SpanRecall(SpanPrecision):
    """Correct spans among the expected ones."""

    name: ClassVar[str] = "recall"

    def value(self) -> float:
        correct, _, expected = self.totals.sum(0).tolist()
        return _ratio(correct, expected)


class TagAccuracy(Metric):
    """The fraction of unmasked tokens whose tag is right; with a table of all tags. Args: as `SpanF1`."""

    name: ClassVar[str] = "accuracy"

    def __init__(self, tags: Sequence[str], best: Best) -> None:
        self.tags, self.best = tuple(tags), best
        super().__init__((len(self.tags), 3))

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        predicted = self.best(outputs, batch.lengths)
        kept = unmasked(batch.targets)
        expected, found = batch.targets[kept], predicted[kept]
        for column, numbers in (
            (_CORRECT, expected[expected == found]),
            (_PREDICTED, found),
            (_EXPECTED, expected),
        ):
            self.totals[:, column] += numbers.bincount(minlength=len(self.tags)).cpu()

    def value(self) -> float:
        correct, _, expected = self.totals.sum(0).tolist()
        return _ratio(correct, expected)

    def details(self) -> str:
        """Precision, recall and F1 of each tag."""
        return _table("Tokens by tag:", self.tags, self.totals)


def _both(outputs: Any, batch: Batch, best: Best) -> tuple[list[list[int]], list[list[int]]]:
    """Targets and predicted labels of each row."""
    targets = batch.targets
    if not isinstance(targets, Tensor) or targets.dim() != 2 or batch.per_sequence:
        raise InputError("spans are counted in sequences with a label for each step: targets must be [T, B]")
    predicted = best(outputs, batch.lengths)
    if predicted.shape != targets.shape:
        raise InputError(f"predictions must be {list(targets.shape)}, got {list(predicted.shape)}")
    return targets.t().tolist(), predicted.t().tolist()


def _table(title: str, names: Sequence[str], totals: Tensor) -> str:
    rows = [
        (name, int(correct), int(predicted), int(expected))
        for name, (correct, predicted, expected) in zip(names, totals.tolist(), strict=True)
        if predicted or expected
    ]
    rows.sort(key=lambda row: (-row[3], row[0]))
    lines = [title, "", "| | precision | recall | F1 | expected |", "| --- | --- | --- | --- | --- |"]
    for name, correct, predicted, expected in rows[:_SHOWN]:
        scores = (
            _ratio(correct, predicted),
            _ratio(correct, expected),
            _ratio(2 * correct, predicted + expected),
        )
        lines.append(f"| {name} | {' | '.join(_shown(score) for score in scores)} | {expected} |")
    if len(rows) > _SHOWN:
        lines.append(f"| {len(rows) - _SHOWN} more | | | | {sum(row[3] for row in rows[_SHOWN:])} |")
    return "\n".join(lines) if rows else ""


def _shown(score: float) -> str:
    return "" if math.isnan(score) else f"{score:.3f}"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
