"""The direct path from a layer to the library: equal to the general one, and left wherever something has changed."""

from __future__ import annotations

import copy
import io
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_sequence
from torch.utils.flop_counter import FlopCounterMode

import throughtime as tt
from throughtime.kernels.native import library
from throughtime.kernels.native.recurrence.direct import DirectCall

pytestmark = [
    pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}"),
    # torch itself uses what it has deprecated while it traces.
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning"
    ),
]
T, B, D, H = 6, 4, 5, 13
CELLS = {"rnn": tt.RNN, "gru": tt.GRU, "lstm": tt.LSTM}
LAYERS = {
    "rnn": (tt.RNN, {}),
    "rnn relu": (tt.RNN, {"nonlinearity": "relu", "bias": False, "num_layers": 2}),
    "gru": (tt.GRU, {"num_layers": 2, "bidirectional": True}),
    "gru reset before": (tt.GRU, {"reset_after": False, "bidirectional": True}),
    "gru normed": (tt.GRU, {"layer_norm": True}),
    "lstm": (tt.LSTM, {}),
    "lstm deep": (tt.LSTM, {"num_layers": 3, "bidirectional": True}),
    "lstm peepholes": (tt.LSTM, {"peepholes": True}),
    "lstm projected": (tt.LSTM, {"proj_size": 4, "num_layers": 2}),
    "lstm everything": (tt.LSTM, {"proj_size": 4, "peepholes": True, "layer_norm": True, "num_layers": 2}),
}


@pytest.fixture
def taken(monkeypatch):
    """For each call that was offered to the direct path: whether it took it."""
    seen, run = [], DirectCall.run

    def watched(self, layer, x, hx):
        found = run(self, layer, x, hx)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(DirectCall, "run", watched)
    return seen


def leaves(value):
    return [value] if isinstance(value, torch.Tensor) else [leaf for part in value for leaf in leaves(part)]


def make(name, **options):
    kind, more = LAYERS[name]
    layer = kind(D, H, **more, **options)
    layer(torch.zeros(1, 1, D, dtype=layer.weight_ih_l0.dtype))
    assert layer._direct is not None
    return layer


def state_of(layer, batch=(B,), dtype=torch.float32):
    rows = layer.num_layers * (1 + layer.bidirectional)
    sizes = [layer.proj_size or H] + [H] * (len(layer.state_type._fields) - 1)
    made = [torch.randn(rows, *batch, size, dtype=dtype) for size in sizes]
    return tuple(made) if len(made) > 1 else made[0]


def run(call, layer, x, hx):
    """Outputs and final states, and all gradients."""
    inputs = [v.detach().clone().requires_grad_() for v in (x, *([] if hx is None else leaves(hx)))]
    given = None if hx is None else tuple(inputs[1:]) if isinstance(hx, tuple) else inputs[1]
    found = leaves(call(inputs[0], given))
    loss = sum((v * v.detach().cos()).sum() for v in found)
    return [*found, *torch.autograd.grad(loss, [*inputs, *layer.parameters()])]


def same_bits(found, wanted):
    return all(torch.equal(a, b) for a, b in zip(leaves(found), leaves(wanted), strict=True))


