"""Encoder-decoders: one call is the steps one by one, a cut is no cut, padding is never read."""

from __future__ import annotations

import pytest
import torch

from throughtime.data.batch import Batch, Source
from throughtime.data.examples import Examples, evaluation_batches
from throughtime.decoding import Limits, beam, greedy, select
from throughtime.errors import InputError
from throughtime.models.build import encoder_decoder, sequence_encoder, symbol_embedding
from throughtime.models.config import CELLS, ModelConfig
from throughtime.models.embeddings import Continuous
from throughtime.models.encoders import VectorEncoder

SOURCES, TARGETS = 9, 11
CASES = [
    (cell, attention, feeding, both)
    for cell, attention, feeding, both in (
        ("gru", "none", False, False),
        ("gru", "general", False, True),
        ("lstm", "additive", False, False),
        ("lstm", "none", False, True),
        ("rnn", "dot", False, False),
        ("gru", "general", True, True),
        ("lstm", "additive", True, False),
        ("mingru", "general", False, True),
        ("indrnn", "none", False, False),
        ("lnlstm", "general", False, False),
        ("cnn", "general", False, True),
        ("none", "none", False, False),
    )
]


def model_of(cell="gru", attention="general", feeding=False, both=True, seed=3, **settings):
    torch.manual_seed(seed)
    config = ModelConfig(cell=cell, hidden=7, layers=2, embedding=5, bidirectional=both)
    encoder = sequence_encoder(config, symbol_embedding(config, SOURCES))
    return encoder_decoder(
        config, encoder, symbol_embedding(config, TARGETS), TARGETS, attention=attention, input_feeding=feeding, **settings
    ).eval()  # fmt: skip


def example(steps=6, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([steps, 1, 4, 2][:size])
    source = Source(
        torch.randint(0, SOURCES, (size, 5), generator=generator), torch.tensor([5, 2, 1, 3][:size])
    )
    inputs = torch.randint(0, TARGETS, (steps, size), generator=generator)
    targets = torch.randint(0, TARGETS, (steps, size), generator=generator)
    return Batch.of(inputs, targets, lengths, context=source)


@pytest.mark.parametrize(("cell", "attention", "feeding", "both"), CASES)
def test_one_call_is_the_steps_one_by_one(cell, attention, feeding, both):
    model, batch = model_of(cell, attention, feeding, both), example()
    assert cell in CELLS
    with torch.no_grad():
        logits, _ = batch.run(model)
        for row, length in enumerate(batch.lengths.tolist()):
            source = Source(
                batch.context.values[row : row + 1, : batch.context.lengths[row]],
                batch.context.lengths[row, None],
            )
            state = model.begin(source)
            for t in range(length):
                each, state = model.step(state, batch.inputs[t, row, None])
                torch.testing.assert_close(each[0], logits[t, row], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("cell", "attention", "feeding", "both"), CASES)
def test_a_cut_is_no_cut(cell, attention, feeding, both):
    model, batch = model_of(cell, attention, feeding, both), example()
    with torch.no_grad():
        logits, end = batch.run(model)
        first, state = batch.window(0, 2).run(model)
        second, state = batch.window(2, 6).run(model, state)
    inside = torch.arange(6)[:, None] < batch.lengths
    torch.testing.assert_close(torch.cat([first, second])[inside], logits[inside], atol=2e-5, rtol=1e-4)
    for a, b in zip(
        torch.utils._pytree.tree_leaves(end), torch.utils._pytree.tree_leaves(state), strict=True
    ):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_padding_of_a_source_of_vectors_may_be_nan():
    torch.manual_seed(0)
    config = ModelConfig(cell="gru", hidden=6, embedding=5, bidirectional=True)
    encoder = sequence_encoder(config, Continuous(3))
    model = encoder_decoder(config, encoder, symbol_embedding(config, TARGETS), TARGETS, attention="additive")
    values = torch.randn(3, 4, 3)
    lengths = torch.tensor([4, 1, 2])
    inputs, targets = torch.randint(0, TARGETS, (2, 5, 3))
    clean = Batch.of(inputs, targets, context=Source(values, lengths))
    spoiled = values.masked_fill(torch.arange(4)[:, None] >= lengths[:, None, None], float("nan"))
    found = []
    for context in (values, spoiled):
        model.zero_grad()
        logits, _ = clean._replace(context=Source(context, lengths)).run(model)
        logits.square().sum().backward()
        found.append([logits.detach(), *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("attention", "feeding"), [("none", False), ("dot", False), ("general", True), ("additive", False)]
)
def test_gradients_against_finite_differences(attention, feeding):
    model = model_of("gru", attention, feeding, both=False).double()
    batch = example(steps=4, size=4)
    names = [name for name, _ in model.named_parameters()]

    def loss(*values):
        logits, _ = torch.func.functional_call(
            model,
            dict(zip(names, values, strict=True)),
            (batch.inputs,),
            {"lengths": batch.lengths, "context": batch.context},
        )
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-100
        )

    parameters = [p.detach().clone().requires_grad_() for p in model.parameters()]
    assert torch.autograd.gradcheck(loss, parameters, fast_mode=True)


@pytest.mark.parametrize(("attention", "feeding"), [("none", False), ("general", False), ("additive", True)])
def test_decoding_a_batch_is_decoding_each_source(attention, feeding):
    model, batch = model_of(attention=attention, feeding=feeding), example()
    start, limits = torch.full((4,), 1), Limits(0, [5, 9, 3, 7])
    with torch.no_grad():
        together = beam(model.step, model.begin(batch.context), start, limits, width=3, n_best=2)
        one = greedy(model.step, model.begin(batch.context), start, limits)
        for row in range(4):
            source = Source(batch.context.values[row : row + 1], batch.context.lengths[row, None])
            (alone,) = beam(
                model.step,
                model.begin(source),
                start[:1],
                Limits(0, limits.max_length[row]),
                width=3,
                n_best=2,
            )
            assert [each.symbols for each in alone] == [each.symbols for each in together[row]]
            # A score is what the model gives to the symbols when they are read at once.
            symbols = one[row].symbols
            logits, _ = model(torch.tensor([[1, *symbols]]).T, context=source)
            chances = logits[:, 0].log_softmax(-1).gather(1, torch.tensor([*symbols, 0])[:, None])
            assert one[row].score == pytest.approx(float(chances.sum()), abs=1e-3)


def test_memory_is_not_copied_for_hypotheses_of_the_same_sources():
    model, batch = model_of(), example()
    with torch.no_grad():
        state = model.begin(batch.context)
        wide = select(state, torch.arange(4).repeat_interleave(3))
        assert wide.memory.outputs.data_ptr() == state.memory.outputs.data_ptr()
        fewer = select(wide, torch.tensor([3, 4, 4, 9, 9, 11]))
        assert len(fewer.memory.outputs) == 2
        uneven = select(wide, torch.tensor([0, 3, 4]))  # one row of the first source, two of the second
        symbols = torch.tensor([1, 2, 3])
        found, _ = model.step(uneven, symbols)
        for n, row in enumerate((0, 1, 1)):
            alone, _ = model.step(select(state, torch.tensor([row])), symbols[n, None])
            torch.testing.assert_close(found[n], alone[0])


def test_alignment_is_a_distribution_over_the_real_steps():
    model, batch = model_of(), example()
    with torch.no_grad():
        weights = model.alignment(batch.inputs, batch.context, batch.lengths)
    assert weights.shape == (6, 4, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(6, 4))
    assert float(weights[:, 2, 1:].abs().max()) == 0  # its source has one step
    with pytest.raises(InputError, match="without attention"):
        model_of(attention="none").alignment(batch.inputs, batch.context)


def test_scheduled_sampling_reads_other_symbols_in_training_alone():
    model, batch = model_of(scheduled_sampling=0.7), example()
    plain = model_of()
    with torch.no_grad():
        assert torch.equal(batch.run(model)[0], batch.run(plain)[0])
        model.train(), plain.train()
        torch.manual_seed(1)
        changed = batch.run(model)[0]
        torch.manual_seed(1)
        assert torch.equal(changed, batch.run(model)[0])
    unchanged = batch.run(plain)[0]
    torch.testing.assert_close(changed[0], unchanged[0])  # the start symbol is never replaced
    assert not torch.allclose(changed[1:], unchanged[1:])


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "mingru", "indrnn", "lnlstm"])
def test_from_a_class_or_from_nothing(cell):
    torch.manual_seed(0)
    config = ModelConfig(cell=cell, hidden=6, layers=2, embedding=5)
    model = encoder_decoder(
        config, VectorEncoder(4, classes=3), symbol_embedding(config, TARGETS), TARGETS, attention="none"
    ).eval()
    inputs = torch.randint(0, TARGETS, (5, 1)).expand(5, 4)
    logits, _ = model(inputs, context=torch.tensor([0, 1, -1, 1]))
    torch.testing.assert_close(logits[:, 1], logits[:, 3])
    assert not torch.allclose(logits[:, 0], logits[:, 1])
    assert not torch.allclose(logits[:, 2], logits[:, 1])
    model.encoder.embedding.weight.data[1].zero_()
    with torch.no_grad():
        torch.testing.assert_close(
            model(inputs, context=torch.tensor([0, 1, -1, 1]))[0][:, 1], logits[:, 2].detach()
        )


