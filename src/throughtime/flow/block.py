"""The largest singular values of a long product of matrices, none of which is ever formed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from throughtime.flow.linear import Linear, orthonormal, scaled

_TOLERANCE = 1e-2
_MOST = 24  # blocks; reached only where many singular values lie close together


def largest_values(
    link: Callable[[int], Linear], lags: list[int], count: int, generator: torch.Generator
) -> Tensor:
    """Logarithms [K, R, count] of the largest singular values of P_k = J_1 J_2 ... J_k, k ascending over `lags`.

    `link(k)` gives J_k of all R products. A block Krylov space is grown from the left singular vectors of the last lag, which
    hardly turn from one lag to the next, until |P^T u - s v| is below a hundredth of s for each value that is wanted.
    Sources: Golub, Luk & Overton 1981, ACM TOMS 7(2); Musco & Musco 2015, NeurIPS (arXiv 1504.05477).
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
    return torch.stack(found)


class _Path:
    """The factors so far, each divided by a number of its own so that their product stays within a float's range."""

    def __init__(self, link: Callable[[int], Linear], rows: int, like: Linear) -> None:
        self._link = link
        self._logs: list[Tensor] = []
        self.log_scale = torch.zeros(rows, dtype=torch.float64, device=like.device)

    def extend(self, k: int, block: Tensor) -> Tensor:
        """Take in J_k, and apply its transpose to the block; its scale is what it does to this block."""
        moved, log = scaled(self._link(k).backward(block), (0, 2))
        self._logs.append(log)
        self.log_scale = self.log_scale + log
        return moved

    def forward(self, block: Tensor) -> Tensor:
        """P v, scaled, over all factors so far."""
        for k in range(len(self._logs), 0, -1):
            block = self._link(k).forward(block) * torch.exp(-self._logs[k - 1])[:, None]
        return block

    def backward(self, block: Tensor) -> Tensor:
        """P^T u, scaled."""
        for k in range(1, len(self._logs) + 1):
            block = self._link(k).backward(block) * torch.exp(-self._logs[k - 1])[:, None]
        return block


def _values(path: _Path, lag: int, start: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scaled singular values [R, count], zero below rounding, and P^T U of their left vectors, to go on from."""
    size = start.shape[2]
    right, _ = orthonormal(start)
    images = path.forward(right)
    while True:
        # Of [n, j]: U [n, j], S [j], and the combinations Z of right vectors that give them.
        u, s, zt = torch.linalg.svd(images.permute(1, 2, 0), full_matrices=False)
        left = u[:, :, :count].permute(2, 0, 1)
        pulled = path.backward(left)
        values = s[:, :count]
        floor = s[:, :1] * size * 30 * torch.finfo(s.dtype).eps
        ritz = torch.einsum("rij,jrn->irn", zt[:, :count], right)
        rest = pulled - ritz * values.T[:, :, None]
        open_ = (_TOLERANCE * values < rest.norm(dim=2).T) & (values > floor)
        if not bool(open_.any()) or len(right) + count > min(size, _MOST * count):
            return values.masked_fill(values <= floor, 0), pulled
        new = _against(right, _against(right, rest))
        right = torch.cat([right, new])
        images = torch.cat([images, path.forward(new)])


def _against(right: Tensor, block: Tensor) -> Tensor:
    """The block made orthonormal, and orthogonal to `right`."""
    shares = torch.einsum("jrn,irn->rij", right, block)
    return orthonormal(block - torch.einsum("rij,jrn->irn", shares, right))[0]
