"""`carry_scale`: the gradient of the state that enters a step times a factor of the step, against a loop in torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import throughtime as tt
from throughtime.kernels.native import library
from throughtime.kernels.native.recurrence import autograd, call
from throughtime.kernels.reference import rebuild
from throughtime.kernels.stack import join, run_stack

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")

T, B, D, H = 9, 5, 3, 13
LENGTHS = torch.tensor([4, 9, 0, 5, 1])
LAYERS = {
    "rnn": lambda **sizes: tt.RNN(D, H, nonlinearity="relu", **sizes),
    "gru": lambda **sizes: tt.GRU(D, H, **sizes),
    "gru reset before": lambda **sizes: tt.GRU(D, H, reset_after=False, recurrent_dropout=0.3, **sizes),
    "lstm": lambda **sizes: tt.LSTM(D, H, **sizes),
    "lstm not padded": lambda **sizes: tt.LSTM(D, 32, **sizes),
    "rnn zoneout": lambda **sizes: tt.RNN(D, H, zoneout=0.3, **sizes),
    "gru zoneout": lambda **sizes: tt.GRU(D, H, zoneout=0.3, **sizes),
    "lstm zoneout": lambda **sizes: tt.LSTM(D, H, zoneout=(0.3, 0.2), recurrent_dropout=0.3, **sizes),
    "lstm peepholes": lambda **sizes: tt.LSTM(D, H, peepholes=True, **sizes),
    "lstm projected": lambda **sizes: tt.LSTM(D, H, proj_size=5, **sizes),
    "rnn normed": lambda **sizes: tt.RNN(D, H, layer_norm=True, **sizes),
    "gru normed": lambda **sizes: tt.GRU(D, H, layer_norm=True, **sizes),
    "lstm normed": lambda **sizes: tt.LSTM(D, H, layer_norm=True, proj_size=5, zoneout=(0.3, 0.2), **sizes),
}


class Scale(torch.autograd.Function):
    """The same value, its gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient * ctx.factor, None


def scaled_loop(stack, x, components, lengths, scale):
    """The stack as a loop over steps in which the state that enters each of them is scaled, of rows that have that step."""
    lengths = torch.full((x.shape[1],), len(x)) if lengths is None else lengths

    def run(number, _, x, state, reverse):
        h_mask, zoneout = stack.masks(number, state, len(x))
        recurrence = stack.bind(number, h_mask)
        projected, outputs = recurrence.project(x), [None] * len(x)
        for t in range(len(x) - 1, -1, -1) if reverse else range(len(x)):
            entering = rebuild(state, [Scale.apply(value, float(scale[t])) for value in state])
            new = recurrence.step(entering, projected[t])
            if zoneout is not None:
                new = zoneout.apply(t, entering, new)
            there = (lengths > t)[:, None]
            outputs[t] = torch.where(there, new[0], 0)
            state = rebuild(new, [torch.where(there, a, b) for a, b in zip(new, state, strict=True)])
        return torch.stack(outputs), state

    recurrences = [stack.bind(number) for number in range(len(stack.weights))]
    y, finals = run_stack(
        recurrences,
        x,
        stack.states(components),
        run,
        bidirectional=stack.bidirectional,
        dropout=stack.dropout,
        training=stack.training,
    )
    return y, join(finals, components)


def gradients(run, layer, lengths, scale, results=slice(None), create_graph=False):
    """Of x, the initial state and all weights, of a random loss of these results (outputs, final states), from one seed."""
    torch.manual_seed(1)
    count, sizes = layer.num_layers * (1 + layer.bidirectional), [layer.proj_size or layer.hidden_size]
    sizes += [layer.hidden_size] * (len(layer.state_type._fields) - 1)
    x = torch.randn(T, B, D, dtype=torch.float64, requires_grad=True)
    state = [torch.randn(count, B, size, dtype=torch.float64, requires_grad=True) for size in sizes]
    torch.manual_seed(2)
    y, finals = run(layer._stack(), x, state, lengths, scale)
    torch.manual_seed(3)
    weighed = [(value * torch.randn_like(value)).sum() for value in (y, *finals)]
    of = [x, *state, *layer.parameters()]
    return torch.autograd.grad(
        sum(weighed[results]), of, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )


def native(stack, x, components, lengths, scale):
    return autograd.run(stack._replace(carry_scale=scale), x, components, lengths)


def random_scale():
    """Between 0 and 2, and once 0: nothing passes that step."""
    scale = torch.rand(T, dtype=torch.float64) * 2
    scale[3] = 0
    return scale


