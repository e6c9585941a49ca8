"""The native loop of generation: the same symbols as the layers give, drawn from the same distribution."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from throughtime.errors import InputError
from throughtime.kernels.native.generator import (
    Generator,
    GeneratorLayer,
    GeneratorState,
    Undrawable,
    unavailable,
)
from throughtime.kernels.reference import unroll
from throughtime.layers import GRU, LSTM, RNN
from throughtime.runtime.sampling import keep_top_k, keep_top_p, scale_by_temperature

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"native: {unavailable()}")

KINDS = {"rnn": RNN, "gru": GRU, "lstm": LSTM}


class Model:
    """Random weights, large; `logits` reads symbols with the reference."""

    def __init__(
        self,
        kind: str,
        symbols: int,
        features: int | None,
        sizes: tuple[int, ...],
        *,
        bias: bool = True,
        seed: int = 0,
        **options: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
        options = {"rnn": {"nonlinearity": "tanh"}, "gru": {"reset_after": True}, "lstm": {}}[kind] | options
        self.embedding = None if features is None else draw(symbols, features)
        self.layers, before, self.recurrences = [], features or symbols, []
        for size in sizes:
            shapes = KINDS[kind].recurrence.shapes(before, size, bias=bias)
            weights = {name: 2 * draw(*shape) / max(shape[-1], 4) ** 0.5 for name, shape in shapes.items()}
            self.recurrences.append(KINDS[kind].recurrence.bind(weights, **options))
            self.layers.append(
                GeneratorLayer(kind, **weights, nonlinearity=options.get("nonlinearity", "tanh"))
            )
            before = size
        self.head, self.head_bias = draw(symbols, before) * 3 / before**0.5, draw(symbols) if bias else None
        self.native = Generator(self.layers, self.head, self.head_bias, self.embedding)

    def logits(self, ids: Tensor, state: GeneratorState) -> GeneratorState:
        """The state after ids [T, B]."""
        x = (torch.eye(len(self.head)) if self.embedding is None else self.embedding)[ids]
        h, c = [], []
        for n, recurrence in enumerate(self.recurrences):
            start = (state.h[n], state.c[n]) if state.c else (state.h[n],)
            x, final = unroll(recurrence, x, KINDS[self.layers[n].kind].state_type(*start))
            h.append(final[0])
            c += final[1:]
        logits = nn.functional.linear(x[-1], self.head, self.head_bias)
        return GeneratorState(tuple(h), tuple(c), logits, state.position + len(ids))

    def start(self, batch: int) -> GeneratorState:
        """A state that is not zero."""
        zero = self.native.initial(batch)
        some = [tuple(torch.randn_like(v) for v in part) for part in (zero.h, zero.c)]
        return GeneratorState(*some, torch.randn_like(zero.logits))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_same_state(found: GeneratorState, wanted: GeneratorState, atol: float = 1e-4) -> None:
    # Large weights, a dozen steps of float32 in another order of summation.
    for a, b in zip((*found.h, *found.c, found.logits), (*wanted.h, *wanted.c, wanted.logits), strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=1e-4)
    assert found.position == wanted.position


# symbols, features (None: one-hot), sizes, batch: tiny, odd, around a panel, layers of different sizes, more rows than a tile.
SHAPES = [
    (1, 1, (1,), 1),
    (13, 5, (7,), 1),
    (65, 16, (64,), 1),
    (70, None, (33, 5), 3),
    (5, 3, (16, 31, 8), 4),
    (129, 20, (50, 50), 17),
    (64, None, (65,), 7),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_reads_and_continues_greedily_as_the_reference_does(kind: str, shape: Any, bias: bool) -> None:
    *sizes, batch = shape
    torch.manual_seed(1)
    model = Model(kind, *sizes, bias=bias)
    start, ids = model.start(batch), torch.randint(sizes[0], (6, batch))
    found, wanted = model.native.feed(ids, start), model.logits(ids, start)
    assert_same_state(found, wanted)
    drawn, end = model.native.run(12, found, temperature=0)
    for row in drawn:
        assert torch.equal(row, wanted.logits.argmax(-1))
        wanted = model.logits(row[None], wanted)
    assert_same_state(end, wanted, atol=1e-3)


@pytest.mark.parametrize("nonlinearity", ["relu", "sigmoid", "identity"])
def test_other_nonlinearities(nonlinearity: str) -> None:
    model = Model("rnn", 13, 5, (9, 70), nonlinearity=nonlinearity)
    start, ids = model.start(2), torch.randint(13, (3, 2))
    assert_same_state(model.native.feed(ids, start), model.logits(ids, start), atol=1e-3)


def test_a_table_that_would_be_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS:
        with monkeypatch.context() as patch:
            patch.setattr("throughtime.kernels.native.panels._TABLE_BYTES", 0)
            model = Model(kind, 29, 7, (18, 5))
        assert model.native._table is None
        start, ids = model.start(5), torch.randint(29, (4, 5))
        assert_same_state(model.native.feed(ids, start), model.logits(ids, start))


def test_among_equals_the_first_is_the_likeliest() -> None:
    native = Generator([GeneratorLayer("rnn", torch.zeros(1, 3), torch.zeros(1, 1))], torch.zeros(3, 1))
    assert native.run(3, temperature=0)[0].flatten().tolist() == [0, 0, 0]
    assert native.run(3, temperature=0, banned=[0])[0].flatten().tolist() == [1, 1, 1]


def constant(logits: Tensor) -> Generator:
    """A model whose logits are always these."""
    symbols = len(logits)
    layer = GeneratorLayer("rnn", torch.zeros(1, symbols), torch.zeros(1, 1))
    return Generator([layer], torch.zeros(symbols, 1), logits.float())


def assert_distributed(counts: Tensor, shares: Tensor) -> None:
    """Pearson's chi-square: what has no share never came, and the rest would be further off in more than 1 of 10^4 cases."""
    assert int(counts[shares == 0].sum()) == 0
    counts, shares = counts[shares > 0].double(), shares[shares > 0].double()
    expected = shares * counts.sum()
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