def test_tied_and_refusals():
    config = ModelConfig(cell="gru", hidden=6, embedding=6, bidirectional=True, tied=True)
    encoder = sequence_encoder(config, symbol_embedding(config, SOURCES))
    model = encoder_decoder(config, encoder, symbol_embedding(config, TARGETS), TARGETS)
    assert model.head.weight is model.embedding.weight
    with pytest.raises(InputError, match="writes from a source"):
        model(torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(InputError, match="with outputs to attend to"):
        encoder_decoder(config, VectorEncoder(6, 3), symbol_embedding(config, TARGETS), TARGETS)
    with pytest.raises(InputError, match="attention dot compares"):
        encoder_decoder(config, encoder, symbol_embedding(config, TARGETS), TARGETS, attention="dot")


def test_batches_hold_their_sources():
    inputs = [torch.arange(n + 1) for n in range(5)]
    sources = [torch.full((n % 3 + 1,), n) for n in range(5)]
    batches = [batch for batch, _ in evaluation_batches(inputs, inputs, 2, sources)]
    for batch, numbers in evaluation_batches(inputs, inputs, 2, sources):
        assert [len(sources[n]) for n in numbers] == batch.context.lengths.tolist()
        assert [int(row[0]) for row in batch.context.values] == numbers.tolist()
    assert len(batches) == 3
    classes = torch.arange(5)
    for batch, numbers in evaluation_batches(inputs, inputs, 2, classes):
        assert torch.equal(batch.context, numbers)
    one = Examples(inputs, inputs, 2, context=sources, seed=1)
    other = Examples(inputs, inputs, 2, context=[each + 1 for each in sources], seed=1)
    assert one.state_dict() != other.state_dict()
    with pytest.raises(InputError, match="context must be one for each"):
        Examples(inputs, inputs, 2, context=sources[:3])
    with pytest.raises(InputError, match="s >= 1"):
        Examples(inputs, inputs, 2, context=[*sources[:4], torch.zeros(0)])
