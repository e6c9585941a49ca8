"""bfloat16 modules and autocast on the native backend: against the float64 reference, and in each arithmetic that runs here."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from throughtime.kernels import dispatch
from throughtime.kernels.native import library
from throughtime.kernels.native.recurrence import call, precision

pytestmark = pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}")

T, B, D = 7, 5, 9
LENGTHS = torch.tensor([4, 7, 0, 5, 1])
LAYERS = {
    "rnn": ("RNN", {}),
    "rnn sigmoid": ("RNN", {"nonlinearity": "sigmoid", "bias": False}),
    "gru": ("GRU", {}),
    "gru reset before": ("GRU", {"reset_after": False}),
    "gru normed": ("GRU", {"layer_norm": True}),
    "lstm": ("LSTM", {}),
    "lstm with all": ("LSTM", {"proj_size": 9, "peepholes": True, "layer_norm": True, "zoneout": 0.2}),
}
# Of a tensor's norm. A factor is off by 2^-9 of itself, and a result once more; layer norm's gradient magnifies errors where
# the units of a map are nearly equal.
TOLERANCE, NORMED = 0.02, 0.08


@pytest.fixture
def arithmetic(monkeypatch, request):
    """The arithmetic of that name, for one test."""
    monkeypatch.setenv("THROUGHTIME_BF16", request.param)
    precision.arithmetic.cache_clear()
    if request.param in INSTRUCTIONS and isinstance(reason := precision.arithmetic(), str):
        precision.arithmetic.cache_clear()
        pytest.skip(reason)
    yield request.param
    monkeypatch.undo()
    precision.arithmetic.cache_clear()


INSTRUCTIONS = {
    "avx512": "emulated",
    "amx": "tiles",
}  # where the processor has them, and their emulation in plain code
EMULATIONS = tuple(INSTRUCTIONS.values())
every_arithmetic = pytest.mark.parametrize("arithmetic", ["off", *EMULATIONS, *INSTRUCTIONS], indirect=True)
rounding = pytest.mark.parametrize("arithmetic", [*EMULATIONS, *INSTRUCTIONS], indirect=True)


def to_bf16(value):
    """The nearest bfloat16 numbers, in the dtype that they came in."""
    return value.to(torch.bfloat16).to(value.dtype)


def layer_of(name, hidden=13, layers=1, features=D, **options):
    """A float64 layer with large weights that bfloat16 can hold."""
    kind, more = LAYERS[name]
    layer = getattr(tt, kind)(features, hidden, layers, **more, **options).double().eval()
    with torch.no_grad():
        for key, value in layer.named_parameters():
            near = 1 + 0.3 * torch.randn_like(value) if "gain" in key else torch.randn_like(value)
            value.copy_(to_bf16(near * 1.5 / max(value.shape[-1], 4) ** (0.5 if value.dim() > 1 else 0)))
    return layer


def inputs_of(layer, steps=T, batch=B, hidden=13, lengths=None):
    """An input with NaN in its padding, and an initial state, of bfloat16's numbers in float64."""
    x = to_bf16(torch.randn(steps, batch, layer.input_size, dtype=torch.float64))
    if lengths is not None:
        x[torch.arange(steps)[:, None] >= lengths] = float("nan")
    sizes = [layer.proj_size or hidden, hidden][: len(layer.state_type._fields)]
    count = layer.num_layers * (1 + layer.bidirectional)
    return x, [to_bf16(torch.randn(count, batch, size, dtype=torch.float64)) for size in sizes]


def numbers(layer, x, states, lengths, dtype, backend, autocast=False):
    """Outputs, final states, and the gradients of x, of the initial states and of all parameters."""
    leaves = [value.to(dtype, copy=True).requires_grad_() for value in (x, *states)]
    copy = type(layer)(layer.input_size, layer.hidden_size, **options_of(layer)).to(dtype).eval()
    copy.load_state_dict(layer.state_dict())
    copy.backend = backend
    hx = tuple(leaves[1:]) if len(states) > 1 else leaves[1]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, final = copy(leaves[0], hx, lengths=lengths)
    final = final if isinstance(final, tuple) else (final,)
    found = [y, *final]
    dice = torch.Generator().manual_seed(5)
    draws = [to_bf16(torch.randn(v.shape, generator=dice, dtype=torch.float64)).to(v.dtype) for v in found]
    gradients = torch.autograd.grad(found, [*leaves, *copy.parameters()], draws)
    return [*(v.detach() for v in found), *gradients]


