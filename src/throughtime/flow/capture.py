"""The states between the steps, as the tensors through which the gradient really passes."""

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
from throughtime.flow.convert import Layer, layers_of
from throughtime.kernels.reference import Steppable, Zoneout, rebuild
from throughtime.layers.base import RecurrentLayer
from throughtime.layers.sequence import unpack
from throughtime.layers.stack import run_stack

SEGMENT = 128  # steps whose activations are kept at once; longer sequences are computed again on the way back


@dataclass
class Recorded:
    """One direction of one layer over one sequence. Everything is in the layer's own running order."""

    name: str  # path in the model and torch.nn's suffix: "rnn.l0", "l1_reverse"
    module: Layer
    number: int  # of the layer and direction, in torch.nn's order
    recurrence: Any  # the equation, without zoneout
    reverse: bool
    zoneout: Zoneout | None
    x: Tensor  # [T, B, D]
    states: list[State] = field(default_factory=list)  # T + 1: before the first step, and after each

    @property
    def steps(self) -> int:
        return self.x.shape[0]

    @property
    def batch(self) -> int:
        return self.x.shape[1]

    @property
    def parts(self) -> int:
        """How many tensors of the state a gradient is measured of: h, and c where there is one."""
        floating = [isinstance(s, Tensor) and s.is_floating_point() for s in self.states[0]]
        return 2 if floating[:2] == [True, True] else 1

    def project(self, x: Tensor) -> Tensor:
        """As the equation's."""
        return self.recurrence.project(x)  # type: ignore[no-any-return]

    def step(self, state: State, u: Tensor) -> State:
        """One step with whatever the layer does to the state after the equation."""
        new: State = self.recurrence.step(state, u)
        return new if self.zoneout is None else self.zoneout.apply(0, state, new)


def record(model: nn.Module, call: Callable[[], Any], segment: int = SEGMENT) -> tuple[Any, list[Recorded]]:
    """Run `call`, in which `model` runs once, and keep the states of all its recurrent layers.

    Every layer runs as a loop in plain torch. Of sequences longer than two segments only the states are kept, and the
    activations of a segment are computed again when a gradient passes: memory for T states, and one segment.
    Returns: what `call` returned, and the recordings in the order in which the layers ran.
    Raises: InputError for layers that run more than once, on ragged batches, or not at all.
    """
    found: list[Recorded] = []
    layers = layers_of(model)
    for name, layer in layers.items():
        run = _run_layer if isinstance(layer, RecurrentLayer) else _run_recurrent
        layer.forward = MethodType(partial(_once, run, name, found, segment), layer)  # type: ignore[method-assign]
    try:
        result = call()
    finally:
        for layer in layers.values():
            del layer.forward  # the class's own again
    if not found:
        raise InputError("no recurrent layer of the model ran: its forward must call them as layers")
    return result, found


def _once(
    run: Any,
    name: str,
    found: list[Recorded],
    segment: int,
    layer: Layer,
    input: Any,
    hx: Any = None,
    *,
    lengths: Any = None,
) -> Any:
    if any(each.module is layer for each in found):
        raise InputError(
            f"layer {name!r} ran more than once in one call of the model: flow follows one sequence through each layer; "
            "measure a model that runs it once over all steps"
        )
    if lengths is not None or not isinstance(input, Tensor):
        raise InputError(
            f"layer {name or type(layer).__name__!r} was given sequences of unequal length: flow measures full batches; "
            "give sequences of one length, without lengths= and not packed"
        )
    prefix = f"{name}." if name else ""
    return run(layer, input, hx, lambda *a: _direction(found, prefix, layer, segment, *a))


def _run_layer(layer: RecurrentLayer, input: Tensor, hx: Any, direction: Any) -> Any:
    """What `RecurrentLayer.forward` does, with `direction` for every direction of every layer."""
    sequence, components = layer._read(input, hx, None)
    form = layer._form
    y, finals = run_stack(
        layer._stack().recurrences,
        sequence.x,
        form.split(components, layer.state_type),
        direction,
        bidirectional=layer.bidirectional,
        dropout=0.0,
        training=False,
    )
    return sequence.output(y), form.give(form.join(finals), sequence)


def _run_recurrent(layer: Any, input: Tensor, hx: Any, direction: Any) -> Any:
    """What `Recurrent.forward` does, with `direction` for every direction of every layer."""
    sequence = unpack("Recurrent", input, None, layer.input_size, input.dtype, layer.batch_first)
    x = sequence.x
    states = hx or [cell.initial_state(x.shape[1], device=x.device, dtype=x.dtype) for cell in layer.cells]
    if hx is not None and not sequence.batched:
        states = [rebuild(s, [v.unsqueeze(0) for v in s]) for s in hx]
    y, finals = run_stack(
        list(layer.cells),
        x,
        states,
        direction,
        bidirectional=layer.bidirectional,
        dropout=0.0,
        training=False,
    )
    if not sequence.batched:
        finals = [rebuild(s, [v.squeeze(0) for v in s]) for s in finals]
    return sequence.output(y), tuple(finals)


def _direction(
    found: list[Recorded],
    prefix: str,
    layer: Layer,
    segment: int,
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
    kept = Recorded(name, layer, number, recurrence, reverse, zoneout, running, [state])
    found.append(kept)
    size = segment if kept.steps > 2 * segment else kept.steps
    outputs: list[Tensor] = []
    for piece in torch.split(running, size):
        run = partial(_segment, kept, len(kept.states), type(state) if hasattr(state, "_fields") else tuple)
        if size == kept.steps or not torch.is_grad_enabled():
            y, *values = run(piece, *state)
        else:
            y, *values = checkpoint(run, piece, *state, use_reentrant=False, preserve_rng_state=False)
        state = rebuild(state, values)
        outputs.append(y)
    y = torch.cat(outputs)
    return (y.flip(0) if reverse else y), state


def _segment(kept: Recorded, first: int, kind: Any, x: Tensor, *values: Any) -> tuple[Any, ...]:
    """Some steps: outputs [S, B, H] and the tensors of the last state."""
    state: State = kind(*values) if kind is not tuple else tuple(values)
    outputs = []
    for index, u in enumerate(kept.project(x).unbind(0)):
        new = kept.step(state, u)
        new = rebuild(new, [_own(value, state) for value in new])
        if len(kept.states) == first + index:  # not when a segment runs again on the way back
            kept.states.append(new)
        outputs.append(new[0])
        state = new
    return (torch.stack(outputs), *state)


def _own(value: Any, old: State) -> Any:
    """The value as a tensor of this step alone, through which its gradient passes."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if any(value is each for each in old):
        value = value.view_as(value)  # handed on unchanged: else two steps would share one gradient
    if not value.requires_grad and torch.is_grad_enabled():
        value = value.detach().requires_grad_()
    return value
