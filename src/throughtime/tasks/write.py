"""Text in a style, one to many: a text is written from a style alone, from a style and a beginning, or from nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

from throughtime.errors import InputError, RunError, nearest
from throughtime.models.config import ModelConfig
from throughtime.tasks.classify_texts import Texts
from throughtime.tasks.labelled import PARTS, LabelledData
from throughtime.tasks.task import Record, data_option, text_of

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.examples import Examples
    from throughtime.data.readers.tables import Table
    from throughtime.metrics import Metric
    from throughtime.models.styled import Styled

_NGRAM = {"char": 6, "word": 3, "bpe": 4}  # orders of the strong baseline


class StyledTexts(Texts):
    """Texts that end: each is followed by the symbol END, which the model reads before the first symbol too."""

    inside: ClassVar[str] = "lines of Python's standard library"
    task: WriteTask

    def read(self, files: Sequence[str], others: Sequence[str]) -> Table:
        from throughtime.data.readers.styles import read_styles

        if not files:
            return self.read_inside()
        columns = (self.column, self.task.label or "label", *others)
        return read_styles(files, columns, by=self.task.by, skip_bad=self.task.skip_bad)

    def read_inside(self) -> Table:
        from throughtime.data.inside.lines import python_lines

        return python_lines()

    def fit(self, assets: Assets, train: Sequence[str], like: Assets | None) -> None:
        from throughtime.data.text import END

        text = "\n".join(map(self.normalized, train))
        most = max(Counter(text).values(), default=0)  # END is more frequent, so it is kept whatever the size
        texts = [text, END * (most + 1)]
        super().fit(assets, texts if self.task.tokens != "bpe" else texts[:1], like)
        if assets.vocabulary.unknown_symbols(END):
            raise InputError("the vocabulary has no symbol for the end of a text: start from a run of write")

    def normalized(self, text: str) -> str:
        from throughtime.data.text import END

        return super().normalized(text.replace(END, ""))


@dataclass(frozen=True)
class WriteTask(LabelledData):
    """Train a language model that writes in styles: a genre, an author, a kind of text.

    The style is where the model's state begins, and with --every-step an input of each step too. Some training texts go without
    their style, so that the model also writes from nothing, in the average style. Reads tables (CSV, TSV, JSON lines, lists in
    JSON) with a text and a label, a folder with one folder of text files for each style, and plain text files that are a style each.
    Texts that are equal but for case and spaces stay on one side of a split. Without --data it learns how comments, docstrings,
    error messages, functions, conditions and imports are written in Python's standard library.
    """

    name = "write"
    shape = "one to many"
    reads = "text files per style, CSV, TSV, JSON lines"
    examples = (
        "throughtime train write",
        "throughtime train write --data poems.csv --label form",
        "throughtime train write tang.txt song.txt --by paragraph",
        "throughtime train write --data poems.json --text paragraphs --label author --styles 10",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "cell": "gru", "hidden": 256, "embedding": 64, "bptt": "full", "batch": 32, "epochs": 10.0, "dropout": 0.3, "lr": 3e-3,
    }  # fmt: skip
    without = ("pooling", "window", "bidirectional")
    least_labels: ClassVar[int] = 1

    by: str | None = data_option(
        None, "Of plain text: a text is a line, a paragraph or a file. Default: a file in the folder of its style, else a line.",
        metavar="line|paragraph|file", choices=("line", "paragraph", "file"),
    )  # fmt: skip
    styles: int | None = data_option(
        None, "Only the texts of the N most frequent styles.", metavar="N", low=1, high=65_536
    )
    style_size: int = data_option(32, "Numbers in the vector of a style.", metavar="N", low=1, high=65_536)
    every_step: bool = data_option(True, "The style is an input of every step, beside the initial state.")
    style_dropout: float = data_option(
        0.1, "Fraction of the training texts that are read without their style; 0: no text is written without a style.",
        metavar="P", low=0, high=1,
    )  # fmt: skip
    judged: int = data_option(
        50, "Texts of each style that are written after training, for style_accuracy; 0: none.", metavar="N", low=0, high=10_000
    )  # fmt: skip

    @property
    def _inputs(self) -> StyledTexts:
        return StyledTexts(self)

    @property
    def unit(self) -> str:
        return {"char": "character", "bpe": "token"}.get(self.tokens, "word")

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.label or "label", self._inputs.column)

    def on(self, files: tuple[str, ...]) -> Self:
        return replace(super().on(files), styles=None)

    def build(self, config: ModelConfig, assets: Assets) -> Styled:
        from throughtime.models.build import many_to_many, symbol_embedding
        from throughtime.models.styled import Styled

        if not assets.labels.get("label"):
            raise RunError("the run's assets.json is damaged: it has no styles")
        if config.cell == "none" and not self.every_step:
            raise InputError("a model without recurrence has no state that a style could begin: set every_step")
        size = len(assets.vocabulary)
        model = many_to_many(config, symbol_embedding(config, size), size)
        return Styled(model, len(assets.labels["label"]), self.style_size, every_step=self.every_step)

    def batches(
        self, assets: Assets, *, steps: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> Examples:
        from throughtime.data.examples import Examples
        from throughtime.models.styled import without_styles

        inputs, targets, styles = self._texts(assets, "train")
        ...

    def metrics(self, assets: Assets) -> list[Metric]:
        from throughtime.metrics.loss import BitsPerCharacter, Perplexity
        from throughtime.metrics.style import StyleNats

        found: list[Metric] = [BitsPerCharacter(assets.vocabulary.characters()), Perplexity()]
        found = found if self.tokens == "char" else found[::-1]
        return [*found, StyleNats()] if 0 < self.style_dropout < 1 else found
