"""What every strategy shares: its one method, its result, and one division for the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from throughtime.bptt.tree import Tree, tensors
from throughtime.errors import InputError, one_of

Run = Callable[[Any, Any], tuple[Any, Any]]  # (x, state) -> (y, state); state is None at the start
Loss = Callable[[Any, Any], Tensor]  # (y, target) -> one number, the SUM over the window's unmasked targets
Reduction = Literal["sum", "mean"]
BackwardCall = Callable[..., object]  # backward(loss), for Truncated with a stride also retain_graph=True


class Backward(NamedTuple):
    """What one call of `strategy.backward` leaves behind, besides the gradients in `.grad`."""

    loss: Tensor  # scalar, detached, reduced as asked, in float32 or wider
    count: int  # type: ignore[assignment]  # unmasked targets of the batch; hides tuple.count
    state: Tree  # the state after the last step, detached: the next call's `state`
    windows: int  # pieces of the sequence that were backpropagated one after another


@runtime_checkable
class Strategy(Protocol):
    """How the gradient travels back through time: a frozen value with one method that does work."""

    def backward(
        self,
        run: Run,
        loss: Loss,
        inputs: Any,
        targets: Any = None,
        state: Tree = None,
        *,
        reduction: Reduction = "mean",
        count: int | None = None,
        backward: BackwardCall | None = None,
        generator: torch.Generator | None = None,
    ) -> Backward:
        """Run the sequence and accumulate its gradient in `.grad`, as `loss.backward()` would.

        run: any module or function `(x, state) -> (y, state)`, x of any number of steps `[t, ...]`, t <= T.
        loss: `(y, target) -> Tensor`, one number: the sum over the window's unmasked targets, `reduction="sum"` of
            torch's losses. As for `loss.backward()`, a loss of several numbers is an error.
        inputs, targets: tensors `[T, ...]`, time first, or pytrees of them, cut into views; or, with
            `targets=None`, `inputs` is an iterable of pairs (x, target), pulled one at a time.
        state: None, or a pytree of tensors. One that requires grad (a learned initial state) gets its
            gradient, and so do inputs; the state that comes back is detached, so a carried state is a constant.
        reduction: "mean" divides once by `count`, never window by window; "sum" does not divide.
        count: unmasked targets of the whole batch (`count_targets`); by default all elements of `targets`.
        backward: called in place of `loss.backward()` (accelerate's, a loss scaler's).
        generator: source of the random strategies' draws; by default torch's own.

        Raises: InputError for shapes, windows, counts or losses that cannot be used.
        """
        ...

    def describe(self) -> str:
        """Say in a short phrase what the strategy does, for help texts and logs."""
        ...


def count_targets(targets: Tree, ignore_index: int | None = -100) -> int:
    """Count the targets that are not `ignore_index`: the number that reduction="mean" divides by.

    targets: a tensor of any shape, or a pytree of them. Cost: one pass; waits for the device.
    """
    if ignore_index is None:
        return sum(target.numel() for target in tensors(targets))
    return sum(int((target != ignore_index).sum()) for target in tensors(targets))


def one_number(loss: Any) -> Tensor:
    """Return `loss` if it is what a loss function must return.

    Raises: InputError for anything but a tensor of one number, which `loss.backward()` refuses too.
    """
    if not isinstance(loss, Tensor):
        raise InputError(
            f"loss must return a tensor, got {type(loss).__name__}: return the summed loss of the window"
        )
    if loss.numel() != 1:
        raise InputError(
            f"loss must return one number, the sum over the window's targets, got a tensor {list(loss.shape)}: "
            'end it with .sum(), or give reduction="sum" to torch\'s loss'
        )
    return loss


class Tally:
    """The loss of one call: summed window by window, divided once by the count of the whole batch.

    The mean of window means is another number as soon as windows are uneven or masked, and summing over T
    steps where one meant to average changes the gradient T-fold: learning rate and clip threshold with it.
    """

    def __init__(self, loss: Loss, targets: Any, reduction: Reduction, count: int | None) -> None:
        one_of("reduction", reduction, ("sum", "mean"))
        if count is None and targets is not None:
            count = count_targets(targets, ignore_index=None)
        if count is None and reduction == "mean":
            raise InputError(
                'reduction="mean" over an iterator of windows needs count, the number of unmasked targets in all '
                'of them, got None: pass count=, or use reduction="sum"'
            )
        if count is not None and count < 1:
            raise InputError(
                f"count must be at least 1, got {count}: a batch without targets has no gradient; skip it"
            )
        self._loss = loss
        self._divisor = count if reduction == "mean" and count is not None else 1
        self._count = count
        self._seen = 0
        self._total: Tensor | None = None

    def add(self, y: Any, target: Any) -> Tensor:
        """Return this window's share of the reduced loss, with its graph."""
        loss = one_number(self._loss(y, target))
        share = loss.sum(dtype=torch.promote_types(loss.dtype, torch.float32)) / self._divisor
        self._total = share.detach() if self._total is None else self._total + share.detach()
        if self._count is None:
            self._seen += count_targets(target, ignore_index=None)
        return share

    def result(self, state: Tree, windows: int) -> Backward:
        """Close the account. `state` must be detached."""
        if self._total is None:
            raise InputError("inputs must hold at least one window, got an empty iterator")
        return Backward(self._total, self._seen if self._count is None else self._count, state, windows)
