"""The native operators of torch.library: what a traced graph holds."""

from __future__ import annotations

import re

import pytest
import torch

from throughtime.cells.gru import GRURecurrence
from throughtime.cells.lstm import LSTMRecurrence
from throughtime.cells.rnn import RNNRecurrence
from throughtime.kernels.native import library
from throughtime.kernels.native.recurrence import operators
from throughtime.kernels.native.recurrence.operator_arguments import TENSORS, WEIGHTS, Arguments, saved_row
from throughtime.kernels.reference import Zoneout, unroll

pytestmark = [
    pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}"),
    # torch itself uses what it has deprecated while it traces.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
T, B, D, H, P = 7, 3, 5, 13, 4
LENGTHS = torch.tensor([4, 7, 0])
KINDS = {
    "rnn": (RNNRecurrence, {"nonlinearity": "relu"}, {}),
    "gru": (GRURecurrence, {"reset_after": True}, {}),
    "gru reset before": (GRURecurrence, {"reset_after": False}, {"bias": False}),
    "lstm": (LSTMRecurrence, {}, {}),
    "lstm with options": (LSTMRecurrence, {}, {"peepholes": True, "proj_size": P}),
    "lstm with layer norm": (LSTMRecurrence, {}, {"layer_norm": True}),
}


def leaf(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def make(kind, *, masks=False, x=None):
    """(recurrence, x, state, zoneout, the leaves)."""
    recurrence, options, shape_options = KINDS[kind]
    weights = {name: leaf(*shape) for name, shape in recurrence.shapes(D, H, **shape_options).items()}
    h0 = leaf(B, shape_options.get("proj_size", H))
    state = (h0, leaf(B, H)) if kind.startswith("lstm") else (h0,)
    x = leaf(T, B, D) if x is None else x
    leaves = [x, *state, *weights.values()]
    zoneout = None
    if masks:
        weights["h_mask"] = (torch.rand_like(h0) > 0.3).double() / 0.7
        zoneout = Zoneout((0.3, 0.2)[: len(state)], tuple(torch.rand(T, *s.shape) < 0.3 for s in state))
    return recurrence.bind(weights, **options), x, state, zoneout, leaves


def run_operator(recurrence, x, state, *, lengths=None, reverse=False, zoneout=None):
    """One direction of one layer as an operator, with the arguments of `unroll`."""
    return operators._run_direction(recurrence, x, state, lengths, reverse, zoneout)


def weigh(y, final):
    return y.sin().sum() + sum((value * value).sum() for value in final)


@pytest.mark.parametrize("masks", [False, True], ids=["plain", "masks"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_the_reference_to_the_second_derivative(kind, lengths, masks, instruction_set):
    recurrence, x, state, zoneout, leaves = make(kind, masks=masks)
    results = []
    for run in (unroll, run_operator):
        y, final = run(recurrence, x, state, lengths=lengths, reverse=masks, zoneout=zoneout)
        first = torch.autograd.grad(weigh(y, final), leaves, create_graph=True)
        plain = torch.autograd.grad(
            weigh(*run(recurrence, x, state, lengths=lengths, reverse=masks, zoneout=zoneout)), leaves
        )
        second = torch.autograd.grad(sum((g * g).sum() for g in first), leaves)
        results.append([y, *final, *first, *plain, *second])
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_with_random_masks_in_one_graph(kind, lengths):
    torch.compiler.reset()
    recurrence, x, state, zoneout, leaves = make(kind, masks=True)

    def loss(run, x):
        return weigh(*run(recurrence, x, state, lengths=lengths, reverse=True, zoneout=zoneout))

    compiled = torch.compile(lambda x: loss(run_operator, x), fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x), leaves)
    wanted = torch.autograd.grad(loss(unroll, x), leaves)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def arguments(kind, lengths=None, dtype=torch.float64):
    recurrence, x, state, _, _ = make(kind)
    cast = lambda v: None if v is None else v.detach().to(dtype).requires_grad_()  # noqa: E731
    weights = [cast(getattr(recurrence, name, None)) for name in WEIGHTS]
    c0 = cast(state[1]) if len(state) > 1 else None
    name = kind.split(" with ")[0]
    return [cast(x), cast(state[0]), c0, weights, lengths, [], [], name, "tanh", False]


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("kind", KINDS)
def test_torch_finds_them_well_behaved(kind, lengths):
    call = tuple(arguments(kind, lengths))
    torch.library.opcheck(torch.ops.throughtime.recurrence.default, call)
    with torch.no_grad():  # what is kept for backward has the shapes that a graph was told
        torch.library.opcheck(
            torch.ops.throughtime.recurrence_kept.default,
            (*call, saved_row(Arguments(*call))),
            test_utils=("test_schema", "test_faketensor"),
        )
        y, h, c, *kept = torch.ops.throughtime.recurrence_kept.default(*call, saved_row(Arguments(*call)))
        needs = [value is not None for value in (*call[:3], *call[3])]
        needs[TENSORS.index("h_mask")] = False
        gradients = [torch.randn_like(y), torch.randn_like(h), torch.randn_like(c) if c.numel() else None]
        torch.library.opcheck(
            torch.ops.throughtime.recurrence_backward.default, (*call, kept, gradients, needs)
        )


@pytest.mark.parametrize("difference", [-1, 16])
def test_a_graph_of_another_build_is_refused(difference):
    """What is kept for backward has other columns there; a compiler's cache on disk must not mix the two up."""
    call = arguments("lstm")
    columns = saved_row(Arguments(*call))
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"another build .* compile it again"):
        torch.ops.throughtime.recurrence_kept.default(*call, columns + difference)


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
def test_no_two_results_share_memory(kind, monkeypatch):
    monkeypatch.setitem(globals(), "H", 64)  # whole panels: nothing is copied for padding's sake
    with torch.no_grad():
        call = tuple(arguments(kind))
        y, h, _, *kept = found = torch.ops.throughtime.recurrence_kept.default(
            *call, saved_row(Arguments(*call))
        )
        needs = [value is not None for value in (*call[:3], *call[3])]
        gradients = [torch.ones_like(y), torch.ones_like(h), None]
        found += torch.ops.throughtime.recurrence_backward.default(*call, kept, gradients, needs)
    places = [value.untyped_storage().data_ptr() for value in found if value.numel()]
    assert len(set(places)) == len(places)
    assert all(value.is_contiguous() for value in found)


def test_a_graph_kept_for_a_second_pass_gives_the_same_gradients():
    recurrence, x, state, _, leaves = make("lstm")
    loss = weigh(*run_operator(recurrence, x, state, lengths=LENGTHS))
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, leaves), strict=True))


