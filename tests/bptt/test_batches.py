"""Batches: rows of different length, targets per sequence, windows that start anew; and tensors in the same forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import throughtime as tt
from throughtime import bptt
from throughtime.data.batch import Batch, tensors
from throughtime.errors import InputError

EXACT = [
    bptt.Full(),
    bptt.Truncated(9),
    bptt.Truncated(9, stride=3),
    bptt.RandomWindow(7, 9),
    bptt.Checkpointed(),
    bptt.Checkpointed(2),
    bptt.Checkpointed(1, slots=2),
]
INEXACT = [
    bptt.Truncated(3),
    bptt.Truncated(1),
    bptt.Truncated(4, stride=2),
    bptt.RandomWindow(2, 3),
    bptt.Randomized(2.5),
    bptt.Randomized(5, "polynomial", every=2),
]
ALL = EXACT + INEXACT
LENGTHS = {(7, 5): [6, 0, 3, 5, 1], (5, 5): [2, 5, 0, 5, 4]}  # in the first no row has all T steps
NAN = float("nan")


class Ragged:
    """A throughtime LSTM with a head, on rows of different length whose padding is NaN, from a state that is not zero."""

    def __init__(self, steps: int, size: int, whole_numbers: bool) -> None:
        torch.manual_seed(7)
        self.lstm, self.head = tt.LSTM(3, 6).double(), nn.Linear(6, 4).double()
        self.lengths = torch.tensor(LENGTHS[steps, size])
        self.state = tuple(torch.randn(2, 1, size, 6).double().unbind())
        self.x = torch.randn(steps, size, 3).double()
        self.targets = (
            torch.randint(4, (steps, size)) if whole_numbers else torch.randn(steps, size, 4).double()
        )
        self.labels = torch.randint(4, (size,))
        for row, length in enumerate(self.lengths):
            self.x[length:, row] = NAN
            self.targets[length:, row] = (
                99 if whole_numbers else NAN
            )  # 99 is no class: cross_entropy would fail

    @property
    def parameters(self):
        return [*self.lstm.parameters(), *self.head.parameters()]

    def run(self, x, state, lengths=None):
        y, state = self.lstm(x, state, lengths=lengths)
        return self.head(y), state

    def loss(self, y, target):
        if target.is_floating_point():
            return torch.where(target.isnan(), 0, y - target).square().sum()
        return nn.functional.cross_entropy(y.flatten(0, 1), target.flatten(), reduction="sum")

    def run_last(self, window, state):
        """The state after each row's last step in the window."""
        _, state = self.lstm(window.inputs, state, lengths=window.lengths)
        return self.head(state[0][-1]), state

    def loss_last(self, y, window):
        return nn.functional.cross_entropy(y, window.targets, reduction="sum")

    def gradient(self, strategy, *args, **options):
        for parameter in self.parameters:
            parameter.grad = None
        generator = torch.Generator().manual_seed(3)
        result = strategy.backward(*args, generator=generator, reduction="sum", **options)
        return torch.cat([p.grad.flatten() for p in self.parameters]), result

    def row(self, row):
        """A row's own steps and state, as a batch of one."""
        length = int(self.lengths[row])
        state = tuple(part[:, row : row + 1] for part in self.state)
        return self.x[:length, row : row + 1], self.targets[:length, row : row + 1], state


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


@pytest.fixture(params=[(7, 5, True), (5, 5, False)], ids=str)
def ragged(request):
    return Ragged(*request.param)


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_a_ragged_batch_is_its_rows_one_by_one(ragged, strategy):
    """Gradient, loss, count and state are those of each row without its padding; an ended row has length 0 and its state."""
    g = ragged
    seen = []

    def run(x, state, lengths):
        seen.append((len(x), lengths.tolist()))
        return g.run(x, state, lengths)

    found, result = g.gradient(strategy, run, g.loss, g.x, g.targets, g.state, lengths=g.lengths)
    gradient, loss, count = 0, 0, 0
    for row, length in enumerate(g.lengths):
        if length == 0:
            continue
        x, targets, state = g.row(row)
        alone, of_row = g.gradient(strategy, g.run, g.loss, x, targets, state)
        gradient, loss, count = gradient + alone, loss + of_row.loss, count + of_row.count
        for whole, part in zip(result.state, of_row.state, strict=True):
            torch.testing.assert_close(whole[:, row : row + 1], part, rtol=0, atol=1e-13)
    close(found, gradient)
    torch.testing.assert_close(result.loss, loss, rtol=1e-13, atol=0)
    assert result.count == count
    empty = g.lengths == 0
    for whole, start in zip(result.state, g.state, strict=True):
        assert torch.equal(whole[:, empty], start[:, empty])
    assert all(max(lengths) <= steps for steps, lengths in seen)
    if isinstance(strategy, bptt.Truncated):
        assert torch.equal(torch.tensor([lengths for _, lengths in seen]).sum(0), g.lengths)


