"""Frames to symbols with CTC: a distribution over symbols and the blank at every frame, and the loss of a whole text."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from throughtime.data.batch import IGNORE
from throughtime.decoding.ctc import BLANK
from throughtime.models.many_to_many import ManyToMany, StreamingParts


class Emissions(NamedTuple):
    """What a `Transcriber` returns: logits of V symbols, the blank among them, for each frame."""

    logits: Tensor  # [T, B, V]
    lengths: Tensor  # int64 [B] on the CPU, frames of each row
    earliest: float = 0.0  # see `losses`

    def log_probabilities(self) -> Tensor:
        """[T, B, V] in float32 or wider."""
        logits = self.logits.float() if self.logits.dtype in (torch.bfloat16, torch.float16) else self.logits
        return logits.log_softmax(-1)

    def losses(self, targets: Tensor) -> Tensor:
        """-log P(text) of each row in nats, [B], 0 for a row whose targets are all masked; see `F.ctc_loss`.

        Args: targets [B, U], the symbols of each row from the left, the rest IGNORE (-100).
        With `earliest` above 0 a path that emits the i-th of n symbols before frame earliest * i / n of the row's frames counts
        e^-30 times for each such frame. A model that reads forward is else content to guess the first symbols before it has
        heard them: paths that wait are too unlikely at first to be learned from.
        Infinite where a text needs more frames than there are. Cost: O(T U) for each row.
        Source: Graves, Fernandez, Gomez & Schmidhuber 2006, ICML; `earliest` is our own.
        """
        count = (targets != IGNORE).sum(1)
        lengths = self.lengths.to(targets.device)
        log_probabilities, kept = self.log_probabilities(), None
        if self.earliest:
            # Lowered, and made to sum to 1 again: the gradient of F.ctc_loss is that of log-softmax. What this adds is taken off.
            lowered = log_probabilities - _EARLY * self._too_early(targets, count, lengths)
            kept = lowered.logsumexp(-1)
            log_probabilities = lowered - kept.unsqueeze(-1)
        found = F.ctc_loss(
            log_probabilities, targets.clamp(min=0), lengths, count, blank=BLANK, reduction="none"
        )
        if kept is not None:
            real = torch.arange(len(kept), device=kept.device)[:, None] < lengths
            found = found - kept.masked_fill(~real, 0).sum(0)
        return torch.where(count > 0, found, 0)

    def _too_early(self, targets: Tensor, count: Tensor, lengths: Tensor) -> Tensor:
        """Whether a symbol may not be emitted yet, bool [T, B, V]: before the first place in the text that has it."""
        steps, rows, symbols = self.logits.shape
        order = torch.arange(1, targets.shape[1] + 1, device=targets.device)
        begin = self.earliest * lengths[:, None] * order / count.clamp(min=1)[:, None]
        begin = begin.masked_fill(targets == IGNORE, torch.inf)
        first = begin.new_full((rows, symbols), torch.inf).scatter_reduce(
            1, targets.clamp(min=0), begin, "amin"
        )
        first[first == torch.inf] = 0  # no symbol of the text, so on no path
        return torch.arange(steps, device=targets.device)[:, None, None] < first


_EARLY = 30.0  # nats


class WindowState(NamedTuple):
    """What is carried between the windows of one sequence in training: the loss reads all frames at the end."""

    layers: Any
    logits: Tensor
    lengths: Tensor


class Transcriber(ManyToMany):
    """`ManyToMany` over frames, with logits of the symbols and the blank: it returns `Emissions`.

    In training, called window by window, it returns the emissions of all windows so far: the loss of a text needs them all, and
    comes in the window in which its row ends. They are part of the state, so checkpointed BPTT gives the gradient of full BPTT.
    In eval mode the state is that of the layers, and emissions are of the frames that were given.
    Args: earliest, of the loss in training, see `Emissions.losses`.
    """

    whole_gradient = "CTC"
    """What in the model needs the gradient through a whole sequence: `throughtime.training` refuses other strategies."""

    def __init__(
        self,
        frames: nn.Module,
        layers: nn.Module,
        features: int,
        symbols: int,
        *,
        dropout: float = 0.0,
        earliest: float = 0.0,
    ) -> None:
        super().__init__(frames, layers, features, symbols, dropout=dropout)
        self.earliest = earliest

    def streaming_parts(self) -> StreamingParts:
        return StreamingParts(self.embedding, self.layers, (self.head.weight, self.head.bias))

    def step_outputs(self, outputs: Emissions) -> Tensor:
        """The logits of each step [T, B, V]."""
        return outputs.logits

    def forward(self, inputs: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Any, Any]:
        """Frames [T, B, F] to (`Emissions`, state)."""
        before = state if isinstance(state, WindowState) else None
        logits, after = super().forward(inputs, state if before is None else before.layers, lengths)
        steps, rows = inputs.shape[:2]
        ends = torch.full((rows,), steps) if lengths is None else lengths.cpu()
        if before is not None:
            logits = torch.cat([before.logits, logits])
            # A row's frames come first: what lies behind them, in a window that it does not fill, is never read.
            ends = before.lengths + ends
        emissions = Emissions(logits, ends, self.earliest if self.training else 0.0)
        if self.training and not self.bidirectional:
            return emissions, WindowState(after, logits, ends)
        return emissions, after
