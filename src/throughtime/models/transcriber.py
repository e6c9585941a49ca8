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

    def log_probabilities(self) -> Tensor:
        """[T, B, V] in float32 or wider."""
        logits = self.logits.float() if self.logits.dtype in (torch.bfloat16, torch.float16) else self.logits
        return logits.log_softmax(-1)

    def losses(self, targets: Tensor) -> Tensor:
        """-log P(text) of each row in nats, [B], 0 for a row whose targets are all masked; see `F.ctc_loss`.

        Args: targets [B, U], the symbols of each row from the left, the rest IGNORE (-100).
        Infinite where a text needs more frames than there are. Cost: O(T U) for each row.
        Source: Graves, Fernandez, Gomez & Schmidhuber 2006, ICML.
        """
        count = (targets != IGNORE).sum(1)
        found = F.ctc_loss(
            self.log_probabilities(),
            targets.clamp(min=0),
            self.lengths.to(targets.device),
            count,
            blank=BLANK,
            reduction="none",
        )
        return torch.where(count > 0, found, 0)


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
    """

    whole_gradient = "CTC"
    """What in the model needs the gradient through a whole sequence: `throughtime.training` refuses other strategies."""

    def __init__(
        self, frames: nn.Module, layers: nn.Module, features: int, symbols: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__(frames, layers, features, symbols, dropout=dropout)

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
        emissions = Emissions(logits, ends)
        if self.training and not self.bidirectional:
            return emissions, WindowState(after, logits, ends)
        return emissions, after
