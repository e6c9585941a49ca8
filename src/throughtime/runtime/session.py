"""A model in the middle of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from throughtime.data import Vocabulary
from throughtime.errors import InputError
from throughtime.kernels.native.generation.generator import Generator, State
from throughtime.layers.eval_mode import evaluating

# A long prompt is run in chunks, so that its logits [T, V] are never in memory all at once.
_CHUNK = 1024


class Chunk:
    """Symbols that the native loop sampled in one call, of which the first `count` have been given out.

    The loop returns the state after the last symbol only. The state after an earlier one is computed when it is asked for, by
    reading the symbols before it again.
    """

    def __init__(self, generator: Generator, start: State, ids: list[int], end: State) -> None:
        self.ids, self.count = ids, 0
        self._generator, self._start, self._end = generator, start, end

    def state(self) -> State:
        """The state after `count` symbols."""
        if self.count == len(self.ids):
            return self._end
        return self._generator.feed(torch.tensor(self.ids[: self.count]), self._start)


class Session:
    """One sequence read by a model, symbol by symbol or many at once; the state is carried from call to call.

    However the symbols are divided over calls, the logits are those of one call with all of them. The model runs in eval mode and
    without gradients. A model in training mode is put back into it after each call, which must not happen while another thread
    uses it; call `model.eval()` once to share a model between threads: the mode is then never written.

    Args:
        model: `(ids [T, 1], state) -> (logits [T, 1, V], state)`, state None at the start.
        vocabulary: what the ids stand for; its length is V.
        start: where it begins and `reset` goes back to, as of a model that begins from a style; None: before the first symbol.

    Raises: InputError for a model that has a bidirectional layer.
    """

    def __init__(self, model: nn.Module, vocabulary: Vocabulary, start: State | None = None) -> None:
        if any(getattr(module, "bidirectional", False) for module in model.modules()):
            raise InputError(
                "a bidirectional model cannot run from left to right: at each step its backward half reads "
                "the symbols that come after, which are the ones to be predicted; train one without it"
            )
        self.model = model
        self.vocabulary = vocabulary
        self._start = start or State()
        self._state: State | Chunk = self._start

    @property
    def state(self) -> State:
        """The current state, of a batch of one, not copied; `snapshot` copies it."""
        if isinstance(self._state, Chunk):
            self._state = self._state.state()
        return self._state

    def set_state(self, state: State | Chunk) -> None:
        """Continue from `state`, which is not copied, or from wherever in a chunk its `count` stands."""
        self._state = state

    def follows(self, chunk: Chunk) -> bool:
        """Whether `chunk` was set last, and its state has not been read since."""
        return self._state is chunk

    @property
    def logits(self) -> Tensor | None:
        """Logits [V] of what follows the last symbol; None before the first."""
        logits = self.state.logits
        return None if logits is None else logits[0]

    @property
    def position(self) -> int:
        """Symbols fed so far."""
        return self.state.position

    def feed(self, symbols: str | Sequence[int] | Tensor) -> Tensor:
        """Read symbols, and return the logits [V] of what follows the last of them.

        Args:
            symbols: text, or ids [T]. What the vocabulary does not know in a text becomes its unknown symbol.

        Raises: InputError, the session unchanged, if there are none, an id lies outside the vocabulary, or the model does not
            return logits of the vocabulary for each step.
        Cost: O(T) time, memory for at most 1024 steps' logits.
        """
        ids = self.ids(symbols)
        state = self.state.model
        with evaluating(self.model), torch.inference_mode():
            for chunk in torch.split(ids, _CHUNK):
                outputs, state = self.model(chunk.unsqueeze(1), state)
                if tuple(outputs.shape) != (len(chunk), 1, len(self.vocabulary)):
                    raise InputError(
                        f"expected a model of the next symbol, with logits {[len(chunk), 1, len(self.vocabulary)]}, got "
                        f"{list(outputs.shape)}: sessions and generation are for language models"
                    )
        logits: Tensor = outputs[-1]
        self.set_state(State(state, logits, self.position + len(ids)))
        return logits[0]

    def snapshot(self) -> State:
        """A copy of the current state, for `restore`, any number of times."""
        # Cloned outside inference mode: these are ordinary tensors, usable in training too.
        return _copy(self.state)

    def restore(self, state: State) -> None:
        """Go back to a state that `snapshot` copied."""
        self.set_state(_copy(state))

    def reset(self) -> None:
        """Go back to the start."""
        self.set_state(self._start)

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
