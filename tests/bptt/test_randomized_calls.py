"""Randomized truncation in one call from cut to cut: the numbers are those of a call for each block, whatever the module."""

from __future__ import annotations

import inspect
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

import throughtime as tt
from throughtime import bptt
from throughtime.bptt import randomized
from throughtime.bptt.carry import ACTIVE
from throughtime.data.batch import Batch, tensors
from throughtime.errors import InputError
from throughtime.kernels.reference import Zoneout, unroll
from throughtime.models.many_to_many import ManyToMany
from throughtime.models.many_to_one import ManyToOne

T, B, D, H = 23, 3, 5, 7
STRATEGIES = [
    bptt.Randomized(6),
    bptt.Randomized(6, "polynomial"),
    bptt.Randomized(9, every=3),
    bptt.Randomized(200),
    bptt.Randomized(6, call_steps=1),
    bptt.Randomized(4, "polynomial", call_steps=13),
]


def by_blocks(strategy, run, loss, x, target, state, generator, lengths=None):
    """Sum of the loss; its gradient goes into `.grad`. The definition: a call for each block, and a factor at each border."""
    total, delta = 0, 0
    for start in range(0, len(x), strategy.every):
        stop = min(start + strategy.every, len(x))
        if start:
            delta += 1
            c = strategy.cut_probability(delta)
            cut = torch.rand((), dtype=torch.float64, generator=generator).item() < c
            factor = 0 if cut else 1 / (1 - c)
            delta = 0 if cut else delta

            def border(s, factor=factor):
                return factor * s + (1 - factor) * s.detach() if s.is_floating_point() else s

            state = tree_map_only(torch.Tensor, border, state)
        extra = {} if lengths is None else {"lengths": (lengths - start).clamp(0, stop - start)}
        y, state = run(x[start:stop], state, **extra)
        total = total + loss(y, target[start:stop])
    total.backward()
    return total.detach()


class Counted:
    """A run that remembers how many steps each of its calls had."""

    def __init__(self, run):
        self.run, self.steps = run, []

    def __call__(self, x, state, **extra):
        self.steps.append(len(x))
        return self.run(x, state, **extra)


def loss(y, target):
    return torch.where(target.isnan(), 0, y[..., : target.shape[-1]] - target).square().sum()


def gradients(module, leaves):
    found = [p.grad for p in [*module.parameters(), *leaves]]
    for value in (*module.parameters(), *leaves):
        value.grad = None
    return [torch.zeros(()) if g is None else g for g in found]


