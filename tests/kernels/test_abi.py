"""The native library called through the layers: any call is answered or refused, keeps no memory, and is repeatable."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import throughtime as tt
from throughtime.kernels.native import library

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")

LAYERS = {"rnn": tt.RNN, "gru": tt.GRU, "lstm": tt.LSTM}
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, MemoryError)
# The same sums in another order, of numbers below 10: a few units in the last place.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def strided(dice, values):
    """The same values behind other strides, or from an address that only an element's alignment has."""
    form = dice.randrange(5)
    if form == 0:
        return values
    if form == 1:
        return values.transpose(0, 1).contiguous().transpose(0, 1)
    if form == 2:
        return values.movedim(-1, 0).contiguous().movedim(0, -1)
    if form == 3:
        return torch.cat([values.new_zeros(1), values.flatten()])[1:].view(values.shape)
    wide = values.new_full((*values.shape[:-1], values.shape[-1] * 3), float("nan"))
    wide[..., ::3] = values
    return wide[..., ::3]


def random_call(dice):
    """(layer, x, hx, lengths), most of it right, some of it wrong in one way or another."""
    kind = dice.choice(list(LAYERS))
    right, wrong = (
        [torch.float32, torch.float64],
        [torch.float16, torch.bfloat16, torch.int64, torch.complex64],
    )
    dtype = dice.choice(right)
    features, hidden, depth = dice.randint(1, 9), dice.choice([1, 3, 8, 16, 17, 33]), dice.randint(1, 2)
    keywords = {"bidirectional": dice.random() < 0.3, "bias": dice.random() < 0.7, "dtype": dtype}
    if dice.random() < 0.2:
        keywords |= dice.choice(
            [{"layer_norm": True}, {"peepholes": True}, {"proj_size": 2}, {"reset_after": False}]
        )
    allowed = {"rnn": (), "gru": ("reset_after",), "lstm": ("peepholes", "proj_size")}[kind]
    for name in ("peepholes", "proj_size", "reset_after"):
        if name not in allowed:
            keywords.pop(name, None)
    if keywords.get("proj_size", 0) >= hidden:
        del keywords["proj_size"]
    layer = LAYERS[kind](features, hidden, depth, **keywords)
    steps, batch = dice.choice([0, 1, 2, 5]), dice.choice([0, 1, 2, 7])
    if dice.random() < 0.1:
        features += dice.choice([-1, 1])
    x = strided(dice, torch.randn(steps, batch, features, dtype=dtype))
    if dice.random() < 0.1:
        x = x.real.to(dice.choice([*wrong, *right]))
    hx = None
    if dice.random() < 0.5:
        rows = depth * (1 + layer.bidirectional) + (dice.random() < 0.1)
        output = layer.proj_size or hidden
        states = [strided(dice, torch.randn(rows, batch, size, dtype=dtype)) for size in (output, hidden)]
        hx = tuple(states) if kind == "lstm" else states[0]
    lengths = None
    if dice.random() < 0.6:
        low, high = (
            (0, steps)
            if dice.random() < 0.8
            else dice.choice([(-2, steps), (0, steps + 3), (-(2**62), 2**62)])
        )
        count = batch if dice.random() < 0.9 else batch + 1
        lengths = torch.randint(low, high + 1, (count,))
        if dice.random() < 0.1:
            lengths = lengths.to(dice.choice([torch.float32, torch.int32, torch.uint8, torch.bool]))
    return layer, x, hx, lengths


def answer(layer, x, hx, lengths, backend):
    """Output, final states and all gradients; or None if the call was refused."""
    try:
        if x.dtype.is_floating_point:
            x = x.detach().requires_grad_()
        with tt.use_backend(backend):
            y, final = layer(x, hx, lengths=lengths)
    except tt.BackendError:
        raise
    except REFUSALS:
        return None
    values = [y, *(final if isinstance(final, tuple) else [final])]
    wanted = [x, *layer.parameters()]
    gradients = torch.autograd.grad(sum(v.sum() for v in values), wanted, allow_unused=True)
    return [
        *values,
        *(torch.zeros_like(w) if g is None else g for g, w in zip(gradients, wanted, strict=True)),
    ]


@pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN"
)  # torch's, of torch's code
@pytest.mark.parametrize("seed", range(8))
def test_any_call_is_answered_as_the_reference_answers_or_refused_as_it_refuses(seed):
    dice = random.Random(seed)
    answered = refused = native = direct = 0
    for number in range(60):
        torch.manual_seed(1000 * seed + number)
        call = random_call(dice)
        wanted = answer(*call, "reference")
        got = answer(*call, None)
        again = answer(*call, None)  # now by the direct path, where there is one
        what = f"{call[0]} {call[1].dtype} {list(call[1].shape)} lengths {call[3]}"
        assert (got is None) == (wanted is None), f"{what}: one refuses and the other does not"
        if wanted is None:
            refused += 1
            continue
        answered += 1
        assert again is not None
        assert all(torch.equal(a, b) or b.isnan().any() for a, b in zip(again, got, strict=True)), what
        direct += call[0]._direct is not None
        native += {name: runs for name, runs, _ in tt.backends(call[0].call(*call[1::2])).rows}["native"]
        for ours, theirs in zip(got, wanted, strict=True):
            torch.testing.assert_close(
                ours,
                theirs,
                rtol=TOLERANCE[theirs.dtype],
                atol=10 * TOLERANCE[theirs.dtype],
                msg=lambda m, w=what: f"{w}: {m}",
            )
    assert min(refused, native, direct) > 5, "the dice must show every side"
    assert answered > 20


@pytest.mark.parametrize("shape", [(2**45, 1, 1), (1, 2**45, 1), (2**31, 2**31, 1)], ids=str)
@pytest.mark.parametrize("layer", LAYERS.values())
def test_what_no_memory_could_hold_is_an_error(layer, shape):
    with pytest.raises(REFUSALS):
        layer(1, 16)(torch.zeros(1, 1, 1).expand(shape))


def test_no_memory_grows_over_ten_thousand_calls():
    """What would be lost in a call, 1 kB and more, would be 8 MB here."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("this system does not say how much memory a process has")
    layers = [tt.RNN(3, 5), tt.GRU(3, 17), tt.LSTM(3, 16)]
    x, lengths = torch.randn(3, 4, 3), torch.tensor([3, 0, 1, 2])

    def calls(count):
        for number in range(count):
            layer = layers[number % 3]
            y, _ = layer(x, lengths=lengths if number % 2 else None)
            if number % 4 < 2:
                y.sum().backward()
        return int(statm.read_text().split()[1]) * 4096

    before = calls(2000)
    assert calls(10000) - before < 8e6


@pytest.mark.parametrize("kind", LAYERS)
def test_threads_may_change_between_calls(kind, threads):
    """The same bits for the same number of threads, the same numbers for any."""
    layer = LAYERS[kind](5, 64)
    small, large = torch.randn(6, 2, 5), torch.randn(6, 40, 5)
    found = {}
    for count in (1, 2, 1, 3, 2, 4, 1, 3):
        threads(count)
        for name, x in (("small", small), ("large", large)):
            y, _ = layer(x)
            gradients = torch.autograd.grad(y.square().sum(), layer.parameters())
            values = [y.detach(), *gradients]
            first = found.setdefault((name, count), values)
            assert all(torch.equal(a, b) for a, b in zip(values, first, strict=True))
            for a, b in zip(values, found[name, 1], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", LAYERS)
def test_callers_on_several_threads_do_not_meet(kind):
    """Workspaces that two calls shared would mix their numbers."""
    layer = LAYERS[kind](5, 33)
    inputs = [torch.randn(20, batch, 5) for batch in (1, 2, 3, 4) * 6]

    def call(x):
        x = x.clone().requires_grad_()
        y, _ = layer(x)
        return y.detach(), torch.autograd.grad(y.square().sum(), x)[0]

    alone = [call(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(call, inputs))
    assert all(
        torch.equal(a, b)
        for one, two in zip(alone, together, strict=True)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_row_does_not_depend_on_its_company(kind, ragged):
    """To rounding: how many rows a call has decides in which order products are summed."""
    layer = LAYERS[kind](5, 33, 2)
    x, lengths = torch.randn(9, 13, 5), torch.randint(1, 10, (13,)) if ragged else torch.full((13,), 9)
    y, _ = layer(x, lengths=lengths)
    for row in range(13):
        own = int(lengths[row])
        alone, _ = layer(x[:own, row : row + 1])
        torch.testing.assert_close(y[:own, row : row + 1], alone, rtol=0, atol=1e-6)
        assert not y[own:, row].any()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_a_bad_row_harms_no_other(kind, ragged, bad):
    """Not in the outputs, and not in what flows back to the inputs."""
    layer = LAYERS[kind](5, 33)
    x, lengths = torch.randn(6, 7, 5), torch.tensor([6, 2, 5, 6, 1, 3, 4]) if ragged else None
    spoiled = x.clone()
    spoiled[:, 3] = bad
    others = [0, 1, 2, 4, 5, 6]
    results = []
    for values in (x, spoiled):
        values.requires_grad_()
        y, _ = layer(values, lengths=lengths)
        (gradient,) = torch.autograd.grad(y.sum(), values)
        results.append((y.detach()[:, others], gradient[:, others]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
