"""How much each output depends on each input.

o_t = g(V f(U x_t + W f(U x_{t-1} + W f(...))))        every input up to t has its share in o_t
M[t, k] = | d o_t / d x_k |                            the Frobenius norm of a block [q, d] of the Jacobian
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from throughtime.errors import InputError

_ROWS = 64  # copies of the sequence that run side by side, one for each direction of the output


@dataclass(frozen=True)
class Influence:
    """What `influence` found; `print(found.text())` shows it, `found.plot("influence.png")` draws it."""

    matrix: Tensor  # [T_out, T_in] float64, units of output per unit of `wrt`
    wrt: str  # "input": x itself; "embedding": the vector that stands for the symbol
    examples: int  # over how many the matrix is the mean
    directions: int | None  # None: exact; else estimated from so many random directions of the output
    symbols: tuple[str, ...] = field(default=())  # the input's own, for both axes

    def text(self, *, width: int = 80, encoding: str | None = None) -> str:
        """The matrix as a heat map of characters; see `throughtime.flow.heatmap.text`."""
        from throughtime.flow.heatmap import text

        return text(self, width=width, encoding=encoding)

    def plot(self, path: str | None = None) -> object:
        """A matplotlib figure (extra `plot`), written to `path` (PNG, SVG, PDF by its suffix) if one is given."""
        from throughtime.flow.heatmap import plot

        return plot(self, path)

    def html(self, path: str) -> None:
        """A page in one file that needs no network; written whole or not at all."""
        from throughtime.flow.heatmap import write_page

        write_page(self, path)


def influence(
    model: nn.Module,
    x: Tensor,
    state: Any = None,
    *,
    directions: int | None = None,
    examples: int = 1,
    symbols: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Influence:
    """Measure `|d o_t / d x_k|` for every output t and every input k.

    A forward network gives a lower triangle, exactly: what comes later has no share. A bidirectional one gives a full matrix.

    Args:
        model: `(x, state) -> (outputs [T, B, q], state)`, or outputs alone, time first: a layer or a whole model. It runs in
            eval mode and is handed back in the mode it was in; no `.grad` is touched.
        x: [T, B, D] numbers; or ids [T, B], and then x_k is the vector that the model's embedding gives to symbol k (for
            a one-hot input the vector with a single 1, relaxed to any numbers).
        state: the state before the first step, tensors [..., B, H]; None for the model's own.
        directions: None is exact. With many outputs (words) that is dear: a number asks for an estimate from so many random
            directions v of the output, |d o_t / d x_k|^2 = E |v^T d o_t / d x_k|^2 for v of independent signs; its square has a
            relative standard error of at most sqrt(2 / directions).
        examples: the mean is taken over the first so many of the batch.
        symbols: T of them, what a reader sees on the axes.
        seed: of the random directions.
        progress: told (outputs done, outputs in all).

    Cost: for each example, T backward passes through T steps with min(q, directions) rows: it grows with T squared; for an LSTM
        of 256 units with 60 outputs about 1 s for 25 steps and 3 s for 50 on one core.
        Memory: one forward pass of 64 rows, whatever T.
    Raises: InputError for shapes that do not fit, and for ids in a model that has no embedding for them.
    Source: Hutchinson 1990, Communications in Statistics 19(2), for the estimate.
    """
    ids = not x.is_floating_point()
    if x.dim() != (2 if ids else 3) or 0 in x.shape:
        raise InputError(
            f"x must be ids [T, B] or numbers [T, B, D], time first and not empty, got {x.dtype} {list(x.shape)}"
        )
    # Of a model around such a layer too: the rows of the matrix would be examples, and nobody would notice.
    for name, module in model.named_modules():
        if getattr(module, "batch_first", False):
            found = f"one whose layer {name} has batch_first" if name else "one with batch_first"
            raise InputError(f"the model must take time first, got {found}: build it without")
    if directions is not None and directions < 1:
        raise InputError(f"directions must be at least 1, or None for all, got {directions}")
    if not 1 <= examples <= x.shape[1]:
        raise InputError(f"examples must lie between 1 and the batch's {x.shape[1]}, got {examples}")
    if symbols and len(symbols) != len(x):
        raise InputError(f"symbols must be one for each of {len(x)} steps, got {len(symbols)}")
    squares: list[Tensor] = []
    # cuDNN refuses to go backward through a network in eval mode; torch's own kernels do not.
    with _eval(model), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for example in range(examples):

            def told(done: int, total: int, before: int = example) -> None:
                if progress is not None:
                    progress(before * total + done, examples * total)

            one = _example(state, example, x.shape[1])
            squares.append(_squares(model, x[:, example : example + 1], one, directions, seed, told))
    return Influence(
        matrix=torch.stack(squares).sqrt().mean(dim=0).cpu(),
        wrt="embedding" if ids else "input",
        examples=examples,
        directions=directions,
        symbols=tuple(symbols),
    )


def _squares(
    model: nn.Module,
    x: Tensor,
    state: Any,
    directions: int | None,
    seed: int,
    progress: Callable[[int, int], None],
) -> Tensor:
    """|d o_t / d x_k|^2 [T_out, T_in], float64, of one example x [T, 1, ...]."""
    with torch.no_grad():
        first = _outputs(model(x, state) if state is not None else model(x))
    steps, _, features = first.shape
    signs = _signs(features, directions, seed).to(first)
    result = torch.zeros(steps, len(x), dtype=torch.float64, device=x.device)
    for number, part in enumerate(torch.split(signs, _ROWS)):
        rows = len(part)
        wide = x.expand(x.shape[0], rows, *x.shape[2:])
        wide_state = tree_map_only(Tensor, partial(_rows, rows=rows), state)
        outputs, leaf = _run(model, wide, wide_state)
        chosen = (outputs * part).sum(-1).sum(-1)  # [T]: row i of the batch sees direction i alone
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


def _run(model: nn.Module, x: Tensor, state: Any) -> tuple[Tensor, Tensor]:
    """Outputs [T, B, q] and the leaf [T, B, D] that they depend on: x, or what the embedding makes of it."""
    if x.is_floating_point():
        leaf = x.detach().clone().requires_grad_()
        return _outputs(model(leaf, state) if state is not None else model(leaf)), leaf
    found: list[Tensor] = []

    def catch(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        # The first module to end that was given the ids: the embedding, whatever the model calls it.
        if found or not arguments or arguments[0] is not x or not isinstance(output, Tensor):
            return None
        if not output.is_floating_point() or output.shape[:2] != x.shape:
            return None
        found.append(output.detach().clone().requires_grad_())
        return found[0]

    hooks = [module.register_forward_hook(catch) for module in model.modules() if module is not model]
    try:
        outputs = _outputs(model(x, state) if state is not None else model(x))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise InputError(
            "the model must hand its ids [T, B] to a module that turns them into vectors [T, B, D] (torch.nn.Embedding), "
            "got none: give the vectors themselves as x"
        )
    return outputs, found[0]


def _outputs(returned: Any) -> Tensor:
    outputs = returned[0] if isinstance(returned, tuple) else returned
    if not isinstance(outputs, Tensor) or outputs.dim() != 3:
        came = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"the model's outputs must be [T, B, q], one for each step, got {came}")
    return outputs


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


@contextmanager
def _eval(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, each module's own mode again outside."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True