@pytest.mark.parametrize("strategy", EXACT, ids=str)
def test_ragged_batches_are_exact(strategy):
    g = Ragged(7, 5, whole_numbers=False)
    expected, full = g.gradient(bptt.Full(), g.run, g.loss, g.x, g.targets, g.state, lengths=g.lengths)
    found, result = g.gradient(strategy, g.run, g.loss, g.x, g.targets, g.state, lengths=g.lengths)
    close(found, expected)
    if strategy == bptt.Truncated(9):
        assert torch.equal(found, expected) and torch.equal(result.loss, full.loss)
    mean = strategy.backward(g.run, g.loss, g.x, g.targets, g.state, lengths=g.lengths)
    torch.testing.assert_close(mean.loss * full.count, full.loss, rtol=1e-13, atol=0)


@pytest.mark.parametrize("strategy", ALL, ids=str)
@pytest.mark.parametrize(("steps", "size", "equal_lengths"), [(7, 5, False), (5, 5, False), (5, 5, True)])
def test_targets_per_sequence_count_once_in_the_window_of_the_last_step(strategy, steps, size, equal_lengths):
    g = Ragged(steps, size, whole_numbers=False)
    if equal_lengths:
        g.x = g.x.nan_to_num()
        g.lengths = torch.full_like(g.lengths, len(g.x))
    lengths = None if equal_lengths else g.lengths
    batch = Batch.of(g.x, g.labels, lengths, per_sequence=True, reset=False)
    found, result = g.gradient(strategy, g.run_last, g.loss_last, batch, None, g.state)
    gradient, loss = 0, 0
    for row in range(batch.size):
        x, _, state = g.row(row)
        if len(x) == 0:
            x = torch.full((1, 1, 3), NAN).double()
        of_row = Batch.of(
            x, g.labels[row : row + 1], g.lengths[row : row + 1], per_sequence=True, reset=False
        )
        alone, part = g.gradient(strategy, g.run_last, g.loss_last, of_row, None, state)
        gradient, loss = gradient + alone, loss + part.loss
    close(found, gradient)
    torch.testing.assert_close(result.loss, loss, rtol=1e-13, atol=0)
    assert result.count == batch.size
    if strategy in EXACT:
        close(found, g.gradient(bptt.Full(), g.run_last, g.loss_last, batch, None, g.state)[0])


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_the_forms_of_one_batch_agree(strategy):
    """Tensors with lengths, a Batch, and tensors with the batch first give the same bits."""
    g = Ragged(5, 5, whole_numbers=True)
    expected, result = g.gradient(strategy, g.run, g.loss, g.x, g.targets, g.state, lengths=g.lengths)
    batch = Batch.of(g.x, g.targets, g.lengths, reset=False)
    found, of_batch = g.gradient(
        strategy, lambda w, s: g.run(w.inputs, s, w.lengths), lambda y, w: g.loss(y, w.targets), batch, None, g.state
    )  # fmt: skip
    assert torch.equal(found, expected)
    assert (of_batch.count, of_batch.windows) == (result.count, result.windows)

    def run(x, state, lengths):
        assert x.shape[0] == batch.size
        y, state = g.run(x.transpose(0, 1), state, lengths)
        return y.transpose(0, 1), state

    def loss(y, target):
        return g.loss(y.transpose(0, 1), target.transpose(0, 1))

    x, targets = g.x.transpose(0, 1), g.targets.transpose(0, 1)
    found, _ = g.gradient(strategy, run, loss, x, targets, g.state, lengths=g.lengths, batch_first=True)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("strategy", ALL, ids=str)
