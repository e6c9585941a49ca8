"""The largest singular values of a long product of Jacobians, none of which needs to be formed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.cells.contract import State
from throughtime.kernels.reference import Steppable, rebuild

_TOLERANCE = 1e-2
_MOST = 24  # blocks, at most; reached only where many singular values lie close together


def largest_values(
    link: Callable[[int], Linear],
    lags: list[int],
    count: int,
    generator: torch.Generator,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Tensor:
    """Logarithms [K, R, count] of the largest singular values of P_k = J_1 J_2 ... J_k, k ascending over `lags`.

    `link(k)` gives J_k of all R products. A block Krylov space is built from the left singular vectors of the last lag, which
    hardly change from one lag to the next, until |P^T u - s v| is below a hundredth of s for each value that is wanted.
    Sources: Golub & Kahan 1965, SIAM J. Numerical Analysis 2(2); Golub, Luk & Overton 1981, ACM TOMS 7(2);
    Musco & Musco 2015, NeurIPS (arXiv 1504.05477).
    """
    first = link(1)
    start = torch.randn(
        (count, len(first.point), first.size), generator=generator, dtype=first.dtype, device=first.device
    )
    left, _ = orthonormal(start)  # [m, R, n] at the end of the products
    path = _Path(link, len(first.point), first)
    block, reached = left, 0
    found = []
    for lag in lags:
        for k in range(reached + 1, lag + 1):
            block = path.extend(k, block)
        values, block = _values(path, lag, block, count)
        reached = lag
        found.append(values.log() + path.log_scale[:, None])
        progress(sum(lags[: len(found)]) / sum(lags))
    return torch.stack(found)


class _Path:
    """The factors so far, each divided by its own scale so that their product stays within a float's range."""

    def __init__(self, link: Callable[[int], Linear], rows: int, like: Linear) -> None:
        self._link = link
        self._links: list[Linear] = []  # each keeps its graph, and is used many times
        self._logs: list[Tensor] = []
        self.log_scale = torch.zeros(rows, dtype=torch.float64, device=like.device)

    def extend(self, k: int, block: Tensor) -> Tensor:
        """Take in J_k, and apply its transpose to the block; its scale is what it does to this block."""
        self._links.append(self._link(k))
        moved, log = scaled(self._links[-1].backward(block), (0, 2))
        self._logs.append(log)
        self.log_scale = self.log_scale + log
        return moved

    def forward(self, block: Tensor) -> Tensor:
        """P v, scaled, over all factors so far."""
        for link, log in zip(reversed(self._links), reversed(self._logs), strict=True):
            block = link.forward(block) * torch.exp(-log)[:, None]
        return block

    def backward(self, block: Tensor) -> Tensor:
        """P^T u, scaled."""
        for link, log in zip(self._links, self._logs, strict=True):
            block = link.backward(block) * torch.exp(-log)[:, None]
        return block


def _values(path: _Path, lag: int, start: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scaled singular values [R, count], zero below rounding error, and P^T U of their left vectors, to continue from.

    Golub & Kahan's bidiagonalization: P V = U B with both bases orthonormal, so that only the small B [R, j, j] is
    decomposed, and each round sends one new block forward and one back.
    """
    size = start.shape[2]
    rights, _ = orthonormal(start)
    images = path.forward(rights)
    lefts, _ = orthonormal(images)
    pulled = path.backward(lefts)
    small = _inner(lefts, images)
    while True:
        u, s, vt = torch.linalg.svd(small)
        values = s[:, :count]
        floor = s[:, :1] * size * 30 * torch.finfo(s.dtype).eps
        back = _combined(pulled, u[:, :, :count])  # P^T u
        rest = back - _combined(rights, vt[:, :count].mT) * values.T[:, :, None]
        open_ = (_TOLERANCE * values < rest.norm(dim=2).T) & (values > floor)
        if not bool(open_.any()) or len(rights) + count > min(size, _MOST * count):
            return values.masked_fill(values <= floor, 0), back
        new = _against(rights, _against(rights, pulled[-count:]))
        images = path.forward(new)
        left = _against(lefts, _against(lefts, images))
        pulled = torch.cat([pulled, path.backward(left)])
        rights, lefts = torch.cat([rights, new]), torch.cat([lefts, left])
        # P V of all that came before lies in the left vectors of its own round and the earlier ones.
        small = torch.cat([F.pad(small, (0, 0, 0, count)), _inner(lefts, images)], dim=2)


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """[i, R, n] and [j, R, n] -> [R, i, j]."""
    return left.transpose(0, 1) @ right.permute(1, 2, 0)


def _combined(vectors: Tensor, weights: Tensor) -> Tensor:
    """[j, R, n] with weights [R, j, m] -> [m, R, n]."""
    return (weights.mT @ vectors.transpose(0, 1)).transpose(0, 1)


def _against(basis: Tensor, block: Tensor) -> Tensor:
    """The block made orthonormal, and orthogonal to `basis`."""
    return orthonormal(block - _combined(basis, _inner(basis, block)))[0]


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
