"""`measure`: the gradient flow of a model through time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.flow.measurement.batch import Loss, Objective, objective, read_batch, time_first
from throughtime.flow.measurement.curves import (
    End,
    choose_ends,
    choose_lags,
    lag_curve,
    lag_samples,
    sizes_of,
)
from throughtime.flow.measurement.gates import cell_path, gate_statistics, spectra
from throughtime.flow.measurement.jacobian import products as jacobian_products
from throughtime.flow.measurement.model_copy import layers_of, measurable
from throughtime.flow.measurement.recording import SEGMENT, Recorded, record
from throughtime.flow.measurement.threads import recurrent_weights, threads_for
from throughtime.flow.result import Flow, LayerFlow, Products
from throughtime.layers.base import RecurrentLayer

Progress = Callable[[int, int], None]
"""Called with (done, total) after each part of the work."""

# What the Jacobian products are computed from: they cost more than everything else together.
_PRODUCT_EXAMPLES = 4
_PRODUCT_STEPS = 512
_PRODUCT_PARTS = 20  # of the work of one layer, as progress counts it
_TINY, _LEAST = (
    2.0**-126,
    2.0**-150,
)  # float32: the smallest normal number; below the second, numbers become zero


def measure(
    model: nn.Module,
    batch: Any,
    *,
    loss: Loss | None = None,
    state: Any = None,
    lengths: Any = None,
    lags: int | None = None,
    ends: int | Sequence[int] = 8,
    examples: int = 16,
    fraction: float = 0.01,
    products: bool = True,
    symbols: Sequence[str] = (),
    progress: Progress | None = None,
    segment: int = SEGMENT,
) -> Flow:
    """Measure how the gradient of a model's loss flows back through time.

        |dL/dh_t|, |dL/dc_t|         of the whole loss, at every step
        |dL_T/dh_{T-k}|, ..c..       of the loss of step T alone, k steps back: half-life and reach
        d state_T / d state_{T-k}    of each layer's own recurrence: singular values, Lyapunov exponents
        weights, gates, phi', and the fraction of denormal numbers

    A gradient is that of the loss at the very tensor that is passed from step to step: through all paths, also those through
    the layers above, and for c_t the one through h_t = o_t tanh(c_t). Everything is exact (autograd), computed in float64 on a
    copy in evaluation mode, with the expectation of zoneout: in float32 a curve of 300 lags would end in zeros, and cost hardly
    less. Denormal numbers are counted as float32 would have them.

    Args:
        model: a module with layers of this library (RNN, GRU, LSTM, Recurrent over any cell) or of torch.nn, or such a layer
            itself. It may return `outputs` or `(outputs, state)`. It is copied: it, its `.grad`, its mode and torch's random
            state stay as they are.
        batch: inputs, or (inputs, targets), time first, or batch first if the model's layers are; inputs may be a PackedSequence.
            Or a `throughtime.data.batch.Batch`, which the model is run on by `batch.run(model, state)`; its masked targets do
            not count.
        loss: `(outputs, targets) -> [T, B]`, one value for each step and example; [T] for a mean over the examples; or [B],
            one value for each sequence, which then belongs to its last step. Default: cross-entropy of outputs [T, B, V] and
            whole-numbered targets [T, B] (or [B, V] and [B]; a target of -100 does not count); without targets the output times a
            fixed random direction of unit length. outputs and targets have time first, in float64.
        state: the model's second argument, tensors [..., B, H]; None leaves it out.
        lengths: int64 [B], the steps of each row of a ragged batch. The model is called with `lengths=`; padding may hold NaN and
            is never read.
        lags: how many steps back; by default up to 127, as the sequence (in a ragged batch, half of the rows) has room for.
        ends: the steps T whose loss is backpropagated alone, or how many of them, spread evenly over the last 512 steps that
            have `lags` steps before them.
        examples: at most this many rows of the batch are measured.
        fraction: of the gradient at lag 0; it defines the reach.
        products: also compute the Jacobian products and the Lyapunov spectrum, on 4 examples and the last 512 steps; a state of
            more than 512 numbers uses fewer pairs of an example and an end, 4 for 1,024.
        symbols: the input's own symbols, one for each step of the first example, for pictures.
        progress: called with (parts done, parts in all).
        segment: sequences longer than two segments recompute their activations, segment by segment, in the backward pass.

    In a bidirectional model lag counts in each direction's own running order: running backward, lag k of step T is step T + k.

    In a ragged batch, a number of ends counts back from each row's own last step (`Flow.ends` has the steps of the longest row),
    a loss of one value for each sequence falls on each row's own last step, and a listed end that lies in a row's padding does
    not count for that row. A row counts for an end if it has all `lags` steps before it, so that every lag has the same rows.

    Cost: of the recurrence as a loop in plain torch, forward once and backward once over T steps (forward twice for a long
        sequence), and ends * lags steps forward and backward for each layer; the products for each layer about 40 * lags steps
        with 8 vectors for each of 8 pairs (of a wide state fewer): more than all the rest, `products=False` leaves them out.
        Memory: states and their gradients, 32 * T * B * H bytes for each layer and tensor
        of its state, the activations of one segment, and what the model holds outside its layers; H = 128, B = 16, T = 5,000
        stays below 2 GB. `Flow.seconds` is the time it took.
        Up to 2^26 multiplications in a step (examples times recurrent weights of the widest layer) torch uses one thread.
    Raises: InputError, on one line: no recurrent layer, lengths for a model that takes none, a layer that runs twice, a loss of
        another shape, a sequence too short for the lags.
    Source: Bengio, Simard & Frasconi 1994, IEEE Transactions on Neural Networks 5(2); Pascanu, Mikolov & Bengio 2013, ICML.
    """
    start = time.perf_counter()
    _check(examples, fraction, segment)
    copied = measurable(model)
    case = read_batch(copied, batch, state, examples, lengths)
    with threads_for(case.rows(copied), recurrent_weights(layers_of(copied).values())):
        with torch.enable_grad():
            result, recorded = record(copied, lambda: case.run(copied), segment)
            steps, rows = _one_shape(recorded)
            if steps < 2:
                raise InputError(
                    f"the sequence must have at least 2 steps, got {steps}: a gradient flows from a step to the one before; "
                    "give a longer sequence, time first [T, B, ...] (batch first if the model's layers are)"
                )
            bare = isinstance(result, tuple) and not isinstance(result, nn.utils.rnn.PackedSequence)
            outputs = time_first(result[0] if bare else result, copied, case, steps, rows)
            # A model may also find out by itself which steps are padding.
            own = case.lengths if case.lengths is not None else recorded[0].lengths
            aim = objective(
                outputs, case.targets, loss, own, steps, counted=case.counted, per_sequence=case.per_sequence
            )
            both = any(each.reverse for each in recorded)
            count = choose_lags(lags, ends, aim, both)
            chosen = choose_ends(ends, count, aim, both)
            with_products = products and count > 1
            work = _Work(progress, 2 + len(chosen) + len(recorded) * (1 + _PRODUCT_PARTS * with_products))
            work.done()
            samples, starts = lag_samples(recorded, aim, chosen, count, work.done)
            whole, parameters = _whole_gradient(copied, recorded, aim)
            work.done()
        layers: dict[str, LayerFlow] = {}
        for each, by_lag, gradients, at_ends in zip(recorded, samples, whole, starts, strict=True):
            path = cell_path(each, chosen, aim.at_end, count, at_ends)
            found = None
            if with_products:
                found = _products(each, chosen, aim.at_end, count, work.within(_PRODUCT_PARTS))
            real = gradients[0] if each.active is None else gradients[0][each.active]
            layers[each.name] = LayerFlow(
                name=each.name,
                cell=_kind(each),
                units=each.states[0][0].shape[-1],
                reverse=each.reverse,
                gradient_h=_norms(each, gradients[0]),
                gradient_c=_norms(each, gradients[1]) if each.parts > 1 else None,
                lag_h=lag_curve(by_lag[0], fraction),
                lag_c=lag_curve(by_lag[1], fraction) if each.parts > 1 else None,
                products=found,
                weights=spectra(each.recurrence),
                gates=gate_statistics(each),
                cell_path=None if path is None else path[0],
                denormal_fraction=_denormal_fraction(real / rows),
                cell_path_gradient=None if path is None else path[1],
            )
            work.done()
        return Flow(
            layers=layers,
            loss=float(aim.mean().detach()),
            steps=steps,
            examples=rows,
            ends=tuple(end.step for end in chosen),
            seconds=time.perf_counter() - start,
            symbols=tuple(symbols),
            parameters=parameters,
        )


class _Work:
    """Counts the parts that are done."""

    def __init__(self, tell: Progress | None, total: int) -> None:
        self._tell, self._total, self._done = tell, total, 0

    def done(self, parts: int = 1) -> None:
        self._done += parts
        if self._tell is not None:
            self._tell(self._done, self._total)

    def within(self, parts: int) -> Callable[[float], None]:
        """For work that counts as so many parts: takes the fraction of it that is done."""
        before = self._done

        def report(fraction: float) -> None:
            new = before + int(parts * fraction + 1e-9) - self._done
            if new:
                self.done(new)

        return report


def _check(examples: int, fraction: float, segment: int) -> None:
    if examples < 1:
        raise InputError(f"examples must be at least 1, got {examples}")
    if not 0 < fraction < 1:
        raise InputError(f"fraction must lie between 0 and 1, got {fraction}")
    if segment < 1:
        raise InputError(f"segment must be at least 1 step, got {segment}")


def _one_shape(recorded: Sequence[Recorded]) -> tuple[int, int]:
    shapes = {(each.steps, each.batch) for each in recorded}
    if len(shapes) > 1:
        found = ", ".join(f"{each.name} {each.steps} x {each.batch}" for each in recorded)
        raise InputError(
            f"all recurrent layers must run over the same steps and examples, got {found}: "
            "measure the parts of the model one by one"
        )
    return shapes.pop()


def _whole_gradient(
    model: nn.Module, recorded: Sequence[Recorded], aim: Objective
) -> tuple[list[list[Tensor]], dict[str, tuple[float, float]]]:
    """The gradient of the batch's loss at every state, [T, B, H], times B; norms of parameters and of their gradients."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    leaves = [state[part] for each in recorded for part in range(each.parts) for state in each.states[1:]]
    gradients = iter(
        torch.autograd.grad(
            aim.mean(), [*leaves, *(p for _, p in named)], allow_unused=True, materialize_grads=True
        )
    )
    whole = [
        [torch.stack([next(gradients) for _ in range(each.steps)]) * each.batch for _ in range(each.parts)]
        for each in recorded
    ]
    return whole, {
        name: (float(p.detach().norm()), float(gradient.norm()))
        for (name, p), gradient in zip(named, gradients, strict=True)
    }