@pytest.mark.parametrize("in_order", [False, True])
def test_packed_sequences(strategy, in_order):
    g = Ragged(5, 5, whole_numbers=True)
    rows = sorted([0, 1, 3, 4], key=lambda row: -g.lengths[row]) if in_order else [4, 0, 1, 3]
    lengths, state = g.lengths[rows], tuple(part[:, rows] for part in g.state)
    x, targets = ([tree[: g.lengths[row], row] for row in rows] for tree in (g.x, g.targets))
    packed, packed_targets = (pack_sequence(each, enforce_sorted=in_order) for each in (x, targets))
    expected, full = g.gradient(
        strategy, g.run, g.loss, g.x[:, rows], g.targets[:, rows], state, lengths=lengths
    )
    for t in (packed_targets, g.targets[:, rows]):
        found, result = g.gradient(strategy, g.run, g.loss, packed, t, state)
        assert torch.equal(found, expected)
        assert torch.equal(result.state[0], full.state[0])
        assert result.count == int(lengths.sum())


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_batch_first_equals_time_first(strategy):
    """A layer with batch_first=True and no lengths; T == B."""
    torch.manual_seed(1)
    layer = nn.GRU(3, 6).double()
    other = nn.GRU(3, 6, batch_first=True).double()
    other.load_state_dict(layer.state_dict())
    x, target, h = torch.randn(6, 6, 3).double(), torch.randn(6, 6, 6).double(), torch.randn(1, 6, 6).double()

    def gradient(layer, x, target, **options):
        layer.zero_grad()
        result = strategy.backward(
            layer, lambda y, t: (y - t).square().sum(), x, target, h, generator=torch.Generator().manual_seed(2), **options
        )  # fmt: skip
        return torch.cat([p.grad.flatten() for p in layer.parameters()]), result

    expected, time_first = gradient(layer, x, target)
    found, batch_first = gradient(other, x.transpose(0, 1), target.transpose(0, 1), batch_first=True)
    close(found, expected)
    torch.testing.assert_close(batch_first.state, time_first.state, rtol=0, atol=1e-13)
    pairs = [
        (x[:4].transpose(0, 1), target[:4].transpose(0, 1)),
        (x[4:].transpose(0, 1), target[4:].transpose(0, 1)),
    ]
    if strategy in (bptt.Full(), bptt.Checkpointed()):
        found, _ = gradient(other, iter(pairs), None, batch_first=True, count=6 * 6 * 6)
        close(found, expected)


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_an_iterable_of_batches_goes_on_and_starts_anew(strategy):
    """Batches of windows without reset carry the state; one with reset starts a sequence of its own."""
    g = Ragged(7, 5, whole_numbers=False)
    x = torch.randn(10, 5, 3).double()
    y = torch.randn(10, 5, 4).double()

    def run(window, state):
        return g.run(window.inputs, state)

    def loss(outputs, window):
        return g.loss(outputs, window.targets)

    parts = [
        Batch.of(x[:3], y[:3], reset=False),
        Batch.of(x[3:5], y[3:5], reset=False),
        Batch.of(x[5:8], y[5:8]),
        Batch.of(x[8:], y[8:], reset=False),
    ]
    found, result = g.gradient(strategy, run, loss, iter(parts), None, g.state)
    assert result.count == y.numel()
    first, second = g.run(x[:5], g.state)[0], g.run(x[5:], None)
    torch.testing.assert_close(
        result.loss, g.loss(torch.cat([first, second[0]]), y).detach(), rtol=1e-13, atol=0
    )
    torch.testing.assert_close(result.state, bptt.detach(second[1]), rtol=0, atol=1e-13)
    if isinstance(strategy, bptt.Full | bptt.Checkpointed) or strategy == bptt.Truncated(9, stride=3):
        a, _ = g.gradient(bptt.Full(), g.run, g.loss, x[:5], y[:5], g.state)
        b, _ = g.gradient(bptt.Full(), g.run, g.loss, x[5:], y[5:], None)
        close(found, a + b)


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_a_batch_with_reset_starts_without_the_state(strategy):
    g = Ragged(7, 5, whole_numbers=False)
    run, loss = lambda w, s: w.run(g.run, s), lambda y, w: g.loss(y, w.targets)
    batch = Batch.of(g.x, g.targets, g.lengths)
    anew, _ = g.gradient(strategy, run, loss, batch, None, g.state)
    assert torch.equal(anew, g.gradient(strategy, run, loss, batch)[0])
    on, _ = g.gradient(strategy, run, loss, batch._replace(reset=False), None, g.state)
    assert not torch.allclose(on, anew)
    with pytest.raises(
        InputError, match=r"requires grad, but the Batch has reset=True .* make it with reset=False"
    ):
        strategy.backward(run, loss, batch, state=tuple(part.clone().requires_grad_() for part in g.state))


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_one_graph_before_inputs_context_and_state(strategy):
    """All three come out of one encoder, whose graph is backpropagated once, after all windows."""
    torch.manual_seed(5)
    rnn = nn.RNN(3, 4).double()
    source = torch.randn(3, 3).double().requires_grad_()
    x, y = torch.randn(7, 2, 3).double(), torch.randn(7, 2, 4).double()
    seen = torch.randn(2, 3).double()

    def run(window, state):
        outputs, state = rnn(window.inputs + window.context, state)
        return outputs, state

    def loss(outputs, window):
        return (outputs - window.targets).square().sum()

    def parts():
        encoder = torch.tanh(source @ source)
        return x @ encoder, seen @ encoder, torch.cat([seen @ encoder, seen[:, :1]], dim=1)[None]

    inputs, context, state = parts()
    batch = Batch.of(inputs, y, context=context, reset=False)
    strategy.backward(
        run, loss, batch, state=state, reduction="sum", generator=torch.Generator().manual_seed(0)
    )
    found, source.grad = source.grad, None
    assert found.isfinite().all() and found.abs().min() > 0
    inputs, context, state = parts()
    (expected,) = torch.autograd.grad((rnn(inputs + context, state)[0] - y).square().sum(), source)
    if strategy in EXACT:
        close(found, expected)
    else:
        assert (found - expected).norm() > 1e-3 * expected.norm()


