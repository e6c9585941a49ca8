"""The influence of each input on each output.

o_t = g(V f(U x_t + W f(U x_{t-1} + W f(...))))        o_t depends on every input up to t
M[t, k] = | d o_t / d x_k |                            the Frobenius norm of a block [q, d] of the Jacobian
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.utils._pytree import tree_map_only

from throughtime.data.batch import Batch, tensors
from throughtime.errors import InputError
from throughtime.flow.result import NOTHING
from throughtime.layers.eval_mode import evaluating

_ROWS = 64  # copies of the sequence that run side by side, one for each direction of the output


@dataclass(frozen=True)
class Influence:
    """The result of `influence`; `print(found.text())` shows it, `found.plot("influence.png")` draws it."""

    matrix: Tensor  # [T_out, T_in] float64, units of output per unit of `wrt`; [q, T_in] with `outputs`
    wrt: str  # "input": x itself; "embedding": the vector of the symbol
    examples: int  # the matrix is their mean
    directions: int | None  # None: exact; else estimated from this many random directions of the output
    symbols: tuple[str, ...] = field(default=())  # of the input, for both axes
    outputs: tuple[str, ...] = field(default=())  # of the rows, where they are no steps

    def text(self, *, width: int = 80, encoding: str | None = None) -> str:
        """The matrix as a heat map of characters; see `throughtime.flow.drawing.heatmap.text`."""
        from throughtime.flow.drawing.heatmap import text

        return text(self, width=width, encoding=encoding)

    def plot(self, path: str | None = None) -> object:
        """A matplotlib figure (extra `plot`), written to `path` (PNG, SVG or PDF by its suffix) if there is one."""
        from throughtime.flow.drawing.heatmap import plot

        return plot(self, path)

    def html(self, path: str, about: Mapping[str, str] = NOTHING) -> None:
        """Write a page in one file that needs no network, whole or not at all; `about` as of `Flow.html`."""
        from throughtime.flow.drawing.heatmap import write_page

        write_page(self, path, about)


def influence(
    model: nn.Module,
    x: Tensor | PackedSequence | Batch,
    state: Any = None,
    *,
    lengths: Any = None,
    directions: int | None = None,
    examples: int = 1,
    symbols: Sequence[str] = (),
    outputs: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Influence:
    """Measure `|d o_t / d x_k|` for every output t and every input k.

    A forward network gives a lower triangle, exactly: an output does not depend on later inputs. A bidirectional one gives a
    full matrix.

    Args:
        model: `(x, state) -> (outputs [T, B, q], state)`, or outputs alone, time first: a layer or a whole model. It runs in
            evaluation mode, and every submodule has its own mode again afterwards; no `.grad` is touched.
        x: [T, B, D] numbers; or ids [T, B] or [T, B, F], and then x_k is the vector that the model's embedding gives to symbol k
            (for a one-hot input the vector with a single 1, relaxed to any numbers). Or a PackedSequence, which is unpacked and
            given with `lengths=`; or a `throughtime.data.batch.Batch`, which the model is run on by `batch.run(model, state)`.
        state: the state before the first step, tensors [..., B, H]; None for the model's own.
        lengths: int64 [B], the steps of each row of a ragged batch; the model is called with `lengths=`, on the row's own steps.
            The matrix is as large as the longest example's, and each entry the mean over the examples that have it.
        directions: None is exact. With many outputs (words) that is expensive: a number asks for an estimate from that many
            random directions v of the output, |d o_t / d x_k|^2 = E |v^T d o_t / d x_k|^2 for v of independent signs; its square
            has a relative standard error of at most sqrt(2 / directions).
        examples: the first this many of the batch are averaged.
        symbols: T of them, the labels of the axes.
        outputs: of a model with one row of outputs [B, q] for a whole sequence, their q names (the classes): row i of the
            matrix is `|d o_i / d x_k|`.
        seed: of the random directions.
        progress: called with (outputs done, outputs in all).

    Cost: for each example, T backward passes through T steps with min(q, directions) rows: it grows with T squared; for an LSTM
        of 256 units with 60 outputs about 1 s for 25 steps and 3 s for 50 on one core.
        Memory: one forward pass of 64 rows, whatever T.
    Raises: InputError for shapes that do not fit, and for ids in a model that has no embedding for them.
    Source: Hutchinson 1990, Communications in Statistics 19(2), for the estimate.
    """
    source, batch = x, None
    if isinstance(source, Batch):
        batch, x, lengths = source, source.inputs, source.lengths
        if not isinstance(x, Tensor):
            raise InputError(f"the batch's inputs must be one tensor, got {type(x).__name__}")
    elif isinstance(source, PackedSequence):
        x, lengths = pad_packed_sequence(source)
    else:
        x = source
    ids = not x.is_floating_point()
    if x.dim() not in ((2, 3) if ids else (3,)) or 0 in x.shape:
        raise InputError(
            f"x must be ids [T, B] or numbers [T, B, D], time first and not empty, got {x.dtype} {list(x.shape)}"
        )
    # Of a model around such a layer too: the rows of the matrix would be examples, and nobody would notice.
    for name, module in model.named_modules():
        if batch is None and getattr(module, "batch_first", False):
            what = f"one whose layer {name} has batch_first" if name else "one with batch_first"
            raise InputError(f"the model must take time first, got {what}: build it without")
    if outputs and directions is not None:
        raise InputError(
            "directions estimates over the outputs of a step, and outputs asks for each alone: leave one out"
        )
    if directions is not None and directions < 1:
        raise InputError(f"directions must be at least 1, or None for all, got {directions}")
    if not 1 <= examples <= x.shape[1]:
        raise InputError(f"examples must lie between 1 and the batch's {x.shape[1]}, got {examples}")
    lengths = None if lengths is None else Batch.of(x, None, lengths).lengths
    steps = [len(x)] * examples if lengths is None else lengths[:examples].tolist()
    if 0 in steps:
        raise InputError(f"example {steps.index(0)} has no steps: choose examples that have some")
    if symbols and len(symbols) not in (len(x), max(steps)):
        raise InputError(f"symbols must be one for each of {len(x)} steps, got {len(symbols)}")
    height = len(outputs) or max(steps)
    squares = torch.full((examples, height, max(steps)), torch.nan, dtype=torch.float64)
    # cuDNN has no backward pass for a network in evaluation mode; torch's own kernels do.
    with evaluating(model), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for example, length in enumerate(steps):

            def report(done: int, total: int, before: int = example) -> None:
                if progress is not None:
                    progress(before * total + done, examples * total)

            def run(one: Tensor, state: Any, row: int = example, length: int = length) -> Tensor:
                returned = _call(model, one, state, batch, row, None if lengths is None else length)
                return _of_sequence(returned, len(outputs)) if outputs else _outputs(returned)

            one = _example(state, example, x.shape[1])
            found = _squares(model, run, x[:length, example : example + 1], one, directions, seed, report)
            squares[example, : len(found), :length] = found.cpu()
    return Influence(
        matrix=squares.sqrt().nanmean(dim=0),
        wrt="embedding" if ids else "input",
        examples=examples,
        directions=directions,
        symbols=tuple(symbols[: max(steps)]),
        outputs=tuple(outputs),
    )


Run = Callable[[Tensor, Any], Tensor]


def _call(model: nn.Module, x: Tensor, state: Any, batch: Batch | None, row: int, length: int | None) -> Any:
    """The model on copies x [T, rows, ...] of one row of the caller's batch, without its padding."""
    rows = x.shape[1]
    lengths = None if length is None else torch.full((rows,), length)
    if batch is not None:

        def copies(leaf: Tensor) -> Tensor:
            return leaf[row : row + 1].expand(rows, *leaf.shape[1:])

        context = tree_map_only(Tensor, copies, batch.context)
        return Batch(x, None, lengths, context, batch.reset).run(model, state)
    extra = {} if lengths is None else {"lengths": lengths}
    return model(x, **extra) if state is None else model(x, state, **extra)


