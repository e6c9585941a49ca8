"""A language model of characters, words or byte pairs: each symbol of a text is predicted from those before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from throughtime.data import (
    IGNORE,
    Streams,
    Vocabulary,
    Window,
    embedded_text,
    evaluation_windows,
    letters_only,
    read_text,
    split_by_position,
)
from throughtime.errors import InputError, RunError
from throughtime.models.aligned import Aligned
from throughtime.models.build import build
from throughtime.models.config import ModelConfig
from throughtime.models.settings import settings_from
from throughtime.runs import Run
from throughtime.tasks.text_config import TextConfig


class TextTask:
    """The text, its vocabulary, the model and the loss.

    Make one with `create`, `from_run` or `restore`. The vocabulary is built from all of the text, its validation part too: a
    loss is then over the same symbols in both parts, and no character is unknown.
    """

    name = "text"

    def __init__(self, config: TextConfig, model: ModelConfig, vocabulary: Vocabulary) -> None:
        self.config, self.model, self.vocabulary = config, model, vocabulary

    @classmethod
    def create(cls, config: TextConfig, model: ModelConfig | None = None) -> TextTask:
        """Read the text and build its vocabulary.

        The task's config names the files by their full paths, so that a run can be resumed from any folder.
        Raises: InputError for a text that cannot be read or is too short.
        """
        config = replace(config, data=tuple(str(Path(path).resolve()) for path in config.data))
        text = cls._text(config)
        task = cls(config, model or ModelConfig(), Vocabulary.build(config.tokens, text, config.vocab_size))
        task.ids = task._limited(task.vocabulary.encode(text))
        _ = task._parts
        return task

    @classmethod
    def from_run(cls, run: Run) -> TextTask:
        """The task that a run was made for. Its text is read when it is first needed: generating needs none.

        Raises: RunError for the run of another task.
        """
        tables = {name: run.config.get(name) for name in ("text", "model")}
        if None in tables.values():
            raise RunError(
                f"{run.path} is not the run of a language model: its config.toml has no [text] and [model]"
            )
        try:
            config, model = settings_from(tables, TextConfig, ModelConfig)
        except InputError as error:
            raise RunError(f"{run.path}: config.toml is damaged: {error}") from None
        return cls(config, model, run.vocabulary)

    @classmethod
    def restore(cls, run: Run) -> tuple[Aligned, TextTask]:
        """The trained model of a run, in eval mode on the CPU, and its task.

        Raises: RunError when the run has no weights yet, or weights of another model.
        """
        task = cls.from_run(run)
        tensors = run.load_model()
        model = task.build()
        try:
            model.load_state_dict(tensors)
        except RuntimeError:
            raise RunError(
                f"the weights in {run.path} are not those of its config.toml: {_difference(model, tensors)}; "
                "was the file changed after the run began?"
            ) from None
        return model.eval(), task

    @property
    def unit(self) -> str:
        """What one symbol is."""
        return {"char": "character", "word": "word", "bpe": "token"}[self.config.tokens]

    @cached_property
    def ids(self) -> Tensor:
        """All symbols of the text, [N] int64."""
        return self._limited(self.vocabulary.encode(self._text(self.config)))

    @property
    def train_ids(self) -> Tensor:
        """The symbols to train on, a view of `ids`."""
        return self._parts[0]

    @property
    def validation_ids(self) -> Tensor:
        """The symbols to validate with, a view of `ids`; none if `validation` is 0."""
        return self._parts[1]

    def build(self) -> Aligned:
        """A new model, its weights drawn from torch's generator."""
        return build(self.model, len(self.vocabulary))

    def streams(self, steps: int, batch: int, *, seed: int = 0, rank: int = 0, world: int = 1) -> Streams:
        """The training part as windows [steps, batch].

        Raises: InputError if the text is shorter than one window.
        """
        sampling = self.config.sampling
        return Streams(self.train_ids, steps, batch, sampling=sampling, seed=seed, rank=rank, world=world)

    def validation(self, steps: int, batch: int) -> Iterator[Window] | None:
        """The validation part, each of its symbols but the first a target once; None if there is none."""
        return evaluation_windows(self.validation_ids, steps, batch) if self.config.validation else None

    def windows(self, text: str, steps: int, batch: int) -> Iterator[Window]:
        """Any text, normalised and encoded as the task's own, each symbol but the first a target once.

        Raises: InputError for a text of fewer than two symbols.
        """
        return evaluation_windows(
            self.vocabulary.encode(normalized(text, self.config.normalize)), steps, batch
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum of the cross-entropies, in nats, over the targets that are not masked.

        Args: outputs [T, B, V] logits, targets [T, B] int64.
        """
        logits = outputs.flatten(0, -2).float()  # a sum over bfloat16 numbers would lose the small ones
        return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction="sum")

    def remarks(self) -> list[str]:
        """What the user should know before training."""
        if not self.model.bidirectional:
            return []
        return [
            "a bidirectional model sees the symbol that it is to predict, at the next step of its backward half: its "
            "loss says nothing of how well it predicts, and it cannot generate; leave bidirectional out for that"
        ]

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor]:
        parts = split_by_position(self.ids, self.config.validation)
        if self.config.validation and len(parts[1]) < 2:
            raise InputError(
                f"the text is too short: of its {len(self.ids)} symbols the validation part, {self.config.validation:g} "
                f"of them, must be at least 2, got {len(parts[1])}: give more text, or validation = 0"
            )
        return parts

    def _limited(self, ids: Tensor) -> Tensor:
        return ids if self.config.limit is None else ids[: self.config.limit]

    @staticmethod
    def _text(config: TextConfig) -> str:
        text = normalized(read_text(config.data) if config.data else embedded_text(), config.normalize)
        if not text:
            raise InputError(
                f"nothing is left of the text with normalize = {config.normalize}: give another text"
            )
        return text


def normalized(text: str, how: str) -> str:
    """The text as it is ("none"), in lower case ("lower"), or as letters and single spaces ("letters")."""
    if how == "letters":
        return letters_only(text)
    return text.lower() if how == "lower" else text


def _difference(model: Aligned, tensors: dict[str, Tensor]) -> str:
    """The first parameter in which a model and its weights differ."""
    expected = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = {name: list(value.shape) for name, value in tensors.items()}
    for name in (*expected, *found):
        if expected.get(name) != found.get(name):
            return f"{name} should be {expected.get(name, 'absent')}, and is {found.get(name, 'absent')}"
    return "they differ"