def general(layer, x, hx=None):
    """The same call without the direct path."""
    return layer._run(x, hx, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_equals_the_general_path(name, batch_first, dtype, taken, instruction_set):
    """The same bits: outputs, states and gradients; batched or not, with or without a state, with or without gradients."""
    layer = make(name, batch_first=batch_first, dtype=dtype)
    for shape in ((T, B, D), (B, B, D), (1, 1, D), (1, 30, D), (T, D), (1, D)):
        x = torch.randn(shape, dtype=dtype)
        batch = () if len(shape) == 2 else (shape[0] if batch_first else shape[1],)
        for hx in (None, state_of(layer, batch, dtype)):
            taken.clear()
            found, wanted = (run(call, layer, x, hx) for call in (layer, lambda x, hx: general(layer, x, hx)))
            assert same_bits(found, wanted)
            assert [v.shape for v in found] == [v.shape for v in wanted]
            for mode in (torch.no_grad, torch.inference_mode):
                with mode():
                    assert same_bits(layer(x, hx), general(layer, x, hx))
            assert taken == [True] * 3


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm projected"])
def test_inputs_and_states_as_they_lie(name, taken):
    layer = make(name)
    for hx in (None, state_of(layer)):
        x = torch.randn(T, B, D)
        wide = torch.full((T, B, 3 * D), float("nan"))
        wide[..., ::3] = x
        wanted = general(layer, x, hx)
        for given in (
            x.transpose(0, 1).contiguous().transpose(0, 1),
            wide[..., ::3],
            torch.cat([torch.zeros(1), x.flatten()])[1:].view(x.shape),
            torch._neg_view(-x),
        ):
            moved = (
                hx if hx is None else tuple(v.movedim(-1, 0).contiguous().movedim(0, -1) for v in leaves(hx))
            )
            moved = moved[0] if moved is not None and len(moved) == 1 else moved
            assert same_bits(layer(given, moved), wanted)
    hx = state_of(layer)
    negative = tuple(torch._neg_view(-v) for v in leaves(hx))
    assert same_bits(layer(x, negative if len(negative) > 1 else negative[0]), general(layer, x, hx))
    assert taken.count(True) >= 6


@pytest.mark.parametrize("kind", CELLS)
def test_states_of_other_forms_are_read_or_refused_as_ever(kind, taken):
    layer, fresh = CELLS[kind](D, H), CELLS[kind](D, H)
    fresh.load_state_dict(layer.state_dict())
    x, h = torch.randn(T, B, D), torch.randn(1, B, H)
    layer(x)
    states = [
        [h],
        (h,),
        [h, h],
        (h, h),
        h,
        (h, None),
        h[0],
        (h[0], h[0]),
        h.double(),
        (h, h.double()),
        h[:, :2],
        (h[..., :2], h),
    ]
    states += [nn.Parameter(h), (nn.Parameter(h), h), (), "h", 0, (h, h, h)]
    answered = 0
    for hx in states:
        outcomes = []
        for which in (layer, fresh):
            which._direct = which._direct if which is layer else None
            try:
                outcomes.append(which(x, hx))
            except Exception as error:
                outcomes.append(f"{type(error).__name__}: {error}")
        if isinstance(outcomes[1], str):
            assert outcomes[0] == outcomes[1]
        else:
            assert same_bits(*outcomes)
            answered += 1
    assert answered >= 2
    assert True in taken and False in taken


@pytest.mark.parametrize("kind", CELLS)
def test_inputs_of_other_forms_are_read_or_refused_as_ever(kind):
    layer, fresh = CELLS[kind](D, H), CELLS[kind](D, H)
    fresh.load_state_dict(layer.state_dict())
    layer(torch.randn(T, B, D))
    packed = pack_sequence([torch.randn(n, D) for n in (3, 6, 1)], enforce_sorted=False)
    inputs = [
        torch.tensor(1.0),
        torch.randn(D),
        torch.randn(2, T, B, D),
        torch.randn(T, B, D + 1),
        torch.randn(T, B, 0),
    ]
    inputs += [
        torch.zeros(0, B, D),
        torch.zeros(T, 0, D),
        torch.zeros(0, D),
        torch.zeros(0, 0, D),
        torch.randn(T, D),
    ]
    inputs += [
        torch.randn(T, B, D).double(),
        torch.randn(T, B, D).half(),
        torch.randint(3, (T, B, D)),
        packed,
        None,
        "x",
        3,
    ]
    inputs += [
        nn.Parameter(torch.randn(T, B, D)),
        torch.randn(T, B, D, dtype=torch.complex64),
        torch.randn(T, B, D).tolist(),
    ]
    for x in inputs:
        outcomes = []
        for which in (layer, fresh):
            which._direct = which._direct if which is layer else None
            try:
                y, final = which(x)
                outcomes.append((y.data if hasattr(y, "batch_sizes") else y, final))
            except Exception as error:
                outcomes.append(f"{type(error).__name__}: {error}")
        if isinstance(outcomes[1], str):
            assert outcomes[0] == outcomes[1]
        else:
            assert same_bits(*outcomes)


# What may happen to the weights of a layer that has run. Each returns what the layer must compute with from then on,
# by name (the others are its parameters).
def replaced(layer):
    layer.weight_hh_l0 = nn.Parameter(torch.randn_like(layer.weight_hh_l0))


def moved(layer):
    layer.weight_hh_l0.data = torch.randn_like(layer.weight_hh_l0)


def changed_in_place(layer):
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)


