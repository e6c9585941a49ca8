"""Windows epoch after epoch, resumable at any of them: a position is two numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from throughtime.errors import InputError

if TYPE_CHECKING:
    from throughtime.data.streams import Window


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
        self.windows_done = 0
        """Windows given in the epoch that is under way; 0 again when its last has been given."""

    @abstractmethod
    def __len__(self) -> int:
        """Windows in an epoch."""

    @abstractmethod
    def _windows(self, epoch: int) -> Callable[[int], Window]:
        """The windows of an epoch by their number."""

    @property
    @abstractmethod
    def _identity(self) -> dict[str, Any]:
        """What a position is one in."""

    def epoch(self) -> Iterator[Window]:
        """The windows that remain of this epoch: all, unless a state was loaded or a loop was left early.

        The position moves on before a window is given: saved while a window is in use, it names the next one.
        """
        epoch, first = self.epochs_done, self.windows_done
        windows = self._windows(epoch)
        for index in range(first, len(self)):
            last = index == len(self) - 1
            self.epochs_done, self.windows_done = (epoch + 1, 0) if last else (epoch, index + 1)
            yield windows(index)

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in. The same on every rank."""
        return {"epochs_done": self.epochs_done, "windows_done": self.windows_done, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken: the windows are those of a run that never stopped.

        Raises: InputError when the state was taken from other data or other settings, or is damaged.
        """
        for name, ours in self._identity.items():
            if state.get(name) != ours:
                raise InputError(
                    f"the saved position is one with {name} = {state.get(name)}, this one has {ours}: "
                    "go on with the same data and settings, or start anew"
                )
        epochs, windows = state.get("epochs_done"), state.get("windows_done")
        if (
            not isinstance(epochs, int)
            or epochs < 0
            or not isinstance(windows, int)
            or not 0 <= windows < len(self)
        ):
            raise InputError(
                f"the saved position is damaged: epoch {epochs}, window {windows} of {len(self)}"
            )
        self.epochs_done, self.windows_done = epochs, windows
