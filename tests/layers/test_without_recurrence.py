"""Layers without recurrence: their equations by hand, the state over a cut, ragged rows, both directions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

import throughtime as tt
from throughtime.errors import InputError
from throughtime.layers.convolution import CausalConvolution
from throughtime.layers.direction import BothWays, Reversed, reverse_rows

T, B, D, H = 7, 5, 3, 13
LENGTHS = [7, 3, 1, 0, 5]
NAN = float("nan")
EXACT = {"atol": 1e-12, "rtol": 0}  # float64: torch's convolution may sum in another order


def cnn(kernel: int = 3, blocks: int = 3, sizes: int | tuple[int, ...] = H, **options: float) -> tt.CausalCNN:
    torch.manual_seed(1)
    made = tt.CausalCNN(D, sizes, blocks, kernel_size=kernel, **options).double()
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(1.5)
    return made


def x_of(steps: int = T, rows: int = B) -> Tensor:
    return torch.randn(steps, rows, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def convolution_by_hand(conv: CausalConvolution, x: Tensor) -> Tensor:
    """[t, C] -> [t, H], term by term."""
    outputs, _, k = conv.weight.shape
    norms = conv.weight.square().sum((1, 2)).sqrt()
    rows = []
    for t in range(len(x)):
        y = conv.bias.clone()
        for j in range(k):
            at = t - (k - 1 - j) * conv.dilation
            if at >= 0:
                y = y + (conv.gain / norms)[:, None].mul(conv.weight[:, :, j]) @ x[at]
        rows.append(y)
    return torch.stack(rows) if rows else x.new_zeros(0, outputs)


def network_by_hand(model: tt.CausalCNN, x: Tensor) -> Tensor:
    """One row [t, D] -> [t, H]."""
    for block in model.blocks:
        z = convolution_by_hand(block.second, convolution_by_hand(block.first, x).relu()).relu()
        past = x if block.shortcut is None else x @ block.shortcut.weight[:, :, 0].T + block.shortcut.bias
        x = (z + past).relu()
    return x


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("sizes", [H, (5, 13, 13)])
def test_a_cnn_is_its_equation(kernel: int, sizes: int | tuple[int, ...]) -> None:
    model, x = cnn(kernel, sizes=sizes), x_of()
    y, _ = model(x)
    assert y.shape == (T, B, H)
    for b in range(B):
        torch.testing.assert_close(y[:, b], network_by_hand(model, x[:, b]), **EXACT)


def test_a_new_convolution_is_torchs() -> None:
    """At the start g = |V|, so that W = V, drawn as torch.nn.Conv1d draws it."""
    conv = CausalConvolution(D, H, 3, 2)
    x = torch.randn(2, D, T)
    expected = F.conv1d(F.pad(x, (4, 0)), conv.weight, conv.bias, dilation=2)
    torch.testing.assert_close(conv(x, None, None)[0], expected)
    assert conv.weight.abs().max().item() <= 1 / math.sqrt(3 * D)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("cuts", [(3,), (1, 2, 6), (1, 2, 3, 4, 5, 6)])
def test_state_over_a_cut_is_no_cut(kernel: int, cuts: tuple[int, ...]) -> None:
    """The last of the cuts is streaming, one step at a time."""
    model, x = cnn(kernel), x_of()
    lengths = torch.tensor(LENGTHS)
    for ragged in (None, lengths):
        whole, final = model(x, None, ragged)
        state, parts = None, []
        for start, stop in zip((0, *cuts), (*cuts, T), strict=True):
            own = None if ragged is None else (ragged - start).clamp(0, stop - start)
            y, state = model(x[start:stop], state, own)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts), whole, **EXACT)
        for mine, theirs in zip(tree_leaves(state), tree_leaves(final), strict=True):
            torch.testing.assert_close(mine, theirs, **EXACT)
    if kernel > 1:
        assert not torch.allclose(model(x[3:])[0], model(x)[0][3:])  # the state matters
        assert [s.shape[0] for s in final] == [(kernel - 1) * 2**block for block in (0, 0, 1, 1, 2, 2)]
    else:
        assert final is None


@pytest.mark.parametrize("make", [cnn, lambda: tt.FeedForward(D, (5, H), 2).double()], ids=["cnn", "none"])
@pytest.mark.parametrize("steps", [T, B])  # T == B: lengths and steps look alike
def test_each_row_of_a_ragged_batch_is_as_alone_whatever_the_padding_holds(make: object, steps: int) -> None:
    model, x = make(), x_of(steps)
    lengths = torch.tensor(LENGTHS).clamp(max=steps)
    found = []
    for padding in (0.0, NAN, float("inf")):
        mine = x.clone()
        for b, length in enumerate(lengths.tolist()):
            mine[length:, b] = padding
        mine.requires_grad_()
        model.zero_grad()
        y, state = model(mine, None, lengths)
        y.square().sum().backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        found.append([y.detach(), mine.grad, *tree_leaves(state or ()), *gradients])
    for one, *others in zip(*found, strict=True):
        assert one.isfinite().all()
        assert all(torch.equal(one, other) for other in others)
    y, _, *rest = found[0]
    for b, length in enumerate(lengths.tolist()):
        assert y[length:, b].count_nonzero() == 0
        if length:
            alone, state = model(x[:length, b : b + 1])
            torch.testing.assert_close(y[:length, b], alone[:, 0], **EXACT)
            for mine, theirs in zip(rest, tree_leaves(state or ()), strict=False):
                torch.testing.assert_close(mine[:, b : b + 1], theirs.detach(), **EXACT)


def test_a_row_of_no_steps_keeps_its_state() -> None:
    model, x = cnn(), x_of()
    _, state = model(x[:4])
    _, after = model(x[4:], state, torch.tensor([3, 0, 1, 2, 0]))
    for before, mine in zip(state, after, strict=True):
        assert torch.equal(before[:, [1, 4]], mine[:, [1, 4]])
        assert not torch.equal(before[:, 0], mine[:, 0])


def test_gradients_of_ragged_rows_and_of_the_state() -> None:
    torch.manual_seed(3)
    model = tt.CausalCNN(2, (3, 4), 2, kernel_size=2).double()
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    shapes = [(1, 3, 2), (1, 3, 3), (2, 3, 3), (2, 3, 4)]
    state = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    parameters = dict(model.named_parameters())
    lengths = torch.tensor([4, 0, 2])

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        own = dict(zip(parameters, rest[4:], strict=True))
        y, after = torch.func.functional_call(model, own, (x, tuple(rest[:4]), lengths))
        return y, *after

    # Away from relu's kink: the values here differ from 0 by more than the step of 1e-6.
    assert torch.autograd.gradcheck(run, (x, *state, *parameters.values()))


def test_the_receptive_field_is_exact() -> None:
    for kernel, blocks in ((1, 2), (2, 3), (3, 2)):
        model = cnn(kernel, blocks)
        field = model.receptive_field
        x = x_of(2 * field + 3, 1).requires_grad_()
        model(x)[0][-1].sum().backward()
        reached = x.grad[:, 0].abs().sum(1) > 0
        assert int(reached.nonzero()[0]) >= len(x) - field and bool(reached[-1])
        assert (
            model.receptive_field == tt.ModelConfig(cell="cnn", kernel=kernel, layers=blocks).receptive_field
        )
    # All weights and inputs positive: nothing is cut by a relu, and the farthest step is reached.
    with torch.no_grad():
        for p in model.parameters():
            p.abs_()
    x = x_of(2 * field + 3, 1).abs().requires_grad_()
    model(x)[0][-1].sum().backward()
    assert int((x.grad[:, 0].abs().sum(1) > 0).sum()) == field


def test_dropout_is_drawn_in_training_alone() -> None:
    model, x = cnn(dropout=0.5), x_of()
    assert not torch.equal(model(x)[0], model(x)[0])
    model.eval()
    assert torch.equal(model(x)[0], model(x)[0])


@pytest.mark.parametrize("state", [(), 3, (torch.zeros(1),), None])
def test_another_state_is_refused_on_one_line(state: object) -> None:
    model, x = cnn(), x_of()
    if state is None:
        state = model(x)[1][:-1]
    with pytest.raises(InputError, match=r"the state of a CausalCNN of 3 blocks must be 6 tensors") as error:
        model(x, state)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="carries no state"):
        tt.FeedForward(D, H).double()(x, (torch.zeros(1),))


def test_wrong_inputs_and_arguments() -> None:
    model = cnn()
    with pytest.raises(RuntimeError, match="Expected 3, got 4"):
        model(torch.zeros(T, B, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="does not match weight dtype"):
        model(torch.zeros(T, B, D))
    with pytest.raises(ValueError, match="lengths must lie between 0 and the 7 steps"):
        model(x_of(), None, torch.tensor([8, 1, 1, 1, 1]))
    for kernel in (0, -1, 1.5, "3"):
        with pytest.raises(InputError, match="kernel_size must be at least 1 step"):
            tt.CausalCNN(D, H, kernel_size=kernel)
    with pytest.raises(ValueError, match="one for each of the 2 layers"):
        tt.CausalCNN(D, (3, 4, 5), 2)
    with pytest.raises(InputError, match="Unknown nonlinearity 'tahn'"):
        tt.FeedForward(D, H, nonlinearity="tahn")


@pytest.mark.parametrize("name", ["tanh", "relu", "sigmoid", "identity"])
def test_a_feed_forward_layer_sees_one_step(name: str) -> None:
    model, x = tt.FeedForward(D, (5, H), 2, nonlinearity=name).double(), x_of()
    y, state = model(x)
    assert state is None
    phi = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda a: a}[name]
    first, second = model.linears
    torch.testing.assert_close(y, phi(second(phi(first(x)))), **EXACT)
    other = x.clone()
    other[3] += 1
    changed = (model(other)[0] != y).any(-1).any(-1)
    assert changed.tolist() == [t == 3 for t in range(T)]


def test_rows_are_reversed_from_their_last_step() -> None:
    x, lengths = x_of(), torch.tensor(LENGTHS)
    found = reverse_rows(x, lengths)
    for b, length in enumerate(LENGTHS):
        assert torch.equal(found[:length, b], x[:length, b].flip(0))
        assert torch.equal(found[length:, b], x[length:, b])
    assert torch.equal(reverse_rows(found, lengths), x)
    assert torch.equal(reverse_rows(x), x.flip(0))


@pytest.mark.parametrize("kind", [tt.RNN, tt.GRU, tt.LSTM])
def test_reversed_is_the_backward_direction_of_torchs_layer(kind: type[tt.RNN]) -> None:
    """torch.nn's own backward direction, which starts at each row's last real step."""
    both = kind(D, H, bidirectional=True).double()
    one = kind(D, H).double()
    one.load_state_dict(
        {n.removesuffix("_reverse"): p for n, p in both.state_dict().items() if n.endswith("_reverse")}
    )
    x, lengths = x_of(), torch.tensor(LENGTHS)
    for own in (None, lengths):
        y, _ = Reversed(one)(x, None, own)
        torch.testing.assert_close(y, both(x, lengths=own)[0][..., H:], **EXACT)


def test_both_ways_is_two_stacks_side_by_side() -> None:
    forward, backward = cnn(), cnn(2)
    model = BothWays(forward, backward)
    x, lengths = x_of(), torch.tensor(LENGTHS)
    y, state = model(x, None, lengths)
    assert y.shape == (T, B, 2 * H) and len(state) == 2
    torch.testing.assert_close(y[..., :H], forward(x, None, lengths)[0], **EXACT)
    for b, length in enumerate(LENGTHS):
        if length:
            alone = backward(x[:length, b : b + 1].flip(0))[0].flip(0)
            torch.testing.assert_close(y[:length, b, H:], alone[:, 0], **EXACT)
    assert not torch.allclose(model(x, state)[0], model(x)[0])  # it continues from a state
