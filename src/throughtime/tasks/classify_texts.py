"""What `classify` does with texts: each is read symbol by symbol."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from throughtime.errors import InputError
from throughtime.models.config import ModelConfig
from throughtime.tasks.task import Record, text_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from throughtime.data.assets import Assets
    from throughtime.data.readers.tables import Table
    from throughtime.data.vocabulary import Vocabulary
    from throughtime.sessions.processor import Processor
    from throughtime.tasks.labelled import LabelledData


class Texts:
    """Texts and their labels, for a task with the options tokens, vocab_size, lower, length, text and label."""

    unit: ClassVar[str] = "text"
    inside: ClassVar[str] = "error messages of Python's standard library"
    title: ClassVar[str] = "python"
    formats: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, task: LabelledData) -> None:
        self.task = task
        self.column = task.text or "text"

    def read(self, files: Sequence[str], others: Sequence[str]) -> Table:
        """Columns: the text, the label, and `others`; of no files, what ships inside."""
        from throughtime.data.readers.tables import read_table

        if not files:
            return self.read_inside()
        columns = (self.column, self.task.label or "label", *others)
        return read_table(files, columns, skip_bad=self.task.skip_bad)

    def read_inside(self) -> Table:
        """What ships inside, with the columns text and label."""
        from throughtime.data.inside.exceptions import exception_messages

        return exception_messages()

    def keys(self, texts: Sequence[str]) -> list[Hashable]:
        """Equal for texts that must be on one side of a split."""
        from throughtime.data.split import group_keys

        return list(group_keys(texts))

    def shared(self, parts: Mapping[str, Sequence[str]]) -> list[str]:
        """What to say of texts that are in two parts."""
        from throughtime.data.split import check_disjoint

        return check_disjoint(**parts)

    def fit(self, assets: Assets, train: Sequence[str], like: Assets | None) -> None:
        """Put the vocabulary of the training texts into the assets, and what vectors its words have."""
        from throughtime.data.vocabulary import Vocabulary

        if like:
            assets.vocabularies = {"symbols": like.vocabulary}
            if "word_vectors" in like.values:
                assets.values["word_vectors"] = like.values["word_vectors"]
            return
        vocabulary = Vocabulary.build(
            self.task.tokens, "\n".join(map(self.normalized, train)), self.task.vocab_size
        )
        assets.vocabularies = {"symbols": self._with_vectors(assets, vocabulary)}

    def _with_vectors(self, assets: Assets, vocabulary: Any) -> Vocabulary:
        """With words behind the training part's own that have a vector: of all texts, and the most frequent of the file."""
        found: Vocabulary = vocabulary
        if getattr(self.task, "vectors", None) is None:
            return found
        task: Any = self.task
        pieces = dict.fromkeys(
            piece
            for text, _ in assets.cache["rows"]
            for piece in vocabulary.pieces(self.normalized(text))
            if piece.strip()
        )
        remarks: list[str] = []
        words, size = task.read_vectors(assets, (piece.strip() for piece in pieces), remarks)
        assets.values["remarks"] = [*assets.values.get("remarks", ()), *remarks]
        assets.values["word_vectors"] = {"known": len(vocabulary), "words": list(words), "size": size}
        from throughtime.data.words import vector_forms

        there = set(words)
        seen = [piece for piece in pieces if there.intersection(vector_forms(piece.strip()))]
        found = vocabulary.with_symbols([*seen, *(f" {word}" for word in words)])
        return found

    def describe(self, assets: Assets) -> str:
        return f"vocabulary of {len(assets.vocabulary):,}"

    def embedding(self, config: ModelConfig, assets: Assets) -> nn.Module:
        """What turns the ids into vectors: learned ones, and those of a file behind them."""
        kept = assets.values.get("word_vectors")
        if kept is None:
            return self.learned(config, len(assets.vocabulary))
        from throughtime.data.readers.vectors import vector_rows
        from throughtime.models.words import WithVectors

        task: Any = self.task
        rows = vector_rows([symbol.decode().strip() for symbol in assets.vocabulary.symbols], kept["words"])
        pretrained = task.pretrained(assets, len(kept["words"]), kept["size"])
        return WithVectors(self.learned(config, kept["known"]), pretrained, rows, kept["known"])

    def learned(self, config: ModelConfig, symbols: int) -> nn.Module:
        """The learned vectors of so many symbols."""
        from throughtime.models.build import symbol_embedding

        return symbol_embedding(config, symbols)

    def encode(self, assets: Assets, text: str) -> Tensor:
        """The ids of a text, [t]."""
        return assets.vocabulary.encode(self.normalized(text))[: self.task.length]

    def normalized(self, text: str) -> str:
        """The text as it is encoded."""
        return text.lower() if self.task.lower else text

    def of_record(self, assets: Assets, record: Record) -> str:
        """The text of a record."""
        return text_of(record, self.column)

    def processor(self, model: Any, assets: Assets) -> Processor:
        """See `Task.processor`."""
        from throughtime.tasks.label_processor import TextLabels
        from throughtime.tasks.text_processor import TextReader

        reader = TextReader(assets.vocabulary, "lower" if self.task.lower else "none")
        return TextLabels(reader, assets.vocabulary.encode, self.task.length, assets.labels["label"])

    def step_names(self, assets: Assets, inputs: Tensor) -> list[str]:
        """The symbols."""
        return [assets.vocabulary.decode([int(number)]) for number in inputs]

    def text_input(self, assets: Assets, text: str) -> tuple[Tensor, list[str]]:
        """The ids of a typed text, [t, 1], and its unknown symbols."""
        return self.encode(assets, text)[:, None], list(assets.vocabulary.unknown_symbols(text))

    def baselines(
        self,
        assets: Assets,
        train: tuple[Sequence[str], Sequence[str]],
        test: tuple[Sequence[str], Sequence[str]],
    ) -> dict[str, dict[str, float] | str]:
        """The strong baselines, trained on texts and labels."""
        from throughtime.tasks.baselines.texts import tfidf_linear

        try:
            return {"TF-IDF, linear SVM": dict(tfidf_linear(*train, *test))}
        except InputError as error:  # scikit-learn is not installed
            return {"TF-IDF, linear SVM": str(error)}

    def predict_file(self, *arguments: Any, **options: Any) -> str:
        raise NotImplementedError  # texts have no format of their own
