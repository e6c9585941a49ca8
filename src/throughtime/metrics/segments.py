"""Metrics of a label for each frame that look at segments: runs of frames with one label.

Source: Lea, Flynn, Vidal, Reiter & Hager 2017, Temporal Convolutional Networks for Action Segmentation and Detection, CVPR.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from throughtime.data.batch import Batch, unmasked
from throughtime.errors import InputError
from throughtime.metrics.metric import Metric


class Segment(NamedTuple):
    """Frames start .. stop-1, all with one label."""

    label: int
    start: int
    stop: int


def segments(labels: ArrayLike) -> list[Segment]:
    """The runs of equal labels in a sequence [t], in their order; of no frames none."""
    found: NDArray[Any] = np.asarray(labels)
    if found.ndim != 1:
        raise InputError(f"labels must be [t], one for each frame, got {list(found.shape)}")
    if len(found) == 0:
        return []
    starts = [0, *(np.flatnonzero(found[1:] != found[:-1]) + 1).tolist()]
    stops = [*starts[1:], len(found)]
    return [Segment(int(found[start]), start, stop) for start, stop in zip(starts, stops, strict=True)]


def edit_score(targets: ArrayLike, predictions: ArrayLike) -> float:
    """1 - Levenshtein distance of the two sequences of segments' labels / the larger number of segments; 1 of no frames.

    It does not depend on how long segments are: it counts those that are too many, missing, wrong or out of order.
    Cost: the product of the numbers of segments.
    """
    first, second = ([each.label for each in segments(labels)] for labels in (targets, predictions))
    if not first and not second:
        return 1.0
    row = list(range(len(second) + 1))  # distances of the empty beginning of `first`
    for number, label in enumerate(first, 1):
        diagonal, row[0] = row[0], number
        for place, other in enumerate(second, 1):
            diagonal, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, diagonal + (label != other)),
            )
    return 1 - row[-1] / max(len(first), len(second))


def overlap_counts(targets: ArrayLike, predictions: ArrayLike, overlap: float) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of predicted segments.

    A predicted segment is compared with the target segment of its label that it overlaps most (intersection over union of their
    frames). It is a true positive where that is at least `overlap` and no segment before it was one for the same target segment.
    Target segments without one are the false negatives.
    """
    wanted = segments(targets)
    taken = [False] * len(wanted)
    positives = 0
    found = segments(predictions)
    for segment in found:
        best, place = 0.0, -1
        for number, target in enumerate(wanted):
            shared = min(segment.stop, target.stop) - max(segment.start, target.start)
            if target.label != segment.label or shared <= 0:
                continue
            ratio = shared / (max(segment.stop, target.stop) - min(segment.start, target.start))
            if ratio > best:
                best, place = ratio, number
        if place >= 0 and best >= overlap and not taken[place]:
            taken[place] = True
            positives += 1
    return positives, len(found) - positives, len(wanted) - positives


class EditScore(Metric):
    """The mean over sequences of `edit_score`. Outputs [T, B, C] with targets [T, B]; masked frames are left out."""

    name: ClassVar[str] = "edit"
    convention: ClassVar[str] = (
        "1 - edit distance between the labels of the segments / the larger number of them, mean over sequences (Lea et al. 2017)"
    )

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        for targets, predictions in _rows(outputs, batch):
            self.totals[0] += edit_score(targets, predictions)
            self.totals[1] += 1

    def value(self) -> float:
        return float(self.totals[0] / self.totals[1]) if float(self.totals[1]) else float("nan")


class OverlapF1(Metric):
    """F1 over segments, a predicted one right where it overlaps a target one enough: 2 TP / (2 TP + FP + FN).

    The counts of `overlap_counts` are summed over all sequences. Outputs [T, B, C] with targets [T, B]; masked frames are left
    out. Args: percent, the least overlap: 10, 25 and 50 are usual.
    """

    convention: ClassVar[str] = (
        "F1 of segments whose intersection over union with a target segment is at least so many %, counts summed over sequences "
        "(Lea et al. 2017)"
    )

    def __init__(self, percent: int) -> None:
        super().__init__(3)
        if not 0 < percent <= 100:
            raise InputError(f"percent must be above 0 and at most 100, got {percent}")
        self.name = f"f1@{percent}"  # type: ignore[misc]
        self.overlap = percent / 100

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        for targets, predictions in _rows(outputs, batch):
            for place, count in enumerate(overlap_counts(targets, predictions, self.overlap)):
                self.totals[place] += count

    def value(self) -> float:
        positives, false_positives, false_negatives = self.totals.tolist()
        whole = 2 * positives + false_positives + false_negatives
        return 2 * positives / whole if whole else float("nan")


def _rows(outputs: Any, batch: Batch) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """(targets, predictions) of each sequence that has a target, its masked frames left out."""
    targets = batch.targets
    if (
        not isinstance(outputs, Tensor)
        or not isinstance(targets, Tensor)
        or outputs.dim() != 3
        or outputs.shape[:2] != targets.shape
    ):
        raise InputError(
            f"expected outputs [T, B, C] for targets [T, B], got {list(getattr(outputs, 'shape', ()))} for "
            f"{list(getattr(targets, 'shape', ()))}"
        )
    predictions, kept = outputs.argmax(-1).cpu().numpy(), unmasked(targets).cpu().numpy()
    wanted = targets.cpu().numpy()
    return [
        (wanted[kept[:, b], b], predictions[kept[:, b], b]) for b in range(batch.size) if kept[:, b].any()
    ]
