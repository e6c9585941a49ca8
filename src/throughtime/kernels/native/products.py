"""The matrix products over all steps: input projection, dx and dW.

Two ways, with the same results up to rounding: torch's own `mm`, and the library's product (csrc/matmul.hpp), which needs no
copy of what is padded. The library's runs where it was measured to be the faster one, with AVX2; THROUGHTIME_PRODUCTS=torch or
native asks for one of them. Factors in bfloat16, and matrices of one column, are always torch's.

A row of gates is made of blocks of `size` columns, one for each gate, of which the first H count.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from throughtime.kernels.native.given import Plan
from throughtime.kernels.native.library import COLUMNS_OF_C, DEPTH_OF_A, ROWS_OF_A, NativeProduct

__all__ = ["accumulate", "back", "forward", "native"]


def forward(plan: Plan, x: Tensor, weight: Tensor, gates: Tensor, size: int) -> None:
    """Puts x W^T into the rows of gates [n, gates * size], with zeros behind each gate; x is [n, D], W [gates * H, D]."""
    hidden = len(weight) * size // gates.shape[1]
    if native(plan, weight.shape[1]):
        return _multiply(plan, x, weight, gates, (COLUMNS_OF_C, hidden, size), transposed_b=1)
    x, low = _factors(plan, x, weight)
    for place, rows in _blocks(weight, hidden, size):
        _mm(x, low[rows].t(), gates[:, place], False)
    # An infinite input would reach every unit through what is not zero here.
    if size != hidden:
        gates.view(len(gates), gates.shape[1] // size, size)[..., hidden:].zero_()


def back(plan: Plan, dgates: Tensor, weight: Tensor, dx: Tensor, size: int) -> None:
    """Puts d W into dx [n, D], for rows of gradients of gates d."""
    hidden = len(weight) * size // dgates.shape[1]
    if native(plan, weight.shape[1]):
        return _multiply(plan, dgates, weight, dx, (DEPTH_OF_A, hidden, size))
    dgates, low = _factors(plan, dgates, weight)
    for place, rows in _blocks(weight, hidden, size):
        _mm(dgates[:, place], low[rows], dx, rows.start > 0)


def accumulate(plan: Plan, dgates: Tensor, read: Tensor, dweight: Tensor, size: int, first: bool) -> None:
    """Adds d^T r to dW [gates * H, K], which at `first` has no numbers yet; r [n, >= K] is what the weights read."""
    hidden = len(dweight) * size // dgates.shape[1]
    read = read[:, : dweight.shape[1]]
    if not len(read):  # a product over no rows is nothing
        if first:
            dweight.zero_()
        return None
    if native(plan, dweight.shape[1]):
        blocked = (ROWS_OF_A, hidden, size)
        return _multiply(plan, dgates, read, dweight, blocked, transposed_a=1, accumulate=not first)
    dgates, read = _factors(plan, dgates, read)
    for place, rows in _blocks(dweight, hidden, size):
        _mm(dgates[:, place].t(), read, dweight[rows], not first)


def native(plan: Plan, columns: int) -> bool:
    """Whether the library makes the product with a matrix of so many columns; one column is no work for tiles."""
    return plan.library.multiplies and not plan.bf16 and columns > 1


def _blocks(weight: Tensor, hidden: int, size: int) -> Iterator[tuple[slice, slice]]:
    """For each gate its columns in a row of gates and its rows in the weights; all gates at once where nothing is padded."""
    if size == hidden:
        yield slice(None), slice(0, len(weight))
    else:
        for gate in range(len(weight) // hidden):
            yield slice(gate * size, gate * size + hidden), slice(gate * hidden, (gate + 1) * hidden)


def _factors(plan: Plan, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """As they are multiplied. An outer product sums nothing: it is left in float32."""
    return (a.bfloat16(), b.bfloat16()) if plan.bf16 and a.shape[1] > 1 else (a, b)


def _mm(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    """Puts a b into `out`, or adds it."""
    if a.dtype != out.dtype:
        product = torch.mm(a, b)
        out.add_(product) if add else out.copy_(product)
    elif a.shape[1] == 1 and not add:  # an outer product, which the matrix product does many times slower
        torch.mul(a, b, out=out)
    else:
        torch.addmm(out, a, b, beta=int(add), out=out)


def _multiply(
    plan: Plan,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    blocked: tuple[int, int, int],
    transposed_a: int = 0,
    transposed_b: int = 0,
    accumulate: bool = False,
) -> None:
    """C (+)= A B in the library; `blocked` says which dimension lies in blocks, their real and their padded size."""
    a, b = _as_rows(a), _as_rows(b)
    dimension, block, padded = blocked
    plan.library.multiply(
        NativeProduct(
            rows=len(c),
            columns=b.shape[1 - transposed_b],
            depth=b.shape[transposed_b],
            lda=a.stride(0),
            ldb=b.stride(0),
            ldc=c.stride(0),
            transposed_a=transposed_a,
            transposed_b=transposed_b,
            blocked=dimension,
            block=block,
            padded=padded,
            accumulate=accumulate,
            threads=torch.get_num_threads(),
            a=a.data_ptr(),
            b=b.data_ptr(),
            c=c.data_ptr(),
        ),
        c.dtype,
    )


def _as_rows(matrix: Tensor) -> Tensor:
    """With the numbers of a row side by side, as its memory has them."""
    matrix = matrix.resolve_neg()
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()