def loaded(layer):
    layer.load_state_dict({k: torch.randn_like(v) for k, v in layer.state_dict().items()})


def loaded_by_assignment(layer):
    layer.load_state_dict({k: torch.randn_like(v) for k, v in layer.state_dict().items()}, assign=True)


def pruned(layer):
    prune.random_unstructured(layer, "weight_hh_l0", 0.5)


def normed(layer):
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0")
    with torch.no_grad():
        layer.parametrizations.weight_hh_l0.original0.mul_(0.5)


def dropped(layer):
    """As in a weight-dropped LSTM: the layer's weight is a plain attribute, made of a parameter of another name."""
    raw = layer._parameters.pop("weight_hh_l0")
    layer.register_parameter("weight_hh_l0_raw", raw)
    layer.weight_hh_l0 = raw * (torch.rand_like(raw) > 0.5)


def registered_again(layer):
    value = layer.weight_hh_l0
    del layer.weight_hh_l0
    layer.register_parameter("weight_hh_l0", nn.Parameter(value.detach() * 3))


def tied(layer):
    layer.weight_hh_l0 = type(layer)(D, H).double().weight_hh_l0


def transposed(layer):
    """The same numbers at the same address, read by columns."""
    layer.weight_ih_l0.data = layer.weight_ih_l0.data.clone().t().contiguous().t()


def negated(layer):
    """The same address, with the bit that says that all its numbers are negative."""
    layer.weight_hh_l0.data = torch._neg_view(layer.weight_hh_l0.data)


def frozen(layer):
    layer.requires_grad_(False)


CHANGES = [
    replaced,
    moved,
    changed_in_place,
    loaded,
    loaded_by_assignment,
    pruned,
    normed,
    dropped,
    registered_again,
    tied,
]
CHANGES += [transposed, negated, frozen]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("kind", CELLS)
def test_a_layer_whose_weights_change_computes_with_the_new_ones(kind, change):
    layer, x = CELLS[kind](D, H).double(), torch.randn(T, B, D, dtype=torch.float64, requires_grad=True)
    before = layer(x)[0].detach()
    assert layer._direct is not None
    change(layer)
    for _ in range(2):  # the first call and the one after it
        layer.weight_hh_l0  # noqa: B018  a parametrization computes it
        with tt.use_backend("reference"):
            wanted = layer(x)
        found = layer(x)
        torch.testing.assert_close(found, wanted)
        of = [x, *(p for p in layer.parameters() if p.requires_grad)]
        gradients = [torch.autograd.grad(y.sin().sum(), of, retain_graph=True) for y, _ in (found, wanted)]
        torch.testing.assert_close(*gradients)
    if change not in (frozen, transposed):
        assert not torch.allclose(found[0], before)


@pytest.mark.parametrize(
    "change", [lambda v: v[:2], lambda v: v[..., :3], lambda v: v.view(2, -1), lambda v: v[:0]]
)
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
@pytest.mark.parametrize("kind", CELLS)
def test_a_weight_of_another_shape_at_the_same_address_is_not_read(kind, name, change):
    """What a fresh layer says of it; the library would read beyond."""
    layer, fresh, x = CELLS[kind](D, H - 1), CELLS[kind](D, H - 1), torch.randn(T, B, D)
    layer(x)
    messages = []
    for each in (layer, fresh):
        value = getattr(each, name)
        value.data = change(value.data)
        with pytest.raises(RuntimeError, match=r"must be|must have") as error:
            each(x)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("kind", CELLS)
