"""Metrics of classifiers: of a class for each sequence, or of a class for each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from throughtime.data.batch import Batch, unmasked
from throughtime.errors import InputError
from throughtime.metrics.metric import Metric

_SHOWN = 15  # classes of a confusion matrix that fits on a page


class Accuracy(Metric):
    """The fraction of unmasked targets that the largest output predicts; for any number of classes, also a vocabulary.

    Outputs [B, C] with targets [B], or [T, B, C] with [T, B].
    """

    name: ClassVar[str] = "accuracy"

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        targets, predictions = compared(outputs, batch)
        self.totals[0] += int((targets == predictions).sum())
        self.totals[1] += targets.numel()

    def value(self) -> float:
        return _ratio(self.totals[0], self.totals[1])


class ConfusionMatrix(Metric):
    """Counts [C, C] of unmasked targets: row = the target's class, column = the predicted class. Its value is the accuracy.

    Outputs [B, C] with targets [B], or [T, B, C] with [T, B]. Accuracy and macro-F1 both follow from these counts:
    `accuracy(counts)`, `macro_f1(counts)`. Memory: 8 C^2 bytes.
    """

    name: ClassVar[str] = "confusion"

    def __init__(self, classes: int) -> None:
        super().__init__((classes, classes))

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        classes = len(self.totals)
        targets, predictions = compared(outputs, batch)
        for what, numbers in (("targets", targets), ("predictions", predictions)):
            if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes:
                raise InputError(
                    f"{what} must be classes 0 to {classes - 1}, got {int(numbers.min())} to {int(numbers.max())}"
                )
        counts = torch.bincount(targets * classes + predictions, minlength=classes * classes)
        self.totals += counts.view(classes, classes).cpu()

    def value(self) -> float:
        return accuracy(self.totals)

    def table(self, labels: Sequence[str]) -> list[list[str]]:
        """Rows of text for a table: a header, then for each target class its name, its counts by predicted class, its recall.

        Raises: InputError unless there is one label for each class.
        """
        if len(labels) != len(self.totals):
            raise InputError(f"expected {len(self.totals)} labels, one for each class, got {len(labels)}")
        rows = [["target", *labels, "recall"]]
        for label, counts in zip(labels, self.totals.long().tolist(), strict=True):
            recall = f"{counts[len(rows) - 1] / sum(counts):.3f}" if sum(counts) else ""
            rows.append([label, *map(str, counts), recall])
        return rows


class MacroF1(ConfusionMatrix):
    """The mean of the classes' F1 scores; see `macro_f1` for the classes that count."""

    name: ClassVar[str] = "macro_f1"
    convention: ClassVar[str] = (
        "mean F1 over the classes that occur among targets or predictions, 0 for one never right (scikit-learn's)"
    )

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(len(labels))
        self.labels = labels

    def value(self) -> float:
        return macro_f1(self.totals)

    def details(self) -> str:
        """The confusion matrix, or of many classes the pairs that are most often confused."""
        if len(self.labels) <= _SHOWN:
            head, *rows = self.table(self.labels)
            lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
            return "\n".join(
                ["Confusion matrix, a row for each target, a column for each prediction:", "", *lines]
            )
        wrong = self.totals.clone().fill_diagonal_(0)
        counts, places = wrong.flatten().topk(_SHOWN)
        lines = [
            f"- {self.labels[place // len(self.labels)]} as {self.labels[place % len(self.labels)]}: {int(count)}"
            for count, place in zip(counts.tolist(), places.tolist(), strict=True)
            if count
        ]
        return "\n".join(["The most frequent confusions, target as prediction:", "", *lines]) if lines else ""


def accuracy(counts: Tensor) -> float:
    """The fraction of correct predictions, from counts [C, C]; NaN if there are none."""
    return _ratio(counts.diagonal().sum(), counts.sum())


def macro_f1(counts: Tensor) -> float:
    """The mean F1 score of the classes, from counts [C, C] (row: target, column: prediction); NaN if there are none.

    The mean is over the classes that occur among the targets or the predictions; one that is never predicted correctly has 0.
    This is scikit-learn's `f1_score(targets, predictions, average="macro", zero_division=0)`, its labels left at their default.
    F1 of a class = 2 TP / (2 TP + FP + FN).
    """
    counts = counts.double()
    occurrences = counts.sum(0) + counts.sum(1)  # 2 TP + FP + FN
    present = occurrences > 0
    if not bool(present.any()):
        return float("nan")
    return float((2 * counts.diagonal()[present] / occurrences[present]).mean())


def compared(outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The unmasked targets and the predicted classes, int64 [n] each."""
    targets = batch.targets
    if (
        not isinstance(outputs, Tensor)
        or not isinstance(targets, Tensor)
        or outputs.shape[:-1] != targets.shape
    ):
        shapes = [
            list(each.shape) if isinstance(each, Tensor) else type(each).__name__
            for each in (outputs, targets)
        ]
        raise InputError(
            f"expected outputs [..., C] for targets [...] of the same leading shape, got {shapes[0]} for {shapes[1]}"
        )
    if targets.is_floating_point():
        raise InputError(f"expected class numbers as targets, got {targets.dtype}")
    kept = unmasked(targets)
    return targets[kept].long(), outputs.argmax(-1)[kept]


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if float(whole) else float("nan")