def _norms(each: Recorded, gradient: Tensor) -> Tensor:
    """[T] mean over the examples that have the step, by the input's step."""
    norms = torch.stack([sizes_of(step) for step in gradient])
    if each.active is None:
        norms = norms.mean(1)
    else:
        norms = norms.masked_fill(~each.active, 0).sum(1) / each.active.sum(1).clamp(min=1)
    return (norms.flip(0) if each.reverse else norms).cpu()


def _denormal_fraction(gradient: Tensor) -> float:
    size = gradient.abs()
    kept = size > _LEAST
    return float((kept & (size < _TINY)).sum()) / max(1, int(kept.sum()))


def _products(
    each: Recorded, ends: Sequence[End], at_end: bool, count: int, progress: Callable[[float], None]
) -> Products:
    """Of the longest rows, and of the last steps alone, as many as the lags of the last end need."""
    places = [end.running(each, at_end).tolist() for end in ends]
    lengths = each.lengths.tolist()
    able = torch.stack([end.rows for end in ends]).any(0).tolist()
    rows = sorted((row for row in range(each.batch) if able[row]), key=lambda row: -lengths[row])
    latest = max(place[rows[0]] for place, end in zip(places, ends, strict=True) if end.rows[rows[0]])
    first = max(0, min(each.steps - _PRODUCT_STEPS, latest + 2 - count))

    def inside(row: int) -> range:
        """The row's own steps from `first` on, in running order."""
        if each.reverse:
            return range(max(first, each.steps - lengths[row]), each.steps)
        return range(first, lengths[row])

    # The exponents are those of the steps that all rows have: rows much shorter than the longest are left out.
    rows = [row for row in rows if 2 * len(inside(row)) >= len(inside(rows[0]))][:_PRODUCT_EXAMPLES]
    shared = slice(
        max(inside(row).start for row in rows) - first, min(inside(row).stop for row in rows) - first
    )
    pairs = []
    for example in range(len(rows)):
        for number, (place, end) in enumerate(zip(places, ends, strict=True)):
            index = (example + number) % len(rows)
            row = rows[index]
            if end.rows[row] and place[row] - first >= count - 2:
                pairs.append((place[row] - first, index))
    states: list[Any] = []
    for state in each.states[first : each.steps]:
        cut = [s.detach()[rows] for s in state]
        states.append(type(state)(*cut) if hasattr(state, "_fields") else tuple(cut))
    inputs = each.project(each.x[first:, rows]).detach().unbind(0)
    return jacobian_products(
        each,
        states,
        inputs,
        lags=count - 1,
        ends=sorted({place for place, _ in pairs}),
        pairs=pairs,
        trajectory=shared,
        progress=progress,
    )


def _kind(each: Recorded) -> str:
    if isinstance(each.module, RecurrentLayer):
        return str(each.recurrence.kind)
    return type(each.recurrence).__name__