def _squares(
    model: nn.Module,
    run: Run,
    x: Tensor,
    state: Any,
    directions: int | None,
    seed: int,
    progress: Callable[[int, int], None],
) -> Tensor:
    """|d o_t / d x_k|^2 [T_out, T_in], float64, of one example x [T, 1, ...]."""
    with torch.no_grad():
        first = run(x, state)
    steps, _, features = first.shape
    signs = _signs(features, directions, seed).to(first)
    result = torch.zeros(steps, len(x), dtype=torch.float64, device=x.device)
    for number, part in enumerate(torch.split(signs, _ROWS)):
        rows = len(part)
        wide = x.expand(x.shape[0], rows, *x.shape[2:])
        wide_state = tree_map_only(Tensor, partial(_rows, rows=rows), state)
        outputs, leaf = _run(model, run, wide, wide_state)
        chosen = (outputs * part).sum(-1).sum(-1)  # [T]: row i of the batch has direction i alone
        for t in range(steps):
            if chosen.requires_grad:
                (gradient,) = torch.autograd.grad(
                    chosen[t], leaf, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                result[t] += gradient.double().square().flatten(1).sum(1)
            progress(number * _ROWS * steps + (t + 1) * rows, len(signs) * steps)
    return result if directions is None else result / len(signs)


def _signs(features: int, directions: int | None, seed: int) -> Tensor:
    """The directions of the output, one in each row: all the axes, or random signs."""
    if directions is None:
        return torch.eye(features)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (directions, features), generator=generator).float() * 2 - 1


