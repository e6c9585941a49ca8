"""The native step of an encoder-decoder beside the model's own: logits, choices, searches; company and threads change no bit."""

from __future__ import annotations

import pytest
import torch
from tests.kernels.instruction_sets import libraries

from throughtime.data.batch import Source
from throughtime.decoding import Limits, beam, greedy, sample, select
from throughtime.decoding.search import _Choice
from throughtime.errors import BackendError, InputError
from throughtime.kernels.native import decoding
from throughtime.kernels.native.generation.interface import unavailable
from throughtime.models.build import encoder_decoder, sequence_encoder, symbol_embedding
from throughtime.models.config import ModelConfig
from throughtime.models.encoders import VectorEncoder
from throughtime.models.native_decoder import NativeDecoder, decoding_step, refusal

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"no native library: {unavailable()}")

END, START, SOURCES = 2, 1, 9
BEGIN = torch.full((4,), START)
CASES = {  # cell, attention, input feeding, both directions, layers, H, V, embedding
    "gru": ("gru", "general", False, True, 2, 7, 131, 5),
    "lstm": ("lstm", "additive", False, False, 1, 19, 64, "onehot"),
    "rnn": ("rnn", "dot", False, False, 2, 67, 11, 5),
    "no attention": ("gru", "none", False, True, 1, 16, 70, 3),
    "lstm without attention": ("lstm", "none", False, False, 3, 5, 200, 4),
    "large": ("gru", "additive", True, False, 2, 96, 700, 40),  # enough work for several threads
    "input feeding": ("gru", "general", True, True, 2, 7, 30, 5),
    "lstm with input feeding": ("lstm", "additive", True, True, 2, 33, 65, 4),
}


def model_of(name="gru", seed=3, large=2.0):
    cell, attention, feeding, both, layers, hidden, symbols, embedding = CASES[name]
    torch.manual_seed(seed)
    config = ModelConfig(cell=cell, hidden=hidden, layers=layers, embedding=embedding, bidirectional=both)
    encoder = sequence_encoder(config, symbol_embedding(config, SOURCES))
    model = encoder_decoder(
        config, encoder, symbol_embedding(config, symbols), symbols, attention=attention, input_feeding=feeding
    )  # fmt: skip
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(large)
    return model.eval()


