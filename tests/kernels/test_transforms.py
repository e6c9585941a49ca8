"""torch.func and torch.compile on the reference, where torch.nn's layers on the CPU fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import throughtime as tt

T, B, D, H = 5, 3, 4, 7
LENGTHS = torch.tensor([4, 5, 0])
LAYERS = ["RNN", "GRU", "LSTM"]
# torch itself compiles a helper with torch.jit the first time that forward-mode AD is used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def leaves(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in leaves(part)]


def make(name: str, **options: Any) -> Any:
    return getattr(tt, name)(D, H, bidirectional=True, **options).double()


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", LAYERS)
def test_vmap_over_inputs(name: str, lengths: Tensor | None) -> None:
    layer, xs = make(name), torch.randn(6, T, B, D, dtype=torch.float64)
    found = torch.func.vmap(lambda x: layer(x, lengths=lengths))(xs)
    for one, x in enumerate(xs):
        torch.testing.assert_close([v[one] for v in leaves(found)], leaves(layer(x, lengths=lengths)))


@pytest.mark.parametrize("name", LAYERS)
def test_vmap_over_models_and_gradients_for_each_sample(name: str) -> None:
    layers = [make(name) for _ in range(3)]
    stacked, _ = torch.func.stack_module_state(layers)
    x = torch.randn(T, B, D, dtype=torch.float64)
    found = torch.func.vmap(lambda weights: torch.func.functional_call(layers[0], weights, (x,)))(stacked)
    for one, layer in enumerate(layers):
        torch.testing.assert_close([v[one] for v in leaves(found)], leaves(layer(x)))

    layer = layers[0]
    weights = {key: value.detach() for key, value in layer.named_parameters()}

    def loss(weights: Any, row: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, (row,))[0].pow(2).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(weights, x)
    for row in range(B):
        expected = torch.autograd.grad(layer(x[:, row])[0].pow(2).sum(), list(layer.parameters()))
        torch.testing.assert_close([g[row] for g in each.values()], list(expected))


@pytest.mark.parametrize("name", LAYERS)
def test_jvp_is_the_finite_difference(name: str) -> None:
    layer = make(name)
    x, v = torch.randn(T, B, D, dtype=torch.float64), torch.randn(T, B, D, dtype=torch.float64)
    _, found = torch.func.jvp(lambda x: layer(x, lengths=LENGTHS)[0], (x,), (v,))
    step = 1e-6
    difference = (layer(x + step * v, lengths=LENGTHS)[0] - layer(x - step * v, lengths=LENGTHS)[0]) / (
        2 * step
    )
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, difference, rtol=1e-6, atol=1e-8)
    with forward_ad.dual_level():
        y, _ = layer(forward_ad.make_dual(x, v), lengths=LENGTHS)
        torch.testing.assert_close(forward_ad.unpack_dual(y).tangent, found)


@pytest.mark.parametrize("name", LAYERS)
def test_jacobians_forward_and_reverse_agree(name: str) -> None:
    layer, x = make(name), torch.randn(T, B, D, dtype=torch.float64)
    run = lambda x: layer(x)[0].sum(1)  # noqa: E731
    torch.testing.assert_close(torch.func.jacrev(run)(x), torch.func.jacfwd(run)(x))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("name", LAYERS)
def test_compiled_in_one_graph_forward_and_backward(name: str, lengths: Tensor | None) -> None:
    torch.compiler.reset()
    layer, results = make(name), []
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for run in (layer, compiled):
        x = torch.linspace(-2, 2, T * B * D, dtype=torch.float64).view(T, B, D).sin().requires_grad_()
        values = leaves(run(x, lengths=lengths))
        layer.zero_grad()
        sum((v * v).sum() for v in values).backward()
        results.append([*values, x.grad, *(p.grad.clone() for p in layer.parameters())])
    torch.testing.assert_close(results[0], results[1])


def test_an_option_and_a_scan_compile_in_one_graph() -> None:
    torch.compiler.reset()
    layer, cell = (
        make("LSTM", peepholes=True, layer_norm=True, zoneout=0.2).eval(),
        tt.MinGRUCell(D, H).double(),
    )
    x = torch.randn(T, B, D, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
    scanned = torch.compile(lambda x: tt.scan(cell, x)[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(scanned(x), tt.scan(cell, x)[0])


def test_torch_nn_on_the_cpu_does_none_of_the_three() -> None:
    # Why dispatch sends a transformed call to the reference. Where torch has learnt one, this says so, and the reason
    # in kernels/aten.py can go.
    theirs, x = nn.LSTM(D, H), torch.randn(T, B, D)
    learnt = []
    torch.compiler.reset()
    for what, run in {
        "vmap": lambda: torch.func.vmap(theirs)(torch.stack([x, x])),
        "forward-mode AD": lambda: torch.func.jvp(lambda x: theirs(x)[0], (x,), (x,)),
        "one graph": lambda: torch.compile(theirs, fullgraph=True, backend="eager")(x),
    }.items():
        try:
            run()
        except Exception:
            continue
        learnt.append(what)
    if learnt:
        pytest.skip(f"torch {torch.__version__} runs its LSTM under {', '.join(learnt)} on this machine")


@pytest.mark.parametrize(
    ("transform", "word"), [("vmap", "torch.func"), ("jvp", "torch.func"), ("dual", "forward-mode AD")]
)
def test_a_fused_backend_demanded_under_a_transform_says_why_not(transform: str, word: str) -> None:
    layer, x = tt.LSTM(D, H, backend="aten"), torch.randn(T, B, D)

    def run() -> None:
        if transform == "vmap":
            torch.func.vmap(layer)(torch.stack([x, x]))
        elif transform == "jvp":
            torch.func.jvp(lambda x: layer(x)[0], (x,), (x,))
        else:
            with forward_ad.dual_level():
                layer(forward_ad.make_dual(x, x))

    with pytest.raises(tt.BackendError, match=f"aten cannot run under {word}"):
        run()