def test_an_optimizer_step_stays_on_the_direct_path(kind, taken):
    layer, x = CELLS[kind](D, H), torch.randn(T, B, D)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x)[0].sum().backward()
        optimizer.step()
    assert taken == [True] * 2
    with tt.use_backend("reference"):
        wanted = layer(x)
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("kind", CELLS)
def test_a_converted_layer(kind, taken):
    layer, x = CELLS[kind](D, H), torch.randn(T, B, D)
    layer(x)
    wanted = layer(x)
    assert taken == [True]
    layer.double()
    torch.testing.assert_close(
        layer(x.double()), leaves_of_dtype(wanted, torch.float64), rtol=1e-5, atol=1e-6
    )
    assert same_bits(layer(x.double()), general(layer, x.double()))
    with pytest.raises(ValueError, match="does not match weight dtype"):
        layer(x)
    layer.bfloat16()
    assert layer(x.bfloat16())[0].dtype == torch.bfloat16
    layer.float()
    assert layer(x)[0].dtype == torch.float32
    meta = copy.deepcopy(layer).to("meta")
    assert meta(x.to("meta"))[0].device.type == "meta"
    layer.to_empty(device="cpu").load_state_dict(
        {k: torch.ones_like(v) for k, v in layer.state_dict().items()}
    )
    assert same_bits(layer(x), general(layer, x))


def leaves_of_dtype(value, dtype):
    return (
        value.to(dtype)
        if isinstance(value, torch.Tensor)
        else tuple(leaves_of_dtype(v, dtype) for v in value)
    )


@pytest.mark.parametrize("kind", CELLS)
def test_functional_call_uses_its_weights_and_leaves_none_of_them_behind(kind):
    layer, x = CELLS[kind](D, H), torch.randn(T, B, D)
    before = layer(x)
    weights = {name: torch.randn_like(p, requires_grad=True) for name, p in layer.named_parameters()}
    for _ in range(2):
        found = torch.func.functional_call(layer, weights, (x,))
        with tt.use_backend("reference"):
            torch.testing.assert_close(found, torch.func.functional_call(layer, weights, (x,)))
        torch.autograd.grad(found[0].sum(), list(weights.values()))
        assert same_bits(layer(x), before)
    found = torch.func.functional_call(layer, weights, (x,))
    alive = weakref.ref(weights["weight_hh_l0"])
    del found, weights
    assert alive() is None, "the layer keeps weights that are not its own"


@pytest.mark.parametrize("kind", CELLS)
def test_transforms_modes_and_recorders_leave_the_direct_path(kind, taken):
    layer, x = CELLS[kind](D, H), torch.randn(T, B, D)
    wanted = layer(x)
    taken.clear()
    xs = torch.stack([x, x + 1])
    found = torch.func.vmap(layer)(xs)
    torch.testing.assert_close([v[0] for v in leaves(found)], leaves(wanted), rtol=1e-5, atol=1e-6)
    value, tangent = torch.func.jvp(lambda x: layer(x)[0], (x,), (torch.ones_like(x),))
    torch.testing.assert_close(value, wanted[0])
    assert tangent.any()
    with torch.autograd.forward_ad.dual_level():
        y = layer(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))[0]
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(y).tangent, tangent)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x)[0].dtype == torch.bfloat16
    with FlopCounterMode(display=False):
        torch.testing.assert_close(layer(x), wanted)
    traced = torch.jit.trace(layer, x, check_trace=False)
    other = torch.randn(2 * T, B, D)
    assert taken and not any(taken)
    torch.testing.assert_close(traced(other), layer(other))
    torch.compiler.reset()
    taken.clear()
    torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(x), wanted)
    assert taken == []
    assert same_bits(layer(x), wanted)
    assert taken == [True]


