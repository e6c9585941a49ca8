"""Sets of notes: likelihoods against all subsets, draws against probabilities, masks, and the model around them."""

from __future__ import annotations

import itertools

import pytest
import torch

from throughtime.data.batch import IGNORE, Batch
from throughtime.errors import InputError
from throughtime.layers import GRU, LSTM, CausalCNN
from throughtime.models.music import FrameEmbedding, MusicModel, NoteEmbedding, NoteOutputs, NotePairs
from throughtime.models.set_outputs import ChainedNotes, IndependentNotes

NOTES = 5
SUBSETS = torch.tensor(list(itertools.product((0, 1), repeat=NOTES)))


def chained(features=3, notes=NOTES, units=7, scale=3.0):
    torch.manual_seed(0)
    head = ChainedNotes(features, notes, units).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(scale)
    return head


def independent(features=3):
    torch.manual_seed(0)
    return IndependentNotes(features, NOTES).double()


def by_hand(head, hidden, notes):
    """The chain's definition, note by note from the highest."""
    total, activation = 0.0, head.hidden_bias(hidden)
    for place in range(head.notes):
        note = head.notes - 1 - place
        chance = torch.sigmoid(head.bias(hidden)[note] + activation.clamp(min=0) @ head.after[place])
        total -= torch.log(chance if notes[note] else 1 - chance)
        if notes[note]:
            activation = activation + head.before[place]
    return total


@pytest.mark.parametrize("make", [chained, independent])
def test_the_probabilities_of_all_subsets_sum_to_one(make):
    head, hidden = make(), torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    losses = head.nll(hidden.expand(len(SUBSETS), 3), SUBSETS)
    assert torch.allclose((-losses).exp().sum(), torch.ones((), dtype=torch.float64), atol=1e-12)
    if isinstance(head, ChainedNotes):
        wanted = torch.stack([by_hand(head, hidden, notes) for notes in SUBSETS])
        assert torch.allclose(losses, wanted, atol=1e-12)


def test_the_chain_knows_what_independent_notes_do_not():
    """Two notes that always sound together, or neither: ln 2 a frame, where independent notes need 2 ln 2."""
    targets = torch.tensor([[1, 0, 1], [0, 0, 0]] * 4, dtype=torch.int8)
    found = {}
    for kind in (ChainedNotes, IndependentNotes):
        torch.manual_seed(0)
        head = kind(2, 3, 8) if kind is ChainedNotes else kind(2, 3)
        optimizer, hidden = torch.optim.Adam(head.parameters(), lr=0.1), torch.zeros(8, 2)
        for _ in range(200):
            optimizer.zero_grad()
            loss = head.nll(hidden, targets).mean()
            loss.backward()
            optimizer.step()
        found[kind] = loss.item()
    assert found[ChainedNotes] == pytest.approx(0.693, abs=0.02)
    assert found[IndependentNotes] == pytest.approx(1.386, abs=0.02)


@pytest.mark.parametrize("make", [chained, independent])
def test_subsets_are_drawn_as_often_as_they_are_likely(make):
    head = make() if make is independent else make(scale=1.5)
    hidden = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = head.sample(hidden.expand(20_000, 3), generator=torch.Generator().manual_seed(2))
    numbers = (drawn.long() * 2 ** torch.arange(NOTES)).sum(1)
    often = torch.bincount(numbers, minlength=2**NOTES) / len(drawn)
    chances = (-head.nll(hidden.expand(len(SUBSETS), 3), SUBSETS)).exp()
    wanted = torch.zeros(2**NOTES).index_put(
        ((SUBSETS * 2 ** torch.arange(NOTES)).sum(1),), chances.float().detach()
    )
    assert (often - wanted).abs().max() < 0.015  # four standard errors of a probability of 1/2
    cold = head.sample(hidden.expand(9, 3), temperature=0)
    assert (cold == cold[0]).all()
    again = head.sample(hidden.expand(20_000, 3), generator=torch.Generator().manual_seed(2))
    assert torch.equal(drawn, again)


@pytest.mark.parametrize("make", [chained, independent])
def test_masked_sets_count_nothing_and_their_hidden_states_may_be_nan(make):
    head = make()
    hidden = torch.randn(5, 5, 3, dtype=torch.float64)  # T == B
    targets = (torch.rand(5, 5, NOTES) < 0.4).to(torch.int8)
    whole = head.nll(hidden, targets)
    targets[3:, 1] = IGNORE
    hidden[3:, 1] = torch.nan
    hidden.requires_grad_()
    losses = head.nll(hidden, targets)
    assert (losses[3:, 1] == 0).all() and torch.equal(losses[:3], whole[:3])
    losses.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    assert (hidden.grad[3:, 1] == 0).all()
    assert head.nll(hidden, torch.full_like(targets, IGNORE)).sum() == 0


def test_gradients_of_the_chain():
    head = chained(notes=4, units=3, scale=1.0)
    hidden = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(6, 4, generator=torch.Generator().manual_seed(3)) < 0.5).to(torch.int8)
    assert torch.autograd.gradcheck(lambda x, *_: head.nll(x, targets), (hidden, *head.parameters()))