@pytest.mark.parametrize("top_p", [None, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("top_k", [None, 1, 7, 1000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_have_the_distribution_of_the_reference(
    temperature: float, top_k: int | None, top_p: float | None
) -> None:
    logits = torch.randn(150, generator=torch.Generator().manual_seed(2)) * 2
    state = constant(logits).initial()._replace(logits=logits[None])
    ids, _ = constant(logits).run(
        20_000, state, temperature=temperature, top_k=top_k, top_p=top_p, seed=11, banned=[4]
    )
    kept = scale_by_temperature(logits.double().index_fill(0, torch.tensor([4]), -math.inf), temperature)
    kept = kept if top_k is None else keep_top_k(kept, top_k)
    kept = kept if top_p is None else keep_top_p(kept, top_p)
    assert_distributed(torch.bincount(ids.flatten(), minlength=150), kept.softmax(-1))


@pytest.mark.parametrize("count", [1, 2])
def test_rows_and_steps_are_independent_draws_that_follow_the_model(count: int) -> None:
    """The pairs that 20,000 rows begin with have the probability that the reference gives to each pair."""
    model = Model("gru", 5, 3, (6,))
    zero = model.native.initial(1)
    first = torch.zeros(5, dtype=torch.float64) + 0.2
    second = [model.logits(torch.tensor([[i]]), zero).logits[0].double().softmax(-1) for i in range(5)]
    with threads(count):
        ids, _ = model.native.run(2, model.native.initial(20_000), seed=3)
    assert_distributed(
        torch.bincount(ids[0] * 5 + ids[1], minlength=25),
        torch.cat(list(first[:, None] * torch.stack(second))),
    )


def test_exactly_k_of_equals_stay_and_a_nucleus_that_is_reached_takes_no_more() -> None:
    ids, _ = constant(torch.zeros(9)).run(500, top_k=3)
    assert set(ids.flatten().tolist()) == {0, 1, 2}
    logits = torch.tensor([0.125, 0.5, 0.0625, 0.25, 0.0625]).log()
    start = constant(logits).initial()._replace(logits=logits[None])
    for p, kept in ((0.01, {1}), (0.51, {1, 3}), (0.7, {1, 3}), (0.9, {0, 1, 2, 3}), (0.99, {0, 1, 2, 3, 4})):
        ids, _ = constant(logits).run(500, start, top_p=p)
        assert set(ids.flatten().tolist()) == kept


def test_extreme_temperatures() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, -50.0])
    start = constant(logits).initial()._replace(logits=logits[None])
    for tiny in (1e-30, 1e-300):
        for top_p in (None, 0.99):
            assert set(
                constant(logits).run(50, start, temperature=tiny, top_p=top_p)[0].flatten().tolist()
            ) == {1}
    for top_p in (None, 0.99):  # all alike, but for what is banned
        ids, _ = constant(logits).run(300, start, temperature=1e300, top_p=top_p, banned=[0])
        assert set(ids.flatten().tolist()) == {1, 2, 3}


def test_random_numbers_are_philox() -> None:
    """Known answers of Philox4x32-10 (its authors' kat_vectors): with 65,536 equal symbols the id is the first 16 bits."""
    native = Generator(
        [GeneratorLayer("rnn", torch.zeros(1, 1), torch.zeros(1, 1))],
        torch.zeros(65536, 1),
        None,
        torch.zeros(65536, 1),
    )
    assert native.run(1, seed=0)[0].item() == 0x6627
    start = native.initial()._replace(position=0x0123)
    ids = {
        native.run(1, state, seed=seed)[0].item()
        for state in (native.initial(), start)
        for seed in (1, 2**63, -1)
    }
    assert len(ids) == 6


def test_a_seed_decides_the_text_however_it_is_divided() -> None:
    model = Model("lstm", 40, 9, (20, 20))
    start = model.start(3)
    whole, end = model.native.run(60, start, seed=5, top_p=0.9)
    parts, state = [], start
    for n in (1, 0, 7, 30, 22):
        ids, state = model.native.run(n, state, seed=5, top_p=0.9)
        parts.append(ids)
    assert torch.equal(torch.cat(parts), whole)
    assert_same_state(state, end, atol=0)
    assert not torch.equal(model.native.run(60, start, seed=6)[0], whole)
    assert all(not torch.equal(a, b) for a, b in pairwise(whole.t()))
    small = Model("lstm", 40, 9, (20, 20))
    small.native._steps = lambda batch: 7  # type: ignore[method-assign]
    assert torch.equal(small.native.run(60, start, seed=5, top_p=0.9)[0], whole)


@pytest.mark.parametrize(("sizes", "batch"), [((256,), 1), ((200, 130), 1), ((150, 150), 5), ((24,), 16)])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(kind: str, sizes: tuple[int, ...], batch: int) -> None:
    """Divided by units (one row, and some rows of a large model) and by rows (many)."""
    model = Model(kind, 900, 10, sizes)
    start, found = model.start(batch), []
    for count in (1, 2, 2):
        with threads(count):
            found.append(model.native.run(100, start, seed=1))
    for ids, state in found[1:]:
        assert torch.equal(ids, found[0][0])
        assert_same_state(state, found[0][1], atol=0)


@pytest.mark.parametrize("count", [1, 2])
def test_a_row_that_stops_is_silent_and_the_others_go_on(count: int) -> None:
    model = Model("gru", 20, 5, (200,))
    start = model.start(6)
    free, _ = model.native.run(200, start, seed=2)
    with threads(count):
        ids, end = model.native.run(200, start, seed=2, stops=[3, 7])
    lengths = [
        next((t for t, i in enumerate(column) if i in (3, 7)), 199) + 1 for column in free.t().tolist()
    ]
    assert len(set(lengths)) > 2
    assert max(lengths) < 200
    assert ids.shape == (max(lengths), 6)
    assert end.position == max(lengths)
    for row, length in enumerate(lengths):
        assert torch.equal(ids[:length, row], free[:length, row])
        assert bool((ids[length:, row] == -1).all())
    model.native._steps = lambda batch: 5  # type: ignore[method-assign]
    assert torch.equal(model.native.run(200, start, seed=2, stops=[3, 7])[0], ids)


def test_the_given_state_and_weights_are_left_alone() -> None:
    model = Model("lstm", 64, 8, (64,))
    start = model.start(2)
    before = [v.clone() for v in (*start.h, *start.c, start.logits)]
    first, end = model.native.run(20, start, seed=1)
    kept = [v.clone() for v in (*end.h, *end.c, end.logits)]
    model.native.run(20, end, seed=1)
    assert all(map(torch.equal, before, (*start.h, *start.c, start.logits)))
    assert all(map(torch.equal, kept, (*end.h, *end.c, end.logits)))
    strange = start._replace(logits=start.logits.t().contiguous().t(), h=(start.h[0].t().contiguous().t(),))
    assert torch.equal(model.native.run(20, strange, seed=1)[0], first)
    model.head.zero_()
    assert torch.equal(model.native.run(20, start, seed=1)[0], first)


def test_what_cannot_be_drawn_is_said_with_how_far_it_came() -> None:
    native = constant(torch.tensor([0.0, math.nan]))
    with pytest.raises(Undrawable, match="diverged") as caught:
        native.run(5)
    assert caught.value.drawn == 1  # the first was drawn from the initial logits
    assert native.run(1)[0].shape == (1, 1)
    for bad in (math.nan, math.inf):
        with pytest.raises(Undrawable, match="diverged"):
            native.run(1, native.initial()._replace(logits=torch.tensor([[0.0, bad]])), temperature=0)
    assert (
        native.run(1, native.initial()._replace(logits=torch.tensor([[0.0, math.nan]])), banned=[1])[0].item()
        == 0
    )
    with pytest.raises(Undrawable, match="nothing left"):
        native.run(1, banned=[0, 1])


def test_a_failure_is_the_same_with_two_threads() -> None:
    model = Model("rnn", 300, 5, (30,))
    start = model.start(16)
    start.h[0][11] = math.nan
    for count in (1, 2):
        with threads(count), pytest.raises(Undrawable) as caught:
            model.native.run(400, start)
        assert caught.value.drawn == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": -1}, "n must be 0 or more, got -1"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"temperature": math.nan}, "temperature must be"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must lie above 0"),
        ({"seed": 2**64}, "seed must be a 64-bit"),
        ({"banned": [3]}, "banned must lie between 0 and 2, got 3 to 3"),
        ({"stops": [-1]}, "stops must lie between 0 and 2, got -1 to -1"),
        ({"state": GeneratorState((torch.zeros(1, 2),), (), torch.zeros(1, 3))}, "shapes"),
        ({"state": GeneratorState((torch.zeros(1, 1),), (), torch.zeros(1, 4))}, "shapes"),
        ({"state": GeneratorState((torch.zeros(2, 1),), (), torch.zeros(1, 3))}, "shapes"),
        ({"state": GeneratorState((), (), torch.zeros(1, 3))}, "shapes"),
        ({"state": GeneratorState((torch.zeros(1, 1).double(),), (), torch.zeros(1, 3))}, "float32"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        constant(torch.zeros(3)).run(**{"n": 2, **options})


def test_shapes_that_do_not_fit_are_refused() -> None:
    layer = GeneratorLayer("gru", torch.zeros(12, 5), torch.zeros(12, 4))
    head = torch.zeros(7, 4)
    good = torch.zeros(7, 5)
    Generator([layer], head, None, good)
    for arguments, message in (
        (([], head), "at least one layer"),
        (([layer], head), r"weight_ih must be \[12, 7\]"),
        (([layer], torch.zeros(7, 3), None, good), r"head_weight must be \[7, 4\]"),
        (([layer], head, torch.zeros(6), good), r"head_bias must be \[7\]"),
        (([layer], head, None, torch.zeros(6, 5)), r"embedding must be \[7, 5\]"),
        (([layer, layer], head, None, good), r"layer 1's weight_ih must be \[12, 4\]"),
        (([layer._replace(weight_hh=torch.zeros(11, 4))], head, None, good), r"weight_hh must be \[12, 4\]"),
        (([layer._replace(bias_hh=torch.zeros(4))], head, None, good), r"bias_hh must be \[12\]"),
        (([layer._replace(kind="gruu")], head, None, good), "kind must be one of"),
        (([layer._replace(nonlinearity="sin")], head, None, good), "nonlinearity must be one of"),
        (([layer], head.double(), None, good), "computes in float32 on the CPU, head_weight is float64"),
        (([layer], torch.zeros(0, 4), None, torch.zeros(0, 5)), "nothing empty"),
    ):
        with pytest.raises(InputError, match=message):
            Generator(*arguments)  # type: ignore[arg-type]
    native = Generator([layer], head, None, good)
    for ids in (torch.tensor([7]), torch.tensor([-1]), torch.zeros(2), torch.zeros(2, 2, 2).long()):
        with pytest.raises(InputError, match="ids must"):
            native.feed(ids, native.initial(1))
    assert native.feed(torch.zeros(0, dtype=torch.int64)).position == 0


def test_the_caller_keeps_his_denormals() -> None:
    tiny = torch.tensor([1e-40])
    constant(torch.zeros(3)).run(5)
    assert (tiny * 0.5).item() != 0


@pytest.mark.parametrize("isa", ["avx2", "portable"])
def test_every_instruction_set_that_runs_here(isa: str) -> None:
    """The same tests in a process that is told which code to use."""
    if os.environ.get("THROUGHTIME_ISA"):
        pytest.skip("inside such a process already")
    environment = {**os.environ, "THROUGHTIME_ISA": isa}
    probe = "from throughtime.kernels.native.generator import unavailable; print(unavailable() or '')"
    reason = subprocess.run(
        [sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=True
    )
    if reason.stdout.strip():
        pytest.skip(reason.stdout.strip())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
