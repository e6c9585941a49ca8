"""A model of the next item of a session: recurrent layers, and a score for each item after each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node, tree_map_only

from throughtime.data.batch import IGNORE, unmasked
from throughtime.models.many_to_many import ManyToMany, StreamingParts
from throughtime.models.ranking_losses import bpr_max, full_softmax, sampled_softmax, top1_max

_MOST = 2**24  # scores that are computed at once


class ItemScores:
    """The scores of all items after each step, kept as what they are computed from: of many items, few are asked for.

    scores = W h + b. To torch's pytrees this is one tensor, `hidden`.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        drawn: Tensor | None = None,
        log_expected: Tensor | None = None,
    ) -> None:
        self.hidden = hidden
        """[T, B, H]."""
        self.weight, self.bias = weight, bias
        """[V + 1, H] and [V + 1]; the last row is of unknown items."""
        self.drawn, self.log_expected = drawn, log_expected
        """Items drawn for a sampled loss, int64 [K], and the log of how often each is expected among them; None in evaluation."""
        self.found: dict[Any, Tensor] = {}

    def rows(self, kept: Tensor) -> Iterator[Tensor]:
        """Scores [m, V + 1] of the steps where `kept` [T, B] is true, in its order, some at a time."""
        hidden = self.hidden[kept]
        for part in torch.split(hidden, max(1, _MOST // len(self.weight))) if len(hidden) else ():
            yield self.of(part)

    def of(self, hidden: Tensor) -> Tensor:
        """Scores [..., V + 1] of hidden [..., H]."""
        return F.linear(hidden.to(self.weight.dtype), self.weight, self.bias)


def _flatten(scores: ItemScores) -> tuple[list[Tensor], tuple[Any, ...]]:
    return [scores.hidden], (scores.weight, scores.bias, scores.drawn, scores.log_expected)


def _unflatten(leaves: Any, others: Any) -> ItemScores:
    return ItemScores(*leaves, *others)


register_pytree_node(ItemScores, _flatten, _unflatten)


class NextItem(ManyToMany):
    """Scores of V items, and of "unknown", after each step.

        x_t = dropout(embedding(item_t));  h_t, state_t = layers(x_t, state_{t-1});  scores_t = W dropout(h_t) + b

    In training, `negatives` items are drawn at each call, with replacement, with probability proportional to
    frequency^alpha; the loss compares all targets of the call with the same ones. Number V stands for an unknown item; its
    vector starts at zero and is learned only if training data holds unknown items.

    Args: embedding of V + 1 ids; layers, features, dropout, tied: as `ManyToMany`; frequencies, float [V + 1], how often each
    item is in the training data; negatives, 0 for a loss over all items.
    Source: Hidasi et al. 2016, arXiv 1511.06939; Hidasi & Karatzoglou 2018, arXiv 1706.03847.
    """

    frequencies: Tensor

    def __init__(
        self,
        embedding: nn.Module,
        layers: nn.Module,
        features: int,
        frequencies: Tensor,
        *,
        dropout: float = 0.0,
        tied: bool = False,
        negatives: int = 0,
        alpha: float = 0.5,
    ) -> None:
        super().__init__(embedding, layers, features, len(frequencies), dropout=dropout, tied=tied)
        self.negatives = negatives
        if isinstance(weight := getattr(embedding, "weight", None), Tensor):
            nn.init.zeros_(weight[-1])
        nn.init.zeros_(self.head.bias)
        # Follows the module's device; it is the data's, so it is not saved with the weights.
        self.register_buffer("frequencies", frequencies.float().pow(alpha), persistent=False)

    def streaming_parts(self) -> StreamingParts:
        return StreamingParts(self.embedding, self.layers, (self.head.weight, self.head.bias))

    def step_outputs(self, outputs: ItemScores) -> Tensor:
        """The scores of all items [T, B, V + 1]."""
        return outputs.of(outputs.hidden)

    def forward(  # type: ignore[override]
        self, inputs: Tensor | tuple[Tensor, Tensor], state: Any = None, lengths: Tensor | None = None
    ) -> tuple[ItemScores, Any]:
        """Read sessions.

        Args:
            inputs: ids [T, B]; or a pair of these and bool [T, B], true in the first row where a session starts: its state is
                the initial one, whatever `state` holds (see `SessionParallel`).
            state: what the last call returned, to continue from it; None for the initial state.
            lengths: [B], steps of each row; scores behind them mean nothing.

        Returns: the scores, and the state after each row's last step.
        """
        ids = inputs
        if not isinstance(ids, Tensor):
            ids, starts = ids
            state = _restarted(state, starts[0])
        extra = {} if lengths is None else {"lengths": lengths}
        y, state = self.layers(self.dropout(self.embedding(ids)), state, **extra)
        drawn = log_expected = None
        if self.training and self.negatives:
            chances = self.frequencies / self.frequencies.sum()
            drawn = torch.multinomial(chances, self.negatives, replacement=True)
            log_expected = (chances[drawn] * self.negatives).log().to(self.head.weight.dtype)
        return ItemScores(self.dropout(y), self.head.weight, self.head.bias, drawn, log_expected), state


def _restarted(state: Any, starts: Tensor) -> Any:
    """A state of tensors [..., B, H] with zeros in the rows that start."""
    return tree_map_only(Tensor, lambda leaf: leaf.masked_fill(starts[:, None].to(leaf.device), 0), state)


def next_item_loss(scores: ItemScores, targets: Tensor, objective: str, penalty: float = 0.0) -> Tensor:
    """The sum of the losses over the unmasked targets [T, B]; without drawn items the cross-entropy over all items.

    Args: objective, "softmax", "sampled", "bpr-max" or "top1-max"; penalty, the regularization of BPR-max.
    """
    kept = unmasked(targets)
    own, hidden = targets[kept], scores.hidden[kept].to(scores.weight.dtype)
    if scores.drawn is None or scores.log_expected is None:
        return full_softmax(hidden, scores.weight, scores.bias, own)
    right = (hidden * scores.weight[own]).sum(1) + scores.bias[own]
    drawn = F.linear(hidden, scores.weight[scores.drawn], scores.bias[scores.drawn])
    same = own[:, None] == scores.drawn
    if objective == "bpr-max":
        return bpr_max(right, drawn, same, penalty).sum()
    if objective == "top1-max":
        return top1_max(right, drawn, same).sum()
    return sampled_softmax(right, drawn, same, scores.log_expected).sum()


def cross_entropies(scores: ItemScores, targets: Tensor) -> Tensor:
    """The cross-entropy over all items at each step, [T, B]; 0 where the target is masked."""
    every = scores.of(scores.hidden).flatten(0, -2)
    losses = F.cross_entropy(every, targets.flatten(), ignore_index=IGNORE, reduction="none")
    return losses.view(targets.shape)
