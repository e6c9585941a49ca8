"""A linear-chain conditional random field: exact likelihood, best path and marginals of a batch of ragged sequences."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from throughtime.data.batch import IGNORE
from throughtime.errors import InputError

_PAIRS = 1 << 22  # numbers that the marginals of pairs of labels may take at once


class CRF(nn.Module):
    """Scores whole sequences of labels: emissions come from a network, how labels follow each other is learned here.

        s(y) = start[y_1] + sum_t emission_t[y_t] + sum_{t>1} transitions[y_{t-1}, y_t] + end[y_T]
        p(y | x) = exp(s(y)) / sum over all K^T sequences of exp(s)

    Args:
        labels: K.
        allowed: bool [K + 1, K + 1]: whether label j may follow label i; its last row says which labels may come first, its
            last column which may come last. What is not allowed has probability 0, in training and in decoding. None: all is.

    Everything is exact, and in float32 or wider. Shapes: emissions [T, B, K], lengths int64 [B], 0 to T (None: all T). Padding is
    never read, it may hold NaN. A sequence of no steps has log-likelihood 0.
    Cost: T steps over [2B, K, K] numbers for the likelihood and its gradient together: the recursions from both ends run side by
        side in one loop that records no graph, and give the marginals, which are the gradient. It can be differentiated once.
        A scan over products of matrices would take log T steps, each K times as much work: on a CPU that loses from K = 5 on.
    Source: Lafferty, McCallum & Pereira 2001, ICML; Rabiner 1989, Proceedings of the IEEE 77(2), for the recursions.
    """

    def __init__(self, labels: int, allowed: Tensor | None = None) -> None:
        super().__init__()
        if labels < 1:
            raise InputError(f"a CRF needs at least 1 label, got {labels}")
        if allowed is None:
            allowed = torch.ones(labels + 1, labels + 1, dtype=torch.bool)
        if allowed.dtype != torch.bool or allowed.shape != (labels + 1, labels + 1):
            raise InputError(
                f"allowed must be bool [{labels + 1}, {labels + 1}], with a row for the start and a column for the end, got "
                f"{allowed.dtype} {list(allowed.shape)}"
            )
        self.labels = labels
        self.transitions = nn.Parameter(torch.empty(labels, labels).uniform_(-0.1, 0.1))
        self.start = nn.Parameter(torch.empty(labels).uniform_(-0.1, 0.1))
        self.end = nn.Parameter(torch.empty(labels).uniform_(-0.1, 0.1))
        self.allowed: Tensor
        # Follows from the labels, so it is not saved with the weights.
        self.register_buffer("allowed", allowed, persistent=False)

    def log_likelihood(self, emissions: Tensor, targets: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Log p(targets | x) of each sequence, [B].

        Args: targets [T, B], labels; one of -100 is not known, and the likelihood is the sum over what it could be.
        A sequence that is not allowed has -inf.
        """
        emissions, lengths, inside = self._checked(emissions, lengths)
        if targets.shape != emissions.shape[:2]:
            raise InputError(
                f"targets must be {list(emissions.shape[:2])}, one for each step, got {list(targets.shape)}"
            )
        transitions, start, end = self.scores()
        known = inside & (targets != IGNORE)
        total = log_partition(emissions, transitions, start, end, lengths)
        if torch.equal(known, inside):
            return self._score(emissions, targets, lengths, inside) - total
        wanted = torch.arange(self.labels, device=emissions.device) == targets.unsqueeze(-1)
        possible = emissions.masked_fill(known.unsqueeze(-1) & ~wanted, -torch.inf)
        return log_partition(possible, transitions, start, end, lengths) - total

    @torch.no_grad()
    def decode(self, emissions: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The most probable sequence of labels of each row, int64 [T, B], -100 in the padding (Viterbi).

        Cost: T steps over [B, K, K] numbers.
        """
        emissions, lengths, inside = self._checked(emissions, lengths)
        steps, size, _ = emissions.shape
        transitions, start, end = self.scores()
        by_target = transitions.t().contiguous()
        best = start + emissions[0]
        before = torch.zeros(steps, size, self.labels, dtype=torch.int64, device=emissions.device)
        for t in range(1, steps):
            score, before[t] = (best.unsqueeze(1) + by_target).max(-1)
            best = torch.where(inside[t].unsqueeze(-1), score + emissions[t], best)
        last = (best + end).argmax(-1)
        found = torch.full((steps, size), IGNORE, device=emissions.device)
        label = last
        for t in range(steps - 1, -1, -1):
            if t + 1 < steps:
                label = before[t + 1].gather(1, label.unsqueeze(1)).squeeze(1)
            label = torch.where(lengths == t + 1, last, label)  # a row begins at its own last step
            found[t] = label
        return found.masked_fill(~inside, IGNORE)

    @torch.no_grad()
    def marginals(self, emissions: Tensor, lengths: Tensor | None = None) -> Tensor:
        """p(y_t = k | x), [T, B, K]; zero in the padding. Cost: as of the likelihood."""
        emissions, lengths, inside = self._checked(emissions, lengths)
        emissions = emissions - emissions.amax(-1, keepdim=True)  # sums stay small
        alphas, betas, _ = _both_ways(emissions, *self.scores(), lengths)
        return (alphas + betas).softmax(-1).masked_fill(~inside.unsqueeze(-1), 0)

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Transitions [K, K], start [K], end [K]; -inf where not allowed."""
        wide = torch.promote_types(self.transitions.dtype, torch.float32)
        pairs = (
            (self.transitions, self.allowed[:-1, :-1]),
            (self.start, self.allowed[-1, :-1]),
            (self.end, self.allowed[:-1, -1]),
        )
        transitions, start, end = (scores.to(wide).masked_fill(~may, -torch.inf) for scores, may in pairs)
        return transitions, start, end

    def extra_repr(self) -> str:
        return (
            f"{self.labels}, {int((~self.allowed).sum())} of {self.allowed.numel()} transitions not allowed"
        )

    def _score(self, emissions: Tensor, targets: Tensor, lengths: Tensor, inside: Tensor) -> Tensor:
        """s(y) of each row."""
        transitions, start, end = self.scores()
        labels = targets.clamp(min=0)
        zero = emissions.new_zeros(())
        own = torch.where(inside, emissions.gather(-1, labels.unsqueeze(-1)).squeeze(-1), zero).sum(0)
        pairs = transitions.flatten()[labels[:-1] * self.labels + labels[1:]]
        follows = torch.where(inside[1:], pairs, zero).sum(0)
        last = labels.gather(0, (lengths - 1).clamp(min=0).unsqueeze(0))[0]
        ends = torch.where(lengths > 0, start[labels[0]] + end[last], zero)
        return own + follows + ends

    def _checked(self, emissions: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Emissions with zeros in the padding; lengths [B] on their device; which steps are inside a row, bool [T, B]."""
        if emissions.dim() != 3 or emissions.shape[-1] != self.labels or 0 in emissions.shape:
            raise InputError(
                f"emissions must be [T, B, {self.labels}], not empty, got {list(emissions.shape)}"
            )
        steps, size, _ = emissions.shape
        if lengths is None:
            lengths = torch.full((size,), steps)
        if lengths.shape != (size,) or int(lengths.min()) < 0 or int(lengths.max()) > steps:
            raise InputError(
                f"lengths must be [{size}], each 0 to T = {steps}, got {list(lengths.shape)}: {lengths.tolist()[:5]}"
            )
        emissions = emissions.to(torch.promote_types(emissions.dtype, torch.float32))
        lengths = lengths.to(emissions.device)
        inside = torch.arange(steps, device=emissions.device).unsqueeze(1) < lengths
        return torch.where(inside.unsqueeze(-1), emissions, emissions.new_zeros(())), lengths, inside


class Scored(NamedTuple):
    """What a model with a CRF returns: windows of it can be taken, as only the emissions have time."""

    emissions: Tensor  # [T, B, K]
    crf: CRF

    def loss(self, targets: Tensor, lengths: Tensor | None) -> Tensor:
        """The sum over the sequences of -log p(targets | x), in nats."""
        return -self.crf.log_likelihood(self.emissions, targets, lengths).sum()


def best_labels(outputs: Any, lengths: Tensor | None) -> Tensor:
    """The predicted labels [T, B]: the best path of a CRF, else the largest logit of each step."""
    if isinstance(outputs, Scored):
        return outputs.crf.decode(outputs.emissions, lengths)
    labels: Tensor = outputs.argmax(-1)
    return labels


def log_partition(
    emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor
) -> Tensor:
    """Log of the sum over all sequences of labels of exp(score), [B]; 0 for a row of no steps.

    Args: emissions [T, B, K] without NaN; transitions [K, K], start, end [K]; -inf is an impossible label; lengths [B].
    """
    # Without each step's maximum the sums stay small, so that long sequences keep their precision.
    top = emissions.detach().amax(-1, keepdim=True)
    top = torch.where(top.isfinite(), top, 0)
    inputs = (emissions - top, transitions, start, end)
    if not (torch.is_grad_enabled() and any(each.requires_grad for each in inputs)):
        found = _ends(_messages(inputs[0], transitions, start) + inputs[0], end, lengths)
    else:
        found = _LogPartition.apply(*inputs, lengths)
    return found + top.squeeze(-1).sum(0)


class _LogPartition(torch.autograd.Function):
    """Its gradient is the marginals, which the recursions from both ends give at once."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor
    ) -> Tensor:
        alphas, betas, total = _both_ways(emissions, transitions, start, end, lengths)
        inside = torch.arange(len(emissions), device=emissions.device).unsqueeze(1) < lengths
        # Where nothing is possible the gradient is zero, not NaN.
        inside = inside & total.isfinite()
        norm = (alphas + betas).logsumexp(-1, keepdim=True)  # equal at all steps but for rounding
        nodes = (alphas + betas - norm).exp().masked_fill(~inside.unsqueeze(-1), 0)
        edges = _pairs(alphas, betas + emissions - norm, transitions, inside)
        ctx.save_for_backward(nodes, edges, lengths)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        nodes, edges, lengths = ctx.saved_tensors
        nodes = nodes * gradient.unsqueeze(-1)
        last = (lengths - 1).clamp(min=0).view(1, -1, 1).expand(1, -1, nodes.shape[-1])
        pairs = torch.einsum("bij,b->ij", edges, gradient)
        return nodes, pairs, nodes[0].sum(0), nodes.gather(0, last)[0].sum(0), None


def _messages(emissions: Tensor, transitions: Tensor, start: Tensor) -> Tensor:
    """Log of the sum over what can come before each step, without the step's own emission: [T, ..., B, K].

    Args: emissions [T, ..., B, K], transitions [..., K, K], start [..., K]: the axes in the middle are chains side by side.
    """
    by_target = transitions.transpose(-1, -2).unsqueeze(-3).contiguous()  # sums are over the last axis
    found = torch.empty_like(emissions)
    found[0] = start.unsqueeze(-2)
    for t in range(1, len(emissions)):
        before = found[t - 1] + emissions[t - 1]
        torch.logsumexp(before.unsqueeze(-2) + by_target, -1, out=found[t])
    return found


def _both_ways(
    emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Alphas [T, B, K] with each step's own emission, betas [T, B, K] without it, and the log of the sum of all, [B].

    From the right each row begins at its own last step: the same recursion over the reversed row, with transitions transposed.
    """
    steps, size, labels = emissions.shape
    times = torch.arange(steps, device=emissions.device).unsqueeze(1)
    mirrored = (lengths - 1 - times).clamp(min=0).unsqueeze(-1).expand(steps, size, labels)
    pair = torch.stack([emissions, emissions.gather(0, mirrored)], 1)
    found = _messages(pair, torch.stack([transitions, transitions.t()]), torch.stack([start, end]))
    alphas, betas = found[:, 0] + emissions, found[:, 1].gather(0, mirrored)
    return alphas, betas, _ends(alphas, end, lengths)


def _ends(alphas: Tensor, end: Tensor, lengths: Tensor) -> Tensor:
    last = (lengths - 1).clamp(min=0).view(1, -1, 1).expand(1, -1, alphas.shape[-1])
    total = (alphas.gather(0, last)[0] + end).logsumexp(-1)
    return torch.where(lengths > 0, total, 0)


def _pairs(alphas: Tensor, betas: Tensor, transitions: Tensor, inside: Tensor) -> Tensor:
    """How often label j is expected after label i in each row, [B, K, K].

    Args: betas with each step's own emission, less the log of the sum of all.
    """
    steps, size, labels = alphas.shape
    total = alphas.new_zeros(size, labels, labels)
    each = max(1, _PAIRS // (size * labels * labels))
    for first in range(0, steps - 1, each):
        stop = min(steps - 1, first + each)
        logs = alphas[first:stop].unsqueeze(-1) + transitions + betas[first + 1 : stop + 1].unsqueeze(-2)
        outside = ~inside[first + 1 : stop + 1]
        total += logs.masked_fill(outside[..., None, None], -torch.inf).exp().sum(0)
    return total