def test_pairs_of_pitch_and_length():
    torch.manual_seed(0)
    head = NotePairs(3, 6, 4)
    torch.nn.init.normal_(head.of_pitch.weight)
    hidden = torch.randn(3)
    chances = head.probabilities(hidden).detach()
    assert chances.shape == (6, 4) and float(chances.sum()) == pytest.approx(1, abs=1e-6)
    pairs = torch.tensor([[pitch, length] for pitch in range(6) for length in range(4)])
    losses = head.nll(hidden.expand(24, 3), pairs)
    assert torch.allclose((-losses).exp(), chances.flatten(), atol=1e-6)
    end = torch.tensor([[5, IGNORE], [IGNORE, IGNORE]])
    found = head.nll(hidden.expand(2, 3), end)
    assert torch.allclose(found[0], -chances[5].sum().log()) and found[1] == 0
    generator = torch.Generator().manual_seed(1)
    drawn = [head.sample(hidden, 1.0, generator) for _ in range(1500)]
    for pitch, length in ((0, 1), (4, 3)):
        assert drawn.count((pitch, length)) / 1500 == pytest.approx(float(chances[pitch, length]), abs=0.05)
    assert all(head.sample(hidden, 1.0, generator, without=[0, 1, 2])[0] > 2 for _ in range(50))
    assert head.sample(hidden, 1.0, generator, pitch=3)[0] == 3


def model(layers=None, context=4, head=None):
    torch.manual_seed(0)
    layers = layers or LSTM(6, 7, num_layers=2)
    return MusicModel(FrameEmbedding(NOTES, 6), layers, head or ChainedNotes(7, NOTES, 8), context=context)


@pytest.mark.parametrize(
    "make", [lambda: LSTM(6, 7, num_layers=2), lambda: GRU(6, 7), lambda: CausalCNN(6, 7, 2)]
)
def test_a_state_that_is_carried_equals_no_cut_and_padding_is_not_read(make):
    music = model(make()).eval()
    inputs, context = torch.rand(7, 3, NOTES).round(), torch.randn(3, 4)
    targets = torch.rand(7, 3, NOTES).round().to(torch.int8)
    whole, _ = music(inputs, context=context)
    first, state = music(inputs[:4], context=context)
    second, _ = music(inputs[4:], state, context=context)
    joined = torch.cat([first.nll(targets[:4]), second.nll(targets[4:])])
    assert torch.allclose(joined, whole.nll(targets), atol=1e-5)
    padded = torch.cat([inputs, torch.full((2, 3, NOTES), torch.nan)])
    batch = Batch.of(padded, torch.cat([targets, targets[:2]]), [7, 7, 7], context=context)
    outputs, _ = batch.run(music)
    assert torch.allclose(outputs.nll(batch.targets)[:7], whole.nll(targets), atol=1e-5)
    assert (outputs.nll(batch.targets)[7:] == 0).all()


def test_the_context_reaches_the_first_step_through_the_state():
    music = model().eval()
    inputs = torch.zeros(2, 2, NOTES)
    known, _ = music(inputs, context=torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
    nothing, _ = music(inputs)
    zeros, _ = music(inputs, context=torch.zeros(2, 4))
    assert torch.equal(nothing.hidden, zeros.hidden)
    assert not torch.allclose(known.hidden[:, 0], known.hidden[:, 1])
    with torch.no_grad():
        music.condition.weight.zero_()  # what is left comes through the initial state
    known, _ = music(inputs, context=torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
    assert not torch.allclose(known.hidden[0, 0], known.hidden[0, 1])
    alone = model(context=0).eval()
    assert torch.equal(alone(inputs)[0].hidden, alone(inputs, context=torch.zeros(2, 0))[0].hidden)


def test_a_bidirectional_model_is_refused():
    with pytest.raises(InputError, match="bidirectional"):
        model(LSTM(6, 7, bidirectional=True))


def test_embeddings_of_notes_share_degrees_an_octave_apart():
    learned = NoteEmbedding(27, 25, 4, 3, 5)
    ids = torch.tensor([[0, 1, 2], [12, 1, 2], [25, 1, 2]])
    assert learned(ids).shape == (3, 5)
    onehot = NoteEmbedding(27, 25, 4, 3, "onehot")
    found = onehot(ids)
    assert found.shape == (3, onehot.embedding_dim) and found.sum(1).tolist() == [4, 4, 4]
    assert torch.equal(found[0, -14:], found[1, -14:]) and not torch.equal(found[0, -14:], found[2, -14:])


def test_likelihoods_are_computed_once_for_the_same_targets():
    music = model()
    outputs, _ = music(torch.zeros(2, 2, NOTES))
    targets = torch.zeros(2, 2, NOTES, dtype=torch.int8)
    assert outputs.nll(targets) is outputs.nll(targets)
    assert outputs.nll(targets.clone()) is not outputs.nll(targets)
    assert isinstance(outputs, NoteOutputs)
