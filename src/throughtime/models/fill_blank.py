"""Fill the blank: each step is predicted from all the others, and never reads itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.layers.direction import Reversed
from throughtime.models.many_to_many import tie


class FillBlank(nn.Module):
    """One row of outputs for each step, from the steps before it and, with `backward_layers`, from those after it.

        x_t = embedding(input_t)                                       of a row of n steps, t = 0 .. n-1
        f_t = layers over           start, x_0, ..., x_{t-1}           from left to right
        g_t = backward layers over  x_{t+1}, ..., x_{n-1}, end         from right to left
        outputs_t = W_hq dropout([f_t, g_t]) + b_q

    Every step of a batch is a blank at once, and none is seen by its own output. Both stacks run in one direction only: in
    stacked bidirectional layers the second layer would carry x_t back to its own place.

    Args:
        embedding, features, outputs, dropout, tied: as of `ManyToMany`; features of both directions together.
        layers: `(x [T, B, D], state, lengths=) -> (y [T, B, H], state)`, of one direction.
        backward_layers: another such stack; None reads the left side alone.

    Without `backward_layers` the state carries over a cut: that of the layers, and the last x [B, D].
    Cost: the layers', and T*B*H*Q multiplications for the outputs.
    Source: Melamud, Goldberger & Dagan 2016, CoNLL (context2vec).
    """

    def __init__(
        self,
        embedding: Any,
        layers: nn.Module,
        backward_layers: nn.Module | None,
        features: int,
        outputs: int,
        *,
        dropout: float = 0.0,
        tied: bool = False,
    ) -> None:
        super().__init__()
        size = embedding.embedding_dim
        self.embedding = embedding
        self.layers = layers
        self.start = nn.Parameter(torch.zeros(size))
        self.backward_layers = None if backward_layers is None else Reversed(backward_layers)
        if backward_layers is not None:
            self.end = nn.Parameter(torch.zeros(size))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, outputs)
        if tied:
            tie(self.head, embedding)

    @property
    def bidirectional(self) -> bool:
        """Whether the steps after a blank are read too."""
        return self.backward_layers is not None

    def forward(self, inputs: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """Read sequences of ids [T, B]; what stands at a blank may be any id.

        Args: state, of a model that reads from left to right: what the last call returned; None at the start of a sequence.
        lengths: [B], steps of each row, 0 to T.
        Returns: outputs [T, B, Q], and the state after each row's last step, None of a model that reads both sides.
        """
        if state is not None and self.bidirectional:
            raise InputError(
                "a model that reads both sides of a blank cannot continue from a state: it needs the whole sequence; pass None"
            )
        extra = {} if lengths is None else {"lengths": lengths}
        x = self.embedding(inputs)
        before, last = (None, self.start.expand_as(x[0])) if state is None else state
        y, before = self.layers(torch.cat([last[None], x[:-1]]), before, **extra)
        if self.backward_layers is None:
            return self.head(self.dropout(y)), (before, _last(x, last, lengths))
        after = torch.cat([x[1:], self.end.expand_as(x[:1])])
        if lengths is not None:
            final = torch.arange(len(x), device=x.device)[:, None] == lengths.to(x.device) - 1
            after = torch.where(final.unsqueeze(-1), self.end, after)
        g, _ = self.backward_layers(after, None, **extra)
        return self.head(self.dropout(torch.cat([y, g], dim=-1))), None


def _last(x: Tensor, before: Tensor, lengths: Tensor | None) -> Tensor:
    """The last x of each row, [B, D]; the one before the call where it has no steps."""
    if lengths is None:
        return x[-1]
    lengths = lengths.to(x.device)
    index = (lengths - 1).clamp(min=0).view(1, -1, 1).expand(1, *x.shape[1:])
    return torch.where((lengths > 0)[:, None], x.gather(0, index)[0], before)
