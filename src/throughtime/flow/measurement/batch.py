"""The caller's batch as it is measured, and its loss by step and example: float64, a few examples, loss with time first."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves, tree_map_only

from throughtime.data.batch import IGNORE, Batch, unmasked
from throughtime.errors import InputError
from throughtime.flow.measurement.model_copy import layers_of

Loss = Callable[[Any, Any], Tensor]


class Case(NamedTuple):
    """What the model is called with, and what its loss is computed from."""

    inputs: Any  # zero in the padding
    targets: Any  # time first, or [B, ...]; masked real numbers are 0
    state: Any
    lengths: Tensor | None = None  # int64 [B] on the CPU, as the caller gave them
    counted: Tensor | None = (
        None  # bool [T, B] or [B], targets that are not masked; None: the loss's own matter
    )
    batch: Batch | None = None  # where the caller gave one
    packed: bool = False  # the model takes a PackedSequence and not lengths=

    @property
    def per_sequence(self) -> bool | None:
        """Whether there is one target for each sequence; None: its shape tells."""
        return None if self.batch is None else self.batch.per_sequence

    def rows(self, model: nn.Module) -> int:
        """Examples."""
        if self.lengths is not None:
            return len(self.lengths)
        leaf = next(leaf for leaf in tree_leaves(self.inputs) if isinstance(leaf, Tensor))
        return int(leaf.shape[0 if self.batch is None and batch_first(model) else 1])

    def run(self, model: nn.Module) -> Any:
        """What the model returns."""
        if self.batch is not None:
            return self.batch.run(model, self.state)
        if self.packed:
            assert self.lengths is not None
            inputs = pack_padded_sequence(
                self.inputs, self.lengths, batch_first=batch_first(model), enforce_sorted=False
            )
            return model(inputs) if self.state is None else model(inputs, self.state)
        extra = {} if self.lengths is None else {"lengths": self.lengths}
        return model(self.inputs, **extra) if self.state is None else model(self.inputs, self.state, **extra)


def read_batch(model: nn.Module, batch: Any, state: Any, examples: int, lengths: Any = None) -> Case:
    """The first examples in float64, without steps that lie in the padding of every row."""
    counted: Tensor | None = None
    if isinstance(batch, Batch):
        if lengths is not None:
            raise InputError("a Batch has lengths of its own: leave lengths= out")
        size = batch.size
        few, state = first_rows(batch, state, examples)
        if few.lengths is not None:
            few = without_padding(few, few.lengths)
        if leaves := [leaf for leaf in tree_leaves(few.targets) if isinstance(leaf, Tensor)]:
            axes = 1 if few.per_sequence else 2
            masks = [
                unmasked(leaf).flatten(axes).any(-1) if leaf.dim() > axes else unmasked(leaf)
                for leaf in leaves
            ]
            counted = torch.stack(masks).any(0)
        cleaned = tree_map_only(Tensor, _finite_where_masked, few.targets)
        return Case(few.inputs, cleaned, state, few.lengths, counted, few)
    if not isinstance(batch, PackedSequence) and isinstance(batch, tuple | list):
        if len(batch) != 2:
            raise InputError(f"batch must be inputs or (inputs, targets), got {len(batch)} parts")
        inputs, targets = batch
    else:
        inputs, targets = batch, None
    first, packed = batch_first(model), False
    if isinstance(inputs, PackedSequence):
        if lengths is not None:
            raise InputError("a PackedSequence has lengths of its own: leave lengths= out")
        inputs, lengths = pad_packed_sequence(inputs, batch_first=first)
        packed = not _takes_lengths(model)
    elif lengths is not None and not _takes_lengths(model):
        raise InputError(
            f"lengths= needs a model whose forward takes an argument lengths, and {type(model).__name__}'s does not: "
            "add it, or give a PackedSequence to a model that takes one"
        )
    inputs = _double(_checked(inputs))
    single = layers_of(model).get("")
    if single is not None and inputs.dim() == 2:  # one sequence [T, D]
        inputs = inputs.unsqueeze(0 if first else 1)
        state = tree_map_only(Tensor, lambda leaf: leaf.unsqueeze(-2), state)
    if inputs.dim() < 2:
        raise InputError(f"inputs must be [T, B] or [T, B, D], got {list(inputs.shape)}: add a batch axis")
    if 0 in inputs.shape:
        raise InputError(f"inputs must not be empty, got {list(inputs.shape)}: give at least one example")
    by_time = inputs.transpose(0, 1) if first else inputs
    steps, size = by_time.shape[:2]
    by_time = by_time[:, :examples]
    targets = _double(targets)
    if isinstance(targets, Tensor):
        # One target for each sequence has the batch first; one for each step has it where the inputs do.
        each_step = targets.dim() > 1 and targets.shape[:2] == ((size, steps) if first else (steps, size))
        if each_step:
            targets = (targets.transpose(0, 1) if first else targets)[:, :examples]
        elif targets.dim() > 0 and len(targets) == size:
            targets = targets[:examples]
    if lengths is not None:
        lengths = Batch.of(torch.zeros(steps, size), None, lengths).lengths
        assert lengths is not None
        lengths = lengths[:examples]
        steps = max(1, int(lengths.max()))
        by_time = _without_padding(by_time[:steps], lengths)
        if isinstance(targets, Tensor) and each_step:
            counted = torch.arange(steps)[:, None] < lengths
            padding = ~counted.to(targets.device).reshape(counted.shape + (1,) * (targets.dim() - 2))
            targets = targets[:steps].masked_fill(padding, 0 if targets.is_floating_point() else IGNORE)
    inputs = by_time.transpose(0, 1) if first else by_time
    state = _first_states(state, size, examples)
    return Case(inputs, targets, state, lengths, counted, None, packed)


def first_rows(batch: Batch, state: Any, examples: int) -> tuple[Batch, Any]:
    """The first rows of a batch and of the state before it, detached, floating tensors in float64."""
    size = batch.size
    few = batch.rows(slice(0, examples)) if size > examples else batch
    parts = {name: _double(getattr(few, name)) for name in ("inputs", "targets", "context")}
    return few._replace(**parts), _first_states(state, size, examples)


def batch_first(model: nn.Module) -> bool:
    """Whether the model's recurrent layers have the batch before the time."""
    return all(layer.batch_first for layer in layers_of(model).values())


