"""What a sequence may be: tensors, pytrees, an iterator of windows; and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from throughtime import bptt
from throughtime.errors import InputError

ONE_WINDOW = [
    bptt.Truncated(7),
    bptt.Truncated(9, stride=3),
    bptt.RandomWindow(7, 9),
]  # exact on one window only
EXACT = [bptt.Full(), bptt.Checkpointed(), bptt.Checkpointed(2), bptt.Checkpointed(1, slots=2), *ONE_WINDOW]
INEXACT = [bptt.Truncated(3), bptt.Truncated(4, stride=2), bptt.RandomWindow(2, 3), bptt.Randomized(2.5)]
ALL = EXACT + INEXACT


@pytest.mark.parametrize("strategy", EXACT, ids=str)
def test_pairs_from_an_iterator_give_the_same(tanh, strategy, gradient_of, autograd):
    cuts = [0, 7] if strategy in ONE_WINDOW else [0, 3, 4, 7]  # windows of an iterator are never joined
    windows = [(tanh.x[a:b], tanh.target[a:b]) for a, b in pairwise(cuts)]
    gradient, result = gradient_of(tanh, strategy, inputs=iter(windows), reduction="sum")
    torch.testing.assert_close(gradient, autograd(tanh), rtol=1e-11, atol=1e-10)
    assert result.count == 56
    mean, _ = gradient_of(tanh, strategy, inputs=iter(windows), count=56)
    torch.testing.assert_close(mean, gradient / 56, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("strategy", INEXACT, ids=str)
def test_an_iterator_is_never_read_ahead(tanh, strategy):
    """Each window is run before the next one is asked for: the sequence may be longer than memory."""
    read, ahead = 0, []

    def windows():
        nonlocal read
        for t in range(7):
            read += 1
            yield tanh.x[t : t + 1], tanh.target[t : t + 1]

    ran = 0

    def run(x, state):
        nonlocal ran
        ran += 1
        ahead.append(read - ran)
        return tanh.run(x, state)

    strategy.backward(run, tanh.loss, windows(), reduction="sum")
    assert ahead == [0] * 7


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_windows_are_views(tanh, strategy):
    def run(x, state):
        assert x.untyped_storage().data_ptr() == tanh.x.untyped_storage().data_ptr()
        return tanh.run(x, state)

    strategy.backward(run, tanh.loss, tanh.x, tanh.target, tanh.state)


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_inputs_and_targets_may_be_pytrees(tanh, strategy, gradient_of):
    plain, _ = gradient_of(tanh, strategy, generator=torch.Generator().manual_seed(3))
    run, loss = tanh.run, tanh.loss
    tanh.run = lambda x, state: run(torch.cat([x["a"], x["b"][0]], dim=-1), state)
    tanh.loss = lambda y, target: loss(y, torch.cat(target, dim=-1))
    inputs = {"a": tanh.x[..., :1], "b": (tanh.x[..., 1:], None)}
    targets = [tanh.target[..., :3], tanh.target[..., 3:]]
    nested, result = gradient_of(
        tanh, strategy, inputs=inputs, targets=targets, generator=torch.Generator().manual_seed(3)
    )
    torch.testing.assert_close(nested, plain, rtol=1e-12, atol=1e-14)
    assert result.count == 56


X, Y = torch.zeros(7, 2, 3), torch.zeros(7, 2, 4)


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        ((), None, {}, "needs count, the number of unmasked targets"),
        ((), None, {"count": 5}, "at least one window, got an empty iterator"),
        (X, None, {"count": 5}, r"a Batch, or an iterable of pairs \(x, target\), got Tensor"),
        (3, None, {"count": 5}, r"iterable of pairs \(x, target\), got int"),
        ([X], None, {"count": 5}, r"must yield Batches or pairs \(x, target\), got Tensor"),
        ([(X, Y, True)], None, {"count": 5}, r"must yield Batches or pairs \(x, target\), got tuple"),
        (X, Y[:6], {}, r"same number of steps \(dimension 0\), got \[6, 7\]"),
        (X[:0], Y[:0], {"count": 1}, "at least one step"),
        (torch.tensor(1.0), Y, {}, r"time first, \[T, ...\], got none or a scalar"),
        (X, Y, {"count": 0}, "count must be at least 1, got 0"),
        (X, Y, {"reduction": "avg"}, "reduction must be one of sum, mean, got 'avg'"),
    ],
)
def test_errors_say_what_to_do(inputs, targets, options, message):
    def run(x, state):
        raise AssertionError("the error comes before the first run")

    for strategy in ALL:
        with pytest.raises(InputError, match=message):
            strategy.backward(run, lambda y, t: y, inputs, targets, **options)


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_a_loss_of_several_numbers_is_refused_as_torch_refuses_it(tanh, strategy):
    def each(y, target):
        return (y - target) ** 2

    with pytest.raises(
        InputError, match=r"loss must return one number, .* got a tensor \[\d, 2, 4\]: end it with"
    ):
        strategy.backward(lambda x, s: (x[..., :1].expand(-1, -1, 4), s), each, X, Y)
    got = []
    for loss in (
        lambda y, t: tanh.loss(y, t),
        lambda y, t: tanh.loss(y, t).reshape(1),
    ):  # one number of any shape
        result = strategy.backward(
            tanh.run, loss, tanh.x, tanh.target, tanh.state, generator=torch.Generator().manual_seed(0)
        )
        assert result.loss.shape == ()
        got.append(result.loss)
    assert torch.equal(*got)


def test_a_loss_must_be_a_tensor(tanh):
    with pytest.raises(InputError, match="loss must return a tensor, got float"):
        bptt.Full().backward(tanh.run, lambda y, t: 0.5, tanh.x, tanh.target)
