"""A model part-way through a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from throughtime.data import Vocabulary
from throughtime.errors import InputError

# A long prompt is run in pieces, so that its logits [T, V] never stand in memory all at once.
_PIECE = 1024


class State(NamedTuple):
    """Where a session stands: a value that later calls never change."""

    model: Any  # the model's own state, any nesting of tensors; None before the first symbol
    logits: Tensor | None  # [V] after the last symbol
    position: int  # symbols fed so far


class Session:
    """One sequence read by a model, symbol by symbol or many at once; the state is carried from call to call.

    However the symbols are divided over calls, the logits are those of one call with all of them. The model
    runs in eval mode and without gradients, and is handed back in the mode it was in.

    Args:
        model: `(ids [T, 1], state) -> (logits [T, 1, V], state)`, state None at the start.
        vocabulary: what the ids stand for; its length is V.

    Raises: InputError for a model that has a bidirectional layer.
    """

    def __init__(self, model: nn.Module, vocabulary: Vocabulary) -> None:
        if any(getattr(module, "bidirectional", False) for module in model.modules()):
            raise InputError(
                "a bidirectional model cannot run from left to right: at each step its backward half reads "
                "the symbols that come after, which are the ones to be predicted; train one without it"
            )
        self.model = model
        self.vocabulary = vocabulary
        self._state: State | Callable[[], State] = State(None, None, 0)

    @property
    def here(self) -> State:
        """Where the session stands, not copied: `snapshot` is for keeping."""
        if not isinstance(self._state, State):
            self._state = self._state()
        return self._state

    def go_to(self, state: State | Callable[[], State]) -> None:
        """Stand at `state`, which is not copied; a function is called when someone first looks."""
        self._state = state

    def stands_at(self, state: State | Callable[[], State]) -> bool:
        """Whether it was last sent to `state`, and, if that is a function, nobody has looked since."""
        return self._state is state

    @property
    def logits(self) -> Tensor | None:
        """Logits [V] of what follows the last symbol; None before the first."""
        return self.here.logits

    @property
    def position(self) -> int:
        """Symbols fed so far."""
        return self.here.position

    def feed(self, symbols: str | Sequence[int] | Tensor) -> Tensor:
        """Read symbols, and return the logits [V] of what follows the last of them.

        Args:
            symbols: text, or ids [T]. What the vocabulary does not know in a text becomes its unknown symbol.

        Raises: InputError, the session unchanged, if there are none or an id lies outside the vocabulary.
        Cost: O(T) time, memory for at most 1024 steps' logits.
        """
        ids = self.ids(symbols)
        state = self.here.model
        with _at_work(self.model), torch.inference_mode():
            for piece in torch.split(ids, _PIECE):
                outputs, state = self.model(piece.unsqueeze(1), state)
        logits: Tensor = outputs[-1, 0]
        self.go_to(State(state, logits, self.position + len(ids)))
        return logits

    def snapshot(self) -> State:
        """A copy of where the session stands, to go back to with `restore`, any number of times."""
        # Cloned outside inference mode: these are ordinary tensors, usable in training too.
        return _copy(self.here)

    def restore(self, state: State) -> None:
        """Go back to where `state` was taken."""
        self.go_to(_copy(state))

    def reset(self) -> None:
        """Go back to before the first symbol."""
        self.go_to(State(None, None, 0))

    def ids(self, symbols: str | Sequence[int] | Tensor) -> Tensor:
        """What `feed` reads, as ids [T] on the model's device.

        Raises: InputError if there are none or one lies outside the vocabulary.
        """
        if isinstance(symbols, str):
            ids = self.vocabulary.encode(symbols)
        else:
            ids = torch.as_tensor(symbols)
        if ids.dim() != 1 or len(ids) == 0:
            raise InputError(f"expected one or more symbols, a text or ids [T], got shape {list(ids.shape)}")
        if ids.is_floating_point():
            raise InputError(f"ids must be whole numbers, got {ids.dtype}")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= len(self.vocabulary):
            raise InputError(
                f"ids must lie between 0 and {len(self.vocabulary) - 1}, got {low} to {high}: "
                "encode the text with this session's vocabulary"
            )
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        return ids.to(device=device, dtype=torch.int64)


def _copy(state: State) -> State:
    copied: State = tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, state)
    return copied


@contextmanager
def _at_work(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode again outside."""
    in_training = [module for module in model.modules() if module.training] if model.training else []
    try:
        for module in in_training:
            module.training = False
        yield
    finally:
        for module in in_training:
            module.training = True
