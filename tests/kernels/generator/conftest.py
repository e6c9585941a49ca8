"""Random models in the native loop of generation and in the reference, on every instruction set, and comparisons of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from tests.kernels.instruction_sets import libraries
from torch import Tensor, nn

from throughtime.kernels.native.generation import generator as native_generator
from throughtime.kernels.native.generation.generator import Generator, GeneratorLayer, State
from throughtime.kernels.native.generation.packing import folds, quantize
from throughtime.kernels.reference import unroll
from throughtime.layers import GRU, LSTM, RNN

KINDS = {"rnn": RNN, "gru": GRU, "lstm": LSTM}


class Model:
    """Large random weights; `logits` reads symbols with the reference, from the weights as the generator quantizes them."""

    def __init__(
        self,
        kind: str,
        symbols: int,
        features: int | None,
        sizes: tuple[int, ...],
        *,
        bias: bool = True,
        seed: int = 0,
        weights: str = "float32",
        **options: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        options = {"rnn": {"nonlinearity": "tanh"}, "gru": {"reset_after": True}, "lstm": {}}[kind] | options
        self.embedding = None if features is None else draw(symbols, features)
        self.layers, before, self.recurrences = [], features or symbols, []
        for n, size in enumerate(sizes):
            shapes = KINDS[kind].recurrence.shapes(before, size, bias=bias)
            tensors = {name: 2 * draw(*shape) / max(shape[-1], 4) ** 0.5 for name, shape in shapes.items()}
            layer = GeneratorLayer(kind, **tensors, nonlinearity=options.get("nonlinearity", "tanh"))
            self.layers.append(layer)
            quantized = (
                ["weight_hh"] if n == 0 and folds(layer, self.embedding) else ["weight_hh", "weight_ih"]
            )
            used = tensors | {name: quantize(tensors[name], weights).dequantize() for name in quantized}
            self.recurrences.append(KINDS[kind].recurrence.bind(used, **options))
            before = size
        self.head, self.head_bias = draw(symbols, before) * 3 / before**0.5, draw(symbols) if bias else None
        self.quantized_head = quantize(self.head, weights).dequantize()
        self.native = Generator(self.layers, self.head, self.head_bias, self.embedding, weights=weights)

    def logits(self, ids: Tensor, state: State) -> State:
        """The state after ids [T, B]."""
        x = (torch.eye(len(self.head)) if self.embedding is None else self.embedding)[ids]
        finals, starts = [], zip(*self._parts(state), strict=True)
        for layer, recurrence, start in zip(self.layers, self.recurrences, starts, strict=True):
            x, final = unroll(recurrence, x, KINDS[layer.kind].state_type(*start))
            finals.append(final)
        logits = nn.functional.linear(x[-1], self.quantized_head, self.head_bias)
        return State(self._joined(list(zip(*finals, strict=True))), logits, state.position + len(ids))

    def start(self, batch: int) -> State:
        """A state that is not zero."""
        zero = self.native.initial(batch)
        some = [tuple(torch.randn_like(v) for v in part) for part in self._parts(zero)]
        return State(self._joined(some), torch.randn_like(zero.logits))

    def _parts(self, state: State) -> list[list[Tensor]]:
        """h, or h and c, each [B, H] for each layer."""
        return [list(part) for part in (state.model if self.layers[0].kind == "lstm" else [state.model])]

    def _joined(self, parts: list[tuple[Tensor, ...]]) -> Any:
        """In the form of the layers: one tensor for layers of one size, and a pair of them for an LSTM."""
        one_size = len({v.shape for part in parts for v in part}) == 1
        joined = tuple(torch.stack(part) if one_size else part for part in parts)
        return joined if self.layers[0].kind == "lstm" else joined[0]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _assert_same_state(found: State, wanted: State, atol: float = 1e-4) -> None:
    # Large weights, a dozen steps of float32 in another order of summation.
    torch.testing.assert_close(found, wanted, atol=atol, rtol=1e-4)


def _assert_distributed(counts: Tensor, probabilities: Tensor) -> None:
    """Pearson's chi-square: nothing of probability 0 occurred, and the rest would be further off in more than 1 of 10^4 cases."""
    assert int(counts[probabilities == 0].sum()) == 0
    possible = probabilities > 0
    counts, probabilities = counts[possible].double(), probabilities[possible].double()
    expected = probabilities * counts.sum()
    rare = expected < 5  # together, as the test wants
    if bool(rare.any()):
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    free = len(counts) - 1
    if free == 0:
        return
    statistic = float(((counts - expected) ** 2 / expected).sum())
    # Wilson & Hilferty 1931: the cube root of chi-square / free is nearly normal. 3.719: one in 10^4.
    normal = ((statistic / free) ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free))
    assert normal < 3.719, f"chi-square {statistic:.1f} with {free} degrees of freedom"


def _constant(logits: Tensor) -> Generator:
    """A model whose logits are always these."""
    symbols = len(logits)
    layer = GeneratorLayer("rnn", torch.zeros(1, symbols), torch.zeros(1, 1))
    return Generator([layer], torch.zeros(symbols, 1), logits.float())


@pytest.fixture(autouse=True, params=range(3), ids=("first", "avx2", "portable"))
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test on each instruction set that runs here."""
    if request.param >= len(libraries()):
        pytest.skip("does not run here")
    monkeypatch.setattr(native_generator, "loaded", lambda: libraries()[request.param])


@pytest.fixture
def network() -> type[Model]:
    """Makes a model from its kind, symbols, features (None: one-hot) and sizes."""
    return Model


@pytest.fixture
def threads() -> Callable[[int], AbstractContextManager[None]]:
    """A context in which torch has that many threads."""
    return _threads


@pytest.fixture
def assert_same_state() -> Callable[..., None]:
    return _assert_same_state


@pytest.fixture
def assert_distributed() -> Callable[[Tensor, Tensor], None]:
    return _assert_distributed


@pytest.fixture
def constant() -> Callable[[Tensor], Generator]:
    return _constant
