"""One to many: notes or sets of notes written one after the other, from a vector or from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node

from throughtime.data.batch import IGNORE
from throughtime.decoding.sampling import draw
from throughtime.errors import InputError
from throughtime.models.embeddings import OneHot
from throughtime.models.initial_state import InitialState, has_state
from throughtime.models.many_to_many import has_bidirectional


class NoteOutputs:
    """What a model says of the next notes, kept as what it is computed from: how likely a note is depends on the others with it.

    To torch's pytrees this is one tensor, `hidden`.
    """

    def __init__(self, hidden: Tensor, head: Any) -> None:
        self.hidden, self.head = hidden, head
        """[T, B, H], and the head that reads it."""
        self._known: tuple[Tensor, Tensor] | None = None

    def nll(self, targets: Tensor) -> Tensor:
        """-log P of the targets [T, B, ...], nats [T, B], 0 where they are masked. Computed once for the same targets."""
        if self._known is None or self._known[0] is not targets:
            hidden = self.hidden.to(next(self.head.parameters()).dtype)
            self._known = targets, self.head.nll(hidden, targets)
        return self._known[1]


def _flatten(outputs: NoteOutputs) -> tuple[list[Tensor], Any]:
    return [outputs.hidden], outputs.head


def _unflatten(leaves: Any, head: Any) -> NoteOutputs:
    (hidden,) = leaves
    return NoteOutputs(hidden, head)


register_pytree_node(NoteOutputs, _flatten, _unflatten)


class NotePairs(nn.Module):
    """The head of melodies: the pitch of the next note, then its length given the pitch.

        P(pitch) = softmax(W h + b),   P(length | pitch) = softmax(U h + u + e[pitch])

    Args: features, of h; pitches, P, the last of which is the end and has no length; lengths, how many.
    """

    def __init__(self, features: int, pitches: int, lengths: int) -> None:
        super().__init__()
        self.pitch = nn.Linear(features, pitches)
        self.length = nn.Linear(features, lengths)
        self.of_pitch = nn.Embedding(pitches, lengths)
        nn.init.zeros_(self.of_pitch.weight)

    def parts(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log P of pitch and length, nats [..., 2], 0 where masked: targets [..., 2]."""
        pitch, length = targets[..., 0], targets[..., 1]
        first = _cross_entropies(self.pitch(hidden), pitch)
        second = _cross_entropies(self.length(hidden) + self.of_pitch(pitch.clamp(min=0)), length)
        return torch.stack([first, second], dim=-1)

    def nll(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """-log P of the notes, nats [...], 0 where masked."""
        return self.parts(hidden, targets).sum(-1)

    def probabilities(self, hidden: Tensor) -> Tensor:
        """[..., P, lengths] of each pair; that of the end is spread over its lengths."""
        pitches: Tensor = self.pitch(hidden).softmax(-1)
        lengths: Tensor = (self.length(hidden).unsqueeze(-2) + self.of_pitch.weight).softmax(-1)
        return pitches.unsqueeze(-1) * lengths

    def sample(
        self,
        hidden: Tensor,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        *,
        pitch: int | None = None,
        without: Sequence[int] = (),
    ) -> tuple[int, int]:
        """A pitch (or the one that is given, never one of `without`) and a length, of hidden [H]."""
        if pitch is None:
            logits = self.pitch(hidden).clone()
            logits[list(without)] = -torch.inf
            pitch = int(draw(logits, temperature=temperature, generator=generator))
        logits = self.length(hidden) + self.of_pitch.weight[pitch]
        return pitch, int(draw(logits, temperature=temperature, generator=generator))


def _cross_entropies(logits: Tensor, targets: Tensor) -> Tensor:
    found = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="none")
    return found.view(targets.shape)


