"""What `classify` does with sequences of numbers: a step is a vector of features, a row of an image, or a pixel."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks.task import Record, field_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.readers.series import Series
    from throughtime.data.readers.tables import Table
    from throughtime.sessions.processor import Processor
    from throughtime.tasks.classify import ClassifyTask


class Numbers:
    """Sequences of numbers and their labels, for a task with the options features, steps_of, permute, scale and label.

    Sequences are float32 [t, D] as they were read; `encode` arranges and scales them.
    """

    unit: ClassVar[str] = "sequence"
    inside: ClassVar[str] = "the path of a ball round a shape, drawn from a seed"
    title: ClassVar[str] = "balls"
    column: ClassVar[str] = "values"
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "long": (".csv", ".tsv", ".tab"),
        "npz": (".npz",),
        "idx": (".gz", ".idx", ".idx3-ubyte"),
    }

    def __init__(self, task: ClassifyTask) -> None:
        self.task = task

    def read(self, files: Sequence[str], others: Sequence[str]) -> Table:
        """Columns: the sequences, the label, and `others`; of no files, what is drawn."""
        from throughtime.data.inside.ball_paths import ball_paths
        from throughtime.data.readers.series import read_series
        from throughtime.data.readers.tables import Table

        found = (
            read_series(
                files,
                label=self.task.label or "label",
                features=names_of(self.task.features),
                others=others,
                skip_bad=self.task.skip_bad,
            )
            if files
            else ball_paths()
        )
        columns = {"values": tuple(found.values), "label": tuple(found.labels)}
        columns |= {name: tuple(each) for name, each in found.columns.items()}
        return Table(columns, found.sources, 0, found.remarks)

    def keys(self, sequences: Sequence[Tensor]) -> list[Hashable]:
        """Equal for sequences of the same numbers."""
        from throughtime.data.readers.series import sequence_keys

        return sequence_keys(sequences)

    def shared(self, parts: Mapping[str, Sequence[Tensor]]) -> list[str]:
        """What to say of sequences that are in two parts."""
        from throughtime.data.readers.series import check_disjoint_series

        return check_disjoint_series(parts)

    def fit(self, assets: Assets, train: Sequence[Tensor], like: Assets | None) -> None:
        """Put what scales the sequences into the assets."""
        from throughtime.data.readers.arrays import is_idx
        from throughtime.data.readers.series import fit_scale

        shapes = {tuple(each.shape) for each in train}
        if self.task.permute is not None and len(shapes) > 1:
            raise InputError(
                f"permute needs sequences of one length, got {min(shapes)[0]} to {max(shapes)[0]} steps: leave it out"
            )
        steps, size = next(iter(shapes))
        kept: dict[str, Any] = {
            "size": size,
            "values": steps * size if self.task.permute is not None else None,
        }
        if like:
            _check_like(like, kept)
            assets.values["numbers"] = like.values["numbers"]
            return
        images = bool(self.task.data) and is_idx(self.task.data[0])
        how = self.task.scale or ("all" if images else "each")
        kept["scale"] = fit_scale([self._arranged(each) for each in train], how)
        assets.values["numbers"] = kept

    def describe(self, assets: Assets) -> str:
        if self.task.steps_of == "pixels":
            return "one number at each step"
        names = names_of(self.task.features)
        return f"{_kept(assets)['size']} numbers at each step" + (f" ({', '.join(names)})" if names else "")

    def embedding(self, config: ModelConfig, assets: Assets) -> nn.Module:
        """The numbers as they are."""
        from throughtime.models.embeddings import Continuous

        return Continuous(1 if self.task.steps_of == "pixels" else int(_kept(assets)["size"]))

    def encode(self, assets: Assets, sequence: Tensor) -> Tensor:
        """What the model reads, [t, D]."""
        from throughtime.data.readers.series import scaled

        kept = _kept(assets)
        if sequence.shape[1] != kept["size"]:
            raise InputError(
                f"the model reads {kept['size']} numbers at each step, got a sequence with {sequence.shape[1]}"
            )
        if kept["values"] is not None and sequence.numel() != kept["values"]:
            raise InputError(
                f"the model reads {kept['values']} permuted numbers, got a sequence with {sequence.numel()}"
            )
        return scaled(self._arranged(sequence), kept["scale"])

    def of_record(self, assets: Assets, record: Record) -> Tensor:
        """The sequence of a record."""
        from throughtime.data.readers.series import parse_values

        return parse_values(field_of(record, self.column), int(_kept(assets)["size"]))

    def processor(self, model: Any, assets: Assets) -> Processor:
        """See `Task.processor`. Raises: InputError for a run that permutes whole sequences."""
        from functools import partial

        from throughtime.tasks.label_processor import NumberLabels

        if self.task.permute is not None:
            raise InputError(
                "a run with permute cannot be streamed: it reads the numbers of a sequence in another order"
            )
        size, columns = int(_kept(assets)["size"]), names_of(self.task.features)
        return NumberLabels(size, columns, partial(self.encode, assets), assets.labels["label"])

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        """The numbers of the steps."""
        return [str(number) for number in range(len(inputs))]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        """The sequence written as JSON, [t, 1, D]; nothing in it is unknown."""
        return self.encode(assets, self.of_record(assets, {self.column: text}))[:, None], []

    def baselines(
        self,
        assets: Assets,
        train: tuple[Sequence[Tensor], Sequence[str]],
        test: tuple[Sequence[Tensor], Sequence[str]],
    ) -> dict[str, dict[str, float] | str]:
        """The strong baselines, trained on sequences and labels."""
        from throughtime.tasks.baselines.numbers import pixels_svm, summary_logistic

        found: dict[str, dict[str, float] | str] = {}
        for name, baseline in (
            ("summary of each feature, logistic regression", summary_logistic),
            ("all numbers at once, RBF SVM", pixels_svm),
        ):
            try:
                scores = baseline(*train, *test)
            except InputError as error:  # scikit-learn is not installed
                found[name] = str(error)
                continue
            if scores is not None:
                found[name] = scores
        return found

    def predict_file(
        self, model: nn.Module, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
    ) -> str:
        """One row of predictions for each sequence of a file: its name, its label where the file has one, the prediction."""
        from throughtime.data.readers.records import write_records

        remarks: list[str] = []
        write: Callable[[dict[str, Any]], None] | None = None
        sequences, label = self._sequences(assets, file, form, skip_bad, remarks)
        for name, values, known in sequences:
            (found,) = self.task.predict(model, assets, [{self.column: values}])
            record = {"sequence": name}
            if label is not None and known is not None:
                record[label] = known
            record |= {f"predicted_{key}" if key in record else key: value for key, value in found.items()}
            if write is None:
                write = write_records(out, "tsv" if file.endswith((".tsv", ".tab")) else "csv", list(record))
            write(record)
        return "; ".join(remarks)

    def _sequences(
        self, assets: Assets, file: str, form: str, skip_bad: bool, remarks: list[str]
    ) -> tuple[Iterable[tuple[str, Tensor, str | None]], str | None]:
        """(name, sequence, label) of each sequence in a file, read as they are taken where it is a long table."""
        from throughtime.data.readers.series import read_series

        if form == "long":
            return self._long(file, skip_bad, remarks), self.task.label or "label"
        if file == "-":
            raise InputError(f"{form} is not read from standard input: name a file")
        found: Series = read_series([file], label=self.task.label or "label", labelled=False)
        return zip(found.names, found.values, found.labels, strict=True), "label"

    def _long(
        self, file: str, skip_bad: bool, remarks: list[str]
    ) -> Iterator[tuple[str, Tensor, str | None]]:
        import torch

        from throughtime.data.readers.long_table import LongTable
        from throughtime.data.readers.records import open_source

        with open_source(file) as stream:
            table = LongTable(
                stream,
                name="standard input" if file == "-" else file,
                label=self.task.label or "label",
                features=names_of(self.task.features),
                labelled=False,
                skip_bad=skip_bad,
            )
            for rows in table.sequences():
                yield rows[0].sequence, torch.tensor([row.values for row in rows]), rows[0].label
            if table.bad:
                remarks.append(
                    f"{table.name}: sequences with bad rows skipped ({len(table.bad)} bad rows); the first is {table.bad[0]}"
                )

    def _arranged(self, sequence: Tensor) -> Tensor:
        """The numbers in the order in which they are read, [t, D], or [t * D, 1] pixel by pixel."""
        import torch

        numbers = sequence.flatten()
        if self.task.permute is not None:
            numbers = numbers[torch.tensor(_order(len(numbers), self.task.permute))]
        return numbers[:, None] if self.task.steps_of == "pixels" else numbers.view(sequence.shape)


@lru_cache(maxsize=4)
def _order(count: int, seed: int) -> tuple[int, ...]:
    """A permutation, the same on every machine."""
    order = list(range(count))
    random.Random(f"permute/{seed}").shuffle(order)
    return tuple(order)


def names_of(features: Sequence[str]) -> tuple[str, ...]:
    """Column names, each given alone or several with commas between."""
    return tuple(name.strip() for each in features for name in each.split(",") if name.strip())


def _kept(assets: Assets) -> dict[str, Any]:
    """What `fit` put into the assets.

    Raises: RunError where it is not there.
    """
    kept = assets.values.get("numbers")
    if not isinstance(kept, dict) or not {"size", "values", "scale"} <= set(kept):
        raise RunError("the run's assets.json is damaged: it does not say what the numbers of a sequence are")
    return kept


def _check_like(like: Assets, kept: Mapping[str, Any]) -> None:
    if like.values.get("numbers", {}).get("size") != kept["size"]:
        raise InputError(
            f"init_from needs sequences as those of its own data, got {kept['size']} numbers at each step"
        )
