"""The reach of the gradient of any step function, over all layers and parts of the state together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from throughtime.errors import InputError
from throughtime.flow.measurement.fit import quartiles, stays_below

Run = Callable[[Tensor, Any], tuple[Any, Any]]
Loss = Callable[[Any, Any], Tensor]

# Where only values are needed the sequence runs in chunks: one step at a time is slow, all at once is large.
_CHUNK = 256


class Reach(NamedTuple):
    """The size of `dL_T / dstate_{T-k}` for every lag k.

    A lag from which the mean "stays below" a fraction of its value at lag 1 is the first one after which it
    never rises above it again, up to the last lag; None where there is no such lag.
    """

    lags: Tensor  # [K] int64, 1 .. K, in steps
    norms: Tensor  # [K] float64, mean over examples and ends, units of loss per unit of state
    low: Tensor  # [K] float64, lower quartile over examples and ends
    high: Tensor  # [K] float64, upper quartile
    reach: int | None  # the lag from which `norms` stays below `fraction`
    half_life: int | None  # the lag from which `norms` stays below one half
    fraction: float


def gradient_reach(
    run: Run,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    state: Any = None,
    *,
    lags: int = 64,
    ends: int | Sequence[int] = 4,
    fraction: float = 0.01,
) -> Reach:
    """Measure `|dL_T / dstate_{T-k}|` for k = 1 .. `lags`, where state_t is the state after step t.

    The loss of step T alone is backpropagated. The model runs one step at a time, so that the state between
    any two steps is a tensor whose gradient autograd gives exactly. The norm of one example is taken over
    all layers and all parts of its state together (h and c of an LSTM). Lag 0 is left out: there the loss
    reads the output and not the state.

    Args:
        run: any `(x, state) -> (y, state)`, x [S, B, ...]. Put a model into evaluation mode first
            (`throughtime.layers.eval_mode.evaluating`), or its dropout is in the measurement.
        loss: `(y, target) -> Tensor`, the sum over the step's examples, or one value for each.
        inputs: [T, B, ...].
        targets: [T, B, ...].
        state: the state before the first step, every tensor [..., B, H]; None for the model's own.
        lags: how many steps back to measure.
        ends: the steps T to measure from, or how many of them to spread evenly over the sequence.
        fraction: of the value at lag 1; it defines `reach`.

    Cost: the sequence forward once without a graph, then `lags` steps forward and backward for each end;
        memory for the activations of `lags` steps, whatever T. No `.grad` is touched.
    Raises: InputError if the sequence has fewer than `lags + 1` steps, an end fewer than `lags` steps
        before it, or a state no batch axis.
    Source: Bengio, Simard & Frasconi 1994, IEEE Transactions on Neural Networks 5(2);
        Pascanu, Mikolov & Bengio 2013, ICML, section 2.1.
    """
    if lags < 1:
        raise InputError(f"lags must be at least 1, got {lags}")
    if not 0 < fraction < 1:
        raise InputError(f"fraction must lie between 0 and 1, got {fraction}")
    if len(targets) != len(inputs):
        raise InputError(f"targets must have the inputs' {len(inputs)} steps, got {len(targets)}")
    samples: list[Tensor] = []
    done = 0  # `state` has seen this many steps
    for end in _positions(ends, lags, len(inputs)):
        start = end - lags + 1
        with torch.no_grad():
            for chunk in torch.split(inputs[done:start], _CHUNK):
                _, state = run(chunk, state)
        done = start
        samples.append(_norms(run, loss, inputs[start : end + 1], targets[end : end + 1], state))
    sizes = torch.cat(samples, dim=1)
    norms = sizes.mean(dim=1)
    low, high = quartiles(sizes)
    return Reach(
        lags=torch.arange(1, lags + 1),
        norms=norms,
        low=low,
        high=high,
        reach=_lag(norms, fraction),
        half_life=_lag(norms, 0.5),
        fraction=fraction,
    )


def _norms(run: Run, loss: Loss, inputs: Tensor, target: Tensor, state: Any) -> Tensor:
    """Norms [K, B], lag 1 first, of the gradient of the last step's loss; `state` comes before `inputs`."""
    leaves, form = tree_flatten(state)
    state = tree_unflatten(
        [leaf.detach().requires_grad_() if _carries_gradient(leaf) else leaf for leaf in leaves], form
    )
    before: list[Any] = []  # the state before each step
    # cuDNN has no backward pass for a network in evaluation mode; torch's own kernels do not.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for x in torch.split(inputs, 1):
            before.append(state)
            y, state = run(x, state)
        total = loss(y, target).sum()
        nodes = [[leaf for leaf in tree_flatten(each)[0] if _carries_gradient(leaf)] for each in before]
        flat = [leaf for leaves in nodes for leaf in leaves]
        if total.requires_grad:
            gradients = torch.autograd.grad(total, flat, allow_unused=True, materialize_grads=True)
        else:  # the output does not depend on the state
            gradients = tuple(torch.zeros_like(leaf) for leaf in flat)
    each = iter(gradients)
    squares = [sum(_square(next(each), inputs.shape[1]) for _ in leaves) for leaves in nodes]
    return torch.stack([torch.as_tensor(s) for s in reversed(squares)]).sqrt().cpu()


def _carries_gradient(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def _square(gradient: Tensor, batch: int) -> Tensor:
    """Squared norm [B] of each example's part of `gradient` [..., B, H]."""
    if gradient.dim() < 2 or gradient.shape[-2] != batch:
        raise InputError(
            f"every tensor of the state must be [..., {batch}, H] (batch before the last axis), "
            f"got {list(gradient.shape)}"
        )
    return gradient.detach().double().square().sum(-1).reshape(-1, batch).sum(0)


def _positions(ends: int | Sequence[int], lags: int, steps: int) -> list[int]:
    """The steps to measure from, ascending, each with at least `lags` steps before it."""
    if steps <= lags:
        raise InputError(
            f"the sequence must have at least lags + 1 = {lags + 1} steps, got {steps}: "
            "give a longer one, or ask for fewer lags"
        )
    if isinstance(ends, int):
        if ends < 1:
            raise InputError(f"ends must be at least 1, got {ends}")
        return sorted({round(p) for p in torch.linspace(lags, steps - 1, ends, dtype=torch.float64).tolist()})
    chosen = sorted(set(ends))
    if not chosen or chosen[0] < lags or chosen[-1] >= steps:
        raise InputError(
            f"ends must lie between lags = {lags} and the last step {steps - 1}, got {list(ends)}"
        )
    return chosen


def _lag(norms: Tensor, fraction: float) -> int | None:
    """The first lag from which every norm is below `fraction` of the one at lag 1."""
    index = stays_below(norms, fraction)
    return None if index is None else index + 1
