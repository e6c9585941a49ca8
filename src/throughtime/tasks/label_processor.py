"""Texts and sequences of numbers as they arrive, and what a classifier says of what it has read so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from throughtime.data.readers.series import parse_values
from throughtime.sessions.processor import Carried, Processor
from throughtime.tasks.text_processor import TextReader

Decide = Callable[[str, float], dict[str, Any]]


class LabelProcessor(Processor):
    """Answers with the likeliest label of all that was read, and the probability of each label; null before the first step.

    Args: decide: (label, probability) to what an answer also holds.
    """

    def __init__(self, labels: Sequence[str], decide: Decide | None = None) -> None:
        self.labels, self.decide = list(labels), decide

    def about(self) -> dict[str, Any]:
        return {
            "gives": "label: the likeliest for what was read so far; probability: its own; probabilities: of each label",
            "labels": self.labels,
        }

    def write(self, outputs: Tensor, carried: Carried) -> tuple[Any, Carried]:
        if len(outputs):
            carried = {**carried, "probabilities": outputs[-1].cpu().double().softmax(-1).tolist()}
        found = carried.get("probabilities")
        if found is None:
            return {"label": None, "probability": None, "probabilities": None}, carried
        best = max(range(len(found)), key=found.__getitem__)
        answer = {
            "label": self.labels[best],
            "probability": found[best],
            "probabilities": dict(zip(self.labels, found, strict=True)),
        }
        if self.decide is not None:
            answer |= self.decide(self.labels[best], found[best])
        return answer, carried


class TextLabels(LabelProcessor):
    """Of texts. Args: encode, whole symbols of a text to steps [t, ...]; length: no more than so many symbols are read."""

    def __init__(
        self,
        reader: TextReader,
        encode: Callable[[str], Tensor],
        length: int,
        labels: Sequence[str],
        decide: Decide | None = None,
    ) -> None:
        super().__init__(labels, decide)
        self.reader, self.encode, self.length = reader, encode, length

    def about(self) -> dict[str, Any]:
        takes = f"text, in pieces of any size, of which the first {self.length} symbols are read"
        return {"kind": "text", "takes": takes, **super().about()}

    def read(self, data: Any, carried: Carried) -> tuple[Tensor, Carried]:
        return self._read(data, carried, False)

    def flush(self, carried: Carried) -> tuple[Tensor, Carried]:
        return self._read("", carried, True)

    def _read(self, data: Any, carried: Carried, end: bool) -> tuple[Tensor, Carried]:
        text, kept = self.reader.read(data, carried, end)
        count = kept.get("count", 0)
        steps = self.encode(text)[: self.length - count]
        return steps, {**kept, "count": count + len(steps)}


class NumberLabels(LabelProcessor):
    """Of sequences of numbers, in rows of so many features. Args: encode, rows [n, D] to steps [t, ...]; columns, their names."""

    def __init__(
        self, features: int, columns: Sequence[str], encode: Callable[[Tensor], Tensor], labels: Sequence[str]
    ) -> None:
        super().__init__(labels)
        self.features, self.columns, self.encode = features, list(columns), encode

    def about(self) -> dict[str, Any]:
        return {**numbers_about(self.features, self.columns), **super().about()}

    def read(self, data: Any, carried: Carried) -> tuple[Tensor, Carried]:
        return self.encode(rows_of(data, self.features)), carried


def numbers_about(features: int, columns: Sequence[str]) -> dict[str, Any]:
    """What `Processor.about` says of rows of numbers."""
    takes = f"rows: a list of steps, each a list of {features} numbers"
    return {"kind": "numbers", "takes": takes, "features": features, "columns": list(columns)}


def rows_of(data: Any, features: int) -> Tensor:
    """Rows [n, features], float32; n may be 0. Raises: InputError for anything else."""
    if isinstance(data, list | tuple | Tensor) and len(data) == 0:
        return torch.zeros(0, features)
    return parse_values(data, features, "rows")
