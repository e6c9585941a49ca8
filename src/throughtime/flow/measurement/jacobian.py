"""The product of a recurrence's own Jacobians: how a small change of one state changes a later one.

    J_t = d state_t / d state_{t-1}           at the state and the input that were really there, input held fixed
    P_k = J_T J_{T-1} ... J_{T-k+1}           = d state_T / d state_{T-k}

Sources: Pascanu, Mikolov & Bengio 2013, ICML; Benettin, Galgani, Giorgilli & Strelcyn 1980, Meccanica 15 (QR method);
Engelken, Wolf & Abbott 2023, Physical Review Research 5, 043044 (Lyapunov spectra of recurrent networks).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.errors import InputError
from throughtime.flow.measurement.singular_values import (
    Linear,
    geometric_mean,
    largest_values,
    orthonormal,
    scaled,
)
from throughtime.flow.result import Products
from throughtime.kernels.reference import Steppable

DENSE = 128  # up to so many numbers of state, whole Jacobians are cheaper than products with a few vectors
_DENSE_ROWS = 16  # rows of a Jacobian computed at once
_NUMBERS = 4096  # of the state, over all pairs: wider ones are followed back in fewer pairs
_LYAPUNOV_WORK = 0.1  # fraction of the work, about


def products(
    recurrence: Steppable,
    states: Sequence[State],
    inputs: Sequence[Tensor],
    *,
    lags: int,
    ends: Sequence[int],
    largest: int = 8,
    exponents: int = 8,
    pairs: int | Sequence[tuple[int, int]] | None = None,
    trajectory: slice = slice(None),
    dense: int = DENSE,
    generator: torch.Generator | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Products:
    """Singular values of P_k for growing k, and the Lyapunov exponents of the trajectory.

    Every tensor of the state counts (h and c of an LSTM, stacked: n numbers). Give float64: in a product, a singular value
    below about 1e-13 of the largest cannot be told from zero, and is given as zero (n * 30 times the rounding of the dtype).

    Args:
        recurrence: what was run; its step must not mix the rows of a batch.
        states: the state before each step, in running order, tensors [B, ...]; T of them.
        inputs: u = project(x) of each step, [B, ...]; T of them. `unroll(observe=...)` gives both.
        lags: the largest k.
        ends: the steps T, 0 to len(states) - 1, at least lags - 1, at which products end.
        largest: how many singular values, at most n.
        exponents: how many Lyapunov exponents, at most n; 0 for none.
        pairs: how many pairs of an end and an example are used, evenly chosen, or the pairs themselves. Default: 8 up to
            n = 512, then 4096 / n, at least 2: an LSTM of 512 units has n = 1024 and 4 pairs.
        trajectory: the steps of the Lyapunov exponents, all by default.
        dense: up to this n whole Jacobians are multiplied, at every lag up to about 90 (then 64 an octave); above it only
            products with a few vectors are formed, at lags 1, 2, 3, 4, 6, 8, 12, ... Each value is then within 1 % of a true
            one, usually far closer.
        generator: of the random start vectors; by default a new one with seed 0.
        progress: called with the fraction of the work that is done, 0 to 1, estimated.

    Returns: singular values as geometric means over the pairs. Exponents in nats per step, each the mean over the steps after
    the first tenth (in which the vectors turn towards their directions) and over examples, with the standard error over
    examples (NaN for a single one). An exponent of -inf: a direction that is lost completely.
    Cost: dense, pairs * lags Jacobians (n backward steps each) and as many SVDs of [n, n]; above, about 40 * lags steps, forward
        or backward, with `largest` vectors for every pair, all in one matrix product, more where singular values lie close
        together. Exponents: one step forward with `exponents` vectors for each step and example. Memory: the activations
        of lags steps for every pair; it does not grow with T.
    Raises: InputError for ends or sizes that do not fit.
    """
    _check(states, inputs, lags, ends, largest, exponents, pairs if isinstance(pairs, int) else 1)
    if generator is None:
        generator = torch.Generator(device=states[0][0].device)
        generator.manual_seed(0)
    size = sum(part[0].numel() for part in states[0])
    number = pairs if isinstance(pairs, int) else min(8, max(2, _NUMBERS // size))
    every = _pairs(ends, states[0][0].shape[0]) if pairs is None or isinstance(pairs, int) else list(pairs)
    if len(every) > number:
        every = [every[index * len(every) // number] for index in range(number)]
    links = _Chain(recurrence, states, inputs, every)
    exponent, error = _lyapunov(
        recurrence, states[trajectory], inputs[trajectory], min(exponents, size), generator
    )
    progress(_LYAPUNOV_WORK)

    def rest(fraction: float) -> None:
        progress(_LYAPUNOV_WORK + (1 - _LYAPUNOV_WORK) * fraction)

    if size <= dense:
        at = spaced(lags, 64)
        logs = _dense_values(links, at, min(largest, size), rest)
    else:
        at = spaced(lags, 2)
        if len(at) > 2 and at[-1] < 1.2 * at[-2]:  # two long lags of about the same value
            del at[-2]
        logs = largest_values(links.at, at, min(largest, size), generator, rest)
    return Products(torch.tensor(at), geometric_mean(logs), exponent, error)


def spaced(last: int, per_octave: int) -> list[int]:
    """Whole numbers from 1 to `last`, evenly spaced on a log scale but for rounding, both ends among them."""
    found = {1, last}
    index, value = 0, 1
    while value <= last:
        found.add(value)
        index += 1
        value = round(2 ** (index / per_octave))
    return sorted(found)


class _Chain:
    """The Jacobians of the chosen pairs, by how many steps before their end they lie."""

    def __init__(
        self,
        recurrence: Steppable,
        states: Sequence[State],
        inputs: Sequence[Tensor],
        pairs: list[tuple[int, int]],
    ) -> None:
        self._recurrence, self._states, self._inputs, self._pairs = recurrence, states, inputs, pairs

    def at(self, lag: int) -> Linear:
        """The last factor of P_lag: J_{T-lag+1} of every pair."""
        rows = [(end - lag + 1, example) for end, example in self._pairs]
        parts = [
            torch.stack([self._states[t][part][example] for t, example in rows])
            for part in range(len(self._states[0]))
        ]
        u = torch.stack([self._inputs[t][example] for t, example in rows])
        return Linear(self._recurrence, self._states[0], parts, u)


def _dense_values(links: _Chain, lags: list[int], count: int, progress: Callable[[float], None]) -> Tensor:
    """Logarithms [K, R, count] of the largest singular values of P_k; -inf for those that are zero."""
    product: Tensor | None = None
    scale: Tensor | None = None
    found = []
    for lag in range(1, lags[-1] + 1):
        factor = links.at(lag).matrix(_DENSE_ROWS)
        product = factor if product is None else product @ factor
        product, log = scaled(product, (-2, -1))
        scale = log if scale is None else scale + log
        if lag in lags:
            values = torch.linalg.svdvals(product)
            floor = values[:, :1] * values.shape[1] * 30 * torch.finfo(values.dtype).eps
            values = values.masked_fill(values <= floor, 0)[:, :count]
            found.append(values.log() + scale[:, None])
            progress(lag / lags[-1])
    return torch.stack(found)


def _lyapunov(
    recurrence: Steppable,
    states: Sequence[State],
    inputs: Sequence[Tensor],
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Exponents [count] and their standard errors: the growth that QR factors out of a frame of vectors carried forward."""
    like = Linear(recurrence, states[0], list(states[0]), inputs[0])
    batch = states[0][0].shape[0]
    if count == 0:
        none = states[0][0].new_zeros(0, dtype=torch.float64)
        return none, none
    shape = (count, batch, like.size)
    frame, _ = orthonormal(torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device))
    skipped = len(states) // 10
    total = torch.zeros(batch, count, dtype=torch.float64, device=like.device)
    for t, (state, u) in enumerate(zip(states, inputs, strict=True)):
        moved = Linear(recurrence, states[0], list(state), u).forward(frame)
        frame, factor = orthonormal(moved)
        if t >= skipped:
            total += factor.diagonal(dim1=-2, dim2=-1).abs().double().log()
    each = total / (len(states) - skipped)
    each = each.sort(dim=1, descending=True).values
    error = each.std(dim=0) / batch**0.5 if batch > 1 else torch.full_like(each[0], torch.nan)
    return each.mean(dim=0).cpu(), error.cpu()


def _pairs(ends: Sequence[int], batch: int) -> list[tuple[int, int]]:
    """All pairs of an end and an example, neighbours different in both."""
    return [(end, (example + place) % batch) for example in range(batch) for place, end in enumerate(ends)]


def _check(
    states: Sequence[State],
    inputs: Sequence[Tensor],
    lags: int,
    ends: Sequence[int],
    largest: int,
    exponents: int,
    pairs: int,
) -> None:
    if not states or len(states) != len(inputs):
        raise InputError(
            f"states and inputs must be one for each step, got {len(states)} and {len(inputs)}: "
            "take both from unroll(observe=...)"
        )
    for name, value, least in (
        ("lags", lags, 1),
        ("largest", largest, 1),
        ("exponents", exponents, 0),
        ("pairs", pairs, 1),
    ):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    if not ends or min(ends) < lags - 1 or max(ends) >= len(states):
        raise InputError(
            f"ends must lie between lags - 1 = {lags - 1} and the last step {len(states) - 1}, got {list(ends)}: "
            "ask for fewer lags, or give a longer sequence"
        )
