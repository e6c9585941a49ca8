"""Text classification: one label for each text."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from throughtime.errors import InputError, RunError
from throughtime.models.config import ModelConfig
from throughtime.tasks.files import FileTask, check_part, check_sources, reading_again
from throughtime.tasks.task import Record, data_option, run_one, text_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.examples import Examples
    from throughtime.data.tables import Table
    from throughtime.metrics import Metric

PARTS = ("train", "validation", "test")


def _check_fold(value: str, name: str) -> None:
    from throughtime.data.split import fold_of

    fold_of(value, name)


@dataclass(frozen=True)
class ClassifyTask(FileTask):
    """Train a classifier of texts.

    Reads CSV, TSV or JSON lines with a text and a label, a folder with one folder of text files for each class, or a folder
    with one file of lines for each class. Texts that are equal but for case and spaces stay on one side of a split, and each
    class keeps its fraction in every part. Without --data it learns which exception an error message belongs to, on the
    messages in Python's own standard library.
    """

    name = "classify"
    shape = "many to one"
    reads = "CSV, TSV, JSON lines; a folder per class"
    examples = (
        "throughtime train classify",
        "throughtime train classify --data train.csv --test test.csv --label category",
        "throughtime train classify --data names --cell gru --hidden 128 --bidirectional",
        "throughtime train classify --data reviews.jsonl --tokens word --pooling attention",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "hidden": 128, "bptt": "full", "batch": 32, "epochs": 20.0, "dropout": 0.2, "lr": 3e-3,
    }  # fmt: skip
    without = ("tied", "window")
    inside: ClassVar[str] = "error messages of Python's standard library"  # what is read without `data`

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
    tokens: str = data_option("char", "char, word or bpe.", metavar="KIND", choices=("char", "word", "bpe"))
    vocab_size: int | None = data_option(
        None, "Most symbols; the rest is unknown. Default: all characters, 10,000 words, 2,000 byte pairs.", metavar="N", low=2,
        high=2**24,
    )  # fmt: skip
    lower: bool = data_option(False, "Lower case.")
    length: int = data_option(1000, "Symbols read of a text, its first.", metavar="N", low=1, high=10**6)
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
        if self.fold is not None and isinstance(self.test, str):
            raise InputError(
                f"fold = {self.fold} takes the test part from the data, and test = {self.test} is a file: leave one out"
            )

    def on(self, files: tuple[str, ...]) -> Self:
        return replace(super().on(files), fold=None)

    @property
    def unit(self) -> str:
        return "text"

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.text or "text",)

    def prepare(self, like: Assets | None = None) -> Assets:
        from throughtime.data.assets import Assets
        from throughtime.data.vocabulary import Vocabulary

        assets = Assets()
        rows, assets.sources, parts, remarks = self._read()
        assets.splits, assets.values["remarks"], assets.cache["rows"] = parts, remarks, rows
        train = [rows[number] for number in parts["train"]]
        found = tuple(sorted({label for _, label in train}))
        assets.labels = {"label": like.labels["label"] if like else found}
        for part in PARTS:
            if unknown := sorted({rows[number][1] for number in parts[part]} - set(assets.labels["label"])):
                raise InputError(
                    f"the {part} part has labels that the model cannot give ({', '.join(map(repr, unknown[:5]))}): "
                    "give training examples of them, or leave them out"
                )
        if len(found) < 2:
            raise InputError(
                f"expected at least two labels to tell apart, got {len(found)}: {', '.join(found)}"
            )
        texts = "\n".join(self._normalized(text) for text, _ in train)
        vocabulary = like.vocabulary if like else Vocabulary.build(self.tokens, texts, self.vocab_size)
        assets.vocabularies = {"symbols": vocabulary}
        return assets

    def build(self, config: ModelConfig, assets: Assets) -> nn.Module:
        from throughtime.models.build import many_to_one, symbol_embedding

        if not assets.labels.get("label"):
            raise RunError("the run's assets.json is damaged: it has no labels")
        return many_to_one(
            config, symbol_embedding(config, len(assets.vocabulary)), len(assets.labels["label"])
        )

    def batches(
        self, assets: Assets, *, steps: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> Examples:
        from throughtime.data.examples import Examples

        inputs, targets = self._encoded(assets, "train")
        return Examples(inputs, targets, batch, seed=seed, rank=rank, world=world)

    def evaluation_batches(
        self, assets: Assets, split: str, *, steps: int, batch: int
    ) -> Iterator[Batch] | None:
        from throughtime.data.examples import evaluation_batches

        inputs, targets = self._encoded(assets, split)
        return (each for each, _ in evaluation_batches(inputs, targets, batch)) if inputs else None

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.classification import Accuracy, MacroF1

        return [Accuracy(), MacroF1(assets.labels["label"])]

    def baseline(self, assets: Assets, split: str) -> dict[str, dict[str, float] | str]:
        from throughtime.tasks.baselines import majority, tfidf_linear

        (texts, labels), (test_texts, test_labels) = (
            self._columns(assets, "train"),
            self._columns(assets, split),
        )
        found: dict[str, dict[str, float] | str] = {"majority class": dict(majority(labels, test_labels))}
        try:
            found["TF-IDF, linear SVM"] = dict(tfidf_linear(texts, labels, test_texts, test_labels))
        except InputError as error:  # scikit-learn is not installed
            found["TF-IDF, linear SVM"] = str(error)
        return found

    def predict(self, model: nn.Module, assets: Assets, records: Iterable[Record]) -> Iterator[Record]:
        """The likeliest label of each text, and its probability."""
        for record in records:
            outputs = run_one(model, self._encode(assets, text_of(record, self.columns[0])))
            probabilities = outputs.double().softmax(-1)
            best = int(probabilities.argmax())
            label, probability = assets.labels["label"][best], float(probabilities[best])
            yield {"label": label, "probability": round(probability, 6)}

    def describe(self, assets: Assets) -> str:
        source = ", ".join(path.rpartition("/")[2] for path in self.data) or self.inside
        sizes = {part: len(assets.splits.get(part, ())) for part in PARTS}
        remarks = "".join(f"; {remark}" for remark in assets.values.get("remarks", ()))
        return (
            f"{source}: {sizes['train']:,} texts to train on, {sizes['validation']:,} for validation, {sizes['test']:,} for "
            f"test; {len(assets.labels['label'])} labels; vocabulary of {len(assets.vocabulary):,}{remarks}"
        )

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        return [assets.vocabulary.decode([int(number)]) for number in inputs]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        return self._encode(assets, text)[:, None], list(assets.vocabulary.unknown_symbols(text))

    def _encode(self, assets: Assets, text: str) -> Tensor:
        return assets.vocabulary.encode(self._normalized(text))[: self.length]

    def _normalized(self, text: str) -> str:
        return text.lower() if self.lower else text

    def _columns(self, assets: Assets, split: str) -> tuple[list[str], list[str]]:
        """Texts and labels of a split."""
        if "rows" not in assets.cache or split == "all":
            with nullcontext() if split == "all" else reading_again():
                rows, sources, _, _ = self._read()
            if split == "all":
                return [text for text, _ in rows], [label for _, label in rows]
            check_sources(assets, sources)
            assets.cache["rows"] = rows
        found, numbers = assets.cache["rows"], assets.splits.get(split, ())
        if max(numbers, default=0) >= len(found):
            raise RunError(
                f"the split in assets.json is damaged: it has example {max(numbers)} of {len(found)}"
            )
        rows = [found[number] for number in numbers]
        return [text for text, _ in rows], [label for _, label in rows]

    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], Tensor]:
        """Ids [t] of each text, and the numbers of the labels [N]."""
        import torch

        key = f"encoded/{self.data}/{split}"
        if key not in assets.cache:
            texts, labels = self._columns(assets, split)
            numbers = {label: number for number, label in enumerate(assets.labels["label"])}
            if unknown := sorted(set(labels) - set(numbers)):
                raise InputError(
                    f"the model has no label {unknown[0]!r}: it gives {', '.join(list(numbers)[:10])} ..."
                )
            ids = [self._encode(assets, text) for text in texts]
            assets.cache[key] = ids, torch.tensor([numbers[label] for label in labels], dtype=torch.long)
        found: tuple[list[Tensor], Tensor] = assets.cache[key]
        return found

    def _inside(self) -> Table:
        from throughtime.data.exceptions import exception_messages

        return exception_messages()

    def _read(self) -> tuple[list[tuple[str, str]], Any, dict[str, list[int]], list[str]]:
        """All rows (text, label), the files they are from, the numbers of each part, and what the user should know.

        The rows of `data` come first, then those of validation and test files.
        """
        from throughtime.data.split import check_disjoint, fold_of, group_keys, split_examples
        from throughtime.data.tables import read_table

        columns = (self.text or "text", self.label or "label")
        tables = {
            "data": read_table(self.data, columns, skip_bad=self.skip_bad) if self.data else self._inside()
        }
        names = columns if self.data else ("text", "label")
        rows = list(zip(*(tables["data"][name] for name in names), strict=True))
        if self.limit is not None and self.limit < len(rows):  # not the first, which may be of one class
            chosen = random.Random(f"limit/{self.split_seed}").sample(range(len(rows)), self.limit)
            rows = [rows[number] for number in sorted(chosen)]
        own = {part: 0.0 if isinstance(value := getattr(self, part), str) else value for part in PARTS[1:]}
        keys, labels = group_keys([text for text, _ in rows]), [label for _, label in rows]
        fold = None if self.fold is None else fold_of(self.fold)
        split = split_examples(len(rows), **own, seed=self.split_seed, groups=keys, labels=labels, fold=fold)
        parts = {part: list(getattr(split, part)) for part in PARTS}
        for part in PARTS[1:]:
            if isinstance(file := getattr(self, part), str):
                tables[part] = read_table(file, columns, skip_bad=self.skip_bad)
                more = list(zip(*(tables[part][name] for name in columns), strict=True))
                parts[part] = list(range(len(rows), len(rows) + len(more)))
                rows += more
        remarks = [remark for table in tables.values() for remark in table.remarks]
        remarks += check_disjoint(**{part: [rows[number][0] for number in parts[part]] for part in PARTS})
        return rows, tuple(source for table in tables.values() for source in table.sources), parts, remarks
