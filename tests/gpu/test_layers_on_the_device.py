"""Every layer and option on the device, against the reference on the CPU in float64: outputs, states and all gradients.

Padding holds NaN: whatever reads it shows.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import throughtime as tt
from throughtime.bench.verify import worst_error

T, B, D, H = 7, 5, 3, 13
LENGTHS = torch.tensor([4, 7, 1, 6, 2])
# Relative to the largest value of each tensor. Layer norm multiplies the rounding errors of float32.
LIMITS = {torch.float64: 1e-9, torch.float32: 5e-3}

# What cuDNN has; torch.nn has it too.
PLAIN: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ("RNN", "GRU", "LSTM")),
    *((name, {"num_layers": 3, "bidirectional": True}) for name in ("RNN", "GRU", "LSTM")),
    *((name, {"num_layers": 2, "bias": False}) for name in ("RNN", "GRU", "LSTM")),
    ("RNN", {"nonlinearity": "relu", "bidirectional": True}),
    ("LSTM", {"proj_size": 4, "num_layers": 2, "bidirectional": True}),
]
# What it does not have.
EXTRA: list[tuple[str, dict[str, Any]]] = [
    *((name, {"layer_norm": True, "num_layers": 2}) for name in ("RNN", "GRU", "LSTM")),
    *(
        (name, {"zoneout": 0.3, "recurrent_dropout": 0.4, "bidirectional": True})
        for name in ("RNN", "GRU", "LSTM")
    ),
    *((name, {"hidden_size": [H, 4, 6], "bidirectional": True}) for name in ("RNN", "GRU", "LSTM")),
    *(("RNN", {"nonlinearity": name}) for name in ("sigmoid", "identity")),
    ("GRU", {"reset_after": False, "num_layers": 2}),
    ("GRU", {"reset_after": False, "layer_norm": True, "bidirectional": True}),
    ("LSTM", {"peepholes": True, "bidirectional": True}),
    ("LSTM", {"peepholes": True, "layer_norm": True, "proj_size": 4, "num_layers": 2}),
    ("LSTM", {"hidden_size": [H, 6], "proj_size": 4}),
    ("LSTM", {"zoneout": (0.1, 0.5)}),
]
CELLS = ["RNNCell", "GRUCell", "LSTMCell", "LayerNormLSTMCell", "IndRNNCell", "MinGRUCell"]
LAYERS = [*PLAIN, *EXTRA, *((cell, {"num_layers": 2, "bidirectional": True}) for cell in CELLS)]
FORMS = [
    "full",
    "lengths on the CPU",
    "lengths on the device",
    "a row of no steps",
    "packed",
    "batch first",
    "one sequence",
]


def make(name: str, options: dict[str, Any]) -> Any:
    """On the CPU in float64, with weights that leave the gates' linear part."""
    if name.endswith("Cell"):
        layer: Any = tt.Recurrent(partial(getattr(tt, name), hidden_size=H), D, **options)
    else:
        layer = getattr(tt, name)(D, **{"hidden_size": H, **options})
    scale = 1.2 if options.get("nonlinearity") in ("relu", "identity") else 2.0
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(scale)
    return layer.double()


def leaves(value: Any) -> list[Tensor]:
    """All tensors of a result, one after the other."""
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in leaves(part)]


def moved(value: Any, like: Tensor) -> Any:
    """The same structure, its tensors as leaves of their own in the dtype and on the device of `like`."""
    if isinstance(value, Tensor):
        return value.detach().to(like.device, like.dtype, copy=True).requires_grad_()
    parts = [moved(part, like) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)


def call(layer: Any, form: str, x: Tensor, state: Any) -> tuple[Any, Any]:
    """One call of that form; x is [T, B, D] with NaN in the padding that the form has."""
    if form == "one sequence":
        return layer(x[:, 0])
    if form == "batch first":
        layer.batch_first = True
        return layer(x.transpose(0, 1), state)
    if form == "full":
        return layer(x, state)
    if form == "packed":
        return layer(pack_padded_sequence(x, LENGTHS, enforce_sorted=False), state)
    lengths = LENGTHS.clone()
    lengths[2] *= form != "a row of no steps"
    return layer(x, state, lengths=lengths.to(x.device) if form == "lengths on the device" else lengths)


def everything(layer: Any, form: str, x: Tensor, state: Any) -> list[Tensor]:
    """Outputs, final states, and the gradients of the input, the initial state and every parameter."""
    like = next(layer.parameters())
    x, state = moved(x, like), moved(state, like)
    values = leaves(call(layer, form, x, state))
    generator = torch.Generator().manual_seed(5)
    directions = [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v) for v in values]
    assert all(value.device == like.device and value.dtype == like.dtype for value in values)
    wanted = [x, *leaves(state), *layer.parameters()]
    found = torch.autograd.grad(values, wanted, directions, allow_unused=True)
    gradients = [torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True)]
    return [value.detach().cpu() for value in (*values, *gradients)]


def problem(layer: Any, form: str) -> tuple[Tensor, Any]:
    """An input and an initial state that fit the layer."""
    x = torch.randn(T, B, D, dtype=torch.float64)
    if form not in ("full", "batch first", "one sequence"):
        padding = torch.arange(T)[:, None] >= LENGTHS
        padding[:, 2] |= form == "a row of no steps"
        x = x.masked_fill(padding[..., None], float("nan"))
    with torch.no_grad(), tt.use_backend("reference"):
        zeros = layer(torch.zeros(1, B, D, dtype=torch.float64))[1]
    return x, _filled(zeros)


