"""What the loop asks of an application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn


class Window(Protocol):
    """Some steps of a batch; any pytree of tensors with time first for `inputs` and `targets`."""

    @property
    def inputs(self) -> Any: ...

    @property
    def targets(self) -> Any: ...

    @property
    def fresh(self) -> bool:
        """Whether the sequences start here: the state is forgotten."""
        ...

    @property
    def count(self) -> int:
        """Targets that are not masked."""
        ...


class Windows(Protocol):
    """Training data, epoch after epoch, resumable at any window."""

    epochs_done: int
    windows_done: int

    def __len__(self) -> int:
        """Windows in an epoch."""
        ...

    def epoch(self) -> Iterator[Window]:
        """What remains of this epoch. The position moves on before a window is given."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Task(Protocol):
    """Data, model and loss of one application."""

    @property
    def name(self) -> str:
        """Of the command that trains it, `throughtime train NAME`."""
        ...

    @property
    def unit(self) -> str:
        """What a target is, in one word: "character", "word", "token"."""
        ...

    def build(self) -> nn.Module:
        """A new model `(inputs, state) -> (outputs, state)`, its weights drawn from torch's generator."""
        ...

    def streams(self, steps: int, batch: int, *, seed: int, rank: int, world: int) -> Windows:
        """The training data of one of `world` processes."""
        ...

    def validation(self, steps: int, batch: int) -> Iterator[Window] | None:
        """The validation data from its beginning; None if there is none."""
        ...

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The sum of the losses over the unmasked targets, in nats."""
        ...

    def remarks(self) -> list[str]:
        """What the user should know before training starts; often nothing."""
        ...
