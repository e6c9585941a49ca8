"""Pretrained word vectors: the options of tasks that read words, and what they do with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self

from throughtime.options import option
from throughtime.tasks.files import full_path

if TYPE_CHECKING:
    from throughtime.data.assets import Assets
    from throughtime.models.words import PretrainedVectors

_model_option = partial(option, panel="Model")


@dataclass(frozen=True)
class WordVectors:
    """The options of a task that may read words with vectors from a file: a base beside that of its data."""

    vectors: str | None = _model_option(
        None, "Pretrained word vectors: the text format of word2vec, GloVe or fastText, also .gz.", metavar="FILE"
    )  # fmt: skip
    train_vectors: bool = _model_option(False, "Train the vectors too.")
    vector_words: int = _model_option(
        10_000, "Also keep the first N words of the vectors, for other texts.", metavar="N", low=0
    )

    def with_full_paths(self) -> Self:
        vectors = full_path(self.vectors) if self.vectors is not None else None
        found: Self = replace(super().with_full_paths(), vectors=vectors)  # type: ignore[misc]
        return found

    def read_vectors(
        self, assets: Assets, words: Iterable[str], remarks: list[str]
    ) -> tuple[tuple[str, ...], int]:
        """The words whose vectors are kept, and the size of a vector, 0 for none; the vectors go into the cache.

        Args: words, of all texts, in whatever form they have there; remarks, to which is added for how many there are vectors.
        """
        if self.vectors is None:
            return (), 0
        from throughtime.data.readers.vectors import read_vectors
        from throughtime.data.words import vector_forms

        different = set(words)
        wanted = {form for word in different for form in vector_forms(word)}
        found = read_vectors(self.vectors, wanted, first=self.vector_words)
        there = set(found.words)
        known = sum(any(form in there for form in vector_forms(word)) for word in different)
        remarks += [*found.remarks, f"vectors for {known:,} of {len(different):,} different words"]
        assets.cache["vectors"], assets.values["vectors"] = found.values, found.source._asdict()
        return found.words, found.values.shape[1]

    def pretrained(self, assets: Assets, count: int, size: int) -> PretrainedVectors:
        """The vectors of so many words; a run that is opened gets them with its weights."""
        from throughtime.models.words import PretrainedVectors

        return PretrainedVectors(count, size, assets.cache.get("vectors"), train=self.train_vectors)
