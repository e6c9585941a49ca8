"""One word changed, `torch.nn.LSTM` to `tt.LSTM`, and back: arguments, weights, seeds, shapes, dtypes."""

from __future__ import annotations

import inspect
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt

T, B, D, H = 7, 3, 5, 13
LAYERS = ["RNN", "GRU", "LSTM"]
BACKENDS = [row[0] for row in tt.backends().rows if row[1] and row[0] != "cudnn"]
SHAPES = [
    {},
    {"num_layers": 3},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
]


def both(name: str, backend: str | None = None, large: bool = True, **options: Any) -> tuple[Any, Any]:
    """Our layer and torch.nn's with the same weights, large enough to leave the gates' linear part."""
    theirs = getattr(nn, name)(D, H, **options).double()
    if large:
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.mul_(4)
    ours = getattr(tt, name)(D, H, **options, backend=backend).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def states(name: str, rows: int, batch: tuple[int, ...] = (B,), proj_size: int = 0) -> Any:
    h = torch.randn(rows, *batch, proj_size or H, dtype=torch.float64)
    return (h, torch.randn(rows, *batch, H, dtype=torch.float64)) if name == "LSTM" else h


def leaves(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in leaves(part)]


def rows_of(options: dict[str, Any]) -> int:
    return options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_outputs_states_and_gradients(name: str, options: dict[str, Any], backend: str) -> None:
    x = torch.randn(*((B, T) if options.get("batch_first") else (T, B)), D, dtype=torch.float64)
    hx = states(name, rows_of(options))
    results = []
    for layer in both(name, backend, **options):
        inputs = [value.clone().requires_grad_() for value in (x, *leaves(hx))]
        state = (inputs[1], inputs[2]) if name == "LSTM" else inputs[1]
        values = leaves(layer(inputs[0], state))
        sum((value * value.detach().cos()).sum() for value in values).backward()
        results.append([*values, *(i.grad for i in inputs), *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("backend", [*BACKENDS, None])
def test_projection(backend: str | None) -> None:
    ours, theirs = both("LSTM", backend, num_layers=2, bidirectional=True, proj_size=4)
    x, hx = torch.randn(T, B, D, dtype=torch.float64), states("LSTM", 4, proj_size=4)
    torch.testing.assert_close(ours(x, hx), theirs(x, hx))
    torch.testing.assert_close(ours(x[:, 0]), theirs(x[:, 0]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LAYERS)
def test_one_sequence_without_a_batch(name: str, backend: str) -> None:
    ours, theirs = both(name, backend, num_layers=2, bidirectional=True, batch_first=True)
    x, hx = torch.randn(T, D, dtype=torch.float64), states(name, 4, ())
    torch.testing.assert_close(ours(x, hx), theirs(x, hx))
    torch.testing.assert_close(ours(x[:1]), theirs(x[:1]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LAYERS)
def test_the_smallest_batches(name: str, backend: str) -> None:
    ours, theirs = both(name, backend, bidirectional=True)
    for shape in ((1, 1, D), (1, B, D), (T, 0, D)):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_the_same_seed_gives_torch_nn_s_parameters_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(11)
    theirs = getattr(nn, name)(D, H, **options)
    torch.manual_seed(11)
    ours = getattr(tt, name)(D, H, **options)
    for (our_name, value), (their_name, expected) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert our_name == their_name and torch.equal(value, expected)
    assert [len(group) for group in ours.all_weights] == [len(group) for group in theirs.all_weights]
    torch.manual_seed(12)
    theirs.reset_parameters()
    torch.manual_seed(12)
    ours.reset_parameters()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LAYERS)
def test_dropout_between_layers_draws_torch_nn_s_masks(name: str, backend: str) -> None:
    ours, theirs = both(name, backend, num_layers=3, bidirectional=True, dropout=0.4)
    x = torch.randn(T, B, D, dtype=torch.float64)
    torch.manual_seed(4)
    expected = theirs(x)
    torch.manual_seed(4)
    torch.testing.assert_close(ours(x), expected)
    assert not torch.equal(ours(x)[0], expected[0])  # another draw
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_no_dropout_after_the_last_layer() -> None:
    layer = tt.LSTM(D, H, 2, dropout=0.9, backend="reference")
    assert (layer(torch.randn(T, B, D))[0] != 0).all()


@pytest.mark.parametrize("name", LAYERS)
def test_weights_saved_by_one_are_read_by_the_other(name: str) -> None:
    options = {"num_layers": 2, "bidirectional": True}
    x = torch.randn(T, B, D)
    for source, target in ((nn, tt), (tt, nn)):
        first, second = (getattr(library, name)(D, H, **options) for library in (source, target))
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        assert (
            str(second.load_state_dict(torch.load(file, weights_only=True)))
            == "<All keys matched successfully>"
        )
        torch.testing.assert_close(second(x), first(x))


@pytest.mark.parametrize("name", LAYERS)
def test_positional_arguments_stand_where_torch_nn_documents_them(name: str) -> None:
    between = ("relu",) if name == "RNN" else ()
    last = (4,) if name == "LSTM" else ()
    args = (D, H, 2, *between, False, True, 0.25, True, *last)
    layer = getattr(tt, name)(*args, "cpu", torch.float64)
    assert layer.proj_size == (4 if name == "LSTM" else 0)
    assert (layer.num_layers, layer.bias, layer.batch_first) == (2, False, True)
    assert (layer.dropout, layer.bidirectional, layer.weight_hh_l1.dtype) == (0.25, True, torch.float64)
    named = {"input_size": D, "hidden_size": H, "num_layers": 2, "dropout": 0.5, "dtype": torch.float16}
    assert getattr(tt, name)(**named).weight_hh_l1.dtype == torch.float16
    assert layer.mode == getattr(nn, name)(*args).mode
    assert all(
        p.kind is p.KEYWORD_ONLY
        for p in inspect.signature(layer.forward).parameters.values()
        if p.name == "lengths"
    )


@pytest.mark.parametrize("name", LAYERS)
def test_repr_is_torch_nn_s_and_adds_what_differs(name: str) -> None:
    for options in SHAPES:
        assert repr(getattr(tt, name)(D, H, **options)) == repr(getattr(nn, name)(D, H, **options))
    shown = repr(
        getattr(tt, name)(D, [H, 4], 2, layer_norm=True, zoneout=0.1, recurrent_dropout=0.2, init="xavier")
    )
    for part in (f"({H}, 4)", "layer_norm=True", "recurrent_dropout=0.2", "zoneout=(0.1", "init=xavier"):
        assert part in shown
    assert "reset_after=False" in repr(tt.GRU(D, H, reset_after=False))
    assert "peepholes=True" in repr(tt.LSTM(D, H, peepholes=True))
    assert "nonlinearity=sigmoid" in repr(tt.RNN(D, H, nonlinearity="sigmoid"))


@pytest.mark.parametrize("name", LAYERS)
def test_dtypes_and_devices(name: str) -> None:
    layer = getattr(tt, name)(D, H, 2, bidirectional=True)
    for convert, dtype in (("half", torch.float16), ("bfloat16", torch.bfloat16), ("double", torch.float64)):
        y, h = getattr(layer, convert)()(torch.randn(T, B, D, dtype=dtype))
        assert {value.dtype for value in leaves((y, h))} == {dtype}
    meta = layer.to("meta", torch.float32)
    for lengths in (None, torch.tensor([3, T, 0]), torch.tensor([3, T, 0], device="meta")):
        y, h = meta(torch.randn(T, B, D, device="meta"), lengths=lengths)
        assert y.shape == (T, B, 2 * H) and {value.device.type for value in leaves((y, h))} == {"meta"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_functional_call_uses_the_weights_it_is_given(backend: str) -> None:
    ours, theirs = both("GRU", backend)
    other = {name: torch.randn_like(value) for name, value in ours.named_parameters()}
    x = torch.randn(T, B, D, dtype=torch.float64)
    found = torch.func.functional_call(ours, other, (x,))
    theirs.load_state_dict(other)
    torch.testing.assert_close(found, theirs(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_parametrised_weight_is_used(backend: str) -> None:
    ours, theirs = both("LSTM", backend)
    nn.utils.parametrizations.weight_norm(ours, "weight_hh_l0")
    with torch.no_grad():
        ours.parametrizations.weight_hh_l0.original0.mul_(0.5)  # the norm of each row
        theirs.weight_hh_l0.mul_(0.5)
    x = torch.randn(T, B, D, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_bits(backend: str) -> None:
    def run() -> list[Tensor]:
        torch.manual_seed(9)
        layer = tt.LSTM(D, H, 2, dropout=0.3, bidirectional=True, backend=backend)
        y, (h, c) = layer(torch.randn(T, B, D))
        (y.sum() + h.sum() + c.sum()).backward()
        return [y, h, c, *(p.grad for p in layer.parameters())]

    assert all(map(torch.equal, run(), run()))


def test_flatten_parameters_changes_nothing() -> None:
    layer = tt.LSTM(D, H)
    before = layer.weight_hh_l0
    assert layer.flatten_parameters() is None and layer.weight_hh_l0 is before
