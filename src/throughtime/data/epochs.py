"""Batches epoch after epoch, resumable at any of them: a position is two numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from throughtime.errors import InputError

if TYPE_CHECKING:
    from throughtime.data.batch import Batch


class Epochs(ABC):
    """Every epoch is a function of its number, so nothing of it is stored. With `world` processes each is one `rank`.

    Raises: InputError unless 0 <= rank < world.
    """

    batch: int

    def __init__(self, rank: int, world: int) -> None:
        if not 0 <= rank < world:
            raise InputError(f"rank must be from 0 to world - 1 = {world - 1}, got {rank}")
        self.rank, self.world = rank, world
        self.epochs_done = 0
        self.batches_done = 0
        """Batches yielded in the current epoch; 0 again after its last."""

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch."""

    @abstractmethod
    def _batches(self, epoch: int) -> Callable[[int], Batch]:
        """The batches of an epoch by their number."""

    @property
    @abstractmethod
    def _identity(self) -> dict[str, Any]:
        """The data and settings that a position belongs to."""

    def epoch(self) -> Iterator[Batch]:
        """The batches that remain of this epoch: all, unless a state was loaded or a loop was left early.

        The position moves on before a batch is yielded: saved while a batch is in use, it names the next one.
        """
        epoch, first = self.epochs_done, self.batches_done
        batches = self._batches(epoch)
        for index in range(first, len(self)):
            last = index == len(self) - 1
            self.epochs_done, self.batches_done = (epoch + 1, 0) if last else (epoch, index + 1)
            yield batches(index)

    def state_dict(self) -> dict[str, Any]:
        """The position, and the data and settings it belongs to. The same on every rank."""
        return {"epochs_done": self.epochs_done, "batches_done": self.batches_done, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken: the batches are those of a run that never stopped.

        Raises: InputError when the state was taken from other data or other settings, or is damaged.
        """
        for name, ours in self._identity.items():
            if state.get(name) != ours:
                raise InputError(
                    f"the saved position is one with {name} = {state.get(name)}, this one has {ours}: "
                    "continue with the same data and settings, or start a new run"
                )
        epochs, batches = state.get("epochs_done"), state.get("batches_done")
        if (
            not isinstance(epochs, int)
            or epochs < 0
            or not isinstance(batches, int)
            or not 0 <= batches < len(self)
        ):
            raise InputError(f"the saved position is damaged: epoch {epochs}, batch {batches} of {len(self)}")
        self.epochs_done, self.batches_done = epochs, batches
