"""Session-parallel batches: every step once, the state carried inside a session and nowhere else, resumable anywhere."""

from __future__ import annotations

import random

import pytest
import torch

from throughtime.data import IGNORE
from throughtime.data.session_parallel import SessionParallel
from throughtime.errors import InputError
from throughtime.models.build import layers, symbol_embedding
from throughtime.models.config import ModelConfig
from throughtime.models.next_item import NextItem


def sessions(lengths):
    """Inputs whose numbers are all different: 100 * session + step."""
    inputs = [torch.arange(length) + 100 * number for number, length in enumerate(lengths, start=1)]
    return inputs, [each + 1 for each in inputs]


LENGTHS = [3, 7, 1, 4, 13, 2, 5, 5, 1, 6]


@pytest.mark.parametrize("steps", [1, 3, 5, 20])
@pytest.mark.parametrize("world", [1, 2])
def test_every_step_is_in_an_epoch_once(steps, world):
    data = [SessionParallel(*sessions(LENGTHS), 2, steps, seed=3, rank=r, world=world) for r in range(world)]
    for _ in range(2):  # epochs
        seen, sizes = [], []
        for each in data:
            batches = list(each.epoch())
            sizes.append(len(batches))
            for index, batch in enumerate(batches):
                ids, starts = batch.inputs
                assert batch.reset == (index == 0) and batch.steps <= steps
                assert batch.num_targets == int((batch.targets != IGNORE).sum())
                for b in range(batch.size):
                    own = ids[: batch.lengths[b], b]
                    assert torch.equal(batch.targets[: batch.lengths[b], b], own + 1)
                    assert bool(starts[0, b]) == (len(own) > 0 and int(own[0]) % 100 == 0)
                    assert not bool(starts[1:].any())
                    seen += own.tolist()
        assert len(set(sizes)) == 1 == len({len(each) for each in data})
        assert sorted(seen) == sorted(torch.cat(sessions(LENGTHS)[0]).tolist())


def test_epochs_differ_and_a_loaded_position_goes_on():
    def read(data):
        return [batch.inputs[0].tolist() for batch in data.epoch()]

    data = SessionParallel(*sessions(LENGTHS), 3, 2, seed=1)
    first, second = read(data), read(data)
    assert first != second
    again = SessionParallel(*sessions(LENGTHS), 3, 2, seed=1)
    assert read(again) == first
    left = iter(again.epoch())
    head = [next(left).inputs[0].tolist() for _ in range(2)]
    resumed = SessionParallel(*sessions(LENGTHS), 3, 2, seed=1)
    resumed.load_state_dict(again.state_dict())
    assert head + read(resumed) == second
    with pytest.raises(InputError, match="the saved position is one with steps = 2, this one has 4"):
        SessionParallel(*sessions(LENGTHS), 3, 4, seed=1).load_state_dict(again.state_dict())


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_carried_state_is_that_of_the_whole_session(steps):
    """But for sessions that were cut between two rows: these go on without a state."""
    draws = random.Random(2)
    inputs = [torch.tensor(draws.choices(range(9), k=length)) for length in LENGTHS]
    config = ModelConfig(cell="lstm", hidden=4, embedding=4)
    embedding = symbol_embedding(config, 10)
    model = NextItem(embedding, layers(config, 4), 4, torch.ones(10)).double().eval()
    marks, start = [], 0  # as targets, so that each step can be found again
    for each in inputs:
        marks.append(torch.arange(start, start + len(each)))
        start += len(each)
    whole = torch.cat([model(each[:, None])[0].hidden[:, 0] for each in inputs])
    found, state = torch.full_like(whole, torch.nan), None
    rows = 2
    for batch in SessionParallel(inputs, marks, rows, steps, seed=5).epoch():
        outputs, state = batch.run(model, None if batch.reset else state)
        kept = batch.targets != IGNORE
        found[batch.targets[kept]] = outputs.hidden[kept]
    same = (found - whole).abs().amax(1) < 1e-12
    assert not bool(found.isnan().any())
    cut = {int(number) for number in torch.repeat_interleave(torch.arange(10), torch.tensor(LENGTHS))[~same]}
    assert len(cut) < rows


def test_what_cannot_be_read():
    inputs, targets = sessions(LENGTHS)
    for arguments, message in (
        ((inputs, targets, 2, 0), "steps must be at least 1, got 0"),
        ((inputs, targets, 11, 50), "11 sessions side by side need at least 11 windows of 50 steps, got 10"),
        ((inputs, targets[:-1], 2, 3), "targets must be one for each of the 10 sequences, got 9"),
        (([], [], 2, 3), "expected at least one sequence"),
    ):
        with pytest.raises(InputError, match=message):
            SessionParallel(*arguments)
