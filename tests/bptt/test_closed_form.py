"""The formulas by hand, against autograd and against Full."""

from __future__ import annotations

import pytest
import torch

from throughtime import bptt
from throughtime.errors import InputError

T, B, D, H, Q = 7, 2, 3, 13, 4


@pytest.fixture
def tensors():
    r = torch.Generator().manual_seed(2)

    def randn(*shape):
        return torch.randn(*shape, generator=r, dtype=torch.float64)

    return {
        "W_hx": randn(H, D), "W_hh": 1.3 * randn(H, H) / H**0.5, "b_h": randn(H), "W_qh": randn(Q, H),
        "x": randn(T, B, D), "h0": randn(B, H), "target": randn(T, B, Q),
    }  # fmt: skip


def unroll(p, phi, bias):
    """Return run, which also keeps every state it makes in `run.states`."""

    def run(x, h):
        outputs = []
        for x_t in x:
            h = phi(x_t @ p["W_hx"].T + h @ p["W_hh"].T + bias)
            if h.requires_grad:
                h.retain_grad()
            run.states.append(h)
            outputs.append(h @ p["W_qh"].T)
        return torch.stack(outputs), h

    run.states = []
    return run


def compare(p, names, phi, bias, by_hand):
    """Compare with Full, on a mean squared error, whose 1/T is inside dL_do."""
    for name in [*names, "h0"]:
        p[name].requires_grad_()
    run = unroll(p, phi, bias)
    bptt.Full().backward(run, lambda y, t: ((y - t) ** 2).sum(), p["x"], p["target"], p["h0"])
    with torch.no_grad():
        dL_do = 2 * (unroll(p, phi, bias)(p["x"], p["h0"])[0] - p["target"]) / p["target"].numel()
        found = by_hand(*(p[name] for name in names), p["x"], p["h0"], dL_do)
    for name in [*names, "h0"]:
        torch.testing.assert_close(getattr(found, name), p[name].grad, rtol=0, atol=1e-10, msg=name)
    torch.testing.assert_close(found.h, torch.stack([h.grad for h in run.states]), rtol=0, atol=1e-10)
    assert found.h.abs().max() > 1e-3
    return found


def test_the_linear_network(tensors):
    names = ["W_hx", "W_hh", "W_qh"]
    compare(tensors, names, lambda a: a, 0, bptt.linear_gradients)


def test_the_tanh_network(tensors):
    names = ["W_hx", "W_hh", "b_h", "W_qh"]
    found = compare(tensors, names, torch.tanh, tensors["b_h"], bptt.tanh_gradients)
    torch.testing.assert_close(found.W_hh_terms.sum(0), found.W_hh)


@pytest.mark.parametrize("strategy", [bptt.Checkpointed(2), bptt.Truncated(7)], ids=str)
def test_the_strategies_agree_with_the_formulas(tensors, strategy):
    p = tensors
    dL_do = 2 * (unroll(p, torch.tanh, p["b_h"])(p["x"], p["h0"])[0] - p["target"])
    names = ["W_hx", "W_hh", "b_h", "W_qh"]
    found = bptt.tanh_gradients(*(p[name] for name in names), p["x"], p["h0"], dL_do)
    for name in names:
        p[name].requires_grad_()
    run = unroll(p, torch.tanh, p["b_h"])
    strategy.backward(run, lambda y, t: ((y - t) ** 2).sum(), p["x"], p["target"], p["h0"], reduction="sum")
    for name in names:
        torch.testing.assert_close(getattr(found, name), p[name].grad, rtol=0, atol=1e-10)


def test_every_k_is_needed(tensors):
    """With h_0 = 0 the term k = 1 alone is exactly zero for W_hh, and the sum is not."""
    p = tensors
    names = ["W_hx", "W_hh", "b_h", "W_qh", "x"]
    dL_do = p["target"]
    found = bptt.tanh_gradients(*(p[name] for name in names), torch.zeros(B, H).double(), dL_do)
    assert torch.equal(found.W_hh_terms[0], torch.zeros(H, H).double())
    assert found.W_hh.norm() > 1
    assert all(term.norm() > 0 for term in found.W_hh_terms[1:])


def test_the_slope_cannot_be_pulled_out_of_the_product(tensors):
    """A product of diag(tanh') W_hh is not (prod diag(tanh')) W_hh^n: diagonal matrices do not commute with W_hh."""
    slopes, W_hh = torch.rand(3, H, dtype=torch.float64), tensors["W_hh"]
    right = slopes[0].diag() @ W_hh @ slopes[1].diag() @ W_hh @ slopes[2].diag() @ W_hh
    pulled = slopes.prod(0).diag() @ torch.linalg.matrix_power(W_hh, 3)
    assert (right - pulled).norm() > 0.1 * right.norm()


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("W_hx", (H, 5), r"W_hx must have shape \[13, 3\]"),
        ("W_hh", (H, 5), r"W_hh must have shape \[13, 13\]"),
        ("b_h", (5,), r"b_h must have shape \[13\]"),
        ("x", (T, D), r"x must have shape \[T, B, D\]"),
        ("h0", (1, H), r"h0 must have shape \[2, 13\]"),
        ("target", (T, B, 9), r"dL_do must have shape \[7, 2, 4\]"),
    ],
)
def test_shapes_that_do_not_fit(tensors, name, shape, message):
    tensors[name] = torch.zeros(shape).double()
    p = list(tensors.values())
    with pytest.raises(InputError, match=message):
        bptt.tanh_gradients(*p)
    if name != "b_h":
        with pytest.raises(InputError, match=message):
            bptt.linear_gradients(*p[:2], *p[3:])
