"""Classification: one label for each text, each sequence of numbers, or each recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

from throughtime.errors import InputError
from throughtime.options import option
from throughtime.tasks.classify_audio import Sounds, label_pattern
from throughtime.tasks.classify_numbers import Numbers
from throughtime.tasks.classify_texts import Texts
from throughtime.tasks.labelled import LabelledTask
from throughtime.tasks.task import data_option

_audio_option = partial(option, panel="Audio")


@dataclass(frozen=True)
class ClassifyTask(LabelledTask):
    """Train a classifier of texts, of sequences of numbers, or of recordings.

    Texts: CSV, TSV or JSON lines with a text and a label, a folder with one folder of text files for each class, or a folder
    with one file of lines for each class. Numbers: a long table, CSV or TSV, with a row for each step and the columns sequence,
    label and any that hold numbers; .npz with arrays x and y; images in IDX files, whose rows or pixels are the steps.
    Recordings: WAV, FLAC or OGG files in one folder for each class, or named in a table with the columns path and label, or with
    the label in their names (--label-from).
    Examples that are equal (texts but for case and spaces) stay on one side of a split, and each class keeps its fraction in
    every part. Without --data it learns which exception an error message belongs to, on the messages in Python's own standard
    library, or, with --kind numbers, round what shape a ball moves.
    """

    name = "classify"
    reads = (
        "texts: CSV, TSV, JSON lines, a folder per class; numbers: long CSV, .npz, IDX; audio: WAV, FLAC, OGG"
    )
    examples = (
        "throughtime train classify",
        "throughtime train classify --data train.csv --test test.csv --label category",
        "throughtime train classify --data names --cell gru --hidden 128 --bidirectional",
        "throughtime train classify --data reviews.jsonl --tokens word --pooling attention",
        "throughtime train classify --kind numbers --cell gru",
        "throughtime train classify --data words --cell gru --bidirectional --pooling max",
        "throughtime train classify --data train-images-idx3-ubyte.gz --test t10k-images-idx3-ubyte.gz",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden": 128, "bptt": "full", "batch": 32, "epochs": 20.0, "dropout": 0.2, "lr": 3e-3,
    }  # fmt: skip

    kind: str | None = data_option(
        None,
        "text, numbers or audio. Default: as the data shows; text without data.",
        metavar="KIND",
        choices=("text", "numbers", "audio"),
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

    label_from: str | None = _audio_option(
        None, "Regular expression for a file's name without its suffix; its group label is the label, its group group says "
        "what stays together in a split.", metavar="REGEX", check=label_pattern,
    )  # fmt: skip
    rate: int | None = _audio_option(
        None, "Samples in a second; others are resampled. Default: the rate of most of the files.", metavar="HZ", low=100,
        high=10**6,
    )  # fmt: skip
    mels: int = _audio_option(40, "Mel frequency bands of a frame.", metavar="N", low=1, high=1000)
    frame: float = _audio_option(0.025, "Length of a frame.", metavar="SECONDS", above=0, high=10)
    hop: float = _audio_option(0.01, "From a frame to the next.", metavar="SECONDS", above=0, high=10)
    stack: int = _audio_option(
        2, "Frames that are one step: fewer steps, faster training.", metavar="N", low=1, high=1000
    )
    normalize: str = _audio_option(
        "recording", "Take away what is the same in all of a recording (level, microphone, noise), or only scale by the training "
        "part.", metavar="HOW", choices=("recording", "training"),
    )  # fmt: skip
    time_masks: int = _audio_option(
        1, "Spans of a recording that are hidden in training.", metavar="N", low=0, high=100
    )
    frequency_masks: int = _audio_option(
        1, "Spans of mel bands that are hidden in training.", metavar="N", low=0, high=100
    )
    tilt: float = _audio_option(
        2.0, "In training each recording is filtered by a random curve of so many nats.", metavar="X", low=0, high=100
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        pattern = label_pattern(self.label_from)
        if pattern is not None and "group" in pattern.groupindex and self.group is None:
            object.__setattr__(self, "group", "group")

    def with_full_paths(self) -> Self:
        """Also with the kind of the data, and the columns of a long table, so that the run's config.toml says what it read."""
        found, inputs = super().with_full_paths(), self._inputs
        if self.vectors is not None and not isinstance(inputs, Texts):
            raise InputError(f"vectors are of words, and the data has {inputs.unit}s: leave them out")
        if not isinstance(inputs, Numbers):
            return replace(found, kind="text" if isinstance(inputs, Texts) else "audio")
        from throughtime.data.readers.series import found_features

        features = self.features
        if not features and self.data:
            features = found_features(self.data[0], label=self.label or "label", others=self._others)
        return replace(found, kind="numbers", features=features)

    @property
    def _inputs(self) -> Texts | Numbers | Sounds:
        """What is done with the data: asked for, recorded in the run, or found in the data."""
        kinds: dict[str, type[Texts | Numbers | Sounds]] = {
            "text": Texts,
            "numbers": Numbers,
            "audio": Sounds,
        }
        if self.kind is not None or not self.data:
            return kinds[self.kind or "text"](self)
        from throughtime.data.readers.labelled_audio import holds_audio
        from throughtime.data.readers.series import holds_series

        text = self.text or "text"
        if holds_series(self.data[0], text):
            return Numbers(self)
        return Sounds(self) if holds_audio(self.data[0], text) else Texts(self)
