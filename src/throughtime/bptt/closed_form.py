"""The gradients of two plain networks by explicit formulas, to read and to test against.

Rows are examples, weights are stored as torch stores them, [to, from]. A column formula such as
`W_qh^T dL/do` is therefore the row `dL_do @ W_qh` here, and products of matrices read from left to right.
Time counts from 1 as in the formulas: h[0] is the initial state.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import matrix_power

from throughtime.errors import InputError


class LinearGradients(NamedTuple):
    """The gradients of `linear_gradients`."""

    W_hx: Tensor  # [H, D]
    W_hh: Tensor  # [H, H]
    W_qh: Tensor  # [Q, H]
    h: Tensor  # [T, B, H], dL/dh_t for t = 1..T
    h0: Tensor  # [B, H]


class TanhGradients(NamedTuple):
    """The gradients of `tanh_gradients`."""

    W_hx: Tensor  # [H, D]
    W_hh: Tensor  # [H, H]
    b_h: Tensor  # [H]
    W_qh: Tensor  # [Q, H]
    h: Tensor  # [T, B, H], dL/dh_t for t = 1..T
    h0: Tensor  # [B, H]
    W_hh_terms: Tensor  # [T, H, H], the term of each k = 1..T, of which W_hh is the sum


def linear_gradients(
    W_hx: Tensor, W_hh: Tensor, W_qh: Tensor, x: Tensor, h0: Tensor, dL_do: Tensor
) -> LinearGradients:
    """Return the gradients of the linear network h_t = W_hx x_t + W_hh h_{t-1}, o_t = W_qh h_t.

        dL/dh_t  = sum_{i=t..T} (W_hh^T)^(T-i) W_qh^T dL/do_{T+t-i}
        dL/dW_qh = sum_t dL/do_t h_t^T
        dL/dW_hx = sum_t dL/dh_t x_t^T
        dL/dW_hh = sum_t dL/dh_t h_{t-1}^T

    The powers of W_hh are why gradients vanish or explode. L is whatever the caller's dL/do_t are derivatives
    of; a loss averaged over time has its 1/T in them.

    W_hx [H, D], W_hh [H, H], W_qh [Q, H], x [T, B, D], h0 [B, H], dL_do [T, B, Q].
    Cost: O(T^2) matrix products, where a recursion needs O(T); it is a reference.
    Raises: InputError if the shapes do not fit.
    """
    T, _ = _check(W_hx, W_hh, W_qh, x, h0, dL_do)
    x_, dL_do_ = dict(enumerate(x, start=1)), dict(enumerate(dL_do, start=1))

    h = {0: h0}
    for t in range(1, T + 1):
        h[t] = x_[t] @ W_hx.T + h[t - 1] @ W_hh.T

    dL_dh = {}
    for t in range(1, T + 1):
        terms = [dL_do_[T + t - i] @ W_qh @ matrix_power(W_hh, T - i) for i in range(t, T + 1)]
        dL_dh[t] = torch.stack(terms).sum(0)

    steps = range(1, T + 1)
    return LinearGradients(
        W_hx=torch.stack([dL_dh[t].T @ x_[t] for t in steps]).sum(0),
        W_hh=torch.stack([dL_dh[t].T @ h[t - 1] for t in steps]).sum(0),
        W_qh=torch.stack([dL_do_[t].T @ h[t] for t in steps]).sum(0),
        h=torch.stack([dL_dh[t] for t in steps]),
        h0=dL_dh[1] @ W_hh,
    )


def tanh_gradients(
    W_hx: Tensor, W_hh: Tensor, b_h: Tensor, W_qh: Tensor, x: Tensor, h0: Tensor, dL_do: Tensor
) -> TanhGradients:
    """Return the gradients of h_t = tanh(a_t), a_t = W_hx x_t + W_hh h_{t-1} + b_h, o_t = W_qh h_t.

    The product form, for the loss at each step t and with every k:

        dL_t/dW = sum_{k=1..t} dL_t/dh_t [prod_{j=t..k+1} diag(tanh'(a_j)) W_hh] d+h_k/dW

    d+h_k/dW, the immediate derivative, holds h_{k-1} fixed. Neither can tanh' be pulled out of the product,
    for the matrices do not commute, nor can one k stand for the sum: the term k = 1 alone, for W_hh, is
    an outer product with h_0, and zero if h_0 is.

    Shapes as in `linear_gradients`, and b_h [H].
    Cost: O(T^2) products of [H, H] matrices per example; it is a reference.
    Raises: InputError if the shapes do not fit.
    """
    T, H = _check(W_hx, W_hh, W_qh, x, h0, dL_do)
    if b_h.shape != (H,):
        raise InputError(f"b_h must have shape {[H]}, got {list(b_h.shape)}")
    x_, dL_do_ = dict(enumerate(x, start=1)), dict(enumerate(dL_do, start=1))

    h = {0: h0}
    slope, jacobian = {}, {}
    for t in range(1, T + 1):
        h[t] = torch.tanh(x_[t] @ W_hx.T + h[t - 1] @ W_hh.T + b_h)
        slope[t] = 1 - h[t] ** 2  # tanh'(a_t) [B, H]
        jacobian[t] = slope[t][:, :, None] * W_hh  # dh_t/dh_{t-1} = diag(tanh'(a_t)) W_hh [B, H, H]

    dL_dW_hx, dL_db_h = torch.zeros_like(W_hx), torch.zeros_like(b_h)
    dL_dW_hh_terms = W_hh.new_zeros(T, H, H)
    dL_dh = h0.new_zeros(T + 1, *h0.shape)
    for t in range(1, T + 1):
        dLt_dht = dL_do_[t] @ W_qh  # [B, H]
        product = torch.eye(H, dtype=W_hh.dtype, device=W_hh.device).expand_as(jacobian[t])
        for k in range(t, 0, -1):
            dLt_dhk = torch.einsum("bi,bij->bj", dLt_dht, product)
            dLt_dak = dLt_dhk * slope[k]
            dL_dW_hx += dLt_dak.T @ x_[k]  # d+a_k/dW_hx: x_k
            dL_dW_hh_terms[k - 1] += dLt_dak.T @ h[k - 1]  # d+a_k/dW_hh: h_{k-1}
            dL_db_h += dLt_dak.sum(0)
            dL_dh[k] += dLt_dhk
            product = product @ jacobian[k]
        dL_dh[0] += torch.einsum("bi,bij->bj", dLt_dht, product)

    return TanhGradients(
        W_hx=dL_dW_hx,
        W_hh=dL_dW_hh_terms.sum(0),
        b_h=dL_db_h,
        W_qh=torch.stack([dL_do_[t].T @ h[t] for t in range(1, T + 1)]).sum(0),
        h=dL_dh[1:],
        h0=dL_dh[0],
        W_hh_terms=dL_dW_hh_terms,
    )


def _check(W_hx: Tensor, W_hh: Tensor, W_qh: Tensor, x: Tensor, h0: Tensor, dL_do: Tensor) -> tuple[int, int]:
    """Return T and H, or say which shape does not fit."""
    if x.dim() != 3 or x.shape[0] < 1:
        raise InputError(f"x must have shape [T, B, D] with T >= 1, got {list(x.shape)}")
    (T, B, D), (Q, H) = x.shape, W_qh.shape
    expected = {"W_hx": (H, D), "W_hh": (H, H), "h0": (B, H), "dL_do": (T, B, Q)}
    tensors = {"W_hx": W_hx, "W_hh": W_hh, "h0": h0, "dL_do": dL_do}
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise InputError(
                f"{name} must have shape {list(shape)} with x {list(x.shape)} and W_qh {list(W_qh.shape)}, "
                f"got {list(tensors[name].shape)}"
            )
    return T, H