def options_of(layer):
    names = ("num_layers", "bias", "bidirectional", "layer_norm", "zoneout")
    options = {name: getattr(layer, name) for name in names}
    options["zoneout"] = options["zoneout"] if len(options["zoneout"]) > 1 else options["zoneout"][0]
    if layer.proj_size:
        options["proj_size"] = layer.proj_size
    return options | layer.options


def assert_close(ours, theirs, tolerance=TOLERANCE):
    for got, wanted in zip(ours, theirs, strict=True):
        off, size = (got.double() - wanted.double()).detach().norm(), wanted.detach().double().norm()
        assert float(off) <= tolerance * max(float(size), 0.1 * wanted.numel() ** 0.5), f"{off} of {size}"


@every_arithmetic
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_bfloat16_module_equals_the_reference(name, lengths, arithmetic):
    torch.manual_seed(0)
    layer = layer_of(name, layers=2, bidirectional=True)
    x, states = inputs_of(layer, lengths=lengths)
    wanted = numbers(layer, x, states, lengths, torch.float64, "reference")
    found = numbers(layer, x, states, lengths, torch.bfloat16, "native")
    assert {value.dtype for value in found} == {torch.bfloat16}
    assert_close(found, wanted, NORMED if layer.layer_norm else TOLERANCE)


@every_arithmetic
@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(("batch", "hidden"), [(1, 1), (40, 33), (19, 96)])
def test_sizes_around_a_tile(kind, batch, hidden, arithmetic):
    """Of 16 rows and of a panel's columns: below, above, and more than two of them."""
    torch.manual_seed(0)
    layer = layer_of(kind, hidden)
    x, states = inputs_of(layer, batch=batch, hidden=hidden)
    wanted = numbers(layer, x, states, None, torch.float64, "reference")
    assert_close(numbers(layer, x, states, None, torch.bfloat16, "native"), wanted)


@pytest.mark.parametrize("arithmetic", ["off"], indirect=True)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", LAYERS)
def test_without_instructions_it_is_float32_on_rounded_numbers(name, lengths, arithmetic):
    """The same bits, rounded once at the end."""
    torch.manual_seed(0)
    layer = layer_of(name)
    x, states = inputs_of(layer, lengths=lengths)
    wanted = numbers(layer, x, states, lengths, torch.float32, "native")
    found = numbers(layer, x, states, lengths, torch.bfloat16, "native")
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(found, wanted, strict=True))


@rounding
@pytest.mark.parametrize("batch", [3, 21])
@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_a_step_rounds_the_state_that_it_multiplies_and_no_other(name, batch, arithmetic, monkeypatch):
    """One step from a float32 state; with one feature, because such a product has no sums and is computed in float32."""
    torch.manual_seed(0)
    layer = layer_of(name, 45, features=1).float()
    x = to_bf16(torch.randn(1, batch, 1))
    states = [torch.randn(1, batch, 45) for _ in layer.state_type._fields]

    def outputs(h):
        hx = (h, *states[1:]) if len(states) > 1 else h
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            return layer(x, hx)[1]

    layer.backend = "native"
    found = outputs(states[0])
    monkeypatch.setattr(precision, "number_for", lambda low: 0)
    exact, of_rounded = outputs(states[0]), outputs(to_bf16(states[0]))
    if name == "gru":  # whose old state is kept, not only multiplied
        assert not torch.equal(found, of_rounded)
        return assert_close([found], [exact], 0.01)
    pick = (lambda v: v[1]) if name == "lstm" else (lambda v: v)
    torch.testing.assert_close(pick(found), pick(of_rounded), rtol=0, atol=2e-6)
    assert float((pick(found) - pick(exact)).abs().max()) > 1e-4


