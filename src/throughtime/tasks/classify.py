"""Classification: one label for each text, or for each sequence of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from throughtime.tasks.classify_numbers import Numbers
from throughtime.tasks.classify_texts import Texts
from throughtime.tasks.labelled import LabelledTask
from throughtime.tasks.task import data_option


@dataclass(frozen=True)
class ClassifyTask(LabelledTask):
    """Train a classifier of texts, or of sequences of numbers.

    Texts: CSV, TSV or JSON lines with a text and a label, a folder with one folder of text files for each class, or a folder
    with one file of lines for each class. Numbers: a long table, CSV or TSV, with a row for each step and the columns sequence,
    label and any that hold numbers; .npz with arrays x and y; images in IDX files, whose rows or pixels are the steps.
    Examples that are equal (texts but for case and spaces) stay on one side of a split, and each class keeps its fraction in
    every part. Without --data it learns which exception an error message belongs to, on the messages in Python's own standard
    library, or, with --kind numbers, round what shape a ball moves.
    """

    name = "classify"
    reads = "texts: CSV, TSV, JSON lines, a folder per class; numbers: long CSV, .npz, IDX"
    examples = (
        "throughtime train classify",
        "throughtime train classify --data train.csv --test test.csv --label category",
        "throughtime train classify --data names --cell gru --hidden 128 --bidirectional",
        "throughtime train classify --data reviews.jsonl --tokens word --pooling attention",
        "throughtime train classify --kind numbers --cell gru",
        "throughtime train classify --data train-images-idx3-ubyte.gz --test t10k-images-idx3-ubyte.gz",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden": 128, "bptt": "full", "batch": 32, "epochs": 20.0, "dropout": 0.2, "lr": 3e-3,
    }  # fmt: skip

    kind: str | None = data_option(
        None,
        "text or numbers. Default: as the data shows; text without data.",
        metavar="KIND",
        choices=("text", "numbers"),
    )
    features: tuple[str, ...] = data_option(
        (), "Columns of numbers in a long table; repeat for more, or put commas. Default: all that hold numbers.",
        metavar="NAME[,NAME...]",
    )  # fmt: skip
    scale: str | None = data_option(
        None, "Numbers less their mean in the training part, divided by their deviation: each feature by its own, all by one, or "
        "none. Default: each, and all for images.", metavar="HOW", choices=("each", "all", "none"),
    )  # fmt: skip
    steps_of: str = data_option(
        "rows",
        "A step of an image is one of its rows, or one of its pixels.",
        metavar="WHAT",
        choices=("rows", "pixels"),
    )
    permute: int | None = data_option(
        None,
        "Put the numbers of every sequence into one random order, drawn from this seed.",
        metavar="SEED",
        low=0,
    )

    def with_full_paths(self) -> Self:
        """Also with the kind of the data, and the columns of a long table, so that the run's config.toml says what it read."""
        found = super().with_full_paths()
        if not isinstance(self._inputs, Numbers):
            return replace(found, kind="text")
        from throughtime.data.readers.series import found_features

        features = self.features
        if not features and self.data:
            features = found_features(self.data[0], label=self.label or "label", others=self._others)
        return replace(found, kind="numbers", features=features)

    @property
    def _inputs(self) -> Texts | Numbers:
        """What is done with texts, or with numbers: asked for, recorded in the run, or found in the data."""
        if self.kind is None and self.data:
            from throughtime.data.readers.series import holds_series

            return Numbers(self) if holds_series(self.data[0], self.text or "text") else Texts(self)
        return Numbers(self) if self.kind == "numbers" else Texts(self)
