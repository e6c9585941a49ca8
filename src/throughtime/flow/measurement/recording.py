"""Records the states between the steps as the very tensors through which the gradient passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from throughtime.cells.contract import State
from throughtime.errors import InputError
from throughtime.flow.measurement.model_copy import Layer, layers_of
from throughtime.kernels.reference import Steppable, Zoneout, rebuild
from throughtime.kernels.stack import join, reorder, run_stack
from throughtime.layers.base import RecurrentLayer
from throughtime.layers.direction import Reversed, reverse_rows
from throughtime.layers.sequence import PaddedBatch, unpack

SEGMENT = (
    128  # steps whose activations are kept at once; longer sequences recompute them in the backward pass
)


@dataclass
class Recorded:
    """One direction of one layer over one batch: rows in the caller's order, time in the direction's own running order.

    Running backward, running step 0 is input step T - 1. There the padding of a ragged batch comes first.
    """

    name: str  # path in the model and torch.nn's suffix: "rnn.l0", "l1_reverse"
    module: Layer
    number: int  # of the layer and direction, in torch.nn's order
    recurrence: Any  # the equation, without zoneout
    reverse: bool
    zoneout: Zoneout | None
    x: Tensor  # [T, B, D], zero in the padding
    active: Tensor | None  # bool [T, B], False in the padding; None: all True
    states: list[State] = field(default_factory=list)  # T + 1: before the first step, and after each

    @property
    def steps(self) -> int:
        return self.x.shape[0]

    @property
    def batch(self) -> int:
        return self.x.shape[1]

    @property
    def parts(self) -> int:
        """Number of the state's tensors whose gradient is measured: h, and c where there is one."""
        floating = [isinstance(s, Tensor) and s.is_floating_point() for s in self.states[0]]
        return 2 if floating[:2] == [True, True] else 1

    @property
    def lengths(self) -> Tensor:
        """Steps of each row, int64 [B] on the CPU."""
        if self.active is None:
            return torch.full((self.batch,), self.steps)
        return self.active.sum(0).cpu()

    def project(self, x: Tensor) -> Tensor:
        """As the equation's."""
        return self.recurrence.project(x)  # type: ignore[no-any-return]

    def step(self, state: State, u: Tensor) -> State:
        """One step with whatever the layer does to the state after the equation."""
        new: State = self.recurrence.step(state, u)
        return new if self.zoneout is None else self.zoneout.apply(0, state, new)


def record(model: nn.Module, call: Callable[[], Any], segment: int = SEGMENT) -> tuple[Any, list[Recorded]]:
    """Run `call`, in which `model` runs once, and record the states of all its recurrent layers.

    Every layer runs as a loop in plain torch. Of sequences longer than two segments only the states are kept, and the activations
    of a segment are recomputed in the backward pass: memory for T states and one segment.
    Returns: what `call` returned, and the recordings in the order in which the layers ran.
    Raises: InputError for layers that run more than once, or not at all.
    """
    found: list[Recorded] = []
    layers = layers_of(model)
    backward = {id(module.layers) for module in model.modules() if isinstance(module, Reversed)}
    for name, layer in layers.items():
        layer.forward = MethodType(partial(_forward, name, found, segment, id(layer) in backward), layer)  # type: ignore[method-assign]
    try:
        result = call()
    finally:
        for layer in layers.values():
            del layer.forward  # the class's own again
    if not found:
        raise InputError("no recurrent layer of the model ran: its forward must call them as layers")
    return result, found


def _forward(
    name: str,
    found: list[Recorded],
    segment: int,
    backward: bool,
    layer: Layer,
    input: Any,
    hx: Any = None,
    *,
    lengths: Any = None,
) -> Any:
    """Replaces the layer's own `forward` during the recording."""
    if any(each.module is layer for each in found):
        raise InputError(
            f"layer {name!r} ran more than once in one call of the model: each layer's sequence is recorded once; "
            "measure a model that runs it once over all steps"
        )
    prefix = f"{name}." if name else ""
    if isinstance(layer, RecurrentLayer):
        stack = layer._stack()
        sequence, components = layer._read(input, hx, lengths, stack)
        recurrences: Any = [stack.bind(number) for number in range(len(stack.weights))]
        states = stack.states(components)
        y, finals = _run(found, prefix, layer, segment, backward, recurrences, sequence, states)
        return y, layer._form.give(join(finals, components), sequence)
    sequence = unpack("Recurrent", input, lengths, layer.input_size, input.data.dtype, layer.batch_first)
    x = sequence.x
    recurrences = list(layer.cells)
    if hx is None:
        states = [cell.initial_state(x.shape[1], device=x.device, dtype=x.dtype) for cell in recurrences]
    else:
        states = [s if sequence.batched else rebuild(s, [v.unsqueeze(0) for v in s]) for s in hx]
        states = [reorder(s, sequence.order) for s in states]
    y, finals = _run(found, prefix, layer, segment, backward, recurrences, sequence, states)
    finals = [reorder(s, sequence.restore) for s in finals]
    return y, tuple(s if sequence.batched else rebuild(s, [v.squeeze(0) for v in s]) for s in finals)


