"""Video: a label for every frame."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks.classify_numbers import names_of
from throughtime.tasks.files import ExamplesTask, check_part, check_sources, reading_again
from throughtime.tasks.task import Record, data_option, field_of, run_one

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.readers.series import Series
    from throughtime.data.text import Source
    from throughtime.metrics import Metric
    from throughtime.sessions.processor import Processor

PARTS = ("train", "validation", "test")


def check_size(value: Any, name: str) -> None:
    """Raise InputError unless there are two numbers."""
    if len(value) != 2:
        raise InputError(f"{name} must be ROWS,COLUMNS, two numbers, got {','.join(map(str, value))}")


@dataclass(frozen=True)
class FramesTask(ExamplesTask):
    """Train a model that gives a label to every frame of a video.

    Reads folders of images, one folder for each sequence, with labels.csv (sequence, frame, label) or a labels.txt in each;
    .npz with arrays x [N, T, H, W] and y [N, T]; or a long table, CSV or TSV, with a row for each frame and the columns sequence,
    label and any that hold numbers. A small convolutional network turns each image into a vector, and the recurrent layers
    read those. Without --data it learns which way a ball moves among walls, which no single image shows.
    """

    name = "frames"
    shape = "many to many"
    reads = "folders of images, .npz, long CSV"
    examples = (
        "throughtime train frames",
        "throughtime train frames --what bounce --cell gru",
        "throughtime train frames --data videos --size 24,32",
        "throughtime train frames --data sensors.csv --bidirectional",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden": 64, "bptt": "full", "batch": 16, "epochs": 25.0, "lr": 3e-3,
    }  # fmt: skip
    without = ("tied", "window", "pooling", "embedding")
    columns = ("values",)
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "long": (".csv", ".tsv", ".tab"),
        "npz": (".npz",),
        "folder": ("/",),
    }

    test: float | str = data_option(
        0.1, "Test data, evaluated once, after training: a fraction of the data, or a file.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    what: str = data_option(
        "direction", "Of the ball that ships inside: the direction it moves in, where it bounces, or both.", metavar="WHAT",
        choices=("direction", "bounce", "both"),
    )  # fmt: skip
    label: str | None = data_option(
        None, "Column of the label. Default: label, category, class or intent.", metavar="NAME"
    )
    features: tuple[str, ...] = data_option(
        (), "Columns of numbers in a long table; repeat for more, or put commas. Default: all that hold numbers.",
        metavar="NAME[,NAME...]",
    )  # fmt: skip
    size: tuple[int, ...] | None = data_option(
        None, "Scale all images to so many rows and columns. Default: as they are, all of one size.", metavar="ROWS,COLUMNS",
        low=1, high=4096, check=check_size,
    )  # fmt: skip
    color: bool = data_option(False, "Read images in color, three numbers for each pixel; else in gray.")
    encoder: str | None = data_option(
        None, "A frame becomes a vector by cnn, two convolutions, or linear. Default: cnn for images, linear for other numbers.",
        metavar="HOW", choices=("cnn", "linear"),
    )  # fmt: skip
    vector: int = data_option(64, "Numbers that a frame becomes.", metavar="N", low=1, high=65_536)
    scale: str | None = data_option(
        None, "Numbers less their mean in the training part, divided by their deviation: each by its own, all by one, or none. "
        "Default: all for images, else each.", metavar="HOW", choices=("each", "all", "none"),
    )  # fmt: skip
    skip_bad: bool = data_option(
        False, "Leave out sequences with rows that cannot be read, and count the rows."
    )
    split_seed: int = data_option(
        0, "Another seed divides the sequences into other parts.", metavar="N", low=0, high=2**63 - 1
    )

    @property
    def unit(self) -> str:
        return "frame"

    @property
    def title(self) -> str:
        return super().title if self.data else "ball"

    def with_full_paths(self) -> Self:
        """Also with the columns of a long table, so that the run's config.toml says what it read."""
        found = super().with_full_paths()
        if self.features or not self.data:
            return found
        from throughtime.data.readers.series import found_features

        return replace(found, features=found_features(self.data[0], label=self.label or "label"))

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets
        from throughtime.data.readers.series import fit_scale

        assets = Assets()
        series, parts, assets.values["remarks"] = self._read()
        assets.sources, assets.splits, assets.cache["series"] = series.sources, parts, series
        train = parts["train"]
        found = tuple(sorted({label for number in train for label in series.labels[number]}))
        assets.labels = {"label": like.labels["label"] if like else found}
        for part in PARTS:
            there = {label for number in parts[part] for label in series.labels[number]}
            if unknown := sorted(there - set(assets.labels["label"])):
                raise InputError(
                    f"the {part} part has labels that the model cannot give ({', '.join(map(repr, unknown[:5]))}): "
                    "give training sequences with them, or leave them out"
                )
        if len(found) < 2:
            raise InputError(
                f"expected at least two labels to tell apart, got {len(found)}: {', '.join(found)}"
            )
        size = series.values[0].shape[1]
        if like:
            if like.values.get("frames", {}).get("size") != size:
                raise InputError(
                    f"init_from needs frames as those of its own data, got {size} numbers in each"
                )
            assets.values["frames"] = like.values["frames"]
            return assets
        how = self.scale or ("all" if series.frame else "each")
        assets.values["frames"] = {
            "size": size,
            "frame": list(series.frame) if series.frame else None,
            "scale": fit_scale([series.values[number] for number in train], how),
        }
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.models.build import layers
        from throughtime.models.frames import FrameEncoder, FrameModel

        kept = kept_of(assets)
        if not assets.labels.get("label"):
            raise RunError("the run's assets.json is damaged: it has no labels")
        frame = tuple(kept["frame"]) if kept["frame"] else None
        kind = self.encoder or ("cnn" if frame else "linear")
        encoder = FrameEncoder(int(kept["size"]), frame, self.vector, kind)
        recurrent = layers(config, self.vector)
        return FrameModel(
            encoder, recurrent, config.outputs, len(assets.labels["label"]), dropout=config.dropout
        )

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.classification import Accuracy
        from throughtime.metrics.segments import EditScore, OverlapF1

        return [Accuracy(), EditScore(), OverlapF1(10), OverlapF1(25), OverlapF1(50)]

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        import numpy as np

        from throughtime.tasks.baselines.numbers import frames_logistic

        (train, train_labels), (test, targets) = (self._encoded(assets, part) for part in ("train", split))
        counts = Counter(label for labels in train_labels for label in labels.tolist())
        most = counts.most_common(1)[0][0]
        known = [labels.tolist() for labels in train_labels]
        found: dict[str, dict[str, float] | str] = {
            "majority label": self._scores(assets, [np.full(len(each), most) for each in targets], targets)
        }
        for name, difference in (
            ("each frame alone, logistic regression", False),
            ("frame and change since the last, logistic regression", True),
        ):
            try:
                found[name] = self._scores(assets, frames_logistic(train, known, test, difference), targets)
            except InputError as error:  # scikit-learn is not installed
                found[name] = str(error)
        return found

    def predict(self, model: nn.Module, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The likeliest label of each frame of each sequence, as a list."""
        from throughtime.data.readers.series import parse_values, scaled

        kept = kept_of(assets)
        for record in records:
            values = parse_values(field_of(record, self.columns[0]), int(kept["size"]))
            classes = run_one(model, scaled(values, kept["scale"])).argmax(-1).tolist()
            yield {"labels": [assets.labels["label"][number] for number in classes]}

    def predict_file(
        self, model: nn.Module, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
    ) -> str:
        """One row for each frame, with its label and probability; a forward model answers each before it reads the next."""
        from throughtime.tasks.frames_predict import write_predictions

        return write_predictions(self, model, assets, file, out, form=form, skip_bad=skip_bad)

    def processor(self, model: nn.Module, assets: Assets) -> Processor:
        from throughtime.tasks.frames_predict import FrameProcessor

        return FrameProcessor(self, assets)

    def describe(self, assets: Assets) -> str:
        kept = kept_of(assets)
        source = ", ".join(path.rstrip("/").rpartition("/")[2] for path in self.data)
        source = source or "a ball among walls, drawn from a seed"
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        what = (
            f"images of {' x '.join(map(str, kept['frame']))}"
            if kept["frame"]
            else f"{kept['size']} numbers a frame"
        )
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        return (
            f"{source}: {sizes['train']:,} sequences to train on, {sizes['validation']:,} for validation, {sizes['test']:,} for "
            f"test; {len(assets.labels['label'])} labels; {what}{remarks}"
        )

    def _scores(
        self, assets: Assets, predictions: Sequence[Any], targets: Sequence[Tensor]
    ) -> dict[str, float]:
        """The task's metrics of classes [t] for each sequence."""
        import torch

        from throughtime.data.batch import Batch

        metrics, nothing = self.metrics(assets), torch.zeros(())
        for classes, wanted in zip(predictions, targets, strict=True):
            outputs = torch.nn.functional.one_hot(
                torch.as_tensor(classes), len(assets.labels["label"])
            ).float()
            batch = Batch.of(torch.zeros(len(wanted), 1), wanted[:, None])
            for metric in metrics:
                metric.update(outputs[:, None], batch, nothing)
        return {metric.name: metric.value() for metric in metrics}

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], list[Tensor]]:
        """Frames [t, D] and the numbers of their labels [t], of each sequence of a split."""
        import torch

        from throughtime.data.readers.series import scaled

        key = f"encoded/{self.data}/{split}"
        if key not in assets.cache:
            kept, (values, labels) = kept_of(assets), self._columns(assets, split)
            numbers = {label: number for number, label in enumerate(assets.labels["label"])}
            if unknown := sorted({label for each in labels for label in each} - set(numbers)):
                raise InputError(
                    f"the model has no label {unknown[0]!r}: it gives {', '.join(list(numbers)[:10])} ..."
                )
            if values and values[0].shape[1] != kept["size"]:
                raise InputError(
                    f"the model reads frames of {kept['size']} numbers, got {values[0].shape[1]}"
                )
            assets.cache[key] = (
                [scaled(each, kept["scale"]) for each in values],
                [torch.tensor([numbers[label] for label in each]) for each in labels],
            )
        found: tuple[list[Tensor], list[Tensor]] = assets.cache[key]
        return found

    def _columns(self, assets: Assets, split: str) -> tuple[list[Tensor], list[tuple[str, ...]]]:
        """Frames and labels of each sequence of a split."""
        if "series" not in assets.cache or split == "all":
            with nullcontext() if split == "all" else reading_again():
                series, _, _ = self._read()
            if split == "all":
                return series.values, series.labels
            check_sources(assets, series.sources)
            assets.cache["series"] = series
        series, numbers = assets.cache["series"], assets.splits.get(split, ())
        if max(numbers, default=0) >= len(series):
            raise RunError(
                f"the split in assets.json is damaged: it has sequence {max(numbers)} of {len(series)}"
            )
        return [series.values[number] for number in numbers], [series.labels[number] for number in numbers]

    def _read(self) -> tuple[Series, dict[str, list[int]], list[str]]:
        """All sequences, the numbers of each part, and what the user should know: those of `data` first."""
        from throughtime.data.inside.ball_videos import ball_videos
        from throughtime.data.readers.series import check_disjoint_series, sequence_keys
        from throughtime.data.split import split_examples

        series = self.series_of(self.data) if self.data else ball_videos(self.what)
        used = list(range(len(series)))
        if self.limit is not None and self.limit < len(used):
            used = sorted(random.Random(f"limit/{self.split_seed}").sample(used, self.limit))
        fractions = {
            part: 0.0 if isinstance(value := getattr(self, part), str) else float(value) for part in PARTS[1:]
        }
        split = split_examples(
            len(used),
            validation=fractions["validation"],
            test=fractions["test"],
            seed=self.split_seed,
            groups=sequence_keys([series.values[number] for number in used]),
        )
        parts = {part: [used[number] for number in getattr(split, part)] for part in PARTS}
        sources: tuple[Source, ...] = series.sources
        remarks = list(series.remarks)
        for part in PARTS[1:]:
            if isinstance(file := getattr(self, part), str):
                more = self.series_of((file,))
                if more.values[0].shape[1] != series.values[0].shape[1] or more.frame != series.frame:
                    raise InputError(
                        f"{file}: expected frames as in {self.data[0] if self.data else 'the data'}, "
                        f"{series.values[0].shape[1]} numbers each, got {more.values[0].shape[1]}"
                    )
                parts[part] = list(range(len(series), len(series) + len(more)))
                sources, remarks = sources + more.sources, remarks + list(more.remarks)
                series = replace(
                    series,
                    values=series.values + more.values,
                    labels=series.labels + more.labels,
                    sources=sources,
                )
        remarks += check_disjoint_series(
            {part: [series.values[number] for number in parts[part]] for part in PARTS}
        )
        return series, parts, remarks

    def series_of(self, files: Sequence[str], labelled: bool = True) -> Series:
        from throughtime.data.readers.series import read_series

        return read_series(
            files,
            per_step=True,
            label=self.label or "label",
            features=names_of(self.features),
            labelled=labelled,
            skip_bad=self.skip_bad,
            size=self.size or (),
            color=self.color,
        )


def kept_of(assets: Assets) -> dict[str, Any]:
    """What `prepare` put into the assets.

    Raises: RunError where it is not there.
    """
    kept = assets.values.get("frames")
    if not isinstance(kept, dict) or not {"size", "frame", "scale"} <= set(kept):
        raise RunError("the run's assets.json is damaged: it does not say what a frame is")
    return kept
