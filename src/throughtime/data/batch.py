"""A batch of sequences: inputs, targets, lengths, and what has no time; it cuts itself into windows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from throughtime.errors import InputError

IGNORE = -100  # a masked target, whole numbers: what torch's losses leave out; real numbers are masked by NaN


class Source(NamedTuple):
    """B sequences that are read whole and have no place in a batch's time: what a translation is made from."""

    values: Tensor  # [B, S, ...], padded
    lengths: Tensor  # int64 [B], 1 to S


class Batch(NamedTuple):
    """B sequences of up to T steps, time first. Make one with `Batch.of`, which checks shapes and masks padding.

    A masked target is IGNORE (-100) where targets are whole numbers, NaN where they are real numbers; losses leave it out.
    """

    inputs: Any  # pytree of tensors [T, B, ...]
    targets: Any  # pytree of tensors [T, B, ...], or [B, ...] if `per_sequence`; None where there are none
    lengths: Tensor | None = None  # int64 [B], steps of each row, 0 to T; None: all T
    context: Any = None  # pytree of tensors [B, ...]: what has no time (a class, an image, a `Source`)
    reset: bool = True  # the sequences start here, from the initial state
    num_targets: int = 0  # unmasked targets of the whole batch, also in its windows: what a mean divides by
    per_sequence: bool = False  # one target for each sequence, at its last step

    @classmethod
    def of(
        cls,
        inputs: Any,
        targets: Any = None,
        lengths: Any = None,
        *,
        context: Any = None,
        reset: bool = True,
        per_sequence: bool = False,
    ) -> Batch:
        """Check the shapes, mask the targets that lie in the padding, and count the others.

        Whether targets are per step or per sequence is said, not guessed: [T, B] and [B] look alike where T == B.
        Raises: InputError for shapes that do not belong together, or lengths outside 0 to T.
        Cost: one pass over the targets; waits for the device.
        """
        steps, size = _steps_and_size(inputs)
        if lengths is not None:
            lengths = _checked_lengths(lengths, steps, size)
        for leaf in tensors(targets):
            if leaf.dtype in (torch.bool, torch.uint8):
                raise InputError(
                    f"targets must have room for the mask {IGNORE}, got {leaf.dtype}: convert them with .long()"
                )
        expected = (size,) if per_sequence else (steps, size)
        for name, tree, shape in (("targets", targets, expected), ("context", context, (size,))):
            for leaf in tensors(tree):
                if tuple(leaf.shape[: len(shape)]) != shape:
                    kind = "one for each sequence" if name == "targets" and per_sequence else "as the inputs"
                    raise InputError(
                        f"{name} must be {_shape(shape)}, {kind if name == 'targets' else 'one for each sequence'}, "
                        f"got {list(leaf.shape)}: put time first, then the batch"
                    )
        if lengths is not None and not per_sequence:
            inside = torch.arange(steps, device=lengths.device)[:, None] < lengths
            targets = masked(targets, inside)
        return cls(inputs, targets, lengths, context, reset, count_targets(targets), per_sequence)

    @property
    def steps(self) -> int:
        """T."""
        return int(tensors(self.inputs)[0].shape[0])

    @property
    def size(self) -> int:
        """B."""
        return int(tensors(self.inputs)[0].shape[1])

    def window(self, start: int, stop: int) -> Batch:
        """Steps start .. stop-1 as a batch of their own, views where they can be; all of it is the batch itself.

        Lengths count the steps inside the window: a row that ended before it has 0, and a layer called with `lengths=` returns
        its state unchanged. A target per sequence stays only in the window in which its row ends (a row of no steps ends in the
        first); elsewhere it is masked. `num_targets` stays that of the whole batch. `reset` is False but in the first window.
        """
        if start <= 0 and stop >= self.steps:
            return self
        inputs = tree_map_only(Tensor, lambda leaf: leaf[start:stop], self.inputs)
        lengths, targets = self.lengths, self.targets
        if self.per_sequence:
            ends = lengths if lengths is not None else torch.full((self.size,), self.steps)
            last = (ends - 1).clamp(min=0)  # the step at which the row ends
            targets = masked(targets, (last >= start) & (last < stop))
        else:
            targets = tree_map_only(Tensor, lambda leaf: leaf[start:stop], targets)
        if lengths is not None:
            lengths = (lengths - start).clamp(0, stop - start)
        return self._replace(inputs=inputs, targets=targets, lengths=lengths, reset=self.reset and start == 0)

    def rows(self, index: Tensor | slice) -> Batch:
        """Some of the rows, with their own count of targets. A per-step [T, B] keeps all T steps."""

        def second(leaf: Tensor) -> Tensor:
            return leaf[:, index]

        def first(leaf: Tensor) -> Tensor:
            return leaf[index]

        targets = tree_map_only(Tensor, first if self.per_sequence else second, self.targets)
        return self._replace(
            inputs=tree_map_only(Tensor, second, self.inputs),
            targets=targets,
            lengths=None if self.lengths is None else self.lengths[index],
            context=tree_map_only(Tensor, first, self.context),
            num_targets=count_targets(targets),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device; lengths stay on the CPU, where the layers read them."""

        def moved(leaf: Tensor) -> Tensor:
            return leaf.to(device, non_blocking=True)

        parts = {
            name: tree_map_only(Tensor, moved, getattr(self, name))
            for name in ("inputs", "targets", "context")
        }
        return self._replace(**parts)

    def run(self, model: Any, state: Any = None) -> tuple[Any, Any]:
        """`model(inputs, state)`, with `lengths=` and `context=` where the batch has them: (outputs, state)."""
        extra = {
            name: getattr(self, name) for name in ("lengths", "context") if getattr(self, name) is not None
        }
        outputs, state = model(self.inputs, state, **extra)
        return outputs, state


def masked(targets: Any, kept: Tensor) -> Any:
    """Targets where `kept` is true, the mask (IGNORE or NaN) elsewhere; `kept` has the targets' leading axes."""

    def each(leaf: Tensor) -> Tensor:
        fill = float("nan") if leaf.is_floating_point() else IGNORE
        where = kept.to(leaf.device).reshape(kept.shape + (1,) * (leaf.dim() - kept.dim()))
        return torch.where(where, leaf, torch.full_like(leaf, fill))

    return tree_map_only(Tensor, each, targets)


def count_targets(targets: Any) -> int:
    """Count the targets that are not masked, in all tensors of a pytree. Cost: one pass; waits for the device."""
    return sum(int(unmasked(leaf).sum()) for leaf in tensors(targets))


def unmasked(target: Tensor) -> Tensor:
    """Where a target counts, bool of its shape."""
    kept: Tensor = target.isnan().logical_not() if target.is_floating_point() else target != IGNORE
    return kept


def tensors(tree: Any) -> list[Tensor]:
    """The tensors of a pytree, always in the same order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _steps_and_size(inputs: Any) -> tuple[int, int]:
    leaves = tensors(inputs)
    if not leaves or any(leaf.dim() < 2 for leaf in leaves):
        raise InputError(
            "inputs must be tensors [T, B, ...], time first, then the batch; got none, or one without a batch"
        )
    shapes = {tuple(leaf.shape[:2]) for leaf in leaves}
    if len(shapes) > 1:
        raise InputError(
            f"inputs must all have the same T and B, got {' and '.join(_shape(s) for s in sorted(shapes))}"
        )
    (steps, size) = shapes.pop()
    if steps == 0 or size == 0:
        raise InputError(
            f"inputs must have at least one step and one sequence, got [T, B] = [{steps}, {size}]"
        )
    return steps, size


def _checked_lengths(lengths: Any, steps: int, size: int) -> Tensor:
    """int64 [B] on the CPU."""
    lengths = torch.as_tensor(lengths).cpu()
    if lengths.is_floating_point() or lengths.shape != (size,):
        raise InputError(
            f"lengths must be whole numbers [{size}], one for each sequence, got {lengths.dtype} {list(lengths.shape)}"
        )
    whole: Tensor = lengths.long()
    if int(whole.min()) < 0 or int(whole.max()) > steps:
        raise InputError(
            f"lengths must lie between 0 and T = {steps}, got {int(whole.min())} to {int(whole.max())}"
        )
    return whole


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}, ...]"
