"""A linear-chain conditional random field: exact likelihood, best path and marginals of a batch of ragged sequences."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from throughtime.data.batch import IGNORE
from throughtime.errors import InputError


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
    Cost: T products [2B, K] x [K, K] in float64 for the likelihood and its gradient together: the recursions from both ends run
        side by side in one loop that records no graph, and give the marginals, which are the gradient. It can be differentiated
        once. A scan over products of matrices would take log T steps of K times as much work, which on a CPU is more.
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
        emissions, lengths, _ = self._checked(emissions, lengths)
        nodes, _ = _marginals(_forward(emissions, *self.scores(), lengths, both=True), lengths)
        return nodes.to(emissions.dtype)

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
    """Log of the sum over all sequences of labels of exp(score), [B]; 0 for a row of no steps, -inf where none is possible.

    Args: emissions [T, B, K] without NaN; transitions [K, K], start, end [K]; -inf is an impossible label; lengths [B].
    """
    inputs = (emissions, transitions, start, end)
    if not (torch.is_grad_enabled() and any(each.requires_grad for each in inputs)):
        return _forward(emissions, transitions, start, end, lengths, both=False).total.to(emissions.dtype)
    found: Tensor = _LogPartition.apply(*inputs, lengths)  # type: ignore[no-untyped-call]
    return found


class _LogPartition(torch.autograd.Function):
    """Its gradient is the marginals, which the recursions from both ends give at once."""

    @staticmethod
    def forward(
        ctx: Any, emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor
    ) -> Tensor:
        found = _forward(emissions, transitions, start, end, lengths, both=True)
        nodes, pairs = _marginals(found, lengths)
        ctx.save_for_backward(nodes.to(emissions.dtype), pairs.to(emissions.dtype), lengths)
        return found.total.to(emissions.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        nodes, pairs, lengths = ctx.saved_tensors
        nodes = nodes * gradient.unsqueeze(-1)
        last = (lengths - 1).clamp(min=0).view(1, -1, 1).expand(1, -1, nodes.shape[-1])
        among = torch.einsum("bij,b->ij", pairs, gradient)
        return nodes, among, nodes[0].sum(0), nodes.gather(0, last)[0].sum(0), None


class _Recursion(NamedTuple):
    """What `_forward` computes, float64, each step scaled so that its numbers sum to 1 with the step's own factor."""

    total: Tensor  # [B], the log of the sum over all sequences
    factors: Tensor  # [T, B, K], exp(emission) less a constant of the step
    before: Tensor  # [T, B, K], the sum over what comes before, without the step's own factor
    scaled: Tensor  # [T, B, K], the same with it, summing to 1
    after: Tensor  # [T, B, K], the sum over what comes after, without it; empty if not asked for
    weights: Tensor  # [K, K], exp(transitions) less a constant


def _forward(
    emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor, lengths: Tensor, *, both: bool
) -> _Recursion:
    """The recursion from the left, with `both` beside the one from the right.

    From the right each row begins at its own last step: the same recursion over the reversed row, with transitions transposed.
    Products of float64 numbers, scaled at every step, in the place of sums of logarithms: K exponentials in a step and not K^2.
    A label that is e^700 times less likely than another at the same step counts as impossible.
    """
    steps, size, labels = emissions.shape
    e, a, first, last = (each.double() for each in (emissions, transitions, start, end))
    tops = [_top(each) for each in (e, first, last)]
    highest = a.amax()
    highest = torch.where(highest.isfinite(), highest, 0)
    factors, weights = (e - tops[0]).exp(), (a - highest).exp()
    ends = (last - tops[2]).exp()
    times = torch.arange(steps, device=e.device).unsqueeze(1)
    mirrored = (lengths - 1 - times).clamp(min=0).unsqueeze(-1).expand(steps, size, labels)
    chains, begin, table = factors.unsqueeze(1), (first - tops[1]).exp().unsqueeze(0), weights.unsqueeze(0)
    if both:
        chains = torch.stack([factors, factors.gather(0, mirrored)], 1)
        begin, table = torch.cat([begin, ends.unsqueeze(0)]), torch.stack([weights, weights.t()])
    before, scaled = torch.empty_like(chains), torch.empty_like(chains)
    sums = chains.new_empty(*chains.shape[:-1], 1)
    before[0] = begin.unsqueeze(1)
    # A tensor of views is made once: in the loop nothing but the arithmetic is left.
    parts = [each.unbind(0) for each in (before, scaled, sums, chains)]
    for t, (behind, own, total, factor) in enumerate(zip(*parts, strict=True)):
        torch.mul(behind, factor, out=own)
        torch.sum(own, -1, keepdim=True, out=total)
        own /= total
        if t + 1 < steps:
            torch.bmm(own, table, out=parts[0][t + 1])
    logs = torch.where(times < lengths, sums[:, 0, :, 0].log() + tops[0].squeeze(-1), 0).sum(0)
    at_end = (
        scaled[:, 0].gather(0, (lengths - 1).clamp(min=0).view(1, -1, 1).expand(1, size, labels))[0] * ends
    ).sum(-1)
    total = logs + at_end.log() + tops[1] + tops[2] + highest * (lengths - 1)
    total = torch.where(total.isnan(), -torch.inf, total)  # nothing is possible
    after = before[:, 1].gather(0, mirrored) if both else factors[:0]
    return _Recursion(torch.where(lengths > 0, total, 0), factors, before[:, 0], scaled[:, 0], after, weights)


def _marginals(found: _Recursion, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of each label at each step, [T, B, K], and how often label j is expected after label i, [B, K, K].

    Both are zero in the padding, and where no sequence is possible.
    """
    inside = torch.arange(len(found.factors), device=lengths.device).unsqueeze(1) < lengths
    inside = (inside & found.total.isfinite()).unsqueeze(-1)
    to_come = found.factors * found.after
    nodes = found.before * to_come
    sums = nodes.sum(-1, keepdim=True)
    nodes = (nodes / sums).masked_fill(~inside, 0)
    right = (to_come / sums).masked_fill(~inside, 0)[1:]
    left = found.scaled[:-1].masked_fill(~inside[1:], 0)
    pairs = torch.einsum("tbi,tbj->bij", left, right) * found.weights
    return nodes, pairs


def _top(scores: Tensor) -> Tensor:
    """The maximum over the labels, 0 where all are -inf: without it exponentials stay in range."""
    top = scores.amax(-1, keepdim=scores.dim() > 1)
    return torch.where(top.isfinite(), top, 0)
