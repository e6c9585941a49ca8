"""`measure`: how the gradient of a model travels back through time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.flow.batch import read_batch, time_first
from throughtime.flow.capture import SEGMENT, Recorded, record
from throughtime.flow.convert import measurable
from throughtime.flow.gates import gate_statistics, memory_path
from throughtime.flow.lag import choose_ends, choose_lags, lag_curve, lag_samples, running, sizes_of
from throughtime.flow.objective import Loss, Objective, objective
from throughtime.flow.result import Flow, LayerFlow, Products
from throughtime.flow.spectrum import spectra
from throughtime.layers.base import RecurrentLayer

Progress = Callable[[int, int], None]
"""Told (done, total) after each part of the work."""

# What the Jacobian products are taken of: they cost more than everything else together.
_PRODUCT_EXAMPLES = 4
_PRODUCT_STEPS = 512
_PRODUCT_PARTS = 20  # of the work of one layer, as progress counts it
_TINY, _LEAST = 2.0**-126, 2.0**-150  # float32: the least normal number; what rounds to zero


def measure(
    model: nn.Module,
    batch: Any,
    *,
    loss: Loss | None = None,
    state: Any = None,
    lags: int | None = None,
    ends: int | Sequence[int] = 8,
    examples: int = 16,
    share: float = 0.01,
    products: bool = True,
    symbols: Sequence[str] = (),
    progress: Progress | None = None,
    segment: int = SEGMENT,
) -> Flow:
    """Measure how far, and how, the gradient of a model's loss travels back through time.

        |dL/dh_t|, |dL/dc_t|         of the whole loss, at every step
        |dL_T/dh_{T-k}|, ..c..       of the loss of step T alone, k steps back: half-life and reach
        d state_T / d state_{T-k}    of each layer's own recurrence: singular values, Lyapunov exponents
        weights, gates, phi', and the share of denormal numbers

    A gradient is that of the loss at the very tensor that is handed from step to step: all ways together, also those through
    the layers above, and for c_t the one through h_t = o_t tanh(c_t). Everything is exact (autograd), computed in float64 on a
    copy without dropout and with the expectation of zoneout: in float32 a curve of 300 lags would end in zeros, and cost hardly
    less. Denormal numbers are counted as float32 would have them.

    Args:
        model: a module with layers of this library (RNN, GRU, LSTM, Recurrent over any cell) or of torch.nn, or such a layer
            itself. It may return `outputs` or `(outputs, state)`. It is copied: it, its `.grad`, its mode and torch's random
            state stay as they are.
        batch: inputs, or (inputs, targets); time first, batch first if the model's layers are.
        loss: `(outputs, targets) -> [T, B]`, one value for each step and example; [T] for a mean over the examples; or [B],
            one value for a whole sequence, which then belongs to the last step. Default: cross-entropy of outputs [T, B, V] and
            whole-numbered targets [T, B] (or [B, V] and [B]; a target of -100 does not count); without targets the output times a
            fixed random direction of unit length. outputs and targets have time first, in float64.
        state: the model's second argument, tensors [..., B, H]; None leaves it out.
        lags: how many steps back; by default up to 127, as the sequence has room.
        ends: the steps T whose loss is sent back alone, or how many of them, spread evenly over the last 512 steps that
            have `lags` steps behind them.
        examples: at most so many of the batch are measured.
        share: the part of the gradient at lag 0 that defines the reach.
        products: also measure the Jacobian products and the Lyapunov spectrum, on 4 examples and the last 512 steps; a state of
            more than 512 numbers is followed back in fewer pairs of an example and an end, 4 of 1,024.
        symbols: the input's own symbols, one for each step of the first example, for pictures.
        progress: told (parts done, parts in all).
        segment: sequences longer than two segments are computed again, segment by segment, on the way back.

    In a bidirectional model lag counts in each direction's own running order: running backward, lag k of step T is step T + k.

    Cost: of the recurrence as a loop in plain torch, forward once and backward once over T steps (forward twice for a long
        sequence), and ends * lags steps forward and backward for each layer; the products for each layer about 40 * lags steps
        with 8 vectors for each of 8 pairs (of a wide state fewer): more than all the rest, `products=False` leaves them out.
        Memory: states and their gradients, 32 * T * B * H bytes for each layer and tensor
        of its state, the activations of one segment, and what the model holds outside its layers; H = 128, B = 16, T = 5,000
        stays below 2 GB. What it took is `Flow.seconds`.
    Raises: InputError, on one line: no recurrent layer, sequences of unequal length, a layer that runs twice, a loss of another
        shape, a sequence too short for the lags.
    Source: Bengio, Simard & Frasconi 1994, IEEE Transactions on Neural Networks 5(2); Pascanu, Mikolov & Bengio 2013, ICML.
    """
    start = time.perf_counter()
    _check(examples, share, segment)
    copied = measurable(model)
    inputs, targets, state = read_batch(copied, batch, state, examples)
    with torch.enable_grad():
        result, recorded = record(
            copied, lambda: copied(inputs) if state is None else copied(inputs, state), segment
        )
        steps, rows = _one_length(recorded)
        if steps < 2:
            raise InputError(
                f"the sequence must have at least 2 steps, got {steps}: a gradient travels from a step to the one before; "
                "give a longer sequence, time first [T, B, ...] (batch first if the model's layers are)"
            )
        outputs = time_first(result[0] if isinstance(result, tuple) else result, copied, steps, rows)
        aim = objective(outputs, targets, loss, steps, rows)
        both = any(each.reverse for each in recorded)
        count = choose_lags(lags, ends, steps, aim, both)
        chosen = choose_ends(ends, count, steps, aim, both)
        followed = products and count > 1
        work = _Work(progress, 2 + len(chosen) + len(recorded) * (1 + _PRODUCT_PARTS * followed))
        work.done()
        samples, starts = lag_samples(recorded, aim, chosen, count, work.done)
        whole, parameters = _whole_gradient(copied, recorded, aim)
        work.done()
    layers: dict[str, LayerFlow] = {}
    for each, by_lag, gradients, at_ends in zip(recorded, samples, whole, starts, strict=True):
        places = [running(each, end, aim) for end in chosen]
        path = memory_path(each, places, count, at_ends)
        layers[each.name] = LayerFlow(
            name=each.name,
            cell=_kind(each),
            units=each.states[0][0].shape[-1],
            reverse=each.reverse,
            gradient_h=_norms(each, gradients[0]),
            gradient_c=_norms(each, gradients[1]) if each.parts > 1 else None,
            lag_h=lag_curve(by_lag[0], share),
            lag_c=lag_curve(by_lag[1], share) if each.parts > 1 else None,
            products=_products(each, places, count, work.within(_PRODUCT_PARTS)) if followed else None,
            weights=spectra(each.recurrence),
            gates=gate_statistics(each),
            memory_path=None if path is None else path[0],
            denormal_share=_denormal_share(gradients[0] / rows),
            straight=None if path is None else path[1],
        )
        work.done()
    return Flow(
        layers=layers,
        loss=float(aim.mean().detach()),
        steps=steps,
        examples=rows,
        ends=chosen,
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
        """For work that counts as so many parts: takes the share of it that is done, up to 1."""
        before = self._done

        def told(share: float) -> None:
            new = before + int(parts * share + 1e-9) - self._done
            if new:
                self.done(new)

        return told


def _check(examples: int, share: float, segment: int) -> None:
    if examples < 1:
        raise InputError(f"examples must be at least 1, got {examples}")
    if not 0 < share < 1:
        raise InputError(f"share must lie between 0 and 1, got {share}")
    if segment < 1:
        raise InputError(f"segment must be at least 1 step, got {segment}")


def _one_length(recorded: Sequence[Recorded]) -> tuple[int, int]:
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
    """[T] mean over examples, by the input's step."""
    norms = torch.stack([sizes_of(step).mean() for step in gradient]).cpu()
    return norms.flip(0) if each.reverse else norms


def _denormal_share(gradient: Tensor) -> float:
    size = gradient.abs()
    kept = size > _LEAST
    return float((kept & (size < _TINY)).sum()) / max(1, int(kept.sum()))


def _products(each: Recorded, places: Sequence[int], count: int, told: Callable[[float], None]) -> Products:
    from throughtime.flow.jacobian import products

    # Of a long sequence the last steps alone, and as many as the lags of the last end need.
    first = max(0, min(each.steps - _PRODUCT_STEPS, max(places) + 2 - count))
    inside = [place for place in places if place - first >= count - 2]
    rows = min(_PRODUCT_EXAMPLES, each.batch)
    states: list[Any] = []
    for state in each.states[first : each.steps]:
        cut = [s.detach()[:rows] for s in state]
        states.append(type(state)(*cut) if hasattr(state, "_fields") else tuple(cut))
    inputs = each.project(each.x[first:, :rows]).detach().unbind(0)
    ends = [place - first for place in inside]
    return products(each, states, inputs, lags=count - 1, ends=ends, told=told)


def _kind(each: Recorded) -> str:
    if isinstance(each.module, RecurrentLayer):
        return str(each.recurrence.kind)
    return type(each.recurrence).__name__
