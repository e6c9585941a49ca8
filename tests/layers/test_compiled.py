"""torch.compile of the layers: one graph with one native operator for each direction of each layer, and equal numbers."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

import throughtime as tt
from throughtime.kernels.native import library

pytestmark = [
    pytest.mark.skipif(isinstance(library.load(), str), reason=f"native: {library.load()}"),
    # torch itself uses what it has deprecated while it traces.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
T, B, D, H = 7, 3, 5, 13
LENGTHS = torch.tensor([4, 7, 0])
LAYERS = ["RNN", "GRU", "LSTM"]


class Recorder:
    """A backend of torch.compile that runs the graph as it is, and keeps it."""

    def __init__(self) -> None:
        torch.compiler.reset()
        self.graphs: list[torch.fx.Graph] = []

    def __call__(self, module: torch.fx.GraphModule, _: Any) -> Any:
        self.graphs.append(module.graph)
        return module

    def compile(self, run: Any) -> Any:
        return torch.compile(run, fullgraph=True, backend=self)

    @property
    def operators(self) -> int:
        """How many recurrences the newest graph holds."""
        return sum(node.target == torch.ops.throughtime.recurrence.default for node in self.graphs[-1].nodes)


def make(name: str, **options: Any) -> Any:
    return getattr(tt, name)(D, H, **options).double()


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def leaves(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for part in value for leaf in leaves(part)]


def training_step(run: Any, layer: Any, x: Tensor, **keywords: Any) -> list[Tensor]:
    """Outputs, final states and all gradients."""
    x = x.detach().requires_grad_()
    values = leaves(run(x, **keywords))
    layer.zero_grad()
    sum((v * v).sum() for v in values).backward()
    return [*values, x.grad, *(p.grad.clone() for p in layer.parameters())]


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({}, None),
        ({"num_layers": 2}, LENGTHS),
        ({"num_layers": 2, "bidirectional": True}, None),
        ({"bidirectional": True}, LENGTHS),
    ],
    ids=["one", "two, ragged", "two, both directions", "both directions, ragged"],
)
@pytest.mark.parametrize("name", LAYERS)
def test_a_training_step_equals_the_eager_one(
    name: str, options: dict[str, Any], lengths: Tensor | None
) -> None:
    layer, x, recorder = make(name, **options), batch(T, B, D), Recorder()
    recorder.compile(layer)(x, lengths=lengths)
    assert recorder.operators == options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = training_step(compiled, layer, x, lengths=lengths)
    torch.testing.assert_close(found, training_step(layer, layer, x, lengths=lengths))
    with tt.use_backend("reference"):
        wanted = training_step(layer, layer, x, lengths=lengths)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RNN", {"nonlinearity": "sigmoid", "bias": False}),
        ("GRU", {"reset_after": False, "layer_norm": True}),
        ("LSTM", {"peepholes": True, "proj_size": 4, "batch_first": True}),
        (
            "LSTM",
            {"layer_norm": True, "zoneout": (0.2, 0.1), "recurrent_dropout": 0.3, "bidirectional": True},
        ),
    ],
    ids=str,
)
def test_options_are_in_the_operator_too(name: str, options: dict[str, Any]) -> None:
    layer, x, recorder = make(name, **options).eval(), batch(T, B, D), Recorder()
    torch.testing.assert_close(recorder.compile(layer)(x), layer(x))
    assert recorder.operators == 1 + layer.bidirectional
    # Random masks are sampled in the graph, from the same seed.
    compiled = recorder.compile(layer.train())
    torch.manual_seed(3)
    y, _ = compiled(x)
    torch.manual_seed(3)
    torch.testing.assert_close(y, layer(x)[0])
    assert recorder.operators == 1 + layer.bidirectional


def test_the_graph_does_not_grow_with_the_sequence_nor_is_it_made_again_for_another() -> None:
    layer, recorder = make("LSTM", num_layers=2, bidirectional=True), Recorder()
    compiled = recorder.compile(layer)
    for steps, rows in ((5, 3), (9, 4), (64, 2), (6, 8)):
        x = batch(steps, rows, D)
        torch._dynamo.mark_dynamic(x, 0)
        torch._dynamo.mark_dynamic(x, 1)
        torch.testing.assert_close(compiled(x), layer(x))
    assert len(recorder.graphs) == 1
    sizes = []
    for steps in (4, 40):
        recorder = Recorder()
        recorder.compile(layer)(batch(steps, B, D))
        sizes.append(len(recorder.graphs[-1].nodes))
    assert sizes[0] == sizes[1]


def test_a_packed_sequence_is_read_in_the_graph() -> None:
    layer, recorder = make("LSTM", num_layers=2, bidirectional=True), Recorder()
    packed = pack_sequence([batch(n, D) for n in (3, 6, 1)], enforce_sorted=False)
    found, wanted = recorder.compile(layer)(packed), layer(packed)
    assert recorder.operators == 4
    torch.testing.assert_close(found[0].data, wanted[0].data)
    torch.testing.assert_close(found[1], wanted[1])
    assert torch.equal(found[0].batch_sizes, packed.batch_sizes)


def test_a_demanded_backend_holds_in_a_compiled_layer() -> None:
    layer, x, recorder = make("GRU"), batch(T, B, D), Recorder()
    compiled, found = recorder.compile(layer), []
    for demand in (None, "reference", "native", None, "reference"):
        with tt.use_backend(demand):
            torch.testing.assert_close(compiled(x), layer(x))
        found.append((recorder.operators, len(recorder.graphs)))
    # Three graphs in all: the newest is looked at, and those that were there are used again.
    assert found == [(1, 1), (0, 2), (1, 3), (1, 3), (1, 3)]

    operators: list[int] = []
    with tt.use_backend("reference"):  # of this thread only
        other = Recorder()
        demanded = other.compile(layer)
        demanded(x)
        thread = threading.Thread(target=lambda: (demanded(x), operators.append(other.operators)))
        thread.start()
        thread.join()
    assert (operators, len(other.graphs)) == ([1], 2)

    def in_a_thread_that_never_demanded_anything() -> None:
        fresh = Recorder()
        run = fresh.compile(layer)
        run(x)
        with tt.use_backend("reference"):
            run(x)
        operators.append(fresh.operators)

    thread = threading.Thread(target=in_a_thread_that_never_demanded_anything)
    thread.start()
    thread.join()
    assert operators == [1, 0]

    def inside(x: Tensor) -> Tensor:
        with tt.use_backend("reference"):
            y, _ = layer(x)
        return y

    recorder.compile(inside)(x)
    assert recorder.operators == 0
    recorder.compile(make("GRU", backend="reference"))(x)
    assert recorder.operators == 0


def test_what_an_operator_cannot_do_runs_on_the_reference_and_the_report_says_so() -> None:
    layer, x, recorder = tt.GRU(D, H), torch.randn(T, B, D), Recorder()
    with torch.autocast("cpu"):
        recorder.compile(layer)(x)
        call = layer.call(x)._replace(transform="torch.compile")
    assert recorder.operators == 0
    rows = {name: (runs, why) for name, runs, why in tt.backends(explain=call).rows}
    assert not rows["native"][0] and rows["reference"][0]
    recorder.compile(torch.func.vmap(layer))(torch.stack([x, x + 1]))
    assert recorder.operators == 0
    plain = tt.backends(explain=layer.call(x)._replace(transform="torch.compile"))
    assert {name: runs for name, runs, _ in plain.rows}["native"]


@pytest.mark.parametrize("name", LAYERS)
def test_vmap_and_a_second_derivative_of_a_compiled_layer(name: str) -> None:
    layer, xs, recorder = make(name, bidirectional=True), batch(2, T, B, D), Recorder()
    found = recorder.compile(torch.func.vmap(layer))(xs)
    torch.testing.assert_close(found, torch.func.vmap(layer)(xs))
    x, results = xs[0].requires_grad_(), []
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for run in (layer, compiled):
        (first,) = torch.autograd.grad(run(x)[0].sin().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(first.pow(2).sum(), list(layer.parameters())))
    torch.testing.assert_close(results[1], results[0])


def test_a_compiled_graph_kept_for_a_second_pass_gives_the_same_gradients() -> None:
    torch.compiler.reset()
    layer = make("LSTM")
    y, _ = torch.compile(layer, fullgraph=True, backend="aot_eager")(batch(T, B, D))
    loss, weights = y.sin().sum(), list(layer.parameters())
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    second = torch.autograd.grad(loss, weights)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_model_goes_on_from_its_state_in_one_graph() -> None:
    recorder = Recorder()
    model = tt.ManyToMany(torch.nn.Embedding(11, D), tt.LSTM(D, H, num_layers=2, dropout=0.2), H, 11)
    model.double().eval()
    ids = torch.randint(0, 11, (T, B))
    compiled = recorder.compile(model)
    whole, _ = model(ids)
    first, state = compiled(ids[:4])
    second, _ = compiled(ids[4:], tuple(value.detach() for value in state))
    torch.testing.assert_close(torch.cat([first, second]), whole)
    assert recorder.operators == 2


@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch's inductor needs a C++ compiler"
)
@pytest.mark.filterwarnings("ignore")  # inductor warns of itself, in words that change with torch
def test_inductor_trains_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(tmp_path)
    )  # code that another library left is not this one's
    torch.compiler.reset()
    model = tt.ManyToMany(
        torch.nn.Embedding(11, D), tt.GRU(D, H, num_layers=2, bidirectional=True), 2 * H, 11
    )
    ids, gradients = torch.randint(0, 11, (T, B)), []
    for run in (model, torch.compile(model, fullgraph=True)):
        model.zero_grad()
        run(ids)[0].sin().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_torch_s_recording_modes_see_the_operator() -> None:
    # A mode that records or fakes every operation cannot look into C++: without the operator it would miss the recurrence.
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    with FakeTensorMode():
        y, _ = tt.GRU(D, H)(torch.randn(T, B, D))
    assert y.shape == (T, B, H)
    layer, x = make("GRU"), batch(T, B, D)
    recorded = make_fx(lambda x: layer(x)[0].sum(0))(x)
    torch.testing.assert_close(recorded(x + 1), layer(x + 1)[0].sum(0))
