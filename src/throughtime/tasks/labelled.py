"""What tasks with one label for each example share: data and splits, model, loss, metrics, baselines."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, ClassVar, Self

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks.files import ExamplesTask, check_part, check_sources, condition, reading_again
from throughtime.tasks.task import Record, cross_entropy, data_option, run_one
from throughtime.tasks.word_vectors import WordVectors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.readers.tables import Table
    from throughtime.metrics import Metric
    from throughtime.sessions.processor import Processor
    from throughtime.tasks.classify_audio import Sounds
    from throughtime.tasks.classify_numbers import Numbers
    from throughtime.tasks.classify_texts import Texts

PARTS = ("train", "validation", "test")


def _check_fold(value: str, name: str) -> None:
    from throughtime.data.split import fold_of

    fold_of(value, name)


@dataclass(frozen=True)
class LabelledData(ExamplesTask):
    """A task whose texts, or sequences of numbers, have one label each: its data, and how it is divided."""

    least_labels: ClassVar[int] = 2

    test: float | str = data_option(
        0.1, "Test data, evaluated once, after training: a fraction of the data, or a file.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    text: str | None = data_option(
        None, "Column of the text. Default: text, sentence, message, query or utterance.", metavar="NAME"
    )
    label: str | None = data_option(
        None, "Column of the label. Default: label, category, class or intent.", metavar="NAME"
    )
    tokens: str = data_option(
        "char", "Of texts: char, word or bpe.", metavar="KIND", choices=("char", "word", "bpe")
    )
    vocab_size: int | None = data_option(
        None, "Most symbols; the rest is unknown. Default: all characters, 10,000 words, 2,000 byte pairs.", metavar="N", low=2,
        high=2**24,
    )  # fmt: skip
    lower: bool = data_option(False, "Lower case.")
    length: int = data_option(
        1000,
        "Symbols of a text, or steps of a sequence, that are read, its first.",
        metavar="N",
        low=1,
        high=10**6,
    )
    where: str | None = data_option(
        None,
        "Use only the examples with this value in a column.",
        metavar="COLUMN=VALUE[,VALUE]",
        check=condition,
    )
    test_where: str | None = data_option(
        None, "Test on the examples with this value in a column, and on no others.", metavar="COLUMN=VALUE[,VALUE]",
        check=condition,
    )  # fmt: skip
    group: str | None = data_option(
        None, "Column: examples with the same value there (a person, a day) stay in one part.", metavar="NAME"
    )
    skip_bad: bool = data_option(False, "Leave out rows that cannot be read, and count them.")
    split_seed: int = data_option(
        0, "Another seed divides the data into other parts.", metavar="N", low=0, high=2**63 - 1
    )
    fold: str | None = data_option(
        None, "K/N: test on the K-th of N folds of the data, in place of --test. Train on each of them for cross-validation.",
        metavar="K/N", check=_check_fold,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold is not None and (isinstance(self.test, str) or self.test_where):
            other = f"test = {self.test}" if isinstance(self.test, str) else f"test_where = {self.test_where}"
            raise InputError(f"fold = {self.fold} and {other} both say what to test on: leave one out")

    @property
    @abstractmethod
    def _inputs(self) -> Texts | Numbers | Sounds:
        """What is done with the examples: texts, numbers or recordings."""

    @property
    def unit(self) -> str:
        return self._inputs.unit

    @property
    def title(self) -> str:
        return super().title if self.data else self._inputs.title

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self._inputs.column,)

    @property
    def formats(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        return self._inputs.formats

    def on(self, files: tuple[str, ...]) -> Self:
        return replace(super().on(files), where=None, test_where=None, group=None, fold=None)

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets

        assets = Assets()
        rows, assets.sources, parts, remarks = self._read()
        assets.splits, assets.values["remarks"], assets.cache["rows"] = parts, remarks, rows
        train = [rows[number] for number in parts["train"]]
        labels = [label for _, label in train]
        found = tuple(sorted(set(labels)))
        assets.labels = {"label": like.labels["label"] if like else found}
        for part in PARTS:
            if unknown := sorted({rows[number][1] for number in parts[part]} - set(assets.labels["label"])):
                raise InputError(
                    f"the {part} part has labels that the model cannot give ({', '.join(map(repr, unknown[:5]))}): "
                    "give training examples of them, or leave them out"
                )
        if len(found) < self.least_labels:
            raise InputError(
                f"expected at least two labels to tell apart, got {len(found)}: {', '.join(found)}"
            )
        self._inputs.fit(assets, [each for each, _ in train], like)
        return assets

    def predict_file(
        self, model: nn.Module, assets: Assets, file: str, out: IO[str], *, form: str, skip_bad: bool
    ) -> str:
        return self._inputs.predict_file(model, assets, file, out, form=form, skip_bad=skip_bad)

    def describe(self, assets: Assets) -> str:
        source = ", ".join(path.rpartition("/")[2] for path in self.data) or self._inputs.inside
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        return (
            f"{source}: {sizes['train']:,} {self._inputs.unit}s to train on, {sizes['validation']:,} for validation, "
            f"{sizes['test']:,} for test; {len(assets.labels['label'])} labels; {self._inputs.describe(assets)}{remarks}"
        )

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        return self._inputs.step_names(assets, inputs)

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        return self._inputs.text_input(assets, text)

    def _encode(self, assets: Assets, example: Any) -> Tensor:
        """A text or a sequence as the model reads it: [t] or [t, D]."""
        return self._inputs.encode(assets, example)

    def _columns(self, assets: Assets, split: str) -> tuple[list[Any], list[str]]:
        """Texts or sequences, and labels, of a split."""
        if "rows" not in assets.cache or split == "all":
            with nullcontext() if split == "all" else reading_again():
                rows, sources, _, _ = self._read()
            if split == "all":
                return [each for each, _ in rows], [label for _, label in rows]
            check_sources(assets, sources)
            assets.cache["rows"] = rows
        found, numbers = assets.cache["rows"], assets.splits.get(split, ())
        if max(numbers, default=0) >= len(found):
            raise RunError(
                f"the split in assets.json is damaged: it has example {max(numbers)} of {len(found)}"
            )
        rows = [found[number] for number in numbers]
        return [each for each, _ in rows], [label for _, label in rows]

    @property
    def _others(self) -> tuple[str, ...]:
        """Columns that say which examples are used, and in which part, beside the example and its label."""
        names = [condition(self.where)[0], condition(self.test_where)[0], self.group or ""]
        return tuple(dict.fromkeys(name for name in names if name))

    def _read(self) -> tuple[list[tuple[Any, str]], Any, dict[str, list[int]], list[str]]:
        """All rows (example, label), the files they are from, the numbers of each part, and what the user should know.

        The rows of `data` come first, then those of validation and test files.
        """
        from throughtime.data.split import fold_of, split_examples

        inputs, others = self._inputs, self._others
        self._check_options()
        tables = {"data": inputs.read(self.data, others)}
        used = _matching(tables["data"], self.where, "where")
        if self.limit is not None and self.limit < len(used):  # not the first, which may be of one class
            chosen = random.Random(f"limit/{self.split_seed}").sample(range(len(used)), self.limit)
            used = [used[number] for number in sorted(chosen)]
        rows = tables["data"].rows(used)
        keys = (
            [tables["data"][self.group][n] for n in used] if self.group else inputs.keys([x for x, _ in rows])
        )
        apart = set(_matching(tables["data"], self.test_where, "test_where")) if self.test_where else set()
        rest = [place for place, number in enumerate(used) if number not in apart]
        own = {part: 0.0 if isinstance(value := getattr(self, part), str) else value for part in PARTS[1:]}
        split = split_examples(
            len(rest),
            validation=own["validation"],
            test=0.0 if apart else own["test"],
            seed=self.split_seed,
            groups=[keys[place] for place in rest],
            labels=None if self.group else [rows[place][1] for place in rest],
            fold=None if self.fold is None else fold_of(self.fold),
        )
        parts = {part: [rest[place] for place in getattr(split, part)] for part in PARTS}
        if apart:
            parts["test"] = [place for place, number in enumerate(used) if number in apart]
            if not parts["test"]:
                raise InputError(
                    f"no example that where and limit leave has {self.test_where}: the test part is empty"
                )
        for part in PARTS[1:]:
            if isinstance(file := getattr(self, part), str):
                tables[part] = inputs.read((file,), others)
                more = tables[part].rows(_matching(tables[part], self.where, "where"))
                parts[part] = list(range(len(rows), len(rows) + len(more)))
                rows += more
        remarks = list(dict.fromkeys(remark for table in tables.values() for remark in table.remarks))
        if self.group:
            remarks += _groups_of(keys, parts)
        remarks += inputs.shared({part: [rows[number][0] for number in parts[part]] for part in PARTS})
        return rows, tuple(source for table in tables.values() for source in table.sources), parts, remarks

    def _check_options(self) -> None:
        """Refuse options that contradict each other, or what is read.

        Raises: InputError naming them.
        """
        if self._others and not self.data:
            raise InputError(
                "where, test_where and group name columns of a file: give one with --data, or leave them out"
            )
        if self.test_where and isinstance(self.test, str):
            raise InputError("the test part is a file or the rows of test_where, got both: keep one")


@dataclass(frozen=True)
class LabelledTask(WordVectors, LabelledData):
    """A task that gives one label to each text, or to each sequence of numbers."""

    shape = "many to one"
    without = ("tied", "window")

    class_weights: str = data_option(
        "none", "balanced: the training loss weights each class by the inverse of its frequency.", metavar="HOW",
        choices=("none", "balanced"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vectors is not None and self.tokens != "word":
            raise InputError(f"vectors are of words, and tokens = {self.tokens}: set tokens = word")

    def prepare(self, like: Assets | None = None) -> Assets:
        assets = super().prepare(like)
        if self.class_weights == "balanced":
            labels = self._columns(assets, "train")[1]
            found = set(labels)
            assets.values["class_weights"] = [
                len(labels) / (len(found) * labels.count(label)) if label in found else 1.0
                for label in assets.labels["label"]
            ]
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.models.build import many_to_one

        if not assets.labels.get("label"):
            raise RunError("the run's assets.json is damaged: it has no labels")
        return many_to_one(config, self._inputs.embedding(config, assets), len(assets.labels["label"]))

    def training_loss(self, assets: Assets) -> Callable[[Any, Batch], Tensor]:
        """With class weights N / (classes * N of the class), whose mean over the training part is 1."""
        import torch

        weights = assets.values.get("class_weights")
        if self.class_weights == "none" or weights is None:
            return self.loss
        weight = torch.tensor(weights)
        return lambda outputs, batch: cross_entropy(outputs, batch.targets, weight)

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.classification import Accuracy, MacroF1

        return [Accuracy(), MacroF1(assets.labels["label"])]

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.tasks.baselines.texts import majority

        train, test = self._columns(assets, "train"), self._columns(assets, split)
        found: dict[str, dict[str, float] | str] = {"majority class": dict(majority(train[1], test[1]))}
        return found | self._inputs.baselines(assets, train, test)

    def predict(self, model: nn.Module, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The likeliest label of each text or sequence, and its probability."""
        for record in records:
            outputs = run_one(model, self._encode(assets, self._inputs.of_record(assets, record)))
            probabilities = outputs.double().softmax(-1)
            best = int(probabilities.argmax())
            label, probability = assets.labels["label"][best], float(probabilities[best])
            yield {"label": label, "probability": round(probability, 6)}

    def processor(self, model: nn.Module, assets: Assets) -> Processor:
        """Of texts or numbers: the likeliest label of what was read so far, after each chunk."""
        return self._inputs.processor(model, assets)

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], Tensor]:
        """Ids [t] of each text, or numbers [t, D] of each sequence, and the numbers of the labels [N]."""
        import torch

        key = f"encoded/{self.data}/{split}"
        if key not in assets.cache:
            examples, labels = self._columns(assets, split)
            numbers = {label: number for number, label in enumerate(assets.labels["label"])}
            if unknown := sorted(set(labels) - set(numbers)):
                raise InputError(
                    f"the model has no label {unknown[0]!r}: it gives {', '.join(list(numbers)[:10])} ..."
                )
            inputs = [self._encode(assets, each) for each in examples]
            assets.cache[key] = inputs, torch.tensor([numbers[label] for label in labels], dtype=torch.long)
        found: tuple[list[Tensor], Tensor] = assets.cache[key]
        return found


def _groups_of(keys: list[Any], parts: Mapping[str, list[int]]) -> list[str]:
    """Which groups are held out, where they are few."""
    found = []
    for part in PARTS[1:]:
        groups = sorted({str(keys[number]) for number in parts[part] if number < len(keys)})
        if 0 < len(groups) <= 5:
            found.append(f"{part} on {', '.join(groups)}")
    return found


def _matching(table: Table, asked: str | None, option: str) -> list[int]:
    """The numbers of the rows that have what an option asks for; all where it asks for nothing."""
    column, values = condition(asked)
    return table.matching(column, values, option) if column else list(range(len(table)))