def assert_close(found, wanted):
    for got, expected in zip(found, wanted, strict=True):
        # Of the largest value: through many steps with large factors some are large.
        scale = expected.abs().max().clamp_min(1) if expected.numel() else 1
        torch.testing.assert_close(got / scale, expected / scale, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chunk_rows", [0, 7])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_a_loop_with_scaling_nodes(name, lengths, layers, chunk_rows, monkeypatch, instruction_set):
    monkeypatch.setattr(call, "chunk_rows", chunk_rows)
    layer = LAYERS[name](num_layers=layers).double()
    scale = random_scale()
    wanted = gradients(scaled_loop, layer, lengths, scale)
    assert_close(gradients(native, layer, lengths, scale), wanted)
    ones = torch.ones(T, dtype=torch.float64)
    plain = gradients(native, layer, lengths, None)
    assert_close(gradients(native, layer, lengths, ones), plain)
    assert not torch.allclose(plain[-1], wanted[-1]), "the scale has an effect"


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_gradient_with_a_graph_of_its_own_is_scaled_too(name, lengths):
    """The reference computes it, for a second derivative."""
    layer, scale = LAYERS[name](num_layers=2).double(), random_scale()
    found = gradients(native, layer, lengths, scale, create_graph=True)
    assert_close(found, gradients(native, layer, lengths, scale))
    twice = torch.autograd.grad(sum(g.square().sum() for g in found), list(layer.parameters()))
    wanted = gradients(scaled_loop, layer, lengths, scale, create_graph=True)
    assert_close(twice, torch.autograd.grad(sum(g.square().sum() for g in wanted), list(layer.parameters())))


@pytest.mark.parametrize("chunk_rows", [0, 7])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", ["rnn", "gru zoneout", "lstm normed"])
def test_both_directions(name, lengths, chunk_rows, monkeypatch, instruction_set):
    """Step t of the backward direction is entered from step t + 1, or by the initial state at a sequence's last step."""
    monkeypatch.setattr(call, "chunk_rows", chunk_rows)
    layer, scale = LAYERS[name](num_layers=2, bidirectional=True).double(), random_scale()
    assert_close(gradients(native, layer, lengths, scale), gradients(scaled_loop, layer, lengths, scale))


@pytest.mark.parametrize("name", ["gru", "lstm", "lstm projected"])
def test_what_leaves_through_the_initial_state_and_what_never_had_a_step(name, instruction_set):
    """A factor of 0 at the first step stops it; a sequence without steps gives its final state's gradient to its initial one."""
    layer, scale = LAYERS[name]().double(), torch.ones(T, dtype=torch.float64)
    count = len(layer.state_type._fields)
    plain = gradients(native, layer, LENGTHS, scale)
    scale[0] = 0
    stopped = gradients(native, layer, LENGTHS, scale)
    for before, after in zip(plain[1 : 1 + count], stopped[1 : 1 + count], strict=True):
        assert before[:, LENGTHS > 0].any()
        assert not after[:, LENGTHS > 0].any()
        assert after[:, LENGTHS == 0].any()
        assert torch.equal(after[:, LENGTHS == 0], before[:, LENGTHS == 0])
    # No step is entered from step 0's initial state: nothing else changes.
    for before, after in zip(
        (plain[0], *plain[1 + count :]), (stopped[0], *stopped[1 + count :]), strict=True
    ):
        assert torch.equal(before, after)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_the_gradient_of_a_final_state_is_not_scaled(name, instruction_set):
    """With all factors 0 each sequence's last step gets all of it, and no step before gets anything."""
    layer = LAYERS[name]().double()
    zeros = torch.zeros(T, dtype=torch.float64)
    dx, *_ = gradients(native, layer, LENGTHS, zeros, slice(1, None))
    last = torch.arange(T)[:, None] == LENGTHS - 1
    assert dx[last].any(-1).all()
    assert not dx[~last].any()


@pytest.mark.parametrize("split", [1, 2], ids=["by rows", "by units"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("kind", [tt.RNN, tt.GRU, tt.LSTM])
def test_two_threads(kind, lengths, split, threads, monkeypatch):
    threads(2)
    monkeypatch.setattr(call, "split", split)
    layer, scale = kind(D, 230).double(), random_scale()  # large enough for two: see plan.hpp
    assert_close(gradients(native, layer, lengths, scale), gradients(scaled_loop, layer, lengths, scale))