@pytest.mark.parametrize("kind", CELLS)
def test_attributes_that_are_set_after_the_first_call(kind, taken):
    """Rates, the mode, the form of inputs, the backend: what a training loop may change."""
    layer, x = CELLS[kind](D, H, 2), torch.randn(B, B, D)
    y, _ = layer(x)
    for name, value in (
        ("zoneout", (0.5,) * len(layer.zoneout)),
        ("recurrent_dropout", 0.5),
        ("dropout", 0.5),
    ):
        before = getattr(layer, name)
        setattr(layer, name, value)
        assert not torch.equal(layer(x)[0], y), name
        layer.eval()
        assert torch.equal(layer(x)[0], y) == (name != "zoneout")  # which has an expectation
        layer.train()
        setattr(layer, name, before)
        assert torch.equal(layer(x)[0], y)
    layer.batch_first = True
    torch.testing.assert_close(layer(x.transpose(0, 1))[0].transpose(0, 1), y)
    layer.batch_first = False
    layer(x)
    for demand in ("reference", "aten"):
        taken.clear()
        with tt.use_backend(demand):
            torch.testing.assert_close(layer(x)[0], y)
        layer.backend = demand
        torch.testing.assert_close(layer(x)[0], y)
        layer.backend = None
        assert taken == [False, False]
    layer.backend = "native"
    layer(x)
    moved = x.clone().requires_grad_()
    with pytest.raises(tt.BackendError, match="native has no second or vectorized derivatives"):
        torch.autograd.grad(layer(moved)[0].sum(), moved, create_graph=True)
    assert taken[-1]


@pytest.mark.parametrize("kind", CELLS)
def test_lengths_and_packed_sequences_between_direct_calls(kind, taken):
    layer, x = CELLS[kind](D, H), torch.randn(T, 3, D)
    wanted = layer(x)
    lengths = torch.tensor([4, 6, 1])
    with tt.use_backend("reference"):
        ragged = layer(x, lengths=lengths)
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    for _ in range(2):
        torch.testing.assert_close(layer(x, lengths=lengths), ragged)
        torch.testing.assert_close(layer(packed)[1], ragged[1])
        taken.clear()
        assert same_bits(layer(x), wanted)
        assert taken == [True]