def check(
    module,
    run,
    state,
    *,
    few,
    strategy=STRATEGIES[0],
    lengths=None,
    seeds=range(4),
    dtype=torch.float64,
    steps=T,
):
    """Compare with `by_blocks`; `few` tells whether there may be more than one block in a call."""
    r = torch.Generator().manual_seed(3)
    x = torch.randn(steps, B, D, generator=r, dtype=dtype)
    target = torch.randn(steps, B, H, generator=r, dtype=dtype)
    blocks = -(-steps // strategy.every)
    fewer = False
    tolerance = {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-4}
    for seed in seeds:
        leaves = [x.requires_grad_(), *(s.requires_grad_() for s in tensors(state))]
        plain, generator = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
        cleared, masked = x, target
        if lengths is not None:
            padding = torch.arange(steps)[:, None, None] >= lengths[:, None]
            cleared, masked = x.masked_fill(padding, 0), target.masked_fill(padding, float("nan"))
        torch.manual_seed(seed)
        value = by_blocks(strategy, run, loss, cleared, masked, state, plain, lengths)
        expected = gradients(module, leaves)
        counted = Counted(run)
        torch.manual_seed(seed)
        result = strategy.backward(
            counted, loss, x, target, state, lengths=lengths, reduction="sum", generator=generator
        )
        assert ACTIVE.get() is None
        torch.testing.assert_close(result.loss.to(dtype), value, **tolerance)
        torch.testing.assert_close(gradients(module, leaves), expected, **tolerance)
        assert torch.equal(plain.get_state(), generator.get_state())  # as many draws
        fewer |= len(counted.steps) < blocks
        if few:
            assert counted.steps[0] == min(strategy.every, steps)
            assert sum(counted.steps) == steps
            assert len(counted.steps) <= result.windows + 1
            # A call goes on over cuts while mean_length more steps would not be too many, to the next cut or the end.
            assert strategy.call_steps > 1 or len(counted.steps) >= result.windows
        else:
            assert counted.steps[-1] == (steps - 1) % strategy.every + 1
    assert fewer == few


LAYERS = {
    "rnn": partial(tt.RNN, D, H),
    "gru": partial(tt.GRU, D, H),
    "gru, reset before": partial(tt.GRU, D, H, reset_after=False),
    "lstm": partial(tt.LSTM, D, H),
    "lstm, 2 layers": partial(tt.LSTM, D, H, 2),
    "lstm, projection and peepholes": partial(tt.LSTM, D, 11, 2, proj_size=H, peepholes=True),
    "gru, layer norm": partial(tt.GRU, D, H, layer_norm=True),
    "lstm, sizes": partial(tt.LSTM, D, [4, H]),
    "lstm, reference": partial(tt.LSTM, D, H, backend="reference"),
    "mingru": lambda **o: tt.Recurrent(partial(tt.MinGRUCell, hidden_size=H), D, num_layers=2).to(**o),
}


def made(name, dtype=torch.float64, **options):
    """A layer, and a state that is not zero."""
    torch.manual_seed(1)
    layer = LAYERS[name](dtype=dtype, **options)
    _, state = layer(torch.randn(2, B, D, dtype=dtype))
    return layer, tree_map_only(torch.Tensor, lambda s: torch.randn_like(s), state)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_gets_one_call_from_cut_to_cut(name, strategy):
    layer, state = made(name)
    check(layer, layer, state, few=True, strategy=strategy)
    check(layer, layer, None, few=True, strategy=strategy, seeds=[0])


def test_a_call_goes_on_over_cuts_up_to_call_steps():
    layer, state = made("lstm")
    x, target = torch.randn(200, B, D).double(), torch.randn(200, B, H).double()
    found = {}
    for call_steps in (1, 50, 512):
        counted = Counted(layer)
        result = bptt.Randomized(6, call_steps=call_steps).backward(
            counted, loss, x, target, state, reduction="sum", generator=torch.Generator().manual_seed(5)
        )
        found[call_steps] = counted.steps, result.windows, gradients(layer, [])
    steps, windows, _ = found[512]
    assert (steps, windows) == ([1, 199], 1)
    steps, windows, _ = found[1]
    assert len(steps) in (windows, windows + 1) and windows > 20
    steps, _, _ = found[50]
    assert 40 < max(steps) < 70 and len(steps) < 8  # ends at the first cut from which 6 more would pass 50
    torch.testing.assert_close(found[1][2], found[512][2])
    torch.testing.assert_close(found[50][2], found[512][2])


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "lstm, reference"])
def test_no_infinite_gradient_passes_a_cut(name, monkeypatch):
    """0 times infinity would be NaN; a cut lets nothing pass, also inside a call."""
    layer, _ = made(name)
    state = tuple(torch.randn(1, B, H).double() for _ in range(1 + name.startswith("lstm")))
    state = tuple(each.requires_grad_() for each in state)
    monkeypatch.setattr(randomized, "_uniform", lambda count, generator: [0.9, 0.0, *[0.9] * (count - 2)])
    x = torch.randn(4, B, D).double().requires_grad_()

    def infinite(y, target):  # of the state after step 2, the first behind the cut
        return y[-2:].sum() * torch.inf if len(y) > 1 else y.sum()

    counted = Counted(layer)
    bptt.Randomized(6).backward(
        counted, infinite, x, x.detach(), state if len(state) > 1 else state[0], reduction="sum"
    )
    assert counted.steps == [1, 3]
    assert not x.grad[2:].isfinite().all()
    assert x.grad[:2].isfinite().all() and all(each.grad.isfinite().all() for each in state)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm, 2 layers", "mingru"])
def test_ragged_rows(name, strategy):
    layer, state = made(name)
    check(layer, layer, state, few=True, strategy=strategy, lengths=torch.tensor([T, 0, 10]))


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm, 2 layers"])
@pytest.mark.parametrize("lengths", [None, torch.tensor([9, T, 16])])
def test_float32(name, lengths):
    layer, state = made(name, torch.float32)
    check(layer, layer, state, few=True, dtype=torch.float32, lengths=lengths)


@pytest.mark.parametrize("every", [1, 2])
def test_as_many_steps_as_sequences(every):
    layer, state = made("lstm")
    check(
        layer,
        layer,
        state,
        few=every == 1,
        strategy=bptt.Randomized(2.5, every=every),
        steps=B,
        seeds=range(12),
    )