def sources(size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([5, 2, 1, 3, 5, 4, 2])[:size]
    return Source(torch.randint(0, SOURCES, (size, 5), generator=generator), lengths)


def states(model, size=4):
    """The model's state before the first symbol, and the native one of it, whose padding holds NaN."""
    with torch.no_grad():
        state, spoiled = model.begin(sources(size)), model.begin(sources(size))
    if spoiled.memory is not None:
        for value in (spoiled.memory.outputs, spoiled.memory.keys):
            value[spoiled.memory.padding] = torch.nan
    return state, NativeDecoder(model).enter(spoiled)


@pytest.fixture(params=range(3), ids=("first", "avx2", "portable"))
def instruction_set(request, monkeypatch):
    if request.param >= len(libraries()):
        pytest.skip("does not run here")
    monkeypatch.setattr(decoding, "loaded", lambda: libraries()[request.param])


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_the_model(name):
    model = model_of(name)
    step, (state, native) = NativeDecoder(model), states(model)
    rows = torch.arange(4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for kept in ([0, 1, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3], [1, 0, 2, 2, 5, 4, 7, 7], [6, 7, 2, 3], [1]):
            rows = torch.tensor(kept)
            state, native = select(state, rows), select(native, rows)
            symbols = torch.randint(0, step.symbols, (len(rows),), generator=generator)
            expected, state = model.step(state, symbols)
            found, native = step(native, symbols)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
            if state.attention is None:
                assert native.attention is None
            else:
                torch.testing.assert_close(native.attention, state.attention, atol=1e-5, rtol=1e-5)


def test_a_model_of_a_vector_has_no_memory():
    torch.manual_seed(0)
    config = ModelConfig(cell="gru", hidden=9, layers=1, embedding=4)
    encoder = VectorEncoder(3)
    model = encoder_decoder(config, encoder, symbol_embedding(config, 12), 12, attention="none").eval()
    step, symbols = NativeDecoder(model), torch.tensor([3, 7])
    with torch.no_grad():
        state = model.begin(torch.randn(2, 3))
        torch.testing.assert_close(
            step(step.enter(state), symbols)[0], model.step(state, symbols)[0], atol=1e-5, rtol=1e-5
        )


LIMITS = {
    "none": Limits(END, 6),
    "shortest": Limits(END, 6, 4),
    "banned": Limits(END, 6, 1, (0, 3, 8)),
    "allowed": Limits(END, 6, 0, (5,), torch.arange(131) % 3 == 1),
    "few": Limits(END, 6, 2, (), torch.arange(131) > 126),
}


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("count", [1, 3, 10, 131])
def test_the_best_symbols_are_those_of_the_logits(name, count):
    model, limits = model_of(), LIMITS[name]
    step, (state, native) = NativeDecoder(model), states(model)
    of_model, of_native = _Choice(model.step, limits), _Choice(step, limits)
    symbols, rows = torch.full((4,), START), torch.arange(4)
    closing = torch.tensor([False, True, False, True])
    with torch.inference_mode():
        for length, closes in ((0, None), (5, None), (6, closing)):
            expected = of_model.best(state, symbols, length, rows, closes, count)
            found = of_native.best(native, symbols, length, rows, closes, count)
            torch.testing.assert_close(found.gained, expected.gained, atol=1e-5, rtol=1e-5)
            possible = expected.gained > -torch.inf
            assert torch.equal(found.symbols[possible], expected.symbols[possible])
            if closes is not None:
                assert torch.equal(found.ends, expected.ends)


@pytest.mark.parametrize("name", CASES)
def test_searches_find_what_they_find_with_the_model(name):
    for seed in range(3):
        model = model_of(name, seed)
        step = NativeDecoder(model)
        for limits in (Limits(END, 8), Limits(END, [3, 8, 5, 1], 1, (0,))):
            for run in (
                lambda step, state, limits=limits: [[each] for each in greedy(step, state, BEGIN, limits)],
                lambda step, state, limits=limits: [
                    [each] for each in sample(step, state, BEGIN, limits, seeds=range(4), top_k=5)
                ],
                lambda step, state, limits=limits: beam(step, state, BEGIN, limits, width=5, n_best=3),
                lambda step, state, limits=limits: beam(step, state, BEGIN, limits, width=99),
            ):
                state, native = states(model)
                expected, found = run(model.step, state), run(step, native)
                assert [[each.symbols for each in row] for row in found] == [
                    [each.symbols for each in row] for row in expected
                ]
                assert [[each.ended for each in row] for row in found] == [
                    [each.ended for each in row] for row in expected
                ]
                for row, other in zip(found, expected, strict=True):
                    assert [each.score for each in row] == pytest.approx(
                        [each.score for each in other], abs=1e-4
                    )


def test_a_coverage_penalty_reads_the_attention():
    model = model_of()
    state, native = states(model)
    for penalty in (0.0, 3.0):
        found = [
            [each[0].symbols for each in beam(step, start, BEGIN, Limits(END, 6), coverage_penalty=penalty)]
            for step, start in ((model.step, state), (NativeDecoder(model), native))
        ]
        assert found[0] == found[1]


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("name", CASES)
def test_company_and_threads_change_no_bit(name, threads_of):
    model = model_of(name)
    step = NativeDecoder(model)
    symbols = torch.tensor([3, 4, 5, 6, 7, 8, 9])
    with torch.no_grad():
        begin = step.enter(model.begin(sources(7)))  # the encoder's bits are its own matter

    def run(rows, threads):
        threads_of(threads)
        with torch.no_grad():
            state = select(begin, torch.tensor(rows))
            found = []
            for _ in range(3):
                logits, state = step(state, symbols[rows])
                found.append(logits)
        return torch.stack(found)

    together = run([0, 1, 2, 3, 4, 5, 6], 1)
    assert torch.equal(run([0, 1, 2, 3, 4, 5, 6], 2), together)
    for row in range(7):
        assert torch.equal(run([row], 1)[:, 0], together[:, row])
    assert torch.equal(run([4, 2], 1), together[:, [4, 2]])


@pytest.fixture
def threads_of():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_logits_that_are_no_numbers_are_refused_in_one_line():
    model = model_of()
    with torch.no_grad():
        model.head.weight[5, 0] = torch.nan
    step, enter = decoding_step(model)
    with pytest.raises(InputError, match="the logits hold NaN or infinity"):
        greedy(step, enter(model.begin(sources())), torch.full((4,), START), Limits(END, 5))


def test_every_symbol_excluded_is_refused():
    model = model_of()
    _, native = states(model)
    limits = Limits(END, 5, 2, (), torch.zeros(131, dtype=torch.bool))
    for run in (greedy, beam):
        with pytest.raises(InputError, match="every symbol is excluded"):
            run(NativeDecoder(model), native, torch.full((4,), START), limits)


def test_packed_weights_are_kept_until_a_parameter_changes():
    model = model_of()
    step, _ = decoding_step(model)
    assert isinstance(step, NativeDecoder)
    assert decoding_step(model)[0] is step
    model.head.bias.grad = torch.zeros_like(model.head.bias)
    model.head.bias.grad[START] = -1
    torch.optim.SGD([model.head.bias], lr=100, fused=True).step()  # it leaves the tensor's version as it was
    new, enter = decoding_step(model)
    assert new is not step
    found = greedy(new, enter(model.begin(sources())), torch.full((4,), START), Limits(END, 3))
    assert [each.symbols for each in found] == [[START] * 3] * 4


@pytest.mark.parametrize("change", ["cell", "dtype", "layer norm"])
def test_other_models_run_their_own_steps(change):
    torch.manual_seed(0)
    cell = {"cell": "mingru", "dtype": "gru", "layer norm": "lnlstm"}[change]
    config = ModelConfig(cell=cell, hidden=7, layers=1, embedding=5)
    encoder = sequence_encoder(config, symbol_embedding(config, SOURCES))
    model = encoder_decoder(config, encoder, symbol_embedding(config, 11), 11).eval()
    if change == "dtype":
        model.double()
    assert refusal(model)
    with pytest.raises(BackendError):
        NativeDecoder(model)
    step, enter = decoding_step(model)
    found = greedy(step, enter(model.begin(sources())), torch.full((4,), START), Limits(END, 3))
    assert len(found) == 4
