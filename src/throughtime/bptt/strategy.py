"""What every strategy shares: its one method, its result, and one division for the whole batch; and `Full`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from throughtime.bptt.inputs import ParsedInputs, check_module, read
from throughtime.bptt.windows import Tree, Windows, detach
from throughtime.data.batch import Batch, count_targets
from throughtime.errors import InputError

RunWindow = Callable[..., tuple[Any, Any]]  # (inputs, state) -> (outputs, state); state is None at the start
Loss = Callable[[Any, Any], Tensor]  # (outputs, targets) -> one number, the SUM over the unmasked targets
Reduction = Literal["sum", "mean"]
BackwardCall = Callable[..., object]  # backward(loss), for Truncated with a stride also retain_graph=True


class Backward(NamedTuple):
    """What one call of `strategy.backward` returns; the gradients are in `.grad`."""

    loss: Tensor  # scalar, detached, reduced as asked, in float32 or wider
    count: int  # type: ignore[assignment]  # unmasked targets of the batch; hides tuple.count
    state: Tree  # the state after the last step, detached: the next call's `state`
    windows: int  # parts of the sequence that were backpropagated one after another


class Strategy(ABC):
    """How far back in time the gradient is computed: a frozen value with one method that does work."""

    runs_whole: ClassVar[bool] = False
    """Whether `run` gets the whole Batch in one call, whatever its length."""

    def backward(
        self,
        run: RunWindow,
        loss: Loss,
        inputs: Any,
        targets: Any = None,
        state: Tree = None,
        *,
        lengths: Any = None,
        batch_first: bool = False,
        reduction: Reduction = "mean",
        count: int | None = None,
        backward: BackwardCall | None = None,
        generator: torch.Generator | None = None,
    ) -> Backward:
        """Run the sequence and accumulate its gradient in `.grad`, as `loss.backward()` would.

        run: any module or function `(x, state) -> (y, state)`, x of any number of steps [t, ...], t <= T. What can be
            seen of a module is checked (`check_module`).
        loss: `(y, target) -> Tensor`, one number: the sum over the window's unmasked targets, `reduction="sum"` of
            torch's losses. As for `loss.backward()`, a loss of several numbers is an error.
        inputs, targets: one of
            - tensors [T, ...], time first, or pytrees of them; [B, T, ...] with `batch_first`;
            - a PackedSequence, and targets packed alike or padded;
            - a `Batch`, and no targets: then it is `run(window, state)` and `loss(outputs, window)`, windows of the Batch;
            - an iterable of pairs (x, target) or of Batches, and no targets: consecutive windows, read one at a time.
        state: None, or a pytree of tensors. A Batch with `reset=True` starts without it. A state that requires grad (a
            learned initial state) gets its gradient, and so do inputs; the state that is returned is detached.
        lengths: int64 [B], steps of each row, 0 to T, for tensors; targets are then per step, [T, B, ...]. `run` gets
            `lengths=` [B], the steps of each row inside the window, 0 for a row that has ended. Inputs in the padding may be
            anything. Targets there reach the loss masked, as IGNORE (-100) if whole numbers and NaN if real numbers, and the
            loss must leave them out.
        batch_first: tensors are [B, T, ...], and so are the windows that `run` and `loss` get.
        reduction: "mean" divides once by `count`, never window by window; "sum" does not divide.
        count: unmasked targets of the whole batch; default: `batch.num_targets`, for tensors `count_targets(targets)`.
        backward: called in place of `loss.backward()` (accelerate's, a loss scaler's).
        generator: random numbers of the random strategies; by default torch's own.

        Raises: InputError for shapes, windows, counts, modules or losses that cannot be used.
        """
        if reduction not in ("sum", "mean"):
            raise InputError(f"reduction must be one of sum, mean, got {reduction!r}")
        plain = targets is None and lengths is None and not batch_first and not isinstance(run, nn.Module)
        if plain and isinstance(inputs, Batch) and (state is None or not inputs.reset):
            source = ParsedInputs(
                run, loss, inputs, False
            )  # every step of a trainer: nothing to read or to refuse
        else:
            source = read(run, loss, inputs, targets, state, lengths, batch_first, counted=count is None)
        windows = Windows(source.batches)
        whole = windows.whole
        if isinstance(run, nn.Module):
            check_module(run, self, None if whole is None else whole.steps, batch_first=source.batch_first)
        if count is None and whole is not None and whole.targets is not None:
            count = whole.num_targets
        if count is None and reduction == "mean":
            raise InputError(
                'reduction="mean" over an iterable of windows, or without targets, needs count, the number of unmasked '
                'targets in all of them, got None: pass count=, or use reduction="sum"'
            )
        if count is not None and count < 1:
            raise InputError(
                f"count must be at least 1, got {count}: a batch without targets has no gradient; skip it"
            )
        divisor = count if reduction == "mean" and count is not None else 1
        one_pass = Pass(source.run, source.loss, windows, divisor, backward or Tensor.backward, generator)
        one_pass.counts = count is None
        final, number = self._accumulate(one_pass, state if whole is None else windows.detached(state))
        if one_pass.total is None:
            raise InputError("inputs must hold at least one window, got an empty iterator")
        windows.send_upstream()
        return Backward(one_pass.total, one_pass.seen if count is None else count, detach(final), number)

    @abstractmethod
    def describe(self) -> str:
        """Say in a short phrase what the strategy does, for help texts and logs."""

    @abstractmethod
    def splits(self, steps: int) -> bool:
        """Tell whether a Batch of that many steps may be given to `run` in more than one call."""

    @abstractmethod
    def _accumulate(self, one_pass: Pass, state: Tree) -> tuple[Tree, int]:
        """Run all windows and backpropagate; return the state after the last, and `Backward.windows`."""


class Pass:
    """One call of `Strategy.backward`: what to run, over which windows, and the loss so far.

    The loss is summed window by window and divided once by the count of the whole batch. The mean of window means
    is another number as soon as windows are uneven or masked, and summing over T steps where one meant to average
    changes the gradient T-fold: learning rate and clip threshold with it.
    """

    def __init__(
        self,
        run: RunWindow,
        loss: Loss,
        windows: Windows,
        divisor: int,
        backward: BackwardCall,
        generator: torch.Generator | None,
    ) -> None:
        self._run = run
        self._loss = loss
        self._divisor = divisor
        self.windows = windows
        self.backward = backward
        self.generator = generator
        self.total: Tensor | None = None
        self.counts = False  # whether to count the targets of each window
        self.seen = 0

    def run(self, window: Batch, state: Tree) -> tuple[Any, Tree]:
        """Run one window: (outputs, state)."""
        outputs, state = self._run(window, None if window.reset else state)
        return outputs, state

    def loss(self, outputs: Any, window: Batch) -> Tensor:
        """Return what this window adds to the reduced loss, with its graph."""
        loss = one_number(self._loss(outputs, window))
        part = loss.sum(dtype=torch.promote_types(loss.dtype, torch.float32)) / self._divisor
        self.total = part.detach() if self.total is None else self.total + part.detach()
        if self.counts:
            self.seen += count_targets(window.targets)
        return part


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


@dataclass(frozen=True)
class Full(Strategy):
    """Backpropagate through all steps: exact.

        dL/dW = sum_t sum_{k<=t} dL_t/dh_t (prod_{j=t..k+1} dh_j/dh_{j-1}) d+h_k/dW

    Cost: one forward and one backward pass; keeps the activations of all T steps. Windows of an iterable are
    run one by one, but the graph and the inputs of all of them are kept, so they must fit in memory.
    Source: Werbos 1990, Proceedings of the IEEE 78(10).
    """

    runs_whole: ClassVar[bool] = True

    def describe(self) -> str:
        """Say what it does."""
        return "full: the gradient goes back through all steps"

    def splits(self, steps: int) -> bool:
        """Never."""
        return False

    def _accumulate(self, one_pass: Pass, state: Tree) -> tuple[Tree, int]:
        losses = []
        for batch in one_pass.windows.cut(lambda left: left):
            outputs, state = one_pass.run(batch, state)
            losses.append(one_pass.loss(outputs, batch))
        if losses:
            one_pass.backward(sum(losses[1:], start=losses[0]))
        return state, 1