@pytest.mark.parametrize("zoneout", [0.3, (0.1, 0.4)])
def test_zoneout_s_expectation_carries_the_state_too(zoneout):
    layer, state = made("lstm", zoneout=zoneout)
    check(layer.eval(), layer, state, few=True)


def test_several_layers_inside_a_model():
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = tt.GRU(D, H), tt.LSTM(H, 4), nn.Linear(4, H)

        def forward(self, x, state, lengths=None):
            y, a = self.a(x, None if state is None else state["a"], lengths=lengths)
            y, b = self.b(y, None if state is None else state["b"], lengths=lengths)
            return self.head(y), {"a": a, "b": b}

    model = Two().double()
    check(model, model, None, few=True)
    check(model, model, None, few=True, lengths=torch.tensor([T, 7, 12]))


def test_a_model_of_the_library_trains_the_same_through_a_function():
    """As the trainer calls it: a function of a Batch hides the model."""
    torch.manual_seed(0)
    model = ManyToMany(nn.Embedding(9, D), tt.LSTM(D, H, 2), H, 9).double()
    ids = torch.randint(9, (T + 1, B))
    lengths = torch.tensor([20, T, 4])
    batch = Batch.of(ids[:-1], ids[1:], lengths)

    def cross_entropy(logits, window):
        return nn.functional.cross_entropy(logits.flatten(0, 1), window.targets.flatten(), reduction="sum")

    def run(window, state):
        calls.append(window.steps)
        return window.run(model, state)

    def hidden(window, state):
        y, state = run(window, state)
        return y, tree_map_only(torch.Tensor, lambda s: s.view_as(s), state)

    found = {}
    for which in (run, hidden):
        calls = []
        result = bptt.Randomized(5).backward(
            which, cross_entropy, batch, generator=torch.Generator().manual_seed(1)
        )
        found[which] = [result.loss, *gradients(model, [])]
        assert len(calls) <= result.windows + 1 if which is run else len(calls) == T
    torch.testing.assert_close(found[run], found[hidden])


@pytest.mark.parametrize("per_row", ["output", "state"])
def test_one_target_for_each_sequence(per_row):
    """The state of a row that has ended passes the borders after its end unchanged, and so does its gradient."""
    torch.manual_seed(0)
    model = ManyToOne(nn.Identity(), tt.GRU(D, H), H, 4).double()
    batch = Batch.of(
        torch.randn(T, B, D).double(), torch.tensor([0, 3, 1]), torch.tensor([5, T, 14]), per_sequence=True
    )

    def run(window, state):
        if per_row == "output":
            return window.run(model, state)
        _, state = model.layers(window.inputs, state, lengths=window.lengths)
        return model.head(state[0]), state

    def hidden(window, state):
        y, state = run(window, state)
        return y, state.view_as(state)

    def label_loss(logits, window):
        return nn.functional.cross_entropy(logits, window.targets, reduction="sum")

    found = []
    for which in (run, hidden):
        bptt.Randomized(5).backward(which, label_loss, batch, generator=torch.Generator().manual_seed(2))
        found.append(gradients(model, []))
    torch.testing.assert_close(*found)


def test_its_expectation_over_all_patterns_is_the_full_gradient(monkeypatch):
    layer, state = made("lstm")
    torch.manual_seed(2)
    x, target = torch.randn(6, B, D).double(), torch.randn(6, B, H).double()
    strategy, mean = bptt.Randomized(2.5, "polynomial"), 0
    for pattern in range(2**5):
        cuts = [bool(pattern >> border & 1) for border in range(5)]
        probability, delta, drawn = 1.0, 0, iter(cuts)
        for cut in cuts:
            delta += 1
            c = strategy.cut_probability(delta)
            probability *= c if cut else 1 - c
            delta = 0 if cut else delta

        def uniform(count, generator, drawn=drawn):
            return [0.0 if next(drawn) else 1 - 1e-9 for _ in range(count)]

        monkeypatch.setattr(randomized, "_uniform", uniform)
        strategy.backward(layer, loss, x, target, state, reduction="sum")
        assert next(drawn, None) is None
        mean = mean + probability * torch.cat([g.flatten() for g in gradients(layer, [])])
    bptt.Full().backward(layer, loss, x, target, state, reduction="sum")
    full = torch.cat([g.flatten() for g in gradients(layer, [])])
    torch.testing.assert_close(mean, full, rtol=1e-9, atol=1e-10)