def _first_states(state: Any, size: int, examples: int) -> Any:
    def fewer(leaf: Tensor) -> Tensor:
        return leaf[..., :examples, :] if leaf.dim() > 1 and leaf.shape[-2] == size else leaf

    return tree_map_only(Tensor, fewer, _double(state))


def _double(value: Any) -> Any:
    """Every floating tensor in `value` in float64, detached; the rest as it is."""

    def each(leaf: Tensor) -> Tensor:
        return leaf.detach().double() if leaf.is_floating_point() else leaf

    return tree_map_only(Tensor, each, value)


def without_padding(batch: Batch, lengths: Tensor) -> Batch:
    """The steps up to the end of the longest row, with zeros in the padding, which may hold NaN or ids that do not exist."""
    few = batch.window(0, max(1, int(lengths.max())))
    return few._replace(
        inputs=tree_map_only(Tensor, lambda leaf: _without_padding(leaf, lengths), few.inputs)
    )


def _without_padding(leaf: Tensor, lengths: Tensor) -> Tensor:
    padding = torch.arange(len(leaf))[:, None] >= lengths
    return leaf.masked_fill(padding.to(leaf.device).reshape(padding.shape + (1,) * (leaf.dim() - 2)), 0)


def _finite_where_masked(leaf: Tensor) -> Tensor:
    """Masked real numbers as 0: NaN would be in the gradient even where the loss does not count."""
    return leaf.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf) if leaf.is_floating_point() else leaf


def _takes_lengths(model: nn.Module) -> bool:
    parameters = inspect.signature(model.forward).parameters
    return "lengths" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _checked(inputs: Any) -> Tensor:
    if not isinstance(inputs, Tensor) or inputs.dim() < 1 or inputs.dtype == torch.bool:
        raise InputError(
            f"inputs must be a tensor [T, B] of ids or [T, B, D], got {type(inputs).__name__}: other forms go into a "
            "throughtime.data.batch.Batch"
        )
    return inputs


