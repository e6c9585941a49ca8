"""The gradient of single steps' losses by lag: which steps and lags are measured, and their curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from throughtime.errors import InputError
from throughtime.flow.measurement.batch import Objective
from throughtime.flow.measurement.fit import gone_from, half_life, quartiles, stays_below
from throughtime.flow.measurement.recording import Recorded
from throughtime.flow.result import LagCurve

LONGEST = 128  # the default number of lags, at most
# Ends lie among so many last steps: autograd sends zeros through all that comes after an end, so an early one costs the
# whole sequence.
SPREAD = 512


class End(NamedTuple):
    """One step T in each row, whose loss is backpropagated alone."""

    step: int  # of a row that is as long as the longest
    steps: Tensor  # int64 [B], the input's step in each row
    rows: Tensor  # bool [B]: the step's target counts, and the row has all lags

    def running(self, each: Recorded, at_end: bool) -> Tensor:
        """int64 [B], the step in the layer's own running order at which lag 0 is."""
        if not each.reverse:
            return self.steps
        # The loss of a whole sequence belongs to each direction's own last step.
        return torch.full_like(self.steps, each.steps - 1) if at_end else each.steps - 1 - self.steps


def choose_lags(lags: int | None, ends: int | Sequence[int], aim: Objective, both: bool) -> int:
    """The number of lags to measure, lag 0 among them: as asked, or what half of the rows have steps for.

    Raises: InputError if even the longest row is too short for what was asked.
    """
    longest = int(aim.lengths.max())
    if lags is None:
        whole = aim.at_end or not isinstance(ends, int)
        room = _room(ends, longest if not isinstance(ends, int) else typical_length(aim.lengths), aim, both)
        # With the ends spread over the sequence, a quarter of it is left for them.
        return min(room if whole else 1 + (room - 1) * 3 // 4, LONGEST)
    if lags < 1:
        raise InputError(f"lags must be at least 1, got {lags}")
    if lags + 1 > (room := _room(ends, longest, aim, both)):
        raise InputError(
            f"lags = {lags} needs {lags + 1} steps up to every end (and after it, if the model reads both ways), got {room}: "
            "give a longer sequence, later ends or fewer lags"
        )
    return lags + 1


def typical_length(lengths: Tensor) -> int:
    """A length that at least half of the rows have."""
    return int(lengths.sort(descending=True).values[(len(lengths) - 1) // 2])


def _room(ends: int | Sequence[int], steps: int, aim: Objective, both: bool) -> int:
    """The largest number of lags that every end has steps for (for a layer running backward, after it)."""
    if aim.at_end:
        return steps
    if not isinstance(ends, int):
        if not ends or min(ends) < 0 or max(ends) >= steps:
            raise InputError(f"ends must be steps from 0 to {steps - 1}, got {list(ends)}")
        return min(min(ends) + 1, steps - max(ends) if both else steps)
    return (steps + 1) // 2 if both else steps


def choose_ends(ends: int | Sequence[int], count: int, aim: Objective, both: bool) -> list[End]:
    """The ends, each with `count` lags; each row's last step where there is one loss for each sequence.

    A number of ends is spread over the last steps of each row, counted from the row's own end; listed ends are the same step in
    every row, and do not count where that lies in the row's padding.
    Raises: InputError for no ends, or none that counts.
    """
    longest = int(aim.lengths.max())
    relative = True
    if aim.at_end:
        chosen = [longest - 1]
    elif isinstance(ends, int):
        if ends < 1:
            raise InputError(f"ends must be at least 1, got {ends}")
        typical = typical_length(aim.lengths)
        steps = typical if _room(ends, typical, aim, both) >= count else longest
        last = steps - count if both else steps - 1
        # A single end is the last one: it has seen the most.
        first = max(count - 1, last - SPREAD)
        places = [last] if ends == 1 else torch.linspace(first, last, ends, dtype=torch.float64).tolist()
        chosen = sorted({round(place) + longest - steps for place in places})
    else:
        chosen, relative = sorted(set(ends)), False
    found = [_end(step, count, aim, both, relative) for step in chosen]
    found = [end for end in found if bool(end.rows.any())]
    if not found:
        raise InputError(
            f"at the ends {chosen} every target is masked: choose ends= whose targets count, or fewer lags"
        )
    return found


def _end(step: int, count: int, aim: Objective, both: bool, relative: bool) -> End:
    lengths = aim.lengths
    steps = lengths - int(lengths.max()) + step if relative else torch.full_like(lengths, step)
    rows = (steps >= count - 1) & (steps < lengths)
    if both:
        rows &= lengths >= count if aim.at_end else steps + count <= lengths
    counted = aim.counted.cpu()
    rows &= counted[0] if aim.at_end else counted[steps.clamp(0, len(counted) - 1), torch.arange(len(steps))]
    return End(step, steps, rows)


def lag_samples(
    recorded: Sequence[Recorded], aim: Objective, ends: Sequence[End], count: int, done: Callable[[], None]
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """|dL_T / dstate_{T-k}| of every row and end that counts: by recording and part of its state [K, samples], lag 0 first.

    And by recording dL_T / dstate_T of its last part (c, or h where that is all) at every end, [rows, H].
    Through all paths, also those through the layers above. Exact: one backward pass from each end, which stops K steps before.
    """
    found: list[list[list[Tensor]]] = [[[] for _ in range(each.parts)] for each in recorded]
    starts: list[list[Tensor]] = [[] for _ in recorded]
    for end in ends:
        rows = torch.arange(len(end.rows))[end.rows].to(aim.losses.device)
        at = 0 if aim.at_end else end.steps.to(rows.device)[rows]
        by_lag = gradients_by_lag(aim.losses[at, rows].sum(), recorded, end, aim.at_end, count)
        for number, parts in enumerate(by_lag):
            for samples, (sizes, _) in zip(found[number], parts, strict=True):
                samples.append(sizes)
            starts[number].append(parts[-1][1])
        done()
    return [[torch.cat(samples, dim=1) for samples in parts] for parts in found], starts


def gradients_by_lag(
    total: Tensor, recorded: Sequence[Recorded], end: End, at_end: bool, count: int
) -> list[list[tuple[Tensor, Tensor]]]:
    """By recording and part of its state: |d total / d state_{T-k}|, [K, rows] on the CPU, and the gradient at lag 0."""
    rows = torch.arange(len(end.rows))[end.rows]
    places = [end.running(each, at_end)[rows] for each in recorded]
    spans = [range(int(place.min()) + 2 - count, int(place.max()) + 2) for place in places]
    leaves = [
        each.states[t][part]
        for each, span in zip(recorded, spans, strict=True)
        for part in range(each.parts)
        for t in span
    ]
    gradients = iter(
        torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
    )
    found = []
    for each, span, place in zip(recorded, spans, places, strict=True):
        index = (place + 1 - span[0])[None] - torch.arange(count)[:, None]  # [K, rows]
        parts = []
        for _ in range(each.parts):
            back = [next(gradients) for _ in span]
            sizes = torch.stack([sizes_of(gradient) for gradient in back]).cpu()
            start = torch.stack(
                [back[at][row] for at, row in zip(index[0].tolist(), rows.tolist(), strict=True)]
            )
            parts.append((sizes[index, rows], start))
        found.append(parts)
    return found


def sizes_of(gradient: Tensor) -> Tensor:
    """Norm [B] of each example's gradient. Scaled first: squares of numbers below 1e-154 would be zero."""
    flat = gradient.detach().double().flatten(1)
    largest = flat.abs().amax(dim=1, keepdim=True)
    scale = torch.where((largest > 0) & torch.isfinite(largest), largest, 1.0)
    norms: Tensor = torch.linalg.vector_norm(flat / scale, dim=1) * scale[:, 0]
    return norms


def lag_curve(samples: Tensor, fraction: float) -> LagCurve:
    """Mean, quartiles, half-life and reach from norms [K, samples]."""
    mean = samples.mean(dim=1)
    low, high = quartiles(samples)
    return LagCurve(
        lags=torch.arange(len(mean)),
        mean=mean,
        low=low,
        high=high,
        half_life=half_life(mean),
        reach=stays_below(mean, fraction),
        fraction=fraction,
        gone=gone_from(mean),
    )