def test_windows_of_an_iterator():
    """Borders between its items are borders too, and none is read ahead."""
    layer, state = made("lstm")
    torch.manual_seed(0)
    windows = [(torch.randn(n, B, D).double(), torch.randn(n, B, H).double()) for n in (5, 1, 9, 8)]
    x, target = (torch.cat(each) for each in zip(*windows, strict=True))
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        value = by_blocks(STRATEGIES[0], layer, loss, x, target, state, torch.Generator().manual_seed(seed))
        expected = gradients(layer, [])
        counted = Counted(layer)
        result = STRATEGIES[0].backward(
            counted, loss, iter(windows), state=state, reduction="sum", generator=generator
        )
        torch.testing.assert_close(result.loss, value)
        torch.testing.assert_close(gradients(layer, []), expected)
        assert len(counted.steps) <= result.windows + len(windows)


class Layers(nn.Module):
    """What the functions below are made of."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = tt.GRU(D, H), tt.GRU(H, H), tt.GRU(D + H, H)
        self.torch, self.head = nn.GRU(H, H), nn.Linear(2 * H, H)
        self.double()


def a_layer_of_torch(m, x, a, b):
    y, a = m.a(x, a)
    y, b = m.torch(y, b)
    return y, (a, b)


def transforms_what_it_returns(m, x, a):
    y, a = m.a(x, a)
    return y, (0.9 * a,)


def transforms_what_it_gets(m, x, a):
    y, a = m.a(x, 0.9 * a)
    return y, (a,)


def changes_what_it_returns_in_place(m, x, a):
    y, a = m.a(x, a)
    return y, (a.mul_(0.9),)


def detaches(m, x, a):
    y, a = m.a(x, a.detach())
    return y, (a,)


def exchanges_two_states(m, x, a, b):
    y, a = m.a(x, a)
    y, b = m.b(y, b)
    return y, (b, a)


def chains_two_layers(m, x, a):
    y, a = m.a(x, a)
    y, b = m.b(y, a)
    return y, (b,)


def reads_a_layer_twice(m, x, a, b):
    y, a = m.a(x, a)
    z, b = m.a(x, b)
    return y + z, (a, b)


def starts_a_layer_anew(m, x, a):
    y, a = m.a(x, a)
    y, _ = m.b(y)
    return y, (a,)


def skips_steps(m, x, a):
    y, a = m.a(x[:1], a)
    return y.expand(len(x), B, H), (a,)


def has_a_loop(m, x, a):
    ys = []
    for x_t in x:
        y, a = m.a(x_t[None], a)
        ys.append(y)
    return torch.cat(ys), (a,)


def feeds_its_output_back(m, x, a):
    ys = []
    for x_t in x:
        y, a = m.c(torch.cat([x_t[None], a], -1), a)
        ys.append(y)
    return torch.cat(ys), (a,)


def shows_the_step_before_to_the_loss(m, x, a):
    y, final = m.a(x, a)
    return m.head(torch.cat([y, torch.cat([a, y[:-1]])], -1)), (final,)


def shows_the_step_before_to_a_layer(m, x, a, b):
    y, final = m.a(x, a)
    z, b = m.b(torch.cat([a, y[:-1]]), b)
    return z, (final, b)


def carries_more_than_layers(m, x, a, b):
    y, a = m.a(x, a)
    return y + b, (a, b + 0.1 * y.sum(0))


def recomputes(m, x, a):
    y, a = torch.utils.checkpoint.checkpoint(m.a, x, a, use_reentrant=True)
    return y, (a,)


def differs_by_steps(m, x, a):
    layer = m.a if len(x) == 1 else m.torch
    y, a = layer(x if len(x) == 1 else m.a(x)[0], a)
    return y, (a,)


OTHERS = [
    a_layer_of_torch, transforms_what_it_returns, transforms_what_it_gets, changes_what_it_returns_in_place, detaches,
    exchanges_two_states, chains_two_layers, reads_a_layer_twice, starts_a_layer_anew, skips_steps, has_a_loop,
    feeds_its_output_back, shows_the_step_before_to_the_loss, shows_the_step_before_to_a_layer, carries_more_than_layers,
    recomputes, differs_by_steps,
]  # fmt: skip


@pytest.mark.parametrize("run", OTHERS, ids=lambda run: run.__name__)
@pytest.mark.parametrize("started", [True, False])
def test_whatever_else_a_module_does_with_its_state_is_run_by_blocks(run, started):
    torch.manual_seed(1)
    module = Layers()
    carried = len(inspect.signature(run).parameters) - 2
    state = tuple(torch.randn(1, B, H).double() for _ in range(carried))
    zero = tuple(torch.zeros(1, B, H).double() for _ in range(carried))

    def function(x, s):
        return run(module, x, *(zero if s is None else s))

    check(module, function, state if started else None, few=False)


def test_a_state_that_layers_do_not_carry_is_unknown_from_the_first_block():
    """Such a module gets no call that it did not get before: none of several blocks, none twice."""
    module = nn.GRU(D, H).double()
    counted = Counted(module)
    x, target = torch.randn(T, B, D).double(), torch.randn(T, B, H).double()
    bptt.Randomized(9, every=2).backward(counted, loss, x, target, generator=torch.Generator().manual_seed(1))
    assert counted.steps == [2] * 11 + [1]


def test_a_call_that_is_run_again_draws_the_same_dropout():
    torch.manual_seed(1)
    module = Layers()

    def run(x, s):
        y, a = module.a(x, s[0] * 1.0)  # seen in the second call, which has several steps
        return nn.functional.dropout(y, 0.5), (a,)

    def start(x, s):
        return run(x, (torch.zeros(1, B, H).double(),) if s is None else s)

    check(module, start, None, few=False)


@pytest.mark.parametrize("backend", ["aten", "reference"])
def test_a_backend_that_is_asked_for_by_name_is_kept(backend):
    layer, state = made("lstm", backend=backend) if backend == "aten" else made("lstm, reference")
    check(layer, layer, state, few=backend == "reference", seeds=[0])
    layer, state = made("lstm")
    with tt.use_backend(backend):
        check(layer, layer, state, few=backend == "reference", seeds=[0])


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_a_compiled_layer_is_run_by_blocks():
    layer, state = made("gru")
    compiled = torch.compile(layer, backend="eager")
    check(layer, compiled, state, few=False, seeds=[0])


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("zoneout", [None, 0.25])
def test_the_loop_multiplies_the_gradient_of_the_state_that_enters_a_step(ragged, zoneout):
    """Against one step at a time, each with its own leaf of the state."""
    torch.manual_seed(0)
    cell = tt.LSTMCell(D, H).double()
    x, weight = torch.randn(6, B, D).double(), torch.randn(6, B, H).double()
    lengths = torch.tensor([6, 0, 4]) if ragged else None
    scale = torch.tensor([3.0, 1.0, 0.5, 0.0, 2.0, 1.25], dtype=torch.float64)
    keep = None if zoneout is None else Zoneout((zoneout, zoneout), None)
    start = tuple(torch.randn(B, H).double().requires_grad_() for _ in range(2))
    y, final = unroll(cell, x, start, lengths=lengths, zoneout=keep, carry_scale=scale)
    (y * weight).sum().backward()
    found = [*gradients(cell, start), y.detach(), *(s.detach() for s in final)]
    state, total, ys = start, 0, []
    for t in range(6):
        active = torch.ones(B, 1).bool() if lengths is None else (lengths > t)[:, None]
        entering = tuple(scale[t] * s + (1 - scale[t]) * s.detach() for s in state)
        new = cell.step(entering, cell.project(x[t]))
        if zoneout is not None:
            new = [zoneout * a + (1 - zoneout) * b for a, b in zip(entering, new, strict=True)]
        state = tuple(torch.where(active, b, a) for a, b in zip(state, new, strict=True))
        ys.append(torch.where(active, state[0], 0))
        total = total + (ys[-1] * weight[t]).sum()
    total.backward()
    torch.testing.assert_close(
        found, [*gradients(cell, start), torch.stack(ys).detach(), *(s.detach() for s in state)]
    )


def test_the_loop_refuses_a_scale_without_a_meaning():
    cell, x, state = tt.RNNCell(D, H), torch.randn(4, B, D), (torch.zeros(B, H),)
    with pytest.raises(InputError, match=r"the steps in their order, got \[4\] in reverse"):
        unroll(cell, x, state, reverse=True, carry_scale=torch.ones(4))
    with pytest.raises(InputError, match=r"one number for each step .*, got \[3\] for 4 steps"):
        unroll(cell, x, state, carry_scale=torch.ones(3))