def _run(model: nn.Module, run: Run, x: Tensor, state: Any) -> tuple[Tensor, Tensor]:
    """Outputs [T, B, q] and the leaf [T, B, D] that they depend on: x, or the embedding's output."""
    if x.is_floating_point():
        leaf = x.detach().clone().requires_grad_()
        return run(leaf, state), leaf
    found: list[Tensor] = []

    def catch(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        # The first module to return that got the ids: the embedding, whatever its name.
        if found or not arguments or arguments[0] is not x or not isinstance(output, Tensor):
            return None
        if not output.is_floating_point() or output.shape[:2] != x.shape[:2]:
            return None
        found.append(output.detach().clone().requires_grad_())
        return found[0]

    hooks = [module.register_forward_hook(catch) for module in model.modules() if module is not model]
    try:
        outputs = run(x, state)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise InputError(
            "the model must pass its ids [T, B] to a module that turns them into vectors [T, B, D] (torch.nn.Embedding), "
            "got none: give the vectors themselves as x"
        )
    return outputs, found[0]


def _outputs(returned: Any) -> Tensor:
    outputs = returned[0] if isinstance(returned, tuple) else returned
    leaves = tensors(outputs)
    # One of several, as the emissions of a CRF, or what the outputs are computed from, as in `throughtime.models.next_item`.
    if len(leaves) == 1 or (leaves and isinstance(outputs, tuple)):
        outputs = leaves[0]
    if not isinstance(outputs, Tensor) or outputs.dim() != 3:
        came = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"the model's outputs must be [T, B, q], one for each step, got {came}")
    return outputs


def _of_sequence(returned: Any, count: int) -> Tensor:
    """The outputs [B, q] of whole sequences, each as if it were the only one of a step: [q, B, 1]."""
    found = returned[0] if isinstance(returned, tuple) else returned
    if not isinstance(found, Tensor) or found.dim() != 2 or found.shape[1] != count:
        came = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"the model's outputs must be [B, {count}], as {count} outputs are named, got {came}"
        )
    return found.T.unsqueeze(-1)


def _example(state: Any, example: int, batch: int) -> Any:
    """One example's part of a state of tensors [..., B, H]."""

    def part(tensor: Tensor) -> Tensor:
        if tensor.dim() < 2 or tensor.shape[-2] != batch:
            raise InputError(
                f"every tensor of the state must be [..., {batch}, H] (batch before the last axis), got {list(tensor.shape)}"
            )
        return tensor.detach()[..., example : example + 1, :]

    return tree_map_only(Tensor, part, state)


def _rows(tensor: Tensor, rows: int) -> Tensor:
    return tensor.expand(*tensor.shape[:-2], rows, tensor.shape[-1]).contiguous()
