"""The gradient of one step's loss, by how many steps back it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from throughtime.errors import InputError
from throughtime.flow.capture import Recorded
from throughtime.flow.fit import gone_from, half_life, quartiles, stays_below
from throughtime.flow.objective import Objective
from throughtime.flow.result import LagCurve

LONGEST = 128  # lags measured where nobody says how many
# Ends lie among so many last steps: autograd sends zeros through all that comes after an end, so an early one costs the
# whole sequence.
SPREAD = 512


def choose_lags(
    lags: int | None, ends: int | Sequence[int], steps: int, objective: Objective, both: bool
) -> int:
    """How many lags, 0 to K - 1, to measure: as asked, or what the sequence has room for.

    Raises: InputError if the sequence is too short for what was asked.
    """
    room = _room(ends, steps, objective, both)
    if lags is None:
        # With the ends spread over the sequence, a quarter of it is left for them.
        share = room if objective.at_end or not isinstance(ends, int) else 1 + (room - 1) * 3 // 4
        return min(share, LONGEST)
    if lags < 1:
        raise InputError(f"lags must be at least 1, got {lags}")
    if lags + 1 > room:
        raise InputError(
            f"lags = {lags} needs {lags + 1} steps on the way back from every end, got {room}: give a longer sequence, "
            "later ends or fewer lags"
        )
    return lags + 1


def _room(ends: int | Sequence[int], steps: int, objective: Objective, both: bool) -> int:
    """The most lags, lag 0 among them, that every end has behind it (for a layer running backward, before it)."""
    if objective.at_end:
        return steps
    if not isinstance(ends, int):
        if not ends or min(ends) < 0 or max(ends) >= steps:
            raise InputError(f"ends must be steps from 0 to {steps - 1}, got {list(ends)}")
        return min(min(ends) + 1, steps - max(ends) if both else steps)
    return (steps + 1) // 2 if both else steps


def choose_ends(
    ends: int | Sequence[int], count: int, steps: int, objective: Objective, both: bool
) -> tuple[int, ...]:
    """The steps T whose loss is sent back alone, each with `count` lags to look at; the last one where one loss is all.

    Raises: InputError for no ends, or none that counts.
    """
    if objective.at_end:
        return (steps - 1,)
    if isinstance(ends, int):
        if ends < 1:
            raise InputError(f"ends must be at least 1, got {ends}")
        last = steps - count if both else steps - 1
        # A single end is the last one: it has seen the most.
        first = max(count - 1, last - SPREAD)
        places = [last] if ends == 1 else torch.linspace(first, last, ends, dtype=torch.float64).tolist()
        chosen = sorted({round(p) for p in places})
    else:
        chosen = sorted(set(ends))
    counted = [t for t in chosen if bool(objective.counted[t].any())]
    if not counted:
        raise InputError(f"at the ends {chosen} every target is masked: choose ends= whose targets count")
    return tuple(counted)


def lag_samples(
    recorded: Sequence[Recorded],
    objective: Objective,
    ends: Sequence[int],
    count: int,
    done: Callable[[], None],
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """|dL_T / dstate_{T-k}| of every example and end: for each recording and part of its state [K, samples], lag 0 first.

    And for each recording dL_T / dstate_T of its memory (c, or h where that is all) at every end, [B, H], zero where masked.
    All ways together: also through the layers above. Exact: one backward pass from each end, which stops K steps before it.
    """
    found: list[list[list[Tensor]]] = [[[] for _ in range(each.parts)] for each in recorded]
    starts: list[list[Tensor]] = [[] for _ in recorded]
    for end in ends:
        row = 0 if objective.at_end else end
        rows = objective.counted[row]
        leaves = [
            each.states[running(each, end, objective) + 1 - lag][part]
            for each in recorded
            for part in range(each.parts)
            for lag in range(count)
        ]
        gradients = iter(
            torch.autograd.grad(
                torch.where(rows, objective.losses[row], 0).sum(),
                leaves,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        for number, each in enumerate(recorded):
            for part in range(each.parts):
                back = [next(gradients) for _ in range(count)]
                if part == each.parts - 1:
                    starts[number].append(back[0])
                sizes = torch.stack([sizes_of(gradient) for gradient in back])
                found[number][part].append(sizes[:, rows])
        done()
    return [[torch.cat(samples, dim=1).cpu() for samples in parts] for parts in found], starts


def running(each: Recorded, end: int, objective: Objective) -> int:
    """The step of the layer's own running order at which a lag of 0 is: `end` is a step of the input."""
    return each.steps - 1 - end if each.reverse and not objective.at_end else end


def sizes_of(gradient: Tensor) -> Tensor:
    """Norm [B] of each example's part. Scaled first: squares of numbers below 1e-154 would be zero."""
    flat = gradient.detach().double().flatten(1)
    largest = flat.abs().amax(dim=1, keepdim=True)
    scale = torch.where((largest > 0) & torch.isfinite(largest), largest, 1.0)
    norms: Tensor = torch.linalg.vector_norm(flat / scale, dim=1) * scale[:, 0]
    return norms


def lag_curve(samples: Tensor, share: float) -> LagCurve:
    """Mean, quartiles and what they say, from norms [K, samples]."""
    mean = samples.mean(dim=1)
    low, high = quartiles(samples)
    gone = gone_from(mean)
    return LagCurve(
        lags=torch.arange(len(mean)),
        mean=mean,
        low=low,
        high=high,
        half_life=half_life(mean),
        reach=stays_below(mean, share),
        share=share,
        gone=gone,
    )