class Objective(NamedTuple):
    """The loss of every example, at every step or at its end alone."""

    losses: Tensor  # [T, B], or [1, B] where there is one loss for each sequence
    counted: Tensor  # bool of the same shape: not masked, not in the padding
    at_end: bool  # one loss for each sequence: it belongs to the row's last step
    lengths: Tensor  # int64 [B] on the CPU

    def mean(self) -> Tensor:
        """The batch's loss: the mean over all that counts."""
        return torch.where(self.counted, self.losses, 0).sum() / self.counted.sum()


def objective(
    outputs: Any,
    targets: Any,
    loss: Loss | None,
    lengths: Tensor,
    steps: int,
    *,
    counted: Tensor | None = None,
    per_sequence: bool | None = None,
) -> Objective:
    """The losses of `loss(outputs, targets)`, or of the defaults that `measure` describes.

    Raises: InputError where there is no default, nothing counts, or the loss has another shape than [T, B], [T] or [B].
    """
    batch = len(lengths)
    timed = isinstance(outputs, Tensor) and outputs.shape[:2] == (steps, batch)
    if loss is not None:
        found = _read(loss(outputs, targets), lengths, steps, timed, per_sequence)
    elif not isinstance(outputs, Tensor):
        raise InputError(f"the model returned {type(outputs).__name__}, not a tensor: give loss=")
    elif targets is None:
        found = _read(_in_a_random_direction(outputs, timed), lengths, steps, timed, per_sequence)
    else:
        classes = isinstance(targets, Tensor) and not targets.is_floating_point()
        if not classes or targets.shape != outputs.shape[:-1]:
            came = list(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            raise InputError(
                f"without loss= targets must be classes, whole numbers of shape {list(outputs.shape[:-1])}, got {came}: "
                "give loss=lambda outputs, targets: one value for each step and example"
            )
        values = F.cross_entropy(
            outputs.flatten(0, -2), targets.flatten().long(), reduction="none", ignore_index=IGNORE
        ).view(targets.shape)
        found = _read(values, lengths, steps, timed, per_sequence)
        own = targets != IGNORE
        counted = own if counted is None else own & counted.to(own.device)
    if counted is not None:
        counts = counted.to(found.losses.device).reshape(found.losses.shape)
        found = found._replace(counted=found.counted & counts)
    if not bool(found.counted.any()):
        raise InputError(
            f"every target is masked (whole numbers {IGNORE}, real numbers NaN): there is no loss"
        )
    return found


def time_first(outputs: Any, model: nn.Module, case: Case, steps: int, rows: int) -> Any:
    """The outputs with time before the examples, whatever form the model has them in."""
    if isinstance(outputs, PackedSequence):
        return pad_packed_sequence(outputs)[0]
    swap = case.batch is None and batch_first(model)
    if swap and isinstance(outputs, Tensor) and outputs.shape[:2] == (rows, steps):
        return outputs.transpose(0, 1)
    return outputs


def _in_a_random_direction(outputs: Tensor, timed: bool) -> Tensor:
    """A random direction of unit length, the same each time, times every output."""
    first = 2 if timed else 1
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(outputs.shape[first:], generator=generator, dtype=torch.float64)
    direction = (direction / direction.norm()).to(outputs.device, outputs.dtype)
    return (outputs * direction).flatten(first).sum(-1) if outputs.dim() > first else outputs


def _read(values: Any, lengths: Tensor, steps: int, timed: bool, per_sequence: bool | None) -> Objective:
    batch = len(lengths)
    ragged = bool((lengths < steps).any())
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if shape == (steps, batch) and per_sequence is not True:
        losses, at_end = values, False
    elif shape == (steps,) and not ragged and per_sequence is None and (timed or steps != batch):
        # The mean over the examples, as torch's losses give it: each has its part.
        losses, at_end = values[:, None].expand(steps, batch), False
    elif shape == (batch,) and per_sequence is not False:
        losses, at_end = values[None], True
    else:
        raise InputError(
            f"the loss must be one value for each step and example [{steps}, {batch}], for each step [{steps}] (not in a ragged "
            f"batch) or for each example [{batch}], got {list(shape) if isinstance(shape, tuple) else shape}: "
            "use reduction='none'"
        )
    if not losses.requires_grad:
        raise InputError("the loss does not depend on the model: compute it from the model's outputs")
    inside = (lengths > 0)[None] if at_end else torch.arange(steps)[:, None] < lengths
    return Objective(losses, inside.to(losses.device), at_end, lengths)