@pytest.mark.parametrize("strategy", ALL, ids=str)
def test_padding_reaches_the_loss_masked_and_is_not_counted(strategy):
    x, lengths = torch.zeros(5, 5, 3), torch.tensor([5, 1, 0, 2, 4])
    w = torch.zeros((), requires_grad=True)
    whole, real = [], []

    def loss(y, target):
        whole.append(target["class"])
        real.append(target["value"])
        return y.sum()

    targets = {"class": torch.ones(5, 5, dtype=torch.long), "value": torch.ones(5, 5, 2)}
    result = strategy.backward(lambda x, s, lengths: (w * x.sum(), s), loss, x, targets, lengths=lengths)
    inside = torch.arange(5)[:, None] < lengths
    if not isinstance(strategy, bptt.Checkpointed):  # its windows come last to first
        assert torch.equal(torch.cat(whole), torch.where(inside, 1, -100))
        assert torch.equal(torch.cat(real).isnan().any(-1), ~inside)
    assert result.count == 12 * 3
    assert all(bool((t == 1).all()) for t in tensors(targets))  # the caller's own are left alone


def test_targets_are_counted_without_the_masked_ones():
    w = torch.zeros((), requires_grad=True)
    y = torch.tensor([[1, -100], [2, 3], [-100, -100]])
    result = bptt.Truncated(2).backward(lambda x, s: (w + x, s), lambda y, t: y.sum(), torch.ones(3, 2), y)
    assert result.count == 3
    result = bptt.Full().backward(
        lambda w_, s: (w + w_.inputs, s), lambda y, t: y.sum(), Batch.of(torch.ones(3, 2)), reduction="sum"
    )
    assert result.count == 0 and result.loss == 6