class NoteEmbedding(nn.Module):
    """A note of a melody and the place in the bar of the next, ids [..., 3], to a vector: the sum of learned ones, or one-hot
    ones side by side.

    Of a pitch there are two: its own, and that of its degree, which it shares with those an octave away.
    Args: pitches, P, of which the first `keys` are played; lengths; places; features, D, or "onehot".
    """

    degrees: Tensor

    def __init__(self, pitches: int, keys: int, lengths: int, places: int, features: int | str) -> None:
        super().__init__()
        sizes = (pitches, lengths, places, 12 + pitches - keys)
        self.learned = isinstance(features, int)
        self.tables = nn.ModuleList(
            nn.Embedding(size, features) if isinstance(features, int) else OneHot(size) for size in sizes
        )
        self.embedding_dim = features if isinstance(features, int) else sum(sizes)
        others = torch.arange(12, 12 + pitches - keys)
        self.register_buffer("degrees", torch.cat([torch.arange(keys) % 12, others]), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors [..., D]."""
        pitch, length, place = ids.long().unbind(-1)
        columns = (pitch, length, place, self.degrees[pitch])
        parts = [table(column) for table, column in zip(self.tables, columns, strict=True)]
        return torch.stack(parts).sum(0) if self.learned else torch.cat(parts, dim=-1)


class FrameEmbedding(nn.Module):
    """A set of notes [..., N] of zeros and ones to a vector: a learned one for each note, added up; or the set itself.

    Args: notes, N; features, D, or "onehot".
    """

    def __init__(self, notes: int, features: int | str) -> None:
        super().__init__()
        self.linear = nn.Linear(notes, features) if isinstance(features, int) else OneHot(notes)
        self.embedding_dim = features if isinstance(features, int) else notes

    def forward(self, frames: Tensor) -> Tensor:
        """Return the vectors, in the dtype of the module."""
        if isinstance(self.linear, OneHot):
            return frames.to(self.linear.like.dtype)
        vectors: Tensor = self.linear(frames.to(self.linear.weight.dtype))
        return vectors


class MusicModel(nn.Module):
    """Notes, or sets of notes, from those before them and from a vector c that says what is written.

        s_0 = tanh(A c + a);   x_t = embedding(y_{t-1}) + B c;   h_t, s_t = layers(x_t, s_{t-1})

    and the head reads dropout(h_t). y_0 is the start: no note. The zero vector stands for nothing known. Convolutions and
    layers without recurrence have no s_0 and read c at every step all the same.
    Args: embedding, of y; layers; head, with `nll` and `sample`; features, of the layers' output; context, of c, 0 for none.
    Raises: InputError for a bidirectional layer, which would read what it is to write.
    """

    bidirectional = False

    def __init__(
        self, embedding: Any, layers: nn.Module, head: nn.Module, *, context: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if has_bidirectional(layers):
            raise InputError(
                "a bidirectional model reads the notes that it is to write: leave bidirectional out"
            )
        self.embedding, self.layers, self.head = embedding, layers, head
        self.dropout = nn.Dropout(dropout)
        self.context = context
        self.condition = nn.Linear(context, embedding.embedding_dim, bias=False) if context else None
        self.initial = InitialState(layers, max(1, context)) if has_state(layers) else None

    def forward(
        self, inputs: Tensor, state: Any = None, lengths: Tensor | None = None, context: Tensor | None = None
    ) -> tuple[NoteOutputs, Any]:
        """Read sequences.

        Args: inputs [T, B, ...], y_{t-1} of each step; state, what the last call returned, None for the start; lengths [B];
        context, vectors [B, C], None for zeros.
        Returns: the outputs, and the state after each row's last step.
        """
        x = self.embedding(inputs)
        if self.condition is not None and context is not None:
            x = x + self.condition(context.to(x.dtype))
        if state is None and self.initial is not None:
            if context is None or not self.context:
                context = x.new_zeros(x.shape[1], max(1, self.context))
            state = self.initial(context.to(x.dtype))
        extra = {} if lengths is None else {"lengths": lengths}
        y, state = self.layers(x, state, **extra)
        return NoteOutputs(self.dropout(y), self.head), state
