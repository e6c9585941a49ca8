"""Modules that a strategy would run wrongly are refused, before any gradient is accumulated."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import bptt
from throughtime.data.batch import Batch
from throughtime.errors import InputError

WHOLE = [
    bptt.Full(),
    bptt.Truncated(8),
    bptt.Truncated(12),
    bptt.RandomWindow(8, 9),
    bptt.Checkpointed(8),
    bptt.Checkpointed(4),
]
SPLIT = [
    bptt.Truncated(7),
    bptt.Truncated(16, stride=4),
    bptt.RandomWindow(3, 9),
    bptt.Randomized(20),
    bptt.Checkpointed(),
    bptt.Checkpointed(2),
    bptt.Checkpointed(1, 8),
]
LAYERS = [
    nn.LSTM,
    nn.GRU,
    tt.LSTM,
    tt.RNN,
    lambda i, h, **o: tt.Recurrent(partial(tt.MinGRUCell, hidden_size=h), i, **o),
]
X, Y = torch.randn(8, 8, 3), torch.randn(8, 8, 10)


class Tagger(nn.Module):
    """A layer inside a module."""

    def __init__(self, layer):
        super().__init__()
        self.inner = nn.ModuleDict({"layer": layer})

    def forward(self, x, state, lengths=None):
        return self.inner["layer"](x, state)


def loss(y, target):
    return (y - target[..., : y.shape[-1]]).square().sum()


def refused(message, strategy, module, inputs=X, targets=Y, **options):
    with pytest.raises(InputError, match=message) as caught:
        strategy.backward(module, loss, inputs, targets, **options)
    assert "\n" not in str(caught.value)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("wrap", [lambda layer: layer, Tagger])
def test_bidirectional_modules_are_refused_where_the_sequence_is_split(make, wrap):
    module = wrap(make(3, 5, bidirectional=True))
    for strategy in SPLIT:
        assert strategy.splits(8)
        refused(
            r"is bidirectional and must read the whole sequence in one call, got .* over 8 steps",
            strategy,
            module,
        )
        refused("bidirectional .* an iterable", strategy, module, [(X, Y)], None, count=1)
    refused("bidirectional .* an iterable", bptt.Full(), module, [(X, Y)], None, count=1)
    y, _ = module(X, None)
    expected = torch.autograd.grad(loss(y, Y), list(module.parameters()))
    for strategy in WHOLE:
        assert not strategy.splits(8)
        module.zero_grad()
        strategy.backward(module, loss, X, Y, reduction="sum")
        torch.testing.assert_close([p.grad for p in module.parameters()], list(expected))


@pytest.mark.parametrize("strategy", WHOLE + SPLIT, ids=str)
def test_splits_says_whether_there_is_more_than_one_call(strategy):
    for steps in (1, 2, 7, 8, 30):
        calls = []

        def run(x, state, calls=calls):
            calls.append(len(x))
            return x.sum() * torch.ones((), requires_grad=True), state

        x = torch.zeros(steps, 1, 1)
        for seed in range(5):
            strategy.backward(run, lambda y, t: y, x, x, generator=torch.Generator().manual_seed(seed))
        if not strategy.splits(steps):
            assert set(calls) == {steps}
        else:
            assert min(calls) < steps
    assert strategy.runs_whole == isinstance(strategy, bptt.Full)


@pytest.mark.parametrize("make", LAYERS)
def test_batch_first_layers_need_batch_first(make):
    """T == B: nothing but the module tells that the steps would be taken for sequences."""
    layer = make(3, 5, batch_first=True)
    for strategy in [bptt.Full(), bptt.Truncated(2), bptt.Checkpointed(2)]:
        refused(r"has batch_first=True, .* pass batch_first=True with inputs \[B, T, ...\]", strategy, layer)
        refused(r"\(inner.layer\) has batch_first=True", strategy, Tagger(layer))
        refused("has batch_first=True", strategy, Tagger(layer), Batch.of(X, Y), None)
        refused("has batch_first=True", strategy, Tagger(layer), [(X, Y)], None, count=1)
        refused("reads inputs time first, .* leave it out", strategy, make(3, 5), batch_first=True)
        for module in (layer, Tagger(layer)):
            strategy.backward(module, loss, X, Y, batch_first=True)
            module.zero_grad()


def test_one_sequence_without_a_batch_axis_is_time_first_whatever_batch_first_is():
    layer, other = nn.LSTM(3, 5, batch_first=True).double(), nn.LSTM(3, 5).double()
    other.load_state_dict(layer.state_dict())
    x, y = torch.randn(8, 3).double(), torch.randn(8, 5).double()
    for module in (layer, other):
        bptt.Truncated(3).backward(module, loss, x, y)
    torch.testing.assert_close([p.grad for p in layer.parameters()], [p.grad for p in other.parameters()])
    for module in (layer, other):
        module.zero_grad()
        refused(
            "one sequence without a batch axis: leave batch_first out",
            bptt.Truncated(3),
            module,
            x,
            y,
            batch_first=True,
        )


def test_lengths_need_a_layer_that_takes_them():
    lengths = torch.arange(8)
    refused(
        r"torch.nn.GRU takes no lengths=: use throughtime.GRU", bptt.Full(), nn.GRU(3, 5), lengths=lengths
    )
    packed = nn.utils.rnn.pack_padded_sequence(X, lengths + 1, enforce_sorted=False)
    refused(
        "torch.nn.LSTM takes no lengths=: use throughtime.LSTM",
        bptt.Truncated(2),
        nn.LSTM(3, 5),
        packed,
        packed,
    )


@pytest.mark.parametrize("layer", [nn.LSTM(3, 5), tt.LSTM(3, 5)])
def test_a_layer_takes_no_batches(layer):
    batch = Batch.of(X, Y)
    for source in (batch, [batch]):
        refused(
            r"run gets Batches, and LSTM takes tensors: pass run=lambda window, state: window.run\(layer",
            bptt.Truncated(3), layer, source, None, count=1,
        )  # fmt: skip


def test_a_function_hides_its_module_and_check_module_sees_it():
    module = Tagger(nn.LSTM(3, 5, bidirectional=True))
    bptt.Truncated(3).backward(lambda x, s: module(x, s), loss, X, Y)  # documented: it cannot be seen
    with pytest.raises(InputError, match="bidirectional"):
        bptt.check_module(module, bptt.Truncated(3), 8)
    with pytest.raises(InputError, match="an iterable of windows"):
        bptt.check_module(module, bptt.Full(), None)
    bptt.check_module(module, bptt.Truncated(8), 8)
    with pytest.raises(InputError, match="has batch_first=True"):
        bptt.check_module(nn.GRU(3, 5, batch_first=True), bptt.Full(), 8)
    bptt.check_module(nn.GRU(3, 5, batch_first=True), bptt.Full(), 8, batch_first=True)
    bptt.check_module(nn.GRU(3, 5, batch_first=True), bptt.Full(), 8, batch_first=None)


def test_attention_with_batch_first_is_not_recurrent():
    module = nn.Sequential(nn.MultiheadAttention(4, 2, batch_first=True), nn.GRU(3, 5))
    bptt.check_module(module, bptt.Truncated(2), 8)