def _run(
    found: list[Recorded],
    prefix: str,
    layer: Layer,
    segment: int,
    backward: bool,
    recurrences: Any,
    sequence: PaddedBatch,
    states: list[State],
) -> tuple[Any, list[State]]:
    """All layers and directions of one module: the output in the caller's form, and the final states in the layer's.

    Args: backward, whether the module is inside `Reversed`, which has turned its input round.
    """
    x, lengths = sequence.x, sequence.lengths
    if sequence.restore is not None:  # a PackedSequence has its rows sorted by length
        x, states = x.index_select(1, sequence.restore), [reorder(s, sequence.restore) for s in states]
        lengths = None if lengths is None else lengths.index_select(0, sequence.restore.to(lengths.device))
    if backward:
        x = reverse_rows(x, lengths)  # the order of the model's own input, in which the recording counts
    active = None
    if lengths is not None and bool((lengths < len(x)).any()):
        active = torch.arange(len(x), device=x.device)[:, None] < lengths.to(x.device)
        x = x.masked_fill(~active[:, :, None], 0)  # padding may hold NaN
    y, finals = run_stack(
        recurrences,
        x,
        states,
        lambda number, recurrence, x, state, reverse: _direction(
            found, prefix, layer, segment, active, number, recurrence, x, state, reverse or backward
        ),
        bidirectional=layer.bidirectional,
        dropout=0.0,
        training=False,
    )
    if backward:
        y = reverse_rows(y, lengths)
    if sequence.order is not None:
        y, finals = y.index_select(1, sequence.order), [reorder(s, sequence.order) for s in finals]
    return sequence.output(y), finals


def _direction(
    found: list[Recorded],
    prefix: str,
    layer: Layer,
    segment: int,
    active: Tensor | None,
    number: int,
    recurrence: Steppable,
    x: Tensor,
    state: State,
    reverse: bool,
) -> tuple[Tensor, State]:
    """Run one direction of one layer, and keep its states."""
    directions = 2 if layer.bidirectional else 1
    name = f"{prefix}l{number // directions}" + "_reverse" * reverse
    rates: tuple[float, ...] = getattr(layer, "zoneout", ())
    zoneout = Zoneout(rates, None) if any(rates) else None
    running = x.flip(0) if reverse else x
    running_active = active.flip(0) if reverse and active is not None else active
    kept = Recorded(name, layer, number, recurrence, reverse, zoneout, running, running_active, [state])
    found.append(kept)
    size = segment if kept.steps > 2 * segment else kept.steps
    outputs: list[Tensor] = []
    for chunk in torch.split(running, size):
        run = partial(_segment, kept, len(kept.states), type(state) if hasattr(state, "_fields") else tuple)
        if size == kept.steps or not torch.is_grad_enabled():
            y, *values = run(chunk, *state)
        else:
            y, *values = checkpoint(run, chunk, *state, use_reentrant=False, preserve_rng_state=False)
        state = rebuild(state, values)
        outputs.append(y)
    y = torch.cat(outputs)
    if running_active is not None:
        y = y.masked_fill(~running_active.reshape(running_active.shape + (1,) * (y.dim() - 2)), 0)
    return (y.flip(0) if reverse else y), state


def _segment(kept: Recorded, first: int, kind: Any, x: Tensor, *values: Any) -> tuple[Any, ...]:
    """Some steps: outputs [S, B, H] and the tensors of the last state."""
    state: State = kind(*values) if kind is not tuple else tuple(values)
    outputs = []
    for index, u in enumerate(kept.project(x).unbind(0)):
        new = kept.step(state, u)
        if kept.active is not None:
            new = _keep_ended(kept.active[first - 1 + index], state, new)
        new = rebuild(new, [_own(value, state) for value in new])
        if len(kept.states) == first + index:  # not when a segment is recomputed in the backward pass
            kept.states.append(new)
        outputs.append(new[0])
        state = new
    return (torch.stack(outputs), *state)


def _keep_ended(active: Tensor, old: State, new: State) -> State:
    """Rows outside their own steps keep their state."""
    where = [
        torch.where(active.reshape(-1, *(1,) * (b.dim() - 1)), b, a) for a, b in zip(old, new, strict=True)
    ]
    return rebuild(new, where)


def _own(value: Any, old: State) -> Any:
    """The value as a tensor of this step alone, through which its gradient passes."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if any(value is each for each in old):
        value = value.view_as(value)  # handed on unchanged: else two steps would share one gradient
    if not value.requires_grad and torch.is_grad_enabled():
        value = value.detach().requires_grad_()
    return value