def test_only_what_is_asked_for_is_computed_and_padding_is_never_read():
    _, x, state, _, _ = made = make("gru")
    padding = torch.arange(T)[:, None] >= LENGTHS
    poisoned = x.detach().masked_fill(padding[..., None], torch.nan).requires_grad_()
    y, (h,) = run_operator(made[0], poisoned, state, lengths=LENGTHS)
    (dx,) = torch.autograd.grad(y.sin().sum(), poisoned)
    (wanted,) = torch.autograd.grad(unroll(made[0], x, state, lengths=LENGTHS)[0].sin().sum(), x)
    assert (dx[padding] == 0).all() and (y[padding] == 0).all() and not h.isnan().any()
    torch.testing.assert_close(dx, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.randn(T, B), "x must be [T, B, D]"),
        (0, torch.randn(T, B, D, dtype=torch.float16), "x must be float32 or float64"),
        (0, torch.randn(T, B, D), "h0 must be torch.float32"),
        (
            0,
            torch.randn(T, B, D + 1, dtype=torch.float64),
            "weight_ih must have 6 columns, as x has, got [39, 5]",
        ),
        (1, torch.randn(B - 1, H, dtype=torch.float64), "h0 must be of shape [3, 13], got [2, 13]"),
        (2, torch.randn(B, H, dtype=torch.float64), "c0 must be given for an lstm"),
        (3, [], "weights must be"),
        (4, torch.tensor([8, 1, 1]), "lengths must lie between 0 and the 7 steps"),
        (4, torch.tensor([-1, 1, 1]), "lengths must lie between 0 and the 7 steps"),
        (4, torch.tensor([1, 1]), "lengths must be int64 [3]"),
        (7, "grru", "kind must be one of"),
        (8, "tan", "nonlinearity must be one of"),
    ],
)
def test_wrong_arguments_are_an_error_in_one_line(place, value, message):
    call = arguments("gru")
    call[place] = value
    with pytest.raises((RuntimeError, ValueError), match=re.escape(message)) as error, torch.no_grad():
        torch.ops.throughtime.recurrence.default(*call)
    assert "\n" not in str(error.value)
