"""One step of a recurrence as a linear map: what it does to a small change of the state, and to a gradient."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.kernels.reference import Steppable, rebuild


class Linear:
    """The Jacobians J [R, n, n] of a step at R states, which are applied and never formed unless asked for.

    Args:
        like: a state of the kind that the step takes, for its names.
        parts: the state's tensors [R, ...] before the step; n numbers for each row, stacked in this order.
        u: the projected inputs [R, ...] of the step.
    """

    def __init__(self, recurrence: Steppable, like: State, parts: list[Tensor], u: Tensor) -> None:
        self._recurrence, self._like = recurrence, like
        self._shapes = [part.shape for part in parts]
        self._u = u.detach()
        self.point = torch.cat([part.detach().flatten(1) for part in parts], dim=1)
        self.size = self.point.shape[1]
        self.dtype, self.device = self.point.dtype, self.point.device

    def _step(self, flat: Tensor) -> Tensor:
        """[R, n] -> [R, n]."""
        sizes = [shape[1:].numel() for shape in self._shapes]
        parts = [
            p.reshape(shape) for p, shape in zip(torch.split(flat, sizes, dim=1), self._shapes, strict=True)
        ]
        after = self._recurrence.step(rebuild(self._like, parts), self._u)
        return torch.cat([part.flatten(1) for part in after], dim=1)

    def forward(self, vectors: Tensor) -> Tensor:
        """J v for each of m vectors: [m, R, n] -> [m, R, n]."""
        return _gradient(*self._pulled, vectors)

    def backward(self, vectors: Tensor) -> Tensor:
        """J^T v, as a gradient travels: [m, R, n] -> [m, R, n]."""
        return _gradient(*self._graph, vectors)

    @cached_property
    def _graph(self) -> tuple[Tensor, Tensor]:
        """The state after the step, and the one before it; computed once for all vectors."""
        with torch.enable_grad():
            before = self.point.clone().requires_grad_()
            return self._step(before), before

    @cached_property
    def _pulled(self) -> tuple[Tensor, Tensor]:
        """J^T w and w: it is linear in w, and its gradient is J. Reverse mode twice, which every operation has."""
        after, before = self._graph
        with torch.enable_grad():
            weight = torch.zeros_like(after).requires_grad_()
            if not after.requires_grad:
                return torch.zeros_like(after), weight
            (pulled,) = torch.autograd.grad(
                after, before, weight, create_graph=True, allow_unused=True, materialize_grads=True
            )
        return pulled, weight

    def matrix(self, rows: int) -> Tensor:
        """J [R, n, n], `rows` of its rows at a time."""
        identity = torch.eye(self.size, dtype=self.dtype, device=self.device)
        basis = identity[:, None, :].expand(-1, len(self.point), -1)
        return torch.cat([self.backward(part) for part in torch.split(basis, rows)]).transpose(0, 1)


def _gradient(output: Tensor, input: Tensor, directions: Tensor) -> Tensor:
    """The gradient for each of m directions, [m, R, n], in one pass; the graph stays."""
    if not output.requires_grad:  # a step that forgets everything
        return torch.zeros_like(directions)
    (found,) = torch.autograd.grad(
        output,
        input,
        directions,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
        is_grads_batched=True,
    )
    return found


def orthonormal(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """QR of the m vectors of each row: [m, R, n] -> Q as [m, R, n], and R [R, m, m]."""
    q, r = torch.linalg.qr(vectors.permute(1, 2, 0))
    return q.permute(2, 0, 1), r


def scaled(block: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The block with its largest entry over some axes made 1, and the logarithm of what it was; zeros stay as they are."""
    size = block.abs().amax(over, keepdim=True)
    size = torch.where(size > 0, size, 1)
    return block / size, size.log().reshape(size.numel())


def geometric_mean(logs: Tensor) -> Tensor:
    """[K, R, m] logarithms -> [K, m]: zero where one of the R is zero, inf beyond what float64 holds."""
    return logs.double().mean(dim=1).exp().cpu()