def _filled(state: Any) -> Any:
    if isinstance(state, Tensor):
        return torch.randn_like(state)
    parts = [_filled(part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "options"), LAYERS, ids=str)
def test_a_layer_is_as_on_the_cpu(
    name: str, options: dict[str, Any], form: str, dtype: torch.dtype, device: torch.device
) -> None:
    exact = make(name, options)
    layer = copy.deepcopy(exact).to(device, dtype)
    if options.get(
        "zoneout"
    ):  # other masks are drawn on another device; in evaluation mode none, but cuDNN has no backward pass
        exact.eval(), layer.eval()
    x, state = problem(exact, form)
    with tt.use_backend("reference"):
        wanted = everything(exact, form, x, state)
    got = everything(layer, form, x, state)
    assert all(bool(value.isfinite().all()) for value in wanted)
    assert worst_error(got, wanted) < LIMITS[dtype]


@pytest.mark.parametrize("form", ["full", "packed"])
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_evaluation_mode_drops_nothing(name: str, form: str, device: torch.device) -> None:
    exact = make(name, {"num_layers": 3, "dropout": 0.5, "recurrent_dropout": 0.0}).eval()
    layer = copy.deepcopy(exact).to(device)
    x, state = problem(exact, form)
    with torch.inference_mode(), tt.use_backend("reference"):
        wanted = leaves(call(exact, form, x, state))
    with torch.inference_mode():
        got = leaves(call(layer, form, moved_quietly(x, device), moved_quietly(state, device)))
    assert worst_error([value.cpu() for value in got], wanted) < 1e-9


def moved_quietly(value: Any, device: torch.device) -> Any:
    """The same structure on the device, without gradients."""
    if isinstance(value, Tensor):
        return value.to(device)
    return tuple(moved_quietly(part, device) for part in value)


@pytest.mark.parametrize("form", ["full", "lengths on the CPU", "lengths on the device"])
@pytest.mark.parametrize(("name", "options"), [*PLAIN, *EXTRA], ids=str)
def test_what_cudnn_has_is_left_to_it(
    name: str, options: dict[str, Any], form: str, device: torch.device
) -> None:
    if device.type != "cuda":
        pytest.skip("the backend is chosen for a CUDA device")
    layer, x = make(name, options).to(device), torch.zeros(T, B, D, dtype=torch.float64, device=device)
    lengths = {"full": None, "lengths on the CPU": LENGTHS, "lengths on the device": LENGTHS.to(device)}[form]
    report = tt.backends(layer.call(x, lengths))
    first = next(name for name, runs, _ in report.rows if runs)
    assert first == ("cudnn" if (name, options) in PLAIN else "reference"), report


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_the_same_seed_gives_the_same_bits(name: str, device: torch.device) -> None:
    """With every random mask that the loop draws on the device, and the same with lengths."""
    layer = make(name, {"num_layers": 2, "dropout": 0.3, "zoneout": 0.2, "recurrent_dropout": 0.4}).to(device)
    x, state = problem(layer.cpu(), "full")
    layer.to(device)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(everything(layer, "lengths on the device", x, state))
    assert all(map(torch.equal, results[0], results[1]))
    assert not torch.equal(results[0][0], results[2][0])


@pytest.mark.parametrize(
    ("name", "options"), [("RNN", {}), ("GRU", {}), ("LSTM", {}), ("LSTM", {"peepholes": True})], ids=str
)
def test_a_state_that_is_carried_equals_no_cut(
    name: str, options: dict[str, Any], device: torch.device
) -> None:
    layer = make(name, {**options, "num_layers": 2}).to(device)
    x = torch.randn(T, B, D, dtype=torch.float64, device=device)
    whole, final = layer(x)
    parts, state = [], None
    for window in (x[:3], x[3:4], x[4:]):
        y, state = layer(window, state)
        parts.append(y)
    assert (
        worst_error(
            [v.cpu() for v in (torch.cat(parts), *leaves(state))], [v.cpu() for v in (whole, *leaves(final))]
        )
        < 1e-9
    )


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_torch_nn_s_weights_and_outputs(name: str, device: torch.device) -> None:
    """One word changed, on the device too: the same weights give the same outputs, states and gradients."""
    options = {"num_layers": 2, "bidirectional": True}
    theirs = getattr(torch.nn, name)(D, H, **options, device=device, dtype=torch.float64)
    ours = getattr(tt, name)(D, H, **options, device=device, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x, state = problem(make(name, options), "full")
    results = [everything(layer, form, x, state) for form in ("full", "packed") for layer in (ours, theirs)]
    for got, wanted in ((results[0], results[1]), (results[2], results[3])):
        assert worst_error(got, wanted) < 1e-9


def test_a_state_on_another_device_is_refused(device: torch.device) -> None:
    layer = tt.GRU(D, H, device=device)
    other = "cpu" if device.type == "cuda" else "meta"
    with pytest.raises(RuntimeError, match="must be on the input's device"):
        layer(torch.zeros(T, B, D, device=device), torch.zeros(1, B, H, device=other))


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_the_steps_of_a_trace_are_on_the_device(name: str, device: torch.device) -> None:
    exact = make(name, {"num_layers": 2, "bidirectional": True})
    layer = copy.deepcopy(exact).to(device)
    x, _ = problem(exact, "lengths on the CPU")
    found = [
        each.trace(x.to(next(each.parameters()).device), lengths=LENGTHS).steps for each in (layer, exact)
    ]
    assert list(found[0]) == list(found[1])
    for where, steps in found[1].items():
        for what, value in steps.items():
            assert found[0][where][what].device.type == device.type
            assert worst_error([found[0][where][what].cpu()], [value]) < 1e-9
