"""What tasks that read files share: where the data is, and how it is divided."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from throughtime.errors import InputError
from throughtime.tasks.task import Task, data_option

if TYPE_CHECKING:
    from torch import Tensor

    from throughtime.data.assets import Assets
    from throughtime.data.batch import Batch
    from throughtime.data.examples import Context, Examples, Targets
    from throughtime.data.text import Source


def check_part(value: Any, name: str) -> None:
    """Raise InputError for a file without a name."""
    if value == "":
        raise InputError(f"{name} must be a fraction from 0 up to 1, or a file, got an empty name")


def condition(text: str | None, name: str = "") -> tuple[str, tuple[str, ...]]:
    """Read "COLUMN=VALUE" or "COLUMN=VALUE,VALUE": the column and its values; "" and none of None.

    Raises: InputError for another form.
    """
    if text is None:
        return "", ()
    column, equals, values = text.partition("=")
    found = tuple(value.strip() for value in values.split(",") if value.strip())
    if not column.strip() or not equals or not found:
        raise InputError(f"{name} must be COLUMN=VALUE or COLUMN=VALUE,VALUE, got {text!r}")
    return column.strip(), found


@dataclass(frozen=True)
class FileTask(Task):
    """A task whose data is in files, or ships inside where none is named."""

    data: tuple[str, ...] = data_option(
        (), "Files; repeat for more. Default: what ships inside.", metavar="FILE..."
    )
    validation: float | str = data_option(
        0.1, "Validation data, not trained on: a fraction of the data, or a file; 0 for none.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    test: float | str = data_option(
        0.0, "Test data, evaluated once, after training: a fraction of the data, or a file.",
        metavar="FRACTION|FILE", low=0, below=1, check=check_part,
    )  # fmt: skip
    limit: int | None = data_option(
        None, "Use only N examples, drawn at random, or the first N characters of a text.", metavar="N", low=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        fractions = [each for each in (self.validation, self.test) if not isinstance(each, str)]
        if sum(fractions) >= 1:
            raise InputError(
                f"validation and test together must leave some data to train on, got {self.validation:g} and {self.test:g}"
            )

    @property
    def title(self) -> str:
        return Path(self.data[0]).stem if self.data else "python"

    def with_full_paths(self) -> Self:
        """The same with full paths of files, so that a run can be resumed from any folder; devices and pipes stay."""
        parts: dict[str, Any] = {
            name: full_path(value)
            for name in ("validation", "test")
            if isinstance(value := getattr(self, name), str)
        }
        return replace(self, data=tuple(map(full_path, self.data)), **parts)

    def on(self, files: tuple[str, ...]) -> Self:
        """The task on other data, all of it: with assets of a run, the split "all" is what these files hold."""
        return replace(self, data=tuple(map(full_path, files)), validation=0.0, test=0.0, limit=None)

    def moved(self, files: tuple[str, ...]) -> Self:
        """The task on the same data in another place; checksums are held against the run's when the files are read."""
        return replace(self, data=tuple(map(full_path, files)))


@dataclass(frozen=True)
class ExamplesTask(FileTask):
    """A task whose data are sequences apart from each other: whole ones in each batch."""

    @abstractmethod
    def _encoded(self, assets: Assets, split: str) -> tuple[list[Tensor], Targets]:
        """The sequences of a split as the model reads them, and their targets, as `Examples` takes them."""

    def _context(self, assets: Assets, split: str) -> Context | None:
        """What the sequences of a split are written from, in the order of `_encoded`; None where there is nothing."""
        return None

    def batches(
        self, assets: Assets, *, steps: int, batch: int, seed: int = 0, rank: int = 0, world: int = 1
    ) -> Examples:
        from throughtime.data.examples import Examples

        inputs, targets = self._encoded(assets, "train")
        context = self._context(assets, "train")
        return Examples(inputs, targets, batch, context=context, seed=seed, rank=rank, world=world)

    def evaluation_batches(
        self, assets: Assets, split: str, *, steps: int, batch: int
    ) -> Iterator[Batch] | None:
        from throughtime.data.examples import evaluation_batches

        inputs, targets = self._encoded(assets, split)
        if not inputs:
            return None
        context = self._context(assets, split)
        return (each for each, _ in evaluation_batches(inputs, targets, batch, context))


def full_path(path: str) -> str:
    """The full path of a regular file or a folder; other paths (a pipe, /dev/fd/63) as they are."""
    if not path:
        raise InputError("expected a file or a folder, got an empty name")
    known = os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path)
    return str(Path(path).resolve()) if known else path


def check_sources(assets: Assets, found: tuple[Source, ...]) -> None:
    """Hold files that were just read against those that the run was made from: the same checksums in the same order, wherever
    the files lie now.

    Raises: InputError naming the first that is another.
    """
    if len(found) != len(assets.sources):
        raise InputError(
            f"the run was made from {len(assets.sources)} files, got {len(found)}: name them all, in their order, with --data"
        )
    for source, before in zip(found, assets.sources, strict=True):
        if source.sha256 == before.sha256:
            continue
        what = f"is not {before.path}, which the run was made from"
        if before.path == source.path:
            what = f"has changed since the run was made ({before.bytes:,} bytes then, {source.bytes:,} now)"
        raise InputError(
            f"{source.path} {what}: put the old file back, or name it where it is now with --data FILE; "
            "to evaluate on other data, name it with --data FILE without --split"
        )


@contextmanager
def reading_again() -> Iterator[None]:
    """For reading the data of a run once more: an error also says what to do if it was moved."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"{error} If the run's data was moved, name it where it is now, with --data."
        ) from None