@rounding
@pytest.mark.parametrize("threads", [1, 2])
def test_bfloat16_products_differ_from_float32_and_repeat_themselves(threads, arithmetic):
    torch.manual_seed(0)
    layer = layer_of("gru", 64)
    x, states = inputs_of(layer, batch=24, hidden=64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (
            numbers(layer, x, states, None, torch.float32, "native", autocast=True) for _ in range(2)
        )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    exact = numbers(layer, x, states, None, torch.float32, "native")
    assert_close(first, exact)
    assert all(float((a - b).abs().max()) > 1e-4 for a, b in zip(first, exact, strict=True))


@every_arithmetic
@pytest.mark.parametrize("name", LAYERS)
def test_autocast_keeps_states_and_gradients_in_float32(name, arithmetic):
    torch.manual_seed(0)
    layer = layer_of(name, layers=2, bidirectional=True)
    x, states = inputs_of(layer, lengths=LENGTHS)
    wanted = numbers(layer, x, states, LENGTHS, torch.float64, "reference")
    found = numbers(layer, x, states, LENGTHS, torch.float32, "native", autocast=True)
    assert [v.dtype for v in found] == [torch.bfloat16] + [torch.float32] * (len(found) - 1)
    assert_close(found, wanted, NORMED if layer.layer_norm else TOLERANCE)


@pytest.mark.parametrize("arithmetic", ["off"], indirect=True)
@pytest.mark.parametrize("name", LAYERS)
def test_autocast_rounds_inputs_and_matrices_and_nothing_else(name, arithmetic):
    torch.manual_seed(0)
    layer = layer_of(name)
    x, states = (torch.randn(T, B, D), [s.float() + 0.001 for s in inputs_of(layer)[1]])
    with torch.no_grad():
        for value in layer.parameters():
            value.mul_(1.001)
    found = numbers(layer, x, states, None, torch.float32, "native", autocast=True)
    with torch.no_grad():
        for key, value in layer.named_parameters():
            if "weight" in key and "peephole" not in key:
                value.copy_(to_bf16(value.float()))
    wanted = numbers(layer, to_bf16(x), states, None, torch.float32, "native")
    assert torch.equal(found[0], wanted[0].bfloat16())
    for got, expected in zip(found[1 : 1 + len(states)], wanted[1 : 1 + len(states)], strict=True):
        assert torch.equal(got, expected)
    assert_close(found, wanted)  # the gradient of the outputs came in bfloat16


@pytest.mark.parametrize("arithmetic", ["avx512"], indirect=True)
@pytest.mark.parametrize(("batch", "hidden"), [(1, 8), (3, 16), (19, 31), (16, 64), (40, 131)])
@pytest.mark.parametrize("name", LAYERS)
def test_avx512_instructions_give_the_bits_of_their_emulation(name, batch, hidden, arithmetic, monkeypatch):
    torch.manual_seed(0)
    layer = layer_of(name, hidden, bidirectional=True) if name != "lstm with all" else layer_of(name, 13)
    x, states = inputs_of(layer, batch=batch, hidden=layer.hidden_size)
    found = numbers(layer, x, states, None, torch.float32, "native", autocast=True)
    monkeypatch.setenv("THROUGHTIME_BF16", INSTRUCTIONS[arithmetic])
    precision.arithmetic.cache_clear()
    expected = numbers(layer, x, states, None, torch.float32, "native", autocast=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@every_arithmetic
def test_chunks_give_what_the_whole_gives(arithmetic, monkeypatch):
    torch.manual_seed(0)
    layer = layer_of("gru", bidirectional=True)
    x, states = inputs_of(layer, steps=29)
    whole = numbers(layer, x, states, None, torch.bfloat16, "native")
    monkeypatch.setattr(call, "chunk_rows", 15)
    # The results are rounded to bfloat16 at the end: one of the sums may fall on the other side.
    assert_close(numbers(layer, x, states, None, torch.bfloat16, "native"), whole, 0.01)


@every_arithmetic
@pytest.mark.parametrize("autocast", [False, True])
def test_second_derivatives(autocast, arithmetic):
    """By the reference, of what native computed."""
    torch.manual_seed(0)
    layer = layer_of("lstm")
    found = []
    for backend, dtype in (
        (None, torch.float32 if autocast else torch.bfloat16),
        ("reference", torch.float64),
    ):
        x = (
            to_bf16(torch.randn(T, B, D, generator=torch.Generator().manual_seed(1)))
            .to(dtype)
            .requires_grad_()
        )
        layer.to(dtype).backend = backend
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and backend is None):
            (first,) = torch.autograd.grad(layer(x)[0].double().square().sum(), x, create_graph=True)
        found.append([first, *torch.autograd.grad(first.double().square().sum(), [x, layer.weight_hh_l0])])
    assert_close(*found, 0.06)  # two backward passes


@pytest.mark.parametrize("arithmetic", ["off"], indirect=True)
def test_a_graph_of_the_gradient_under_autocast_is_no_less_exact(arithmetic):
    torch.manual_seed(0)
    layer = layer_of("gru").float()
    x = torch.randn(T, B, D, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert dispatch.choose(layer.call(x)).name == "native"
        y = layer(x)[0].float().square().sum()
        (plain,) = torch.autograd.grad(y, x, retain_graph=True)
        (with_graph,) = torch.autograd.grad(y, x, create_graph=True)
    torch.testing.assert_close(with_graph, plain, rtol=0, atol=1e-4 * float(plain.abs().max()))
