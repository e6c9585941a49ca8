"""Losses of a model that scores many items, of which one is right: over all of them, or over a few that were drawn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_MOST = 2**26  # scores that are in memory at once


def full_softmax(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """The sum over targets of -log softmax(W h + b)[target].

    Args: hidden [n, H], weight [V, H], bias [V], targets int64 [n].
    Cost: n*V*H multiplications; up to _MOST scores are kept for the backward pass, more are computed again in parts.
    """
    size = max(1, _MOST // len(weight))
    if len(hidden) <= size:
        return _cross_entropy(hidden, weight, bias, targets)
    parts = [
        checkpoint(_cross_entropy, h, weight, bias, t, use_reentrant=False, preserve_rng_state=False)
        for h, t in zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    ]
    return torch.stack(parts).sum()


def _cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")


def sampled_softmax(right: Tensor, drawn: Tensor, same: Tensor, log_expected: Tensor) -> Tensor:
    """-log of the softmax of the right score over itself and sampled scores, each corrected for how often it is drawn.

        L = -r + log(exp(r) + sum_{j drawn, j != target} exp(s_j) / E_j)

    E_j, how often item j is expected among the drawn, makes the sum an unbiased estimate of the one over all other items
    ("logQ correction"), so that L tends to the full cross-entropy as more are drawn.
    Args: right [n], the scores r of the targets; drawn [n, K], scores s; same, bool [n, K], where the drawn item is the target;
    log_expected [K], log E of each drawn item. Returns: [n].
    Source: Bengio & Senécal 2008, IEEE Transactions on Neural Networks 19(4); Jean et al. 2015, arXiv 1412.2007.
    """
    others = (drawn - log_expected).masked_fill(same, -torch.inf)
    return torch.cat([right[:, None], others], 1).logsumexp(1) - right


def bpr_max(right: Tensor, drawn: Tensor, same: Tensor, regularization: float = 0.0) -> Tensor:
    """BPR-max: the right score must be above the drawn ones, of which the highest count most.

        L = -log sum_j w_j sigmoid(r - s_j) + regularization * sum_j w_j s_j^2,  w = softmax_j(s_j)

    Arguments as `sampled_softmax`; a drawn item that is the target has no weight, and a row with no other has no loss.
    Source: Hidasi & Karatzoglou 2018, arXiv 1706.03847, section 3.3.
    """
    log_weight, alone = _log_weights(drawn, same)
    ranked = -(log_weight + F.logsigmoid(right[:, None] - drawn)).logsumexp(1)
    return (ranked + regularization * (log_weight.exp() * drawn.square()).sum(1)).masked_fill(alone, 0)


def top1_max(right: Tensor, drawn: Tensor, same: Tensor) -> Tensor:
    """TOP1-max: L = sum_j w_j (sigmoid(s_j - r) + sigmoid(s_j^2)),  w = softmax_j(s_j).

    Arguments as `bpr_max`. Source: Hidasi & Karatzoglou 2018, arXiv 1706.03847, section 3.2.
    """
    log_weight, alone = _log_weights(drawn, same)
    terms = (drawn - right[:, None]).sigmoid() + drawn.square().sigmoid()
    return (log_weight.exp() * terms).sum(1).masked_fill(alone, 0)


def _log_weights(drawn: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Log softmax [n, K] over the drawn scores but the target's, and the rows [n] where there are no others."""
    alone = same.all(1)
    # Such a row keeps its scores, as a softmax over nothing would be NaN, and so would its gradient.
    return drawn.masked_fill(same & ~alone[:, None], -torch.inf).log_softmax(1), alone