X, Y, B7 = torch.zeros(7, 7, 3), torch.zeros(7, 7, 2), torch.zeros(7, dtype=torch.long)
L = torch.ones(7, dtype=torch.long)
PACKED = pack_padded_sequence(torch.zeros(4, 3, 2), torch.tensor([4, 2, 1]))
OTHER = pack_padded_sequence(torch.zeros(4, 3, 2), torch.tensor([4, 3, 1]))
UNSORTED = pack_padded_sequence(torch.zeros(4, 3, 2), torch.tensor([2, 4, 1]), enforce_sorted=False)
BATCH = Batch.of(X, Y)


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        (X, B7, {}, r"targets \[7\] with inputs \[7, 7, 3\] look like one for each sequence.*per_sequence=True"),
        (X[:4], B7, {}, r"look like one for each sequence.*per_sequence=True"),
        (B7[:, None].expand(7, 7), B7, {}, "look like one for each sequence"),
        (X, torch.zeros(7, 4), {}, r"targets \[7, 4\] .* look like one for each sequence"),
        (X[..., 0], B7, {}, "look like one for each sequence"),
        (X, B7, {"batch_first": True}, "look like one for each sequence"),
        (X[:4], B7[:4], {"lengths": L}, "look like one for each sequence"),
        (X, Y[:, :6], {"batch_first": True}, r"same number of steps \(dimension 1\), got \[6, 7\]: put the batch"),
        (X, Y[:6], {"batch_first": True}, r"same number of sequences \(dimension 0\), got \[6, 7\]"),
        (X, Y[:6], {}, r"same number of steps \(dimension 0\), got \[6, 7\]: put time"),
        (X, Y[:, :6], {}, r"targets \[7, 6, 2\] .* look like one for each sequence"),
        (X, Y[:, :6], {"lengths": L}, r"same number of sequences \(dimension 1\), got \[6, 7\]"),
        (X[:, 0, 0], B7, {"lengths": L}, r"\[T, B, ...\], got one without both"),
        (X, Y, {"lengths": L[:3]}, r"lengths must be whole numbers \[7\]"),
        (X, Y, {"lengths": 8 * L}, "lengths must lie between 0 and T = 7, got 8 to 8"),
        (X, Y, {"lengths": 0 * L}, "count must be at least 1, got 0"),
        (BATCH, Y, {}, "a Batch holds its targets and lengths, .* leave targets, lengths and batch_first out"),
        (BATCH, None, {"lengths": L}, "a Batch holds its targets"),
        (BATCH, None, {"batch_first": True}, "a Batch holds its targets"),
        (Batch.of(X), None, {}, "without targets, needs count"),
        ([BATCH], None, {"count": 3, "batch_first": True}, "a Batch is time first"),
        ([(X, Y)], None, {"count": 3, "lengths": L}, "let it yield Batches with their lengths"),
        (PACKED, None, {}, "inputs without targets must be a Batch, .* got PackedSequence"),
        (PACKED, PACKED, {"lengths": [4, 2, 1]}, "a PackedSequence holds its lengths"),
        (PACKED, OTHER, {}, "targets must be packed as the inputs are"),
        (PACKED, UNSORTED, {}, "targets must be packed as the inputs are"),
        (UNSORTED, PACKED, {}, "targets must be packed as the inputs are"),
        (X, PACKED, {}, "a PackedSequence must be all of the inputs"),
        ([X, PACKED], Y, {}, "a PackedSequence must be all of the inputs"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(inputs, targets, options, message):
    def run(x, state, lengths=None):
        raise AssertionError("the error comes before the first run")

    for strategy in (bptt.Full(), bptt.Truncated(2), bptt.Checkpointed(2)):
        with pytest.raises(InputError, match=message) as caught:
            strategy.backward(run, lambda y, t: y, inputs, targets, **options)
        assert "\n" not in str(caught.value)


def test_an_iterable_of_both_is_refused():
    w = torch.zeros((), requires_grad=True)
    with pytest.raises(InputError, match=r"must yield Batches or pairs \(x, target\), got both"):
        bptt.Full().backward(
            lambda x, s: (w, s), lambda y, t: y, [BATCH._replace(reset=False), (X, Y)], reduction="sum"
        )


def test_what_is_not_ambiguous_is_cut_along_time():
    """One sequence [T, D] with [T] or [T, Q], tokens [T] with [T], and [T] for all rows where T and B differ."""
    w = torch.zeros((), requires_grad=True)
    for x, y in [
        (torch.zeros(7, 3), B7),
        (torch.zeros(7, 7), torch.zeros(7, 2)),
        (B7, B7),
        (torch.zeros(7, 4, 3), B7),
        (torch.zeros(7, 4, 3), torch.zeros(7, 28)),
    ]:
        lengths = []

        def run(x, state, lengths=lengths):
            lengths.append(len(x))
            return w, state

        bptt.Truncated(3).backward(run, lambda y, t: y, x, y)
        assert lengths == [3, 3, 1]
