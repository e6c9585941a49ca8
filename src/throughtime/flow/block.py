"""The largest singular values of a long product of matrices, none of which is ever formed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from throughtime.flow.linear import Linear, orthonormal, scaled

_TOLERANCE = 1e-2
_MOST = 24  # blocks; reached only where many singular values lie close together


def largest_values(
    link: Callable[[int], Linear],
    lags: list[int],
    count: int,
    generator: torch.Generator,
    told: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """Logarithms [K, R, count] of the largest singular values of P_k = J_1 J_2 ... J_k, k ascending over `lags`.

    `link(k)` gives J_k of all R products. A block Krylov space is grown from the left singular vectors of the last lag, which
    hardly turn from one lag to the next, until |P^T u - s v| is below a hundredth of s for each value that is wanted.
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
        told(sum(lags[: len(found)]) / sum(lags))
    return torch.stack(found)


class _Path:
    """The factors so far, each divided by a number of its own so that their product stays within a float's range."""

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
    """Scaled singular values [R, count], zero below rounding, and P^T U of their left vectors, to go on from.

    Golub & Kahan's way: P V = U B with both bases orthonormal, so that only the small B [R, j, j] is taken apart, and each
    round sends one new block forward and one back.
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