@pytest.mark.parametrize("kind", CELLS)
def test_threads_share_a_layer(kind, taken):
    layer = CELLS[kind](D, H)
    inputs = [torch.randn(T, batch, D) for batch in (1, 2, 3, 40) * 6]

    def call(x):
        x = x.clone().requires_grad_()
        y, _ = layer(x)
        return y.detach(), torch.autograd.grad(y.square().sum(), x)[0]

    alone = [call(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(call, inputs))
    assert same_bits(together, alone)
    assert taken.count(True) == 2 * len(inputs) - 1


@pytest.mark.parametrize("kind", CELLS)
def test_copies_of_a_layer_that_has_run(kind):
    """A copy has weights of its own: it must not read the first one's."""
    layer, x = CELLS[kind](D, H, 2, bidirectional=True), torch.randn(T, B, D)
    wanted = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    copies = [
        copy.deepcopy(layer),
        copy.copy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ]
    for made in copies:
        assert made._direct is None or made.weight_hh_l0 is layer.weight_hh_l0  # copy.copy shares the weights
        for _ in range(2):
            assert same_bits(made(x), wanted)
    with torch.no_grad():
        for made in (copies[0], copies[2], copies[3]):
            for parameter in made.parameters():
                parameter.zero_()
            assert not made(x)[0].any()
    assert same_bits(layer(x), wanted)


@pytest.mark.parametrize("kind", CELLS)
def test_hooks_are_called(kind, taken):
    layer, x = CELLS[kind](D, H), torch.randn(T, B, D, requires_grad=True)
    layer(x)
    called = []
    layer.register_forward_pre_hook(lambda module, inputs: called.append("before"))
    layer.register_forward_hook(
        lambda module, inputs, output: (called.append("after"), (output[0] * 2, output[1]))[1]
    )
    layer.register_full_backward_hook(lambda module, inputs, outputs: called.append("backward"))
    layer.weight_hh_l0.register_hook(lambda gradient: gradient * 3)
    layer.weight_hh_l0.register_post_accumulate_grad_hook(lambda parameter: called.append("accumulated"))
    y, _ = layer(x)
    wanted, _ = general(layer, x)
    assert torch.equal(y, 2 * wanted)
    y.sum().backward()
    assert called == ["before", "after", "accumulated", "backward"]
    with tt.use_backend("reference"):
        (gradient,) = torch.autograd.grad(2 * general(layer, x)[0].sum(), layer.weight_ih_l0)
    torch.testing.assert_close(layer.weight_ih_l0.grad, gradient)
    assert taken[0]


@pytest.mark.parametrize("kind", CELLS)
def test_backward_meets_weights_that_changed_after_forward(kind):
    """In place: torch refuses. Replaced or moved behind torch's back: the new numbers count, as in torch.nn. Freed,
    converted: an error.
    """
    layer, x = CELLS[kind](D, 40), torch.randn(T, B, D)
    theirs = getattr(nn, kind.upper())(D, 40)
    theirs.load_state_dict(layer.state_dict())
    layer(x)
    y, _ = layer(x)
    with torch.no_grad():
        layer.weight_hh_l0.mul_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()

    for clone in (True, False):
        y, _ = layer(x)
        wanted = torch.autograd.grad(theirs(x)[0].sum(), list(theirs.parameters()))
        for parameter in layer.parameters():
            if clone:
                parameter.data = parameter.data.clone()
                continue
            kept, storage = parameter.data.clone(), parameter.untyped_storage()
            size = storage.nbytes()
            storage.resize_(0)
            storage.resize_(size)
            parameter.data.copy_(kept)
        junk = [torch.full_like(p, float("nan")) for p in layer.parameters() for _ in range(8)]
        torch.testing.assert_close(torch.autograd.grad(y.sum(), list(layer.parameters())), wanted)
        del junk

    y, _ = layer(x)
    kept, storage = layer.weight_hh_l0.data.clone(), layer.weight_hh_l0.untyped_storage()
    storage.resize_(0)
    with pytest.raises(RuntimeError, match="must have memory"):
        y.sum().backward()
    storage.resize_(kept.nbytes)
    layer.weight_hh_l0.data.copy_(kept)

    y, _ = layer(x)
    layer.weight_hh_l0.data = layer.weight_hh_l0.data[:2]
    with pytest.raises(
        RuntimeError, match=r"a weight must be torch.float32 .* in backward as it was in forward, got"
    ):
        torch.autograd.grad(y.sum(), layer.weight_ih_l0)


@pytest.mark.parametrize("kind", CELLS)
def test_backward_checks_the_memory_of_inputs_and_states(kind):
    layer, x = CELLS[kind](D, H), torch.randn(T, B, D)
    states = [torch.randn(1, B, H) for _ in layer.state_type._fields]
    for index in range(1 + len(states)):
        given = [x.clone(), *(s.clone() for s in states)]
        y, _ = layer(given[0], tuple(given[1:]) if len(states) > 1 else given[1])
        given[index].untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="must have memory"):
            y.sum().backward()


def test_what_saves_tensors_elsewhere_is_asked():
    """torch.autograd.graph.saved_tensors_hooks, by which activations are kept in a file or recomputed."""
    layer, x = tt.LSTM(D, H), torch.randn(T, B, D)
    layer(x)
    wanted = torch.autograd.grad(layer(x)[0].sin().sum(), list(layer.parameters()))
    kept = []
    pack = lambda value: (kept.append(value.shape), value.clone())[1]  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value.clone()):
        y, _ = layer(x)
    assert same_bits(torch.autograd.grad(y.sin().sum(), list(layer.parameters())), wanted)
    assert kept
    checkpointed = torch.utils.checkpoint.checkpoint(lambda x: layer(x)[0], x, use_reentrant=False)
    assert same_bits(torch.autograd.grad(checkpointed.sin().sum(), list(layer.parameters())), wanted)


def test_a_layer_that_differs_in_size_or_is_random_has_no_direct_path():
    x = torch.randn(T, B, D)
    for layer in (
        tt.GRU(D, [13, 4]),
        tt.GRU(D, H, zoneout=0.1),
        tt.GRU(D, H, recurrent_dropout=0.1),
        tt.GRU(D, H, 2, dropout=0.1),
        tt.GRU(D, H).bfloat16(),
    ):
        layer(x.to(layer.weight_ih_l0.dtype))
        assert layer._direct is None
