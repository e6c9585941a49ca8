"""Where the next item of a session stands among all items, or among a few that are drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from throughtime.data.batch import Batch, unmasked
from throughtime.metrics.metric import Metric
from throughtime.metrics.ranking import ranks

MISS = 2**40  # the rank of a target that the model cannot give
_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, odd, as int64
_MIX = (-4658895280553007687, -7723592293110705685)
_ATTEMPTS = 64  # to draw a candidate that the session does not hold


class Scores(Protocol):
    """The scores of all items after each step of a batch, computed where they are asked for."""

    found: dict[Any, Tensor]
    """What was computed from them, so that several metrics compute it once."""

    def rows(self, kept: Tensor) -> Iterator[Tensor]:
        """Scores [m, V + 1] of the steps where `kept` [T, B] is true, in its order, some at a time; the last column, of unknown
        items, is not ranked.
        """


class NextItemMetric(Metric):
    """The mean over unmasked targets of a number that follows from the target's rank.

    A target is ranked among all V items, or with `candidates` among so many others: items drawn at random, uniformly, that the
    session has not held so far. They depend on the session up to the target and on `seed` alone, so they are the same for every
    model, batch and process. A target that is not among the V items is a miss: its rank is MISS, beyond every k.
    Args: name; of, from ranks [n] to numbers float64 [n]; candidates, 0 for all items; unseen, whether items that the session
    holds so far are left out of the ranking, so that a target among them is a miss.
    Ties are conservative, see `throughtime.metrics.ranking.ranks`.
    """

    def __init__(
        self,
        name: str,
        of: Callable[[Tensor], Tensor],
        convention: str = "",
        *,
        candidates: int = 0,
        seed: int = 0,
        unseen: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.convention = name, convention  # type: ignore[misc]
        self.of, self.candidates, self.seed, self.unseen = of, candidates, seed, unseen

    def update(self, outputs: Any, batch: Batch, loss: Tensor) -> None:
        each = self.of(ranks_of(outputs, batch, self.candidates, self.seed, self.unseen))
        self.totals += torch.stack([each.sum(), torch.tensor(float(len(each)), dtype=torch.float64)])

    def value(self) -> float:
        total, count = self.totals.tolist()
        return total / count if count else float("nan")


def ndcg_at(ranks: Tensor, k: int) -> Tensor:
    """1 / log2(1 + rank) of each, float64 of the same shape; 0 for a rank beyond k. With one right item this is the NDCG@k."""
    return (1 + ranks.double()).log2().reciprocal() * (ranks <= k)


def ranks_of(
    outputs: Scores, batch: Batch, candidates: int = 0, seed: int = 0, unseen: bool = False
) -> Tensor:
    """The ranks of the unmasked targets of a batch [T, B], int64 [n] on the CPU; see `NextItemMetric`.

    Cost: one pass over n * V scores for the first caller; the others find the ranks in `outputs.found`.
    """
    key = (candidates, seed, unseen)
    if key not in outputs.found:
        kept = unmasked(batch.targets)
        targets, places = batch.targets[kept], kept.nonzero()
        keys = session_keys(batch.inputs, seed) if candidates else None
        found, first = [], 0
        for scores in outputs.rows(kept):
            own = targets[first : first + len(scores)]
            items = scores.shape[1] - 1
            known = own < items
            at = places[first : first + len(scores)]
            if unseen:
                held = history_of(batch.inputs, at, items)
                known &= (held != own[:, None]).all(1)
                scores = scores.scatter(1, held, -torch.inf)
            right = own.clamp(max=items - 1)
            scores = scores[:, :items]
            if keys is not None:
                others, usable = draw_candidates(batch.inputs, keys, at, own, items, candidates)
                theirs = scores.gather(1, others).masked_fill(~usable, -torch.inf)
                scores = torch.cat([scores.gather(1, right[:, None]), theirs], 1)
                # A candidate that could not be drawn has no score, and is no tie of a target that has none either.
                place = ranks(scores, torch.zeros_like(right)) - (
                    ~usable & (scores[:, :1] == -torch.inf)
                ).sum(1)
            else:
                place = ranks(scores, right)
            found.append(torch.where(known, place, MISS))
            first += len(scores)
        outputs.found[key] = (
            torch.cat(found) if found else torch.zeros(0, dtype=torch.int64, device=targets.device)
        ).cpu()
    return outputs.found[key]


def session_keys(inputs: Tensor, seed: int) -> Tensor:
    """A hash for each session up to each step, int64 of the shape of the ids [T, B]."""
    key = torch.full_like(inputs[0], seed)
    keys = []
    for ids in inputs:
        key = _mixed(key * 31 + ids + 1)
        keys.append(key)
    return torch.stack(keys)


def draw_candidates(
    inputs: Tensor, keys: Tensor, places: Tensor, targets: Tensor, items: int, number: int
) -> tuple[Tensor, Tensor]:
    """So many random items of 0 .. items-1 for each target, none of them the target or in its session so far.

    Args: inputs [T, B] ids; keys [T, B] of `session_keys`; places [n, 2], step and row of each target; targets [n].
    One item may be drawn twice for a target, as in the published protocol (Kang & McAuley 2018, arXiv 1808.09781).
    Returns: items [n, number], and bool [n, number], false for those that could not be drawn: the session holds nearly all items.
    """
    key = _mixed(keys[places[:, 0], places[:, 1]] + (targets + 1) * _GOLDEN)
    history = history_of(inputs, places, items)
    taken = torch.cat([history, targets[:, None]], 1).sort(1).values
    draws = torch.zeros(len(targets), number, dtype=torch.int64, device=inputs.device)
    usable = torch.zeros_like(draws, dtype=torch.bool)
    numbers = torch.arange(1, number + 1, device=inputs.device)
    for attempt in range(_ATTEMPTS):
        drawn = _mixed(key[:, None] + (numbers + attempt * number) * _GOLDEN)
        draws = torch.where(usable, draws, (drawn & (2**63 - 1)) % items)
        at = torch.searchsorted(taken, draws).clamp(max=taken.shape[1] - 1)
        usable = taken.gather(1, at) != draws
        if bool(usable.all()):
            break
    return draws, usable


def history_of(inputs: Tensor, places: Tensor, filler: int) -> Tensor:
    """The items of each place (step, row) [n, 2] so far, [n, longest], filled up with `filler`; inputs are ids [T, B]."""
    steps, rows = places.unbind(1)
    before = torch.arange(int(steps.max()) + 1 if len(steps) else 0, device=inputs.device)
    return torch.where(before <= steps[:, None], inputs[before][:, rows].t(), filler)


def _mixed(x: Tensor) -> Tensor:
    """A bijection of int64 in which every bit of the result depends on every bit of x (the finalizer of SplitMix64)."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _MIX[0]
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _MIX[1]
    return x ^ ((x >> 31) & (2**33 - 1))
