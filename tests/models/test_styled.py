"""A language model that begins from a style: its state, its input at each step, no style, and one style's own model."""

from __future__ import annotations

import pytest
import torch

from throughtime.data.batch import Batch
from throughtime.decoding import Limits, greedy, select
from throughtime.models.build import many_to_many, symbol_embedding
from throughtime.models.config import CELLS, ModelConfig
from throughtime.models.styled import NO_STYLE, Styled

V, K, T, B = 11, 5, 7, 3


def make(cell="gru", every_step=True, embedding=6, **settings):
    torch.manual_seed(3)
    config = ModelConfig(cell=cell, hidden=13, embedding=embedding, **settings)
    model = Styled(many_to_many(config, symbol_embedding(config, V), V), K, 4, every_step=every_step)
    with torch.no_grad():  # large, so that what depends on them shows
        for name, parameter in model.named_parameters():
            if "styles" in name or "initial" in name or "every_step" in name:
                parameter.normal_()
    return model.eval()


@pytest.mark.parametrize("every_step", [False, True])
def test_the_equations(every_step):
    model = make("rnn", every_step)
    ids, styles = torch.randint(V, (T, B)), torch.tensor([4, NO_STYLE, 0])
    s = model.styles.weight[[4, 0, 0]] * torch.tensor([1.0, 0.0, 1.0])[:, None]
    layers, lm = model.layers, model.language_model
    linear = model.initial.maps[0]
    h = (s @ linear.weight.T + linear.bias).tanh()
    logits, state = model(ids, context=styles)
    for t in range(T):
        x = lm.embedding.weight[ids[t]]
        if every_step:
            x = x + s @ model.every_step.weight.T
        a = x @ layers.weight_ih_l0.T + layers.bias_ih_l0 + h @ layers.weight_hh_l0.T + layers.bias_hh_l0
        h = a.tanh()
        expected = h @ lm.head.weight.T + lm.head.bias
        torch.testing.assert_close(logits[t], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state[0], h, atol=1e-5, rtol=1e-5)


def cells(*without):
    return [cell for cell in CELLS if cell not in without]


@pytest.mark.parametrize("cell", CELLS)
def test_each_row_is_what_it_is_alone_and_padding_is_not_read(cell):
    model = make(cell)
    ids, styles, lengths = torch.randint(V, (T, T)), torch.arange(T) % K, torch.arange(1, T + 1)
    for b in range(T):
        ids[lengths[b] :, b] = V - 1
    logits, _ = model(ids, lengths=lengths, context=styles)
    for b, length in enumerate(lengths.tolist()):
        alone, _ = model(ids[:length, b : b + 1], context=styles[b : b + 1])
        torch.testing.assert_close(logits[:length, b], alone[:, 0], atol=1e-5, rtol=1e-5)
    other, _ = model(ids, lengths=lengths, context=(styles + 1) % K)
    assert (other[0] - logits[0]).abs().amax(-1).min() > 1e-3  # the style tells from the first symbol on


@pytest.mark.parametrize("cell", CELLS)
def test_a_text_cut_in_two_is_the_text(cell):
    model = make(cell)
    batch = Batch.of(
        torch.randint(V, (T, B)), torch.randint(V, (T, B)), [T, 5, 2], context=torch.tensor([1, 2, NO_STYLE])
    )
    whole, _ = batch.run(model)
    state, parts = None, []
    for start, stop in ((0, 3), (3, T)):
        logits, state = batch.window(start, stop).run(model, state)
        parts.append(logits)
    for b, length in enumerate([T, 5, 2]):
        torch.testing.assert_close(torch.cat(parts)[:length, b], whole[:length, b], atol=1e-5, rtol=1e-5)


def test_no_style_is_the_zero_vector_and_learns_nothing_of_styles():
    model = make()
    ids = torch.randint(V, (T, B))
    logits, _ = model(ids)
    again, _ = model(ids, context=torch.full((B,), NO_STYLE))
    assert torch.equal(logits, again)
    logits.square().sum().backward()
    assert not model.styles.weight.grad.any() and not model.every_step.weight.grad.any()
    assert model.initial.maps[0].bias.grad.any()


@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("embedding", [6, "onehot"])
@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn", "indrnn"])
@pytest.mark.parametrize("number", [NO_STYLE, 3])
def test_the_model_of_one_style_is_a_plain_language_model(cell, embedding, every_step, number):
    from throughtime.runtime.native import refusal

    model = make(cell, every_step, embedding, layers=2)
    before = torch.random.get_rng_state()
    plain, state = model.of_style(number)
    assert torch.equal(before, torch.random.get_rng_state()) and not plain.training
    ids = torch.randint(V, (T, 1))
    expected, end = model(ids, context=torch.tensor([number]))
    found, own = plain(ids, state)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own, end, atol=1e-5, rtol=1e-5)
    other, _ = plain(ids, model.of_style(0)[1])
    assert (other - expected).abs().max() > 1e-3
    assert not any(parameter.is_meta for parameter in plain.parameters())
    assert plain.head is model.head and plain.layers is model.layers
    assert (refusal(plain) is None) == (cell != "indrnn")


@pytest.mark.parametrize("cell", CELLS)
def test_steps_are_the_forward_pass_and_rows_can_be_chosen(cell):
    model = make(cell)
    ids, styles = torch.randint(V, (T, B)), torch.tensor([4, NO_STYLE, 0])
    with torch.no_grad():
        whole, _ = model(ids, context=styles)
        state = model.read(model.begin(styles), ids[:3])
        state = select(state, torch.tensor([2, 0]))
        ids = ids[:, [2, 0]]
        for t in range(3, T):
            logits, state = model.step(state, ids[t])
            torch.testing.assert_close(logits, whole[t, [2, 0]], atol=1e-5, rtol=1e-5)
        found = greedy(model.step, model.begin(styles), torch.zeros(B, dtype=torch.int64), Limits(1, 9))
    assert len(found) == B


def test_the_gradient_reaches_the_styles_of_every_window():
    """Cut by a strategy, the style as an input of each step still learns from the later windows."""
    ids, styles = torch.randint(V, (T, B)), torch.tensor([1, 2, 3])
    for every_step in (False, True):
        model = make(every_step=every_step)
        _, state = model(ids[:3], context=styles)
        logits, _ = model(ids[3:], state.detach(), context=styles)
        logits.square().sum().backward()
        learned = model.styles.weight.grad is not None and model.styles.weight.grad[1:4].abs().sum() > 0
        assert learned == every_step
